//! Dense stores: keys and values as f32 or f16, the comparison for every packed cache.
//!
//! The comparison is meant to be hard to beat. Rows of one layer and KV head lie contiguously,
//! `(n_kv_heads, capacity, head_dim)`, so that attention streams through them; memory grows in steps of
//! [`GROWTH_TOKENS`] and never per token; attention is fused (no copy of the cache, no repeated KV heads,
//! query heads of a group share each row) and works in blocks of [`BLOCK`] tokens with an online softmax,
//! so that its working memory is a few kilobytes of stack whatever the context.
//!
//! `scalar` defines the result; `avx2` and `avx512` agree with it to float rounding.

mod attend;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernel;
mod scalar;

use anyhow::{Result, bail, ensure};
use kvq_codec::KvShape;

use super::{KvBytes, KvStore};
pub use kernel::{Backend, Element};

/// Tokens by which the memory of a full head grows: under 2 % of copying per step of decoding, and at
/// most this many tokens held without use.
pub const GROWTH_TOKENS: usize = 128;

/// Tokens per pass of the online softmax: the scores of three queries and the rows they read stay in the
/// first- and second-level cache.
pub const BLOCK: usize = 256;

/// A dense store of f32.
pub type DenseF32 = DenseStore<f32>;

/// A dense store of IEEE half precision: the cache that compression is stated against.
pub type DenseF16 = DenseStore<half::f16>;

/// Keys and values of one sequence, unquantized, as `E`.
pub struct DenseStore<E> {
    shape: KvShape,
    kernel: kernel::Kernel,
    layers: Vec<Layer<E>>,
}

/// One layer: for each KV head its rows, `(len, head_dim)`.
struct Layer<E> {
    keys: Vec<Vec<E>>,
    values: Vec<Vec<E>>,
}

impl<E: Element> Layer<E> {
    fn new(n_kv_heads: usize) -> Self {
        let heads = || (0..n_kv_heads).map(|_| Vec::new()).collect();
        Self { keys: heads(), values: heads() }
    }

    fn len(&self, shape: &KvShape) -> usize {
        self.keys[0].len() / shape.key_head_dim
    }

    fn planes(&self) -> impl Iterator<Item = &Vec<E>> {
        self.keys.iter().chain(&self.values)
    }
}

impl<E: Element> DenseStore<E> {
    /// An empty store that uses the fastest kernels this machine has.
    pub fn new(shape: KvShape) -> Self {
        Self::with_backend(shape, Backend::Auto)
    }

    /// An empty store with the given kernels.
    ///
    /// # Panics
    /// If a count or a head width of `shape` is 0.
    pub fn with_backend(shape: KvShape, backend: Backend) -> Self {
        assert!(
            shape.n_layers > 0 && shape.n_kv_heads > 0 && shape.key_head_dim > 0 && shape.value_head_dim > 0,
            "a KV shape has no zero in it, got {shape:?}"
        );
        let layers = (0..shape.n_layers).map(|_| Layer::new(shape.n_kv_heads)).collect();
        Self { shape, kernel: kernel::Kernel::choose(backend, &shape), layers }
    }

    /// The name of the kernels in use: `scalar`, `avx2` or `avx512`.
    pub fn backend_name(&self) -> &'static str {
        self.kernel.name()
    }

    fn layer(&self, layer: usize) -> Result<&Layer<E>> {
        match self.layers.get(layer) {
            Some(found) => Ok(found),
            None => bail!("layer {layer} of a store with {} layers", self.shape.n_layers),
        }
    }
}

/// Adds rows to one head, growing it by whole steps.
fn push_rows<E: Element>(plane: &mut Vec<E>, rows: &[f32], head_dim: usize) {
    let needed = plane.len() + rows.len();
    if needed > plane.capacity() {
        let step = GROWTH_TOKENS * head_dim;
        plane.reserve_exact(needed.next_multiple_of(step) - plane.len());
    }
    E::extend(plane, rows);
}

impl<E: Element> KvStore for DenseStore<E> {
    fn shape(&self) -> KvShape {
        self.shape
    }

    fn len(&self) -> usize {
        self.layers[0].len(&self.shape)
    }

    fn stretch(&self, _layer: usize) -> usize {
        usize::MAX
    }

    fn append(&mut self, layer: usize, n_tokens: usize, k: &[f32], v: &[f32]) -> Result<()> {
        self.layer(layer)?;
        let KvShape { n_kv_heads, key_head_dim, value_head_dim, .. } = self.shape;
        ensure!(n_tokens > 0, "append of no token");
        ensure!(
            k.len() == n_kv_heads * n_tokens * key_head_dim
                && v.len() == n_kv_heads * n_tokens * value_head_dim,
            "append of {n_tokens} tokens with {} key and {} value elements to {:?}",
            k.len(),
            v.len(),
            self.shape
        );
        let layer = &mut self.layers[layer];
        for (plane, rows) in layer.keys.iter_mut().zip(k.chunks_exact(n_tokens * key_head_dim)) {
            push_rows(plane, rows, key_head_dim);
        }
        for (plane, rows) in layer.values.iter_mut().zip(v.chunks_exact(n_tokens * value_head_dim)) {
            push_rows(plane, rows, value_head_dim);
        }
        Ok(())
    }

    fn attend_within(
        &mut self,
        layer: usize,
        n_tokens: usize,
        window_len: usize,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let held = self.layer(layer)?;
        let shape = &self.shape;
        let len = held.len(shape);
        ensure!(n_tokens > 0 && n_tokens <= len, "attention of {n_tokens} queries over {len} tokens");
        let n_heads = q.len() / (n_tokens * shape.key_head_dim);
        ensure!(
            n_heads > 0
                && n_heads.is_multiple_of(shape.n_kv_heads)
                && q.len() == n_heads * n_tokens * shape.key_head_dim
                && out.len() == n_heads * n_tokens * shape.value_head_dim,
            "attention of {n_tokens} queries with {} query and {} output elements over {shape:?}",
            q.len(),
            out.len(),
        );
        let heads = attend::Heads {
            keys: &held.keys,
            values: &held.values,
            shape,
            len,
            n_heads,
            n_tokens,
            window_len,
        };
        attend::attend(self.kernel, &heads, q, out);
        Ok(())
    }

    fn trim(&mut self, len: usize) -> Result<()> {
        ensure!(len <= self.len(), "trim to {len} tokens of a store that holds {}", self.len());
        for layer in &mut self.layers {
            for plane in &mut layer.keys {
                plane.truncate(len * self.shape.key_head_dim);
            }
            for plane in &mut layer.values {
                plane.truncate(len * self.shape.value_head_dim);
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.keys.iter_mut().chain(&mut layer.values).for_each(Vec::clear);
        }
    }

    fn memory(&self) -> KvBytes {
        let element = size_of::<E>();
        let planes = || self.layers.iter().flat_map(Layer::planes);
        let used: usize = planes().map(|plane| plane.len() * element).sum();
        let held: usize = planes().map(|plane| plane.capacity() * element).sum();
        let plane_headers = planes().count() * size_of::<Vec<E>>();
        KvBytes {
            code_bytes: used,
            header_bytes: size_of::<Self>() + self.layers.len() * size_of::<Layer<E>>() + plane_headers,
            unused_bytes: held - used,
            ..KvBytes::default()
        }
    }
}
