//! Attention on packed bytes as an operation of candle.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, WithDType, bail};
use half::{bf16, f16};

use super::tensors::{failed, lengths};
use crate::kv_store::KvStore;
use crate::kv_store::packed::PackedStore;

/// Queries `(batch, n_heads, n, key_head_dim)` to outputs `(batch, n_heads, n, value_head_dim)`.
pub(super) struct Attend<'a> {
    pub rows: &'a [PackedStore],
    /// Queries per row; empty for all.
    pub n_tokens: &'a [usize],
}

impl CustomOp1 for Attend<'_> {
    fn name(&self) -> &'static str {
        "kvq-attend"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let run = Run::new(self, layout)?;
        let storage = match storage {
            CpuStorage::F32(q) => CpuStorage::F32(run.over(q, |x| x, |x| x)?),
            CpuStorage::F16(q) => CpuStorage::F16(run.over(q, f16::to_f32, f16::from_f32)?),
            CpuStorage::BF16(q) => CpuStorage::BF16(run.over(q, bf16::to_f32, bf16::from_f32)?),
            _ => bail!("queries of a dtype other than f32, f16 and bf16"),
        };
        Ok((storage, run.shape()))
    }
}

/// The sizes of one call, checked.
struct Run<'a> {
    rows: &'a [PackedStore],
    lengths: Vec<usize>,
    /// Where the queries lie in their storage.
    range: (usize, usize),
    n_heads: usize,
    n: usize,
    key_dim: usize,
    value_dim: usize,
}

impl<'a> Run<'a> {
    fn new(op: &Attend<'a>, layout: &Layout) -> Result<Self> {
        let (batch, n_heads, n, key_dim) = layout.shape().dims4()?;
        let Some(shape) = op.rows.first().map(KvStore::shape) else { bail!("nothing was appended yet") };
        if batch != op.rows.len()
            || key_dim != shape.key_head_dim
            || !n_heads.is_multiple_of(shape.n_kv_heads)
        {
            bail!("queries {:?} over {} sequences of {shape:?}", layout.shape(), op.rows.len());
        }
        let Some(range) = layout.contiguous_offsets() else { bail!("queries that are not contiguous") };
        let lengths = lengths(op.n_tokens, batch, n)?;
        Ok(Self { rows: op.rows, lengths, range, n_heads, n, key_dim, value_dim: shape.value_head_dim })
    }

    fn shape(&self) -> Shape {
        (self.rows.len(), self.n_heads, self.n, self.value_dim).into()
    }

    fn over<T: WithDType>(&self, q: &[T], to: impl Fn(T) -> f32, from: impl Fn(f32) -> T) -> Result<Vec<T>> {
        let q = &q[self.range.0..self.range.1];
        let per_row = self.n_heads * self.n;
        let mut out = vec![from(0.0); self.rows.len() * per_row * self.value_dim];
        for (i, (row, &n)) in self.rows.iter().zip(&self.lengths).enumerate() {
            if n == 0 {
                continue;
            }
            let heads =
                q[i * per_row * self.key_dim..][..per_row * self.key_dim].chunks_exact(self.n * self.key_dim);
            let queries: Vec<f32> =
                heads.flat_map(|head| &head[..n * self.key_dim]).map(|&x| to(x)).collect();
            let mut attended = vec![0.0; self.n_heads * n * self.value_dim];
            row.attend_shared(0, n, 0, &queries, &mut attended)
                .map_err(|e| failed(format!("sequence {i}: {e}")))?;
            let out = &mut out[i * per_row * self.value_dim..][..per_row * self.value_dim];
            let heads = out.chunks_exact_mut(self.n * self.value_dim);
            for (out, attended) in heads.zip(attended.chunks_exact(n * self.value_dim)) {
                out.iter_mut().zip(attended).for_each(|(out, &x)| *out = from(x));
            }
        }
        Ok(out)
    }
}
