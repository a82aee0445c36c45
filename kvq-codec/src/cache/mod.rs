//! The cache: sinks, recent window and packed spans of every layer, in one buffer.

mod append;
mod arithmetic;
mod attend;
mod attend_parts;
mod demote;
mod dequantize;
mod encode;
#[cfg(test)]
mod encodings;
mod fork;
mod layer;
mod pack;
mod place;
mod plan;
mod report;
mod side_plan;
mod snapshot;
mod storage;
mod take_over;
mod threads;
mod tile;
mod trim;
mod vectors;
mod walk;

pub use plan::{COMPRESSION_FROM_TOKENS, capacity_tokens, minimum_bytes};
pub use report::{MemoryReport, TierUse};
pub use snapshot::{SNAPSHOT_HEADER_BYTES, SNAPSHOT_OVERHEAD_BYTES, SnapshotInfo, snapshot_bytes_max};
pub use storage::Storage;
pub use threads::Threads;

use crate::error::{Error, figure};
use crate::kernel::Backend;
use crate::policy::Policy;
use crate::rotate::Rotation;
use crate::shape::KvShape;
use layer::LayerState;
use plan::Plan;
use storage::Pool;

/// The keys and values of one sequence, in memory of type `S`.
///
/// Firmware uses [`KvCache`], which borrows a `&mut [u8]`; a host may bring memory that grows
/// (see [`Storage`]). Nothing else is held: the struct itself is a fixed few hundred bytes.
#[derive(Debug)]
pub struct Cache<S> {
    plan: Plan,
    pool: Pool,
    backend: Backend,
    storage: S,
}

/// A cache over one buffer of fixed length.
pub type KvCache<'buf> = Cache<&'buf mut [u8]>;

impl<S: Storage> Cache<S> {
    /// An empty cache in `storage`, whose content does not matter.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Policy`], [`Error::Feature`], or [`Error::BufferTooSmall`]; the least bytes are
    /// [`minimum_bytes`]. Storage that grows is grown as far as its fixed parts need.
    pub fn new(shape: KvShape, policy: Policy, backend: Backend, mut storage: S) -> Result<Self, Error> {
        let plan = Plan::new(shape, policy)?;
        let needed = if S::GROWS { plan.fixed_bytes() } else { plan.minimum_bytes() };
        if storage.bytes().len() < needed && !storage.grow(needed) {
            return Err(Error::BufferTooSmall { needed: figure(needed), got: figure(storage.bytes().len()) });
        }
        let mut cache = Self { plan, pool: Pool::EMPTY, backend, storage };
        cache.clear();
        Ok(cache)
    }

    /// Forgets every token. Storage that grew keeps its length.
    pub fn clear(&mut self) {
        self.pool = Pool::EMPTY;
        for layer in 0..self.plan.shape.n_layers {
            self.put_layer(layer, &LayerState::EMPTY);
        }
    }

    /// The shape.
    pub const fn shape(&self) -> KvShape {
        self.plan.shape
    }

    /// The policy.
    pub const fn policy(&self) -> &Policy {
        &self.plan.policy
    }

    /// The kernels in use.
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// Tokens appended to layer 0: the position of the next one. Evicted tokens count.
    pub fn len(&self) -> usize {
        self.layer(0).len
    }

    /// Tokens appended to `layer`, evicted ones too: fewer than [`len`](Self::len) while layer 0 is ahead.
    ///
    /// # Errors
    /// [`Error::Layer`].
    pub fn layer_len(&self, layer: usize) -> Result<usize, Error> {
        self.check_layer(layer)?;
        Ok(self.layer(layer).len)
    }

    /// Whether no token was appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that `layer` can take before it packs a span: a prefill that appends no more than this at a
    /// time attends exactly as if it had gone token by token. At least 1.
    pub fn room_before_packing(&self, layer: usize) -> usize {
        let state = self.layer(layer);
        let sinks = self.plan.n_sink.saturating_sub(state.n_sink);
        let room = sinks + self.plan.hot_len.saturating_sub(state.n_hot);
        if room == 0 { self.plan.span_len } else { room }
    }

    /// The bytes of the storage, all of which count as held.
    pub fn storage_bytes(&self) -> usize {
        self.storage.bytes().len()
    }

    fn layer(&self, layer: usize) -> LayerState {
        LayerState::read(storage::layer(&self.plan, self.storage.bytes(), layer))
    }

    fn put_layer(&mut self, layer: usize, state: &LayerState) {
        state.write(storage::layer_mut(&self.plan, self.storage.bytes_mut(), layer));
    }

    fn check_layer(&self, layer: usize) -> Result<(), Error> {
        let n_layers = self.plan.shape.n_layers;
        if layer < n_layers {
            Ok(())
        } else {
            Err(Error::Layer { n_layers: figure(n_layers), got: figure(layer) })
        }
    }

    fn key_rotation(&self) -> Rotation {
        Rotation::new(self.plan.shape.key_head_dim)
    }

    fn value_rotation(&self) -> Rotation {
        Rotation::new(self.plan.shape.value_head_dim)
    }
}
