//! Dense stores: keys and values as f32 or f16, the comparison for every packed cache.
//!
//! The comparison is meant to be hard to beat. Memory grows by [`BLOCK`] tokens of all layers, in place, and has the huge
//! pages that a packed cache has; in a block the rows of one layer and KV head lie contiguously, keys before values, so
//! that attention streams through them. Attention is fused (no copy of the cache, no repeated KV heads, query heads of a
//! group share each row) and works in the same blocks with an online softmax, so that its working memory is a few
//! kilobytes of stack whatever the context.
//!
//! `scalar` defines the result; `avx2` and `avx512` agree with it to float rounding.

mod attend;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernel;
mod scalar;

use std::ops::Range;

use anyhow::{Result, bail, ensure};
use kvq_codec::KvShape;

use super::memory::GrowingMemory;
use super::{KvBytes, KvStore};
pub use kernel::{Backend, Element};

/// Tokens by which a store grows, and of one pass of the online softmax: the scores of three queries and the rows they
/// read stay in the first- and second-level cache. At most this many tokens are held without use.
pub const BLOCK: usize = 256;

/// A dense store of f32.
pub type DenseF32 = DenseStore<f32>;

/// A dense store of IEEE half precision: the cache that compression is stated against.
pub type DenseF16 = DenseStore<half::f16>;

/// Keys and values of one sequence, unquantized, as `E`.
pub struct DenseStore<E> {
    kernel: kernel::Kernel,
    places: Places,
    memory: GrowingMemory<E>,
    /// Tokens held by each layer.
    lens: Vec<usize>,
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
        Self {
            kernel: kernel::Kernel::choose(backend, &shape),
            places: Places { shape },
            memory: GrowingMemory::default(),
            lens: vec![0; shape.n_layers],
        }
    }

    /// The name of the kernels in use: `scalar`, `avx2` or `avx512`.
    pub fn backend_name(&self) -> &'static str {
        self.kernel.name()
    }

    /// Tokens held by `layer`.
    fn layer_len(&self, layer: usize) -> Result<usize> {
        match self.lens.get(layer) {
            Some(&len) => Ok(len),
            None => bail!("layer {layer} of a store with {} layers", self.lens.len()),
        }
    }
}

impl<E: Element> KvStore for DenseStore<E> {
    fn shape(&self) -> KvShape {
        self.places.shape
    }

    fn len(&self) -> usize {
        self.lens[0]
    }

    fn stretch(&self, _layer: usize) -> usize {
        usize::MAX
    }

    fn append(&mut self, layer: usize, n_tokens: usize, k: &[f32], v: &[f32]) -> Result<()> {
        let (len, shape) = (self.layer_len(layer)?, self.places.shape);
        let KvShape { n_kv_heads, key_head_dim, value_head_dim, .. } = shape;
        ensure!(n_tokens > 0, "append of no token");
        ensure!(
            k.len() == n_kv_heads * n_tokens * key_head_dim
                && v.len() == n_kv_heads * n_tokens * value_head_dim,
            "append of {n_tokens} tokens with {} key and {} value elements to {:?}",
            k.len(),
            v.len(),
            shape
        );
        self.memory.grow_to((len + n_tokens).div_ceil(BLOCK) * self.places.block_len());
        let memory = self.memory.elements_mut();
        for head in 0..n_kv_heads {
            let keys = &k[head * n_tokens * key_head_dim..][..n_tokens * key_head_dim];
            let values = &v[head * n_tokens * value_head_dim..][..n_tokens * value_head_dim];
            let mut done = 0;
            while done < n_tokens {
                let (block, first) = ((len + done) / BLOCK, (len + done) % BLOCK);
                let tokens = first..BLOCK.min(first + n_tokens - done);
                let n = tokens.len();
                E::store(
                    &mut memory[self.places.keys((layer, head, block), tokens.clone())],
                    &keys[done * key_head_dim..][..n * key_head_dim],
                );
                E::store(
                    &mut memory[self.places.values((layer, head, block), tokens)],
                    &values[done * value_head_dim..][..n * value_head_dim],
                );
                done += n;
            }
        }
        self.lens[layer] = len + n_tokens;
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
        let (len, shape) = (self.layer_len(layer)?, self.places.shape);
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
            memory: self.memory.elements(),
            places: self.places,
            layer,
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
        self.lens.iter_mut().for_each(|held| *held = len.min(*held));
        Ok(())
    }

    fn clear(&mut self) {
        self.lens.fill(0);
    }

    fn memory(&self) -> KvBytes {
        let KvShape { n_layers, n_kv_heads, key_head_dim, value_head_dim } = self.places.shape;
        let row_bytes = n_kv_heads * (key_head_dim + value_head_dim) * size_of::<E>();
        let used = self.lens.iter().sum::<usize>() * row_bytes;
        KvBytes {
            code_bytes: used,
            header_bytes: size_of::<Self>() + n_layers * size_of::<usize>(),
            unused_bytes: size_of_val(self.memory.elements()) - used,
            ..KvBytes::default()
        }
    }
}

/// Where rows lie in memory: by blocks of tokens, in each by layers, KV heads, sides and tokens.
#[derive(Clone, Copy)]
struct Places {
    shape: KvShape,
}

impl Places {
    /// Elements of one KV head of one layer in a block.
    const fn head_len(&self) -> usize {
        BLOCK * (self.shape.key_head_dim + self.shape.value_head_dim)
    }

    /// Elements of a block.
    const fn block_len(&self) -> usize {
        self.shape.n_layers * self.shape.n_kv_heads * self.head_len()
    }

    /// Where a head's part of a block begins.
    const fn start(&self, (layer, head, block): (usize, usize, usize)) -> usize {
        block * self.block_len() + (layer * self.shape.n_kv_heads + head) * self.head_len()
    }

    /// Key rows of some tokens of a block.
    fn keys(&self, place: (usize, usize, usize), tokens: Range<usize>) -> Range<usize> {
        let (start, dim) = (self.start(place), self.shape.key_head_dim);
        start + tokens.start * dim..start + tokens.end * dim
    }

    /// Value rows of some tokens of a block.
    fn values(&self, place: (usize, usize, usize), tokens: Range<usize>) -> Range<usize> {
        let (start, dim) = (self.start(place) + BLOCK * self.shape.key_head_dim, self.shape.value_head_dim);
        start + tokens.start * dim..start + tokens.end * dim
    }
}
