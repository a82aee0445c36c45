//! Tensors with reproducible values, and plain attention over them.
#![allow(dead_code)]

use candle_core::{DType, Device, Result, Tensor};
use kvq_codec::Policy;
use kvq_host::kv_store::candle::CompressedDynamicCache;

const CPU: Device = Device::Cpu;

/// Reproducible values around one common part, `(batch, heads, tokens, dim)`.
pub fn tensor(seed: u64, (batch, heads, tokens, dim): (usize, usize, usize, usize)) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..batch * heads * tokens * dim).map(|_| next()).collect();
    Tensor::from_vec(values, (batch, heads, tokens, dim), &CPU).unwrap()
}

/// Root of the relative squared difference.
pub fn error(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let f32s = |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (got, want) = (f32s(got), f32s(want));
    let difference: f32 = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / want.iter().map(|x| x * x).sum::<f32>()).sqrt()
}

/// Plain attention of the newest tokens, `q (heads, n, dim)` over `k`, `v (kv_heads, len, dim)`.
pub fn plain_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (heads, n, dim) = q.dims3()?;
    let (kv_heads, len, _) = k.dims3()?;
    let group = heads / kv_heads;
    let repeat = |x: &Tensor| -> Result<Tensor> {
        let (_, len, dim) = x.dims3()?;
        x.unsqueeze(1)?.broadcast_as((kv_heads, group, len, dim))?.reshape((heads, len, dim))
    };
    let (k, v) = (repeat(k)?, repeat(v)?);
    let hidden: Vec<f32> =
        (0..n * len).map(|i| if i % len > len - n + i / len { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(hidden, (1, n, len), q.device())?;
    let scores = (q.matmul(&k.t()?.contiguous()?)? / (dim as f64).sqrt())?.broadcast_add(&mask)?;
    candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
}

pub fn eight_bit(dim: usize) -> CompressedDynamicCache {
    CompressedDynamicCache::new(dim, Policy::EIGHT_BIT).unwrap()
}
