//! Where a model keeps its keys and values: one trait, so that model code is written once.

pub mod candle;
pub mod dense;
pub mod fixed;
pub mod memory;
pub mod packed;
mod parts;
mod stretch;

use anyhow::Result;
use kvq_codec::KvShape;

use crate::measure::TierMap;
pub use stretch::{NewTokens, append_and_attend};

/// Keys and values of one sequence, and attention over them.
///
/// A forward pass over `n` new tokens calls [`append_and_attend`] for layer 0, 1, … in order. Shapes are `(heads, n, head_dim)`,
/// row-major, last axis contiguous.
///
/// # Examples
/// ```
/// use kvq_host::codec::{Backend, KvShape, Policy};
/// use kvq_host::kv_store::dense::DenseF16;
/// use kvq_host::kv_store::packed::PackedStore;
/// use kvq_host::kv_store::{KvStore, NewTokens, append_and_attend};
///
/// /// One layer over 1,500 new tokens, whatever the store: a window of all, four query heads over two KV heads.
/// fn layer(store: &mut dyn KvStore) -> anyhow::Result<usize> {
///     let (q, k, v) = (vec![0.1; 4 * 1500 * 64], vec![0.5; 2 * 1500 * 64], vec![1.0; 2 * 1500 * 64]);
///     let mut out = vec![0.0; q.len()];
///     append_and_attend(store, 0, NewTokens { n_tokens: 1500, q: &q, k: &k, v: &v, window_len: 0 }, &mut out)?;
///     assert!(out.iter().all(|value| value.is_finite()));
///     Ok(store.memory().total())
/// }
///
/// let shape = KvShape::new(1, 2, 64);
/// let packed = layer(&mut PackedStore::new(shape, Policy::FOUR_X, Backend::detect())?)?;
/// assert!(4 * packed <= 1500 * shape.fp16_bytes_per_token());
/// assert!(layer(&mut DenseF16::new(shape))? > 4 * packed);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub trait KvStore: Send {
    /// The shape this store was made for.
    fn shape(&self) -> KvShape;

    /// Tokens held (by layer 0: ahead of the others within a forward pass).
    fn len(&self) -> usize;

    /// Whether no token is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens may be appended to `layer` at once such that each query still sees exactly what it
    /// would see one token at a time. At least 1.
    fn stretch(&self, layer: usize) -> usize;

    /// Appends `n_tokens` to `layer`. Shapes: `k (n_kv_heads, n_tokens, key_head_dim)`,
    /// `v (n_kv_heads, n_tokens, value_head_dim)`.
    fn append(&mut self, layer: usize, n_tokens: usize, k: &[f32], v: &[f32]) -> Result<()>;

    /// Causal attention of the newest `n_tokens` positions over all that `layer` holds, with scores
    /// scaled by `1/sqrt(key_head_dim)`. Shapes: `q (n_heads, n_tokens, key_head_dim)`,
    /// `out (n_heads, n_tokens, value_head_dim)`; `n_heads` is a multiple of `n_kv_heads`, and query
    /// head `h` reads KV head `h / (n_heads / n_kv_heads)`.
    fn attend(&mut self, layer: usize, n_tokens: usize, q: &[f32], out: &mut [f32]) -> Result<()> {
        self.attend_within(layer, n_tokens, 0, q, out)
    }

    /// As [`attend`](Self::attend), where each query sees the newest `window_len` positions only, its own among
    /// them; 0 for all.
    fn attend_within(
        &mut self,
        layer: usize,
        n_tokens: usize,
        window_len: usize,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()>;

    /// Forgets every token from position `len` on.
    fn trim(&mut self, len: usize) -> Result<()>;

    /// Forgets tokens from position `len` on, and as many before it as it takes to hold exactly what an empty store
    /// holds that has read the rest; returns how many those are.
    ///
    /// # Errors
    /// As [`trim`](Self::trim); the store is then as it was.
    fn trim_as_fresh(&mut self, len: usize) -> Result<usize> {
        self.trim(len).map(|()| len)
    }

    /// Forgets every token.
    fn clear(&mut self);

    /// Every byte held, by purpose.
    fn memory(&self) -> KvBytes;

    /// This store as a packed one, if it is: only those can be saved.
    fn packed(&self) -> Option<&packed::PackedStore> {
        None
    }

    /// Tokens by tier; none for a store without tiers.
    fn tier_map(&self) -> Option<TierMap> {
        None
    }
}

/// Every byte a store holds, by purpose; the fields add up to [`total`](KvBytes::total).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvBytes {
    /// Packed codes, or the values themselves in a dense store.
    pub code_bytes: usize,
    /// Scales of packed blocks.
    pub scale_bytes: usize,
    /// Key centers of spans.
    pub center_bytes: usize,
    /// Newest tokens kept precise.
    pub recent_bytes: usize,
    /// First tokens kept precise.
    pub sink_bytes: usize,
    /// Lengths, tables and the store's own struct.
    pub header_bytes: usize,
    /// Working memory kept between calls.
    pub scratch_bytes: usize,
    /// Allocated and holding nothing.
    pub unused_bytes: usize,
}

impl KvBytes {
    /// All bytes held.
    pub const fn total(&self) -> usize {
        self.code_bytes
            + self.scale_bytes
            + self.center_bytes
            + self.recent_bytes
            + self.sink_bytes
            + self.header_bytes
            + self.scratch_bytes
            + self.unused_bytes
    }
}

impl std::iter::Sum for KvBytes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            code_bytes: a.code_bytes + b.code_bytes,
            scale_bytes: a.scale_bytes + b.scale_bytes,
            center_bytes: a.center_bytes + b.center_bytes,
            recent_bytes: a.recent_bytes + b.recent_bytes,
            sink_bytes: a.sink_bytes + b.sink_bytes,
            header_bytes: a.header_bytes + b.header_bytes,
            scratch_bytes: a.scratch_bytes + b.scratch_bytes,
            unused_bytes: a.unused_bytes + b.unused_bytes,
        })
    }
}
