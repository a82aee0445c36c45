//! Attention on the packed bytes from candle code, for sequences of different lengths: nothing is restored.
//!
//! `cargo run --release --example fused_attention`

use std::time::Instant;

use candle_core::{D, Device, Result, Tensor};
use kvq_host::codec::Policy;
use kvq_host::kv_store::candle::CompressedDynamicCache;

/// Heads of 64, for a batch of three.
const N_HEADS: usize = 12;
const N_KV_HEADS: usize = 4;

fn main() -> Result<()> {
    let random = |tokens: usize, heads: usize| Tensor::randn(0f32, 1., (3, heads, tokens, 64), &Device::Cpu);
    let mut cache = CompressedDynamicCache::new(2, Policy::FOUR_X)?;

    // Prompts of 600, 1500 and 40 tokens: rows of one tensor, of which only the first tokens count.
    let lengths = [600, 1500, 40];
    cache.append_ragged(&random(1500, N_KV_HEADS)?, &random(1500, N_KV_HEADS)?, &lengths)?;
    let prompt = cache.attend_ragged(&random(1500, N_HEADS)?, &lengths)?;
    println!("prompts of {:?} tokens attended: {:?}", cache.seq_lens(), prompt.dims());

    // One token each, fused.
    let (q, k, v) = (random(1, N_HEADS)?, random(1, N_KV_HEADS)?, random(1, N_KV_HEADS)?);
    cache.append_ragged(&k, &v, &[])?;
    let begun = Instant::now();
    let fused = cache.attend(&q)?;
    let fused_time = begun.elapsed();

    // The same by restoring, which only works for the longest sequence: the others are padded.
    let begun = Instant::now();
    let (Some(k), Some(v)) = (cache.k()?, cache.v()?) else { unreachable!("tokens were appended") };
    let q = q.get(1)?.reshape((4, 3, 64))?;
    let scores = (q.matmul(&k.get(1)?.t()?)? / 8.0)?;
    let restored = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v.get(1)?)?;
    let restored_time = begun.elapsed();

    let fused = fused.get(1)?.reshape((4, 3, 64))?;
    let worst = (fused - restored)?.abs()?.max(D::Minus1)?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    println!("sequences of {:?}, {} bytes", cache.seq_lens(), cache.memory().total());
    println!("fused {fused_time:.0?}, restored {restored_time:.0?}, apart by at most {worst:.4}");
    Ok(())
}
