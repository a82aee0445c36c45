//! Where a model's keys and values live.

use core::cell::Cell;

use kvq_codec::{Cache, Storage};

use crate::{Error, Hash};

/// Keys and values of one sequence, and attention over them.
pub trait Context {
    /// Tokens held in every layer: the position of the next one.
    fn len(&self) -> usize;

    /// Whether there is no token.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends one token to `layer`. Shapes: `keys`, `values` `(n_heads, head_dim)`.
    ///
    /// # Errors
    /// Where there is no room, or the shapes differ.
    fn append(&mut self, layer: usize, keys: &[f32], values: &[f32]) -> Result<(), Error>;

    /// Attention of the newest token. Shapes: `queries`, `out` `(n_heads, head_dim)`.
    ///
    /// # Errors
    /// Where the shapes differ.
    fn attend(&self, layer: usize, queries: &[f32], out: &mut [f32]) -> Result<(), Error>;
}

impl<S: Storage> Context for Cache<S> {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn append(&mut self, layer: usize, keys: &[f32], values: &[f32]) -> Result<(), Error> {
        Ok(Self::append(self, layer, 1, keys, values)?)
    }

    fn attend(&self, layer: usize, queries: &[f32], out: &mut [f32]) -> Result<(), Error> {
        Ok(Self::attend(self, layer, 1, queries, out)?)
    }
}

/// Whether the next look at [`Watched`] bytes is to hash them, and the hash.
#[derive(Debug, Default)]
pub struct Watch {
    wanted: Cell<bool>,
    hash: Cell<u64>,
}

impl Watch {
    /// The hash of the bytes of a cache in [`Watched`] memory.
    pub fn hash(&self, cache: &Cache<Watched<'_>>) -> u64 {
        self.wanted.set(true);
        // Looks at the bytes, to tell their number.
        cache.storage_bytes();
        self.hash.get()
    }
}

/// Memory of a cache whose bytes can be hashed while the cache is in use.
///
/// A cache does not show its storage, so that the storage itself does it when [`Watch`] asks.
#[derive(Debug)]
pub struct Watched<'a> {
    bytes: &'a mut [u8],
    watch: &'a Watch,
}

impl<'a> Watched<'a> {
    /// Memory that `watch` can ask about.
    pub const fn new(bytes: &'a mut [u8], watch: &'a Watch) -> Self {
        Self { bytes, watch }
    }
}

impl Storage for Watched<'_> {
    const GROWS: bool = false;

    fn bytes(&self) -> &[u8] {
        if self.watch.wanted.take() {
            self.watch.hash.set(Hash::of(self.bytes).value());
        }
        self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    fn grow(&mut self, _len: usize) -> bool {
        false
    }
}
