//! Tensors as the slabs of floats that a store takes.

use std::fmt::Display;

use candle_core::{DType, Error, Result, Tensor, bail};

/// An error as candle's.
pub(super) fn failed(error: impl Display) -> Error {
    Error::Msg(error.to_string())
}

/// A tensor's values as f32, `(batch, n_heads, n_tokens, head_dim)`, whatever its strides and dtype were.
pub(super) struct Slab {
    values: Vec<f32>,
    pub batch: usize,
    pub n_heads: usize,
    pub n_tokens: usize,
    pub head_dim: usize,
}

impl Slab {
    /// # Errors
    /// Not four axes, or a dtype other than f32, f16 and bf16.
    pub fn of(tensor: &Tensor, dim: usize) -> Result<Self> {
        let tensor = if dim == 1 { tensor.transpose(1, 2)? } else { tensor.clone() };
        let (batch, n_heads, n_tokens, head_dim) = tensor.dims4()?;
        if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            bail!("keys and values of {:?}: allowed are f32, f16 and bf16", tensor.dtype());
        }
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Self { values, batch, n_heads, n_tokens, head_dim })
    }

    /// Tokens per row: those asked for, or all of them where nothing is asked.
    pub fn lengths(&self, wanted: &[usize]) -> Result<Vec<usize>> {
        lengths(wanted, self.batch, self.n_tokens)
    }

    /// The first `n` tokens of row `i`, `(n_heads, n, head_dim)`.
    pub fn row(&self, i: usize, n: usize) -> Vec<f32> {
        let per_head = self.n_tokens * self.head_dim;
        let row = &self.values[i * self.n_heads * per_head..][..self.n_heads * per_head];
        row.chunks_exact(per_head).flat_map(|head| &head[..n * self.head_dim]).copied().collect()
    }
}

/// A length per row of a batch, none above `n_tokens`.
pub(super) fn lengths(wanted: &[usize], batch: usize, n_tokens: usize) -> Result<Vec<usize>> {
    if wanted.is_empty() {
        return Ok(vec![n_tokens; batch]);
    }
    if wanted.len() != batch || wanted.iter().any(|&n| n > n_tokens) {
        bail!(
            "lengths {wanted:?} for {batch} rows of {n_tokens} tokens: allowed is one per row, up to {n_tokens}"
        );
    }
    Ok(wanted.to_vec())
}
