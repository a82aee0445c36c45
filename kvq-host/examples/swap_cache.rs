//! Switches the cache of an attention layer, written as those of candle-transformers, in five lines: [1] to [5].
//!
//! `cargo run --release --example swap_cache`

use candle_core::{D, Device, Result, Tensor};
use candle_nn::kv_cache::KvCache;
use kvq_host::codec::Policy; // [1]
use kvq_host::kv_store::candle::CompressedDynamicCache; // [2]

/// What the layer needs of a cache, so that this program can run both; a model just changes the field's type.
trait Cache {
    fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)>;
}

impl Cache for KvCache {
    fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        self.append(k, v)
    }
}

impl Cache for CompressedDynamicCache {
    fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        self.append(k, v)
    }
}

struct Attention<C> {
    kv_cache: C, // [3] was: KvCache
}

impl<C: Cache> Attention<C> {
    /// One token: `q`, `k`, `v (batch, heads, 1, head_dim)`.
    fn forward(&mut self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (k, v) = self.kv_cache.append(k, v)?; // [4] unchanged
        let scores = (q.matmul(&k.t()?)? / (q.dim(D::Minus1)? as f64).sqrt())?;
        candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
    }
}

fn main() -> Result<()> {
    let (n_tokens, device) = (1024, Device::Cpu);
    let mut dense = Attention { kv_cache: KvCache::new(2, n_tokens) };
    let mut packed = Attention { kv_cache: CompressedDynamicCache::new(2, Policy::FOUR_X)? }; // [5]
    let common = Tensor::randn(0f32, 2., (2, 4, 1, 64), &device)?; // what the keys of a head share
    let mut error = 0f32;
    for _ in 0..n_tokens {
        let random = || Tensor::randn(0f32, 1., (2, 4, 1, 64), &device);
        let (q, k, v) = (random()?, (random()? + &common)?, random()?);
        let (a, b) = (dense.forward(&q, &k, &v)?, packed.forward(&q, &k, &v)?);
        error = ((a - b)?.sqr()?.mean_all()?.to_scalar::<f32>()?).sqrt();
    }
    let (bytes, f16_bytes) = (packed.kv_cache.memory().total(), 2 * 2 * 4 * 2 * 64 * n_tokens);
    println!("{n_tokens} tokens: {bytes} bytes (f16: {f16_bytes}), last output off by {error:.4} (RMS)");
    Ok(())
}
