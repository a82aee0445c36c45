//! Attention in parts of the tokens, joined, is attention; and a part has the same bits whoever computes it.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]
// One part is a list of one range.
#![allow(clippy::single_range_in_vec_init)]

mod common;

use common::{Growing, Random, Sequence, backends, every_tier, lighter, unless_miri};
use kvq_codec::{Backend, Budget, Cache, Error, KvCache, KvShape, Policy, Storage, WhenFull, minimum_bytes};
use std::ops::Range;

fn filled<S: Storage>(mut cache: Cache<S>, n: usize) -> Cache<S> {
    let sequence = Sequence::new(cache.shape(), n, 5);
    for from in (0..n).step_by(50) {
        let to = n.min(from + 50);
        cache.append(0, to - from, &sequence.slab(from, to, true), &sequence.slab(from, to, false)).unwrap();
    }
    cache
}

fn queries(len: usize) -> Vec<f32> {
    let mut random = Random::new(8);
    (0..len).map(|_| random.gaussian()).collect()
}

/// Unfinished parts, all in one call.
fn parts_of<S: Storage>(
    cache: &Cache<S>,
    positions: &[Range<usize>],
    tokens: (usize, usize),
    queries: &[f32],
) -> Vec<f32> {
    let mut parts = vec![7.0; positions.len() * cache.part_len(queries.len())];
    cache.attend_parts(0, 0..cache.shape().n_kv_heads, positions, tokens, queries, &mut parts).unwrap();
    parts
}

fn joined<S: Storage>(cache: &Cache<S>, n_parts: usize, parts: &[f32], out_len: usize) -> Vec<f32> {
    let mut out = vec![9.0; out_len];
    cache.join_parts(n_parts, parts, &mut out).unwrap();
    out
}

/// Cuts in the middle of spans, at their ends, within the sinks and the recent window, and twice at one place.
fn cuts(len: usize) -> Vec<Vec<Range<usize>>> {
    let between = |cuts: &[usize]| cuts.windows(2).map(|cut| cut[0]..cut[1]).collect::<Vec<_>>();
    vec![
        between(&[0, len / 2, len]),
        between(&[0, 2, 4 + 16, 4 + 16, 4 + 3 * 16 + 5, len - 1, len]),
        // Not in order, and beyond what there is.
        vec![len / 3..usize::MAX, 0..len / 3],
    ]
}

fn same_attention<S: Storage>(cache: &Cache<S>, what: &str) {
    let KvShape { n_kv_heads, key_head_dim, value_head_dim, .. } = cache.shape();
    let len = cache.len();
    // A decode step, and rows for more than one tile; all positions, and a window.
    for (n_tokens, group, window_len) in [(1, 3, 0), (1, 3, 40), (5, 2, 0), (5, 2, 29)] {
        let queries = queries(n_kv_heads * group * n_tokens * key_head_dim);
        let mut whole = vec![0.0; n_kv_heads * group * n_tokens * value_head_dim];
        cache.attend_within(0, n_tokens, window_len, &queries, &mut whole).unwrap();
        let tokens = (n_tokens, window_len);
        let what = format!("{what}, {tokens:?}");
        let one = parts_of(cache, &[0..len], tokens, &queries);
        assert!(joined(cache, 1, &one, whole.len()) == whole, "{what}: one part is the whole");
        for positions in cuts(len) {
            let together = parts_of(cache, &positions, tokens, &queries);
            let apart: Vec<f32> = positions
                .iter()
                .flat_map(|part| parts_of(cache, std::slice::from_ref(part), tokens, &queries))
                .collect();
            assert!(together == apart, "{what}: {positions:?}");
            let out = joined(cache, positions.len(), &together, whole.len());
            let error = out.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let peak = whole.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
            // Weights are rounded to what is largest among those of a stretch, which parts may cut.
            assert!(error < 0.01 * peak, "{what}: {positions:?} differ by {error} of {peak}");
        }
    }
}

#[test]
fn parts_make_up_the_whole() {
    for backend in backends() {
        for shape in [
            KvShape::new(1, 5, 8).with_value_head_dim(12),
            KvShape::new(1, 3, 64),
            KvShape::new(1, 2, 128).with_value_head_dim(96),
        ]
        .into_iter()
        .take(unless_miri(3, 1))
        {
            let policy = lighter(every_tier());
            let cache =
                filled(Cache::new(shape, policy, backend, Growing::default()).unwrap(), unless_miri(300, 90));
            same_attention(&cache, &format!("{} {shape:?}", backend.name()));
        }
    }
}

#[test]
fn parts_of_a_cache_that_evicts_make_up_the_whole() {
    let shape = KvShape::new(1, 2, 32);
    let policy = Policy { when_full: WhenFull::Evict, budget: Budget::Bytes, ..lighter(Policy::FOUR_X) };
    let mut memory = vec![0; minimum_bytes(shape, policy).unwrap() * 2];
    let cache =
        filled(KvCache::new(shape, policy, Backend::detect(), &mut memory).unwrap(), unless_miri(1000, 300));
    assert!(cache.n_held(0).unwrap() < cache.len());
    same_attention(&cache, "evicting");
}

/// Each head's parts, computed by themselves, are those of all heads.
#[test]
fn heads_come_one_by_one_or_together() {
    let shape = KvShape::new(1, 6, unless_miri(32, 4));
    let policy = lighter(every_tier());
    let cache = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
    let cache = filled(cache, unless_miri(300, 90));
    let queries = queries(6 * 2 * shape.key_head_dim);
    let positions = [0..50, 50..cache.len()];
    let all = joined(&cache, 2, &parts_of(&cache, &positions, (1, 0), &queries), queries.len());
    let mut one_by_one = vec![0.0; queries.len()];
    let heads = queries.chunks(2 * shape.key_head_dim).zip(one_by_one.chunks_mut(2 * shape.key_head_dim));
    for (head, (queries, out)) in heads.enumerate() {
        let mut parts = vec![0.0; 2 * cache.part_len(queries.len())];
        cache.attend_parts(0, head..head + 1, &positions, (1, 0), queries, &mut parts).unwrap();
        cache.join_parts(2, &parts, out).unwrap();
    }
    assert!(all == one_by_one);
}

#[test]
fn parts_that_see_nothing_are_nothing() {
    let shape = KvShape::new(1, 2, 32);
    let cache =
        filled(Cache::new(shape, Policy::EIGHT_BIT, Backend::detect(), Growing::default()).unwrap(), 100);
    let queries = queries(2 * 32);
    let nothing = parts_of(&cache, &[100..200, 7..7], (1, 0), &queries);
    assert_eq!(joined(&cache, 2, &nothing, queries.len()), [0.0; 64]);
    assert_eq!(joined(&cache, 0, &[], queries.len()), [0.0; 64]);
    let both = [nothing, parts_of(&cache, &[0..100], (1, 0), &queries)].concat();
    let mut whole = [0.0; 64];
    cache.attend(0, 1, &queries, &mut whole).unwrap();
    assert_eq!(joined(&cache, 3, &both, queries.len()), whole);
    assert_eq!(cache.attend_parts(0, 0..2, &[], (1, 0), &queries, &mut []), Ok(()));
}

#[test]
fn wrong_arguments_are_named() {
    let shape = KvShape::new(1, 2, 32);
    let cache =
        filled(Cache::new(shape, Policy::EIGHT_BIT, Backend::detect(), Growing::default()).unwrap(), 10);
    let attend = |layer, kv_heads, tokens, queries_len: usize, len| {
        let (queries, mut parts) = (vec![1.0; queries_len], vec![0.0; len]);
        cache.attend_parts(layer, kv_heads, &[0..10], tokens, &queries, &mut parts)
    };
    let part_len = cache.part_len(64);
    assert_eq!(part_len, 2 * (32 + 2));
    assert_eq!(attend(0, 0..2, (1, 0), 64, part_len), Ok(()));
    assert!(matches!(attend(1, 0..2, (1, 0), 64, part_len), Err(Error::Layer { got: 1, .. })));
    for (kv_heads, head) in [(0..3, 2), (2..3, 2), (1..1, 1), (7..9, 8)] {
        let error = attend(0, kv_heads, (1, 0), 64, part_len).unwrap_err();
        assert_eq!(error, Error::KvHead { n_kv_heads: 2, got: head });
    }
    assert!(matches!(attend(0, 0..2, (11, 0), 64, part_len), Err(Error::PastEnd { got: 11, .. })));
    assert!(matches!(
        attend(0, 0..2, (1, 0), 33, cache.part_len(33)),
        Err(Error::QueryHeads { got: 33, .. })
    ));
    let length = |error| matches!(error, Err(Error::Length { argument: "parts", .. }));
    assert!(length(attend(0, 0..2, (1, 0), 64, part_len - 1)));
    assert!(length(cache.join_parts(2, &vec![0.0; part_len], &mut [0.0; 64])));
    let odd = cache.join_parts(1, &vec![0.0; part_len], &mut [0.0; 65]);
    assert!(matches!(odd, Err(Error::Length { argument: "out", .. })));
}
