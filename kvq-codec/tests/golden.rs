//! Golden bytes: the whole buffer of small caches, so that no byte of the format changes unnoticed.
//!
//! `cargo xtask golden` writes the files anew; `docs/FORMAT.md` says what they hold.

mod common;

use common::{Random, aged};
use kvq_codec::{Backend, KvCache, KvShape, Layout, Policy, WhenFull};
use std::path::PathBuf;

/// Inputs that are exact in every float arithmetic: multiples of 1/64 below 8.
fn fill(cache: &mut KvCache<'_>, n_tokens: usize) {
    let shape = cache.shape();
    let mut random = Random::new(2026);
    let mut exact = move || ((random.next() >> 40) as i32 % 512) as f32 / 64.0;
    let common: Vec<f32> = (0..shape.n_kv_heads * shape.key_head_dim).map(|_| 2.0 * exact()).collect();
    for token in 0..n_tokens {
        for layer in 0..shape.n_layers {
            let mut keys: Vec<f32> = common.iter().map(|c| c + exact()).collect();
            let mut values: Vec<f32> =
                (0..shape.n_kv_heads * shape.value_head_dim).map(|_| exact() - 4.0).collect();
            match token % 50 {
                // Rows of zeros, rows 2^-20 as large, and a row with one large value.
                7 => keys.fill(0.0),
                8 => values.fill(0.0),
                9 => keys.iter_mut().chain(&mut values).for_each(|x| *x /= 1_048_576.0),
                10 => values[3] = 30_000.0,
                _ => {}
            }
            cache.append(layer, 1, &keys, &values).unwrap();
        }
    }
}

fn check(name: &str, shape: KvShape, policy: Policy, bytes: usize, n_tokens: usize) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("{name}.bin"));
    for backend in Backend::available() {
        let mut memory = vec![0; bytes];
        let mut cache = KvCache::new(shape, policy, backend, &mut memory).unwrap();
        fill(&mut cache, n_tokens);
        if std::env::var_os("KVQ_BLESS").is_some() {
            std::fs::write(&path, &memory).unwrap();
        }
        let golden = std::fs::read(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; run cargo xtask golden", path.display()));
        assert_eq!(golden.len(), memory.len());
        let first = golden.iter().zip(&memory).position(|(a, b)| a != b);
        assert_eq!(first, None, "{name}, {}: first difference at this byte", backend.name());
    }
}

#[test]
fn scalar_tiers() {
    let policy = Policy { n_sink: 2, ..aged(&[Layout::Q8, Layout::S4, Layout::S3, Layout::S2], 16, 16) };
    check("scalar-tiers", KvShape::new(2, 2, 32), policy, 44 * 1024, 140);
}

#[test]
fn trellis_tiers() {
    let policy = Policy { n_sink: 2, ..aged(&[Layout::T4, Layout::T3, Layout::T2], 16, 16) };
    check("trellis-tiers", KvShape::new(1, 2, 64), policy, 32 * 1024, 140);
}

#[test]
fn narrow_heads_and_a_width_that_is_no_power_of_two() {
    let policy = Policy { span_len: 32, recent_len: 0, ..Policy::FOUR_X.with_byte_budget(WhenFull::Demote) };
    check("narrow-heads", KvShape::new(1, 5, 8).with_value_head_dim(12), policy, 14 * 1024, 250);
}
