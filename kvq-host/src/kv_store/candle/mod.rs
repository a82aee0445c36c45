//! Packed caches for model code that is written for candle.
//!
//! [`CompressedDynamicCache`] has the shape of `candle_nn::kv_cache::KvCache`: one per layer, tensors in,
//! tensors out. Any model can switch to it, and pays with a pass that restores the whole layer at each step.
//! Model code that can call [`attend`](CompressedDynamicCache::attend) instead of its own attention pays
//! nothing of that: attention then runs on the packed bytes.

mod attend;
mod tensors;

use candle_core::{DType, Device, Result, Tensor, bail};
use kvq_codec::{Backend, KvShape, Policy, Side};

use super::packed::PackedStore;
use super::{KvBytes, KvStore};
use attend::Attend;
use tensors::{Slab, failed};

/// Packed keys and values of one layer, for a batch of sequences that may differ in length.
///
/// Tensors are `(batch, n_kv_heads, n_tokens, head_dim)` or, for `dim` 1, `(batch, n_tokens, n_kv_heads,
/// head_dim)`; of f32, f16 or bf16, with any strides, on any device (the packed bytes are in main memory). The
/// batch and the head sizes are those of the first append, until [`reset`](Self::reset).
///
/// # Examples
/// ```
/// use candle_core::{Device, Tensor};
/// use kvq_codec::Policy;
/// use kvq_host::kv_store::candle::CompressedDynamicCache;
///
/// # fn main() -> candle_core::Result<()> {
/// let mut cache = CompressedDynamicCache::new(2, Policy::FOUR_X)?; // as KvCache::new(2, max_seq_len)
/// let k = Tensor::randn(0f32, 1., (1, 3, 10, 64), &Device::Cpu)?;
/// let (keys, values) = cache.append(&k, &k)?;
/// assert_eq!((keys.dims(), values.dims()), (&[1, 3, 10, 64][..], &[1, 3, 10, 64][..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CompressedDynamicCache {
    dim: usize,
    policy: Policy,
    backend: Backend,
    /// One store of one layer per sequence; none before the first append.
    rows: Vec<PackedStore>,
    dtype: DType,
    device: Device,
}

impl CompressedDynamicCache {
    /// An empty cache for tensors whose tokens lie along `dim`.
    ///
    /// # Errors
    /// A `dim` other than 1 and 2, or a policy that contradicts itself.
    pub fn new(dim: usize, policy: Policy) -> Result<Self> {
        if !matches!(dim, 1 | 2) {
            bail!("tokens along dimension {dim}: allowed are 1 and 2");
        }
        policy.check().map_err(failed)?;
        let backend = Backend::detect();
        Ok(Self { dim, policy, backend, rows: Vec::new(), dtype: DType::F32, device: Device::Cpu })
    }

    /// Appends the same number of tokens to every sequence, and returns all keys and values that are held,
    /// restored, in the dtype and on the device of `k`.
    ///
    /// Shapes: `k (batch, n_kv_heads, n, key_head_dim)`, `v (batch, n_kv_heads, n, value_head_dim)`; results
    /// have the length of the sequences for `n`. Sequences of different lengths end with zeros, which the
    /// caller's mask has to hide.
    ///
    /// # Errors
    /// Tensors of other shapes than before, numbers that are not finite, or a budget that is exhausted; the
    /// cache then holds what it held.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        self.append_ragged(k, v, &[])?;
        match (self.k()?, self.v()?) {
            (Some(k), Some(v)) => Ok((k, v)),
            _ => bail!("a batch of no sequence"),
        }
    }

    /// Appends the first `n_tokens[i]` tokens of row `i` to sequence `i`, or all of them where `n_tokens` is
    /// empty; nothing is restored. Shapes as [`append`](Self::append).
    ///
    /// # Errors
    /// As [`append`](Self::append), and a length for each row, none above what there is.
    pub fn append_ragged(&mut self, k: &Tensor, v: &Tensor, n_tokens: &[usize]) -> Result<()> {
        let (keys, values) = (Slab::of(k, self.dim)?, Slab::of(v, self.dim)?);
        if (keys.batch, keys.n_heads, keys.n_tokens) != (values.batch, values.n_heads, values.n_tokens) {
            bail!("keys {:?} and values {:?} do not belong together", k.dims(), v.dims());
        }
        let n_tokens = keys.lengths(n_tokens)?;
        let shape = KvShape::new(1, keys.n_heads, keys.head_dim).with_value_head_dim(values.head_dim);
        if self.rows.is_empty() {
            let store = || PackedStore::new(shape, self.policy, self.backend).map_err(failed);
            // No place for more rows than there are: it would be memory that no report counts.
            let mut rows = Vec::with_capacity(keys.batch);
            for _ in 0..keys.batch {
                rows.push(store()?);
            }
            self.rows = rows;
        }
        if self.rows.len() != keys.batch || self.rows.iter().any(|row| row.shape() != shape) {
            bail!(
                "keys {:?} and values {:?} for a cache of {} sequences of {:?}: reset it for others",
                k.dims(),
                v.dims(),
                self.rows.len(),
                self.rows.first().map(KvStore::shape)
            );
        }
        let before = self.seq_lens();
        for (i, (row, &n)) in self.rows.iter_mut().zip(&n_tokens).enumerate() {
            if n > 0
                && let Err(error) = row.append(0, n, &keys.row(i, n), &values.row(i, n))
            {
                // The sequences before this one took their tokens already.
                for (row, &len) in self.rows.iter_mut().zip(&before) {
                    row.trim(len).map_err(failed)?;
                }
                return Err(failed(format!("sequence {i}: {error}")));
            }
        }
        (self.dtype, self.device) = (k.dtype(), k.device().clone());
        Ok(())
    }

    /// Causal attention of the newest `n` tokens of each sequence over all that it holds, on the packed bytes,
    /// with scores scaled by `1/sqrt(key_head_dim)`.
    ///
    /// Shapes: `q (batch, n_heads, n, key_head_dim)`, result `(batch, n_heads, n, value_head_dim)` in the dtype
    /// of `q`, or with the second and third axes the other way round for `dim` 1; query head `h` reads KV head
    /// `h / (n_heads / n_kv_heads)`.
    ///
    /// # Errors
    /// Queries of another batch or head size, more tokens than a sequence holds, a dtype other than f32, f16
    /// and bf16, or a tensor that is not on the CPU.
    pub fn attend(&self, q: &Tensor) -> Result<Tensor> {
        self.attend_ragged(q, &[])
    }

    /// As [`attend`](Self::attend), where row `i` of `q` has `n_tokens[i]` queries, the first ones; what
    /// follows them in the result is zeros.
    ///
    /// # Errors
    /// As [`attend`](Self::attend), and a length for each row, none above what there is.
    pub fn attend_ragged(&self, q: &Tensor, n_tokens: &[usize]) -> Result<Tensor> {
        let q = if self.dim == 1 { q.transpose(1, 2)? } else { q.clone() };
        let op = Attend { rows: &self.rows, n_tokens };
        let out = q.contiguous()?.apply_op1_no_bwd(&op)?;
        if self.dim == 1 { out.transpose(1, 2) } else { Ok(out) }
    }

    /// All keys that are held, restored as by [`append`](Self::append); none before the first append.
    ///
    /// # Errors
    /// A failure of candle.
    pub fn k(&self) -> Result<Option<Tensor>> {
        self.restored(Side::Key)
    }

    /// All values that are held, restored as by [`append`](Self::append); none before the first append.
    ///
    /// # Errors
    /// A failure of candle.
    pub fn v(&self) -> Result<Option<Tensor>> {
        self.restored(Side::Value)
    }

    fn restored(&self, side: Side) -> Result<Option<Tensor>> {
        let Some(first) = self.rows.first() else { return Ok(None) };
        let shape = first.shape();
        let head_dim = if side == Side::Key { shape.key_head_dim } else { shape.value_head_dim };
        let held: Vec<usize> =
            self.rows.iter().map(|row| row.cache().n_held(0).map_err(failed)).collect::<Result<_>>()?;
        let longest = held.iter().copied().max().unwrap_or(0);
        let mut values = vec![0.0; self.rows.len() * shape.n_kv_heads * longest * head_dim];
        if longest > 0 {
            let heads = values.chunks_exact_mut(longest * head_dim);
            let places =
                self.rows.iter().zip(&held).flat_map(|row| (0..shape.n_kv_heads).map(move |h| (row, h)));
            for (out, ((row, &n), head)) in heads.zip(places) {
                row.cache().dequantize_into(0, side, head, &mut out[..n * head_dim]).map_err(failed)?;
            }
        }
        let shape = (self.rows.len(), shape.n_kv_heads, longest, head_dim);
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        let tensor = if self.dim == 1 { tensor.transpose(1, 2)?.contiguous()? } else { tensor };
        Ok(Some(tensor.to_dtype(self.dtype)?.to_device(&self.device)?))
    }

    /// Forgets everything: the next append may have another batch.
    pub fn reset(&mut self) {
        self.rows = Vec::new();
    }

    /// Tokens appended, of the longest sequence.
    pub fn current_seq_len(&self) -> usize {
        self.seq_lens().into_iter().max().unwrap_or(0)
    }

    /// Tokens appended, per sequence.
    pub fn seq_lens(&self) -> Vec<usize> {
        self.rows.iter().map(KvStore::len).collect()
    }

    /// Forgets every token of sequence `i` from position `len` on.
    ///
    /// # Errors
    /// No such sequence, or one that is shorter.
    pub fn trim(&mut self, i: usize, len: usize) -> Result<()> {
        let n = self.rows.len();
        let Some(row) = self.rows.get_mut(i) else { bail!("sequence {i} of {n}") };
        row.trim(len).map_err(failed)
    }

    /// Every byte held, over all sequences.
    pub fn memory(&self) -> KvBytes {
        self.rows.iter().map(KvStore::memory).sum()
    }
}
