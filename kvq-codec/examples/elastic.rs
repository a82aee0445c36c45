//! A cache that fills: old tokens go down to fewer bits, step by step, until nothing is left to give.
//!
//! `cargo run --release -p kvq-codec --example elastic`

use kvq_codec::{Backend, Cache, Error, KvCache, KvShape, Policy, Side, Storage, WhenFull};

const SHAPE: KvShape = KvShape::new(1, 2, 64); // layers, KV heads, head_dim
const BYTES: usize = 64 * 1024;

/// One letter for every 16 tokens, oldest first: the bits of their codes.
fn bits<S: Storage>(cache: &Cache<S>, side: Side) -> Result<String, Error> {
    let mut digits = String::new();
    let (mut tokens, mut drawn) = (0, 0);
    for part in cache.tier_map(0, side)? {
        tokens += part.tokens;
        while drawn * 16 + 8 < tokens {
            digits += &part.layout.code_bits().to_string();
            drawn += 1;
        }
    }
    Ok(digits)
}

fn main() -> Result<(), Error> {
    let policy = Policy::FOUR_X.with_byte_budget(WhenFull::Demote);
    let mut memory = vec![0; BYTES];
    let mut cache = KvCache::new(SHAPE, policy, Backend::detect(), &mut memory)?;
    println!("{BYTES} bytes hold {} tokens in fp16. One digit: the bits of 16 tokens.\n", {
        BYTES / SHAPE.fp16_bytes_per_token()
    });
    let mut token = [0.0; 128]; // (n_kv_heads, 1, head_dim)
    loop {
        let n = cache.len();
        token
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = ((n * (i % 5 + 1)) as f32 * 0.1 + i as f32).sin());
        let result = cache.append(0, 1, &token, &token);
        if result.is_err() || n.is_multiple_of(80) && n > 0 {
            println!("{n:>4} tokens  keys   {}", bits(&cache, Side::Key)?);
            println!("             values {}", bits(&cache, Side::Value)?);
        }
        match result {
            Ok(()) => {}
            // The cache is as before: what it holds can still be attended to.
            Err(Error::Full { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    println!("\nFull: {} tokens, {} bytes unused.", cache.len(), cache.memory().unused_bytes);
    Ok(())
}
