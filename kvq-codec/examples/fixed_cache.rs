//! A cache in an array whose length is chosen at compile time, as firmware has it: a text of any length goes through.
//!
//! `cargo run --release -p kvq-codec --example fixed_cache`

use kvq_codec::{Backend, Error, KvCache, KvShape, Policy, WhenFull, capacity_tokens};

const SHAPE: KvShape = KvShape::new(3, 4, 32); // layers, KV heads, head_dim
const POLICY: Policy = Policy { span_len: 16, ..Policy::FOUR_X.with_byte_budget(WhenFull::Evict) };
const BYTES: usize = 96 * 1024;
/// A wrong configuration does not compile.
const CAPACITY: usize = match capacity_tokens(SHAPE, POLICY, BYTES) {
    Ok(tokens) => tokens,
    Err(_) => panic!("minimum_bytes says how many are needed"),
};
const N_HEADS: usize = 8;
const N_TOKENS: usize = 2_000;

fn main() -> Result<(), Error> {
    let fp16 = BYTES / SHAPE.fp16_bytes_per_token();
    println!("{BYTES} bytes hold {CAPACITY} tokens; in fp16 they hold {fp16}.");

    let mut memory = [0; BYTES];
    let mut cache = KvCache::new(SHAPE, POLICY, Backend::detect(), &mut memory)?;
    let (mut keys, mut values) = ([0.0; 4 * 32], [0.0; 4 * 32]); // (n_kv_heads, 1, head_dim)
    let mut out = [0.0; N_HEADS * 32]; // (n_heads, 1, head_dim)
    let mut full_at = None;
    for token in 0..N_TOKENS {
        for layer in 0..SHAPE.n_layers {
            // Instead of a model's: anything that changes from token to token.
            let angle = |i: usize| (token * (i % 7 + 1)) as f32 * 0.01 + (i + layer) as f32;
            for (i, (key, value)) in keys.iter_mut().zip(&mut values).enumerate() {
                (*key, *value) = (angle(i).sin(), angle(i).cos());
            }
            let queries = [keys, keys].concat();
            cache.append(layer, 1, &keys, &values)?;
            cache.attend(layer, 1, &queries, &mut out)?;
        }
        if full_at.is_none() && cache.n_held(0)? <= token {
            full_at = Some(token);
        }
    }
    let held = cache.n_held(0)?;
    if let Some(token) = full_at {
        println!("From token {token} on the oldest gave way, except for {} sinks.", POLICY.n_sink);
    }
    println!("After {N_TOKENS} tokens it holds {held}, and never took a byte more:");
    println!("{:#?}", cache.memory());
    Ok(())
}
