//! Golden bytes: the whole buffer of small caches, and a snapshot, so that no byte of the format changes unnoticed.
//!
//! `cargo xtask golden` writes the files anew; `docs/FORMAT.md` says what they hold.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::{Random, aged, backends};
use kvq_codec::{Backend, Fixed, KvCache, KvShape, Layout, Policy, WhenFull};
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

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("{name}.bin"))
}

fn compare(name: &str, backend: Backend, bytes: &[u8]) {
    let path = path(name);
    if std::env::var_os("KVQ_BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let golden =
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run cargo xtask golden", path.display()));
    assert_eq!(golden.len(), bytes.len());
    let first = golden.iter().zip(bytes).position(|(a, b)| a != b);
    assert_eq!(first, None, "{name}, {}: first difference at this byte", backend.name());
}

/// Under Miri the large cases would take hours; the small ones have the same layouts.
fn is_skipped(name: &str) -> bool {
    cfg!(miri) && !name.ends_with("-small")
}

fn check(name: &str, shape: KvShape, policy: Policy, bytes: usize, n_tokens: usize) {
    if is_skipped(name) {
        return;
    }
    for backend in backends() {
        let mut memory = vec![0; bytes];
        let mut cache = KvCache::new(shape, policy, backend, &mut memory).unwrap();
        fill(&mut cache, n_tokens);
        compare(name, backend, &memory);
    }
}

/// Tiers that are entered after a span each, so that few tokens reach the last.
fn hasty(layouts: &[Layout]) -> Policy {
    let mut policy = aged(layouts, 16, 0);
    for tier in policy.key_tiers.iter_mut().chain(&mut policy.value_tiers).flatten() {
        tier.from_age /= 2;
    }
    Policy { n_sink: 1, ..policy }
}

#[test]
fn scalar_tiers() {
    let layouts = [Layout::Q8, Layout::S4, Layout::S3, Layout::S2];
    check("scalar-tiers-small", KvShape::new(1, 1, 4), hasty(&layouts), 3 * 1024, 72);
    let policy = Policy { n_sink: 2, ..aged(&layouts, 16, 16) };
    check("scalar-tiers", KvShape::new(2, 2, 32), policy, 44 * 1024, 140);
}

#[test]
fn trellis_tiers() {
    let layouts = [Layout::T4, Layout::T3, Layout::T2];
    check("trellis-tiers-small", KvShape::new(1, 1, 4), hasty(&layouts), 2 * 1024, 54);
    let policy = Policy { n_sink: 2, ..aged(&layouts, 16, 16) };
    check("trellis-tiers", KvShape::new(1, 2, 64), policy, 32 * 1024, 140);
}

#[test]
fn narrow_heads_and_a_width_that_is_no_power_of_two() {
    let policy = Policy { span_len: 32, recent_len: 0, ..Policy::FOUR_X.with_byte_budget(WhenFull::Demote) };
    let small = Policy { span_len: 16, ..policy };
    check("narrow-heads-small", KvShape::new(1, 2, 4), small, 1600, 66);
    check("narrow-heads", KvShape::new(1, 5, 8).with_value_head_dim(12), policy, 14 * 1024, 250);
}

/// Appended to and attended in integers alone: the buffer, and behind it what 40 queries gave.
#[test]
fn integers() {
    let layouts = [Layout::Q8, Layout::S4, Layout::T3];
    check_integers("integers-small", KvShape::new(1, 1, 4), hasty(&layouts), 3 * 1024, 54);
    let policy = Policy { n_sink: 2, ..aged(&layouts, 16, 16) };
    check_integers("integers", KvShape::new(1, 2, 48).with_value_head_dim(64), policy, 48 * 1024, 110);
}

fn check_integers(name: &str, shape: KvShape, policy: Policy, bytes: usize, n_tokens: usize) {
    if is_skipped(name) {
        return;
    }
    for backend in backends() {
        let mut memory = vec![0; bytes];
        let mut cache = KvCache::new(shape, policy, backend, &mut memory).unwrap();
        let mut random = Random::new(2027);
        let mut numbers =
            |n: usize| -> Vec<i16> { (0..n).map(|_| (random.next() >> 40) as i16 >> 3).collect() };
        let mut outputs = Vec::new();
        for token in 0..n_tokens {
            let mut keys = numbers(shape.n_kv_heads * shape.key_head_dim);
            let mut values = numbers(shape.n_kv_heads * shape.value_head_dim);
            let queries = numbers(2 * shape.n_kv_heads * shape.key_head_dim);
            match token % 50 {
                7 => keys.fill(0),
                8 => values.fill(0),
                9 => keys.iter_mut().chain(&mut values).for_each(|x| *x >>= 10),
                10 => values[3] = i16::MIN,
                _ => {}
            }
            cache.append_fixed(0, 1, Fixed::new(&keys, 10), Fixed::new(&values, 12)).unwrap();
            if token + 40 >= n_tokens {
                let mut out = vec![0; 2 * shape.n_kv_heads * shape.value_head_dim];
                cache.attend_fixed(0, 1, Fixed::new(&queries, 11), &mut out, 20).unwrap();
                outputs.extend(out.iter().flat_map(|v| v.to_le_bytes()));
            }
        }
        memory.extend(outputs);
        compare(name, backend, &memory);
    }
}

/// Sinks, a recent window, and spans in scalar, trellis and 8-bit tiers, one of them partly filled; heads
/// that share blocks, the last of which is not full; rows that end in half a byte.
#[test]
fn snapshot() {
    let small = KvShape::new(1, 1, 4);
    check_snapshot("snapshot-small", small, [54, 40, 14]);
    check_snapshot("snapshot", KvShape::new(2, 3, 24).with_value_head_dim(12), [110, 77, 70]);
}

/// Appends, trims to a length, and appends again.
fn check_snapshot(name: &str, shape: KvShape, [first, trimmed, more]: [usize; 3]) {
    if is_skipped(name) {
        return;
    }
    let aged = |layouts: &[Layout]| aged(layouts, 16, 16).key_tiers;
    let policy = Policy {
        n_sink: 3,
        span_len: 16,
        recent_len: 16,
        key_tiers: aged(&[Layout::Q8, Layout::T4, Layout::S3, Layout::T2]),
        value_tiers: aged(&[Layout::S4, Layout::T3, Layout::S2]),
        ..Policy::FOUR_X.with_byte_budget(WhenFull::Evict)
    };
    let policy = Policy { ladder: [None; 6], ..policy };
    let mut written = Vec::new();
    for backend in backends() {
        let mut memory = vec![0; 40_000];
        let mut cache = KvCache::new(shape, policy, backend, &mut memory).unwrap();
        fill(&mut cache, first);
        cache.trim(trimmed).unwrap();
        fill(&mut cache, more);
        let mut bytes = vec![0; cache.snapshot_bytes()];
        cache.snapshot_into(&mut bytes).unwrap();
        compare(name, backend, &bytes);
        written = bytes;
    }
    let mut memory = vec![0; 50_000];
    let mut cache = KvCache::new(shape, policy, Backend::SCALAR, &mut memory).unwrap();
    cache.restore(&std::fs::read(path(name)).unwrap()).unwrap();
    let mut again = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut again).unwrap();
    assert!(again == written);
}
