//! Budgets: what is promised is held at every length, and every byte is accounted for.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::{Growing, Sequence, aged, lighter, unless_miri};
use kvq_codec::{
    Backend, Cache, KvCache, KvShape, Layout, Policy, Side, WhenFull, capacity_tokens, minimum_bytes,
};

#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn presets_keep_their_compression_at_every_length_from_1024_on() {
    // One layer's share of the fixed parts is small only where there are several layers: 30 as in SmolLM2.
    let shape = KvShape::new(30, 3, 64);
    let n_tokens = 2600;
    let sequence = Sequence::new(shape, n_tokens, 4);
    for (name, policy, promised) in [
        ("8bit", Policy::EIGHT_BIT, 1.88),
        ("4x", Policy::FOUR_X, 4.0),
        ("5x", Policy::FIVE_X, 5.0),
        ("6x", Policy::SIX_X, 6.0),
    ] {
        let mut cache = Cache::new(shape, lighter(policy), Backend::detect(), Growing::default()).unwrap();
        for t in 0..sequence.tokens.len() {
            let (k, v) = (sequence.slab(t, t + 1, true), sequence.slab(t, t + 1, false));
            for layer in 0..shape.n_layers {
                cache.append(layer, 1, &k, &v).unwrap();
            }
            let len = t + 1;
            let memory = cache.memory();
            assert_eq!(memory.total(), cache.storage_bytes() + size_of_val(&cache));
            let compression = (len * shape.fp16_bytes_per_token()) as f64 / memory.total() as f64;
            assert!(len < 1024 || compression >= promised, "{name} at {len}: {compression:.3}, {memory:?}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn a_byte_budget_is_never_exceeded_and_holds_what_capacity_says() {
    let shapes = [KvShape::new(1, 5, 8), KvShape::new(2, 2, 32), KvShape::new(3, 1, 64)];
    for shape in shapes {
        for (_, preset) in Policy::PRESETS {
            for span_len in [16, 32, 64] {
                let policy = Policy {
                    span_len,
                    recent_len: span_len,
                    ..lighter(preset).with_byte_budget(WhenFull::Demote)
                };
                let least = minimum_bytes(shape, policy).unwrap();
                for bytes in [least, least + 1, least * 3 / 2, least * 4] {
                    let capacity = capacity_tokens(shape, policy, bytes).unwrap();
                    let mut memory = vec![0; bytes];
                    let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut memory).unwrap();
                    let sequence = Sequence::new(shape, capacity + 1, 9);
                    for t in 0..=capacity {
                        let (k, v) = (sequence.slab(t, t + 1, true), sequence.slab(t, t + 1, false));
                        for layer in 0..shape.n_layers {
                            let result = cache.append(layer, 1, &k, &v);
                            assert_eq!(
                                result.is_ok(),
                                t < capacity,
                                "{shape:?} {bytes} token {t}: {result:?}"
                            );
                        }
                        let report = cache.memory();
                        assert_eq!(report.total(), bytes + size_of_val(&cache), "token {t}: {report:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn capacity_is_known_at_compile_time() {
    const SHAPE: KvShape = KvShape::new(3, 4, 32);
    const POLICY: Policy =
        Policy { span_len: 32, recent_len: 32, ..Policy::FOUR_X }.with_byte_budget(WhenFull::Evict);
    const TOKENS: usize = match capacity_tokens(SHAPE, POLICY, 96 * 1024) {
        Ok(tokens) => tokens,
        Err(_) => 0,
    };
    const { assert!(TOKENS > 150) };
}

#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn eviction_drops_the_oldest_after_the_sinks_and_runs_on() {
    let shape = KvShape::new(1, 2, 32);
    let policy = lighter(Policy::FOUR_X).with_byte_budget(WhenFull::Evict);
    let policy = Policy { span_len: 16, recent_len: 16, ..policy };
    let bytes = minimum_bytes(shape, policy).unwrap() + 8000;
    let mut memory = vec![0; bytes];
    let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut memory).unwrap();
    let n = 3000;
    let sequence = Sequence::new(shape, n, 9);
    cache.append(0, n, &sequence.slab(0, n, true), &sequence.slab(0, n, false)).unwrap();
    assert_eq!(cache.len(), n);
    let map = cache.tier_map(0, Side::Key).unwrap();
    assert_eq!(map[0].tokens, 4);
    let held: usize = map.iter().map(|t| t.tokens).sum();
    assert!(held > 60 && held < 400, "{map:?}");
    // What remains is the sinks and the newest tokens.
    let visible = (0..4).chain(n - (held - 4)..n);
    let dim = shape.key_head_dim;
    let query: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.7).sin()).collect();
    let q = [query.clone(), query.clone()].concat();
    let mut out = vec![0.0; 2 * dim];
    cache.attend(0, 1, &q, &mut out).unwrap();
    let expected = common::reference(&sequence, 1, &query, visible);
    assert!(common::relative_error(&out[dim..], &expected) < 0.6);
    assert!(cache.trim(100).is_err(), "evicted tokens cannot come back");
    cache.trim(n - 10).unwrap();
    cache.trim(2).unwrap();
    assert_eq!(cache.len(), 2);
}

#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn eviction_begins_behind_what_capacity_says() {
    for shape in [KvShape::new(2, 2, 32), KvShape::new(3, 4, 32)] {
        for (span_len, recent_len) in [(16, 16), (64, 0), (32, 8)] {
            let policy = lighter(Policy::FOUR_X).with_byte_budget(WhenFull::Evict);
            let policy = Policy { span_len, recent_len, ..policy };
            let least = minimum_bytes(shape, policy).unwrap();
            for bytes in [least, least * 5 / 4, least * 3] {
                let capacity = capacity_tokens(shape, policy, bytes).unwrap();
                let mut memory = vec![0; bytes];
                let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut memory).unwrap();
                let sequence = Sequence::new(shape, capacity + 1, 9);
                for t in 0..=capacity {
                    let (k, v) = (sequence.slab(t, t + 1, true), sequence.slab(t, t + 1, false));
                    for layer in 0..shape.n_layers {
                        cache.append(layer, 1, &k, &v).unwrap();
                        let held = cache.n_held(layer).unwrap();
                        assert_eq!(held > t, t < capacity, "{shape:?} {policy:?} {bytes}: {held} of {t}");
                    }
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn spans_are_demoted_at_their_age() {
    let shape = KvShape::new(1, 2, 32);
    let policy = aged(&[Layout::Q8, Layout::S4, Layout::S3, Layout::S2], 16, 16);
    let mut cache = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
    let n = 500;
    let sequence = Sequence::new(shape, n, 9);
    cache.append(0, n, &sequence.slab(0, n, true), &sequence.slab(0, n, false)).unwrap();
    for side in [Side::Key, Side::Value] {
        let map = cache.tier_map(0, side).unwrap();
        assert_eq!(map.iter().map(|t| t.tokens).sum::<usize>(), n);
        assert_eq!(map[1].layout, Layout::S2);
        // From age 96 on at 2 bits, from 64 at 3, from 32 at 4, checked when a span is packed.
        assert!((n - 96 - 48..=n - 96).contains(&map[1].tokens), "{map:?}");
        assert!(map[2].tokens == 32 && map[3].tokens == 32, "{map:?}");
    }
}

#[test]
fn eviction_runs_on_in_the_least_bytes() {
    let shape = KvShape::new(unless_miri(2, 1), unless_miri(2, 1), unless_miri(32, 4));
    let n = unless_miri(600, 60);
    let sequence = Sequence::new(shape, n, 11);
    let (keys, values) = (sequence.slab(0, n, true), sequence.slab(0, n, false));
    let presets = [Policy::EIGHT_BIT, Policy::FOUR_X, Policy::FIVE_X, Policy::SIX_X];
    let aged = aged(&[Layout::Q8, Layout::S4], 16, 16);
    for policy in
        presets.into_iter().chain([aged]).skip(unless_miri(0, 3)).map(|p| p.with_byte_budget(WhenFull::Evict))
    {
        for (span_len, recent_len) in
            [(16, 16), (32, 32), (64, 64), (64, 16)].into_iter().take(unless_miri(4, 1))
        {
            let policy = Policy { span_len, recent_len, ..lighter(policy) };
            let mut memory = vec![0; minimum_bytes(shape, policy).unwrap()];
            let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut memory).unwrap();
            for layer in 0..shape.n_layers {
                cache.append(layer, n, &keys, &values).unwrap_or_else(|e| panic!("{e}: {policy:?}"));
            }
            assert_eq!(cache.len(), n);
            assert!(cache.n_held(0).unwrap() < n, "nothing was evicted: {policy:?}");
        }
    }
}
