//! Snapshots and forks: what is restored is what was written, and goes on as if nothing had been.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::{Growing, Random, Sequence, aged, lighter, unless_miri};
use kvq_codec::{
    Backend, Cache, Error, KvCache, KvShape, Layout, Policy, SNAPSHOT_HEADER_BYTES, SNAPSHOT_OVERHEAD_BYTES,
    Side, SnapshotInfo, Storage, WhenFull, minimum_bytes, snapshot_bytes_max,
};

fn append<S: Storage>(cache: &mut Cache<S>, sequence: &Sequence, from: usize, to: usize) {
    for layer in 0..cache.shape().n_layers {
        let (keys, values) = (sequence.slab(from, to, true), sequence.slab(from, to, false));
        cache.append(layer, to - from, &keys, &values).unwrap();
    }
}

fn snapshot<S: Storage>(cache: &Cache<S>) -> Vec<u8> {
    let mut out = vec![0xa5; cache.snapshot_bytes()];
    assert_eq!(cache.snapshot_into(&mut out), Ok(out.len()));
    assert!(out.len() <= cache.storage_bytes() + SNAPSHOT_OVERHEAD_BYTES);
    out
}

/// Attention of every layer, two query heads per KV head, as bits.
fn attend<S: Storage>(cache: &Cache<S>) -> Vec<u32> {
    let shape = cache.shape();
    // No cosines: under Miri those of a library differ from call to call.
    let mut random = Random::new(5);
    let q: Vec<f32> = (0..2 * shape.n_kv_heads * shape.key_head_dim).map(|_| random.gaussian()).collect();
    let mut all = Vec::new();
    for layer in 0..shape.n_layers {
        let mut out = vec![0.0; 2 * shape.n_kv_heads * shape.value_head_dim];
        if !cache.is_empty() {
            cache.attend(layer, 1, &q, &mut out).unwrap();
        }
        all.extend(out.into_iter().map(f32::to_bits));
    }
    all
}

fn same<S: Storage, T: Storage>(a: &Cache<S>, b: &Cache<T>, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    assert!(snapshot(a) == snapshot(b), "{what}: snapshots differ");
    assert_eq!(attend(a), attend(b), "{what}");
}

fn shapes() -> [KvShape; 7] {
    [
        KvShape::new(2, 2, 32),
        KvShape::new(1, 2, 64),
        KvShape::new(1, 1, 80).with_value_head_dim(64),
        KvShape::new(1, 1, 128),
        KvShape::new(1, 1, 64).with_value_head_dim(128),
        KvShape::new(2, 5, 8).with_value_head_dim(12),
        KvShape::new(1, 3, 24).with_value_head_dim(36),
    ]
}

fn policies() -> Vec<Policy> {
    let mut all: Vec<Policy> = Policy::PRESETS.iter().map(|p| p.1).collect();
    all.push(aged(&[Layout::T4, Layout::T3, Layout::T2], 16, 16));
    let last = [Layout::Q8, Layout::S4, Layout::S3, Layout::S2];
    all.push(aged(unless_miri(&last[..], &[Layout::Q8, Layout::S2]), 16, 0));
    all.into_iter().map(lighter).collect()
}

#[test]
fn a_restored_cache_attends_and_goes_on_bit_for_bit() {
    for shape in shapes().into_iter().skip(unless_miri(0, 6)) {
        let shape = unless_miri(shape, KvShape::new(1, 1, 4));
        let sequence = Sequence::new(shape, unless_miri(400, 210), 5);
        for policy in policies().into_iter().skip(unless_miri(0, 5)) {
            let (sinks, span) = (usize::from(policy.n_sink), usize::from(policy.span_len));
            let hot = usize::from(policy.recent_len) + span;
            let mut lengths = vec![0, 1, sinks - 1, sinks, sinks + 1, 300];
            for spans in [0, 1, 2] {
                let border = sinks + hot + spans * span;
                lengths.extend([border - 1, border, border + 1]);
            }
            if cfg!(miri) {
                lengths = vec![sinks + hot + 1];
            }
            for len in lengths {
                let what = format!("{shape:?}, {policy:?}, {len} tokens");
                let mut cache = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
                append(&mut cache, &sequence, 0, len);
                let bytes = snapshot(&cache);
                assert!(bytes.len() <= snapshot_bytes_max(shape, policy, len).unwrap(), "{what}");
                let info = SnapshotInfo::read(&bytes[..SNAPSHOT_HEADER_BYTES]).unwrap();
                assert_eq!((info.shape, info.policy, info.len), (shape, policy, len));
                assert_eq!(info.snapshot_bytes, bytes.len() as u64);
                let mut restored = Cache::new(shape, policy, Backend::SCALAR, Growing::default()).unwrap();
                append(&mut restored, &sequence, 200, 200 + unless_miri(len / 2, 1));
                let mut fork = Cache::new(shape, policy, Backend::SCALAR, Growing::default()).unwrap();
                append(&mut fork, &sequence, unless_miri(100, 198), 200);
                restored.restore(&bytes).unwrap();
                cache.fork_into(&mut fork).unwrap();
                assert!(snapshot(&restored) == bytes && snapshot(&fork) == bytes, "{what}");
                let mut twin = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
                twin.restore(&bytes).unwrap();
                same(&cache, &twin, &what);
                for &cut in unless_miri(&[1, 30, 75][..], &[20]) {
                    let cut = len + cut;
                    let from = cache.len();
                    append(&mut cache, &sequence, from, cut);
                    append(&mut twin, &sequence, from, cut);
                    append(&mut fork, &sequence, from, cut);
                    same(&cache, &twin, &what);
                    assert!(snapshot(&fork) == snapshot(&cache), "{what}");
                }
            }
        }
    }
}

#[test]
fn long_contexts_under_a_compression_budget_round_trip() {
    let shape = KvShape::new(1, 1, unless_miri(64, 4));
    let n = unless_miri(2600, 40);
    let sequence = Sequence::new(shape, n, 6);
    let mut cache = Cache::new(shape, lighter(Policy::SIX_X), Backend::detect(), Growing::default()).unwrap();
    let mut twin = Cache::new(shape, lighter(Policy::SIX_X), Backend::detect(), Growing::default()).unwrap();
    let step = unless_miri(100, 20);
    for from in (0..n).step_by(step) {
        append(&mut cache, &sequence, from, from + step);
        append(&mut twin, &sequence, from, from + step);
        same(&cache, &twin, &format!("after {from}"));
        twin.clear();
        twin.restore(&snapshot(&cache)).unwrap();
        assert_eq!(twin.memory().code_bytes, cache.memory().code_bytes);
    }
}

#[test]
fn buffers_of_fixed_length_restore_at_every_fill_until_they_are_full_or_evict() {
    let n = unless_miri(700, 60);
    for &shape in unless_miri(&[KvShape::new(2, 2, 32), KvShape::new(3, 5, 8)][..], &[KvShape::new(1, 1, 4)])
    {
        let sequence = Sequence::new(shape, n, 7);
        for when_full in [WhenFull::Error, WhenFull::Demote, WhenFull::Evict] {
            for policy in policies().into_iter().skip(unless_miri(0, 5)) {
                let policy = policy.with_byte_budget(when_full);
                let bytes = minimum_bytes(shape, policy).unwrap() * unless_miri(8, 5) / 4;
                let (mut one, mut two, mut three) = (vec![0; bytes], vec![1; bytes], vec![2; bytes]);
                let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut one).unwrap();
                let mut twin = KvCache::new(shape, policy, Backend::detect(), &mut two).unwrap();
                let mut fork = KvCache::new(shape, policy, Backend::detect(), &mut three).unwrap();
                let what = format!("{shape:?}, {policy:?}");
                for token in 0..sequence.tokens.len() {
                    let (k, v) =
                        (sequence.slab(token, token + 1, true), sequence.slab(token, token + 1, false));
                    let outcome: Vec<_> = (0..shape.n_layers).map(|l| cache.append(l, 1, &k, &v)).collect();
                    let again: Vec<_> = (0..shape.n_layers).map(|l| twin.append(l, 1, &k, &v)).collect();
                    assert_eq!(outcome, again, "{what}, token {token}");
                    if token % unless_miri(7, 40) == 0 || outcome[0].is_err() {
                        same(&cache, &twin, &what);
                        let before = snapshot(&cache);
                        twin.clear();
                        twin.restore(&before).unwrap_or_else(|e| panic!("{what}, token {token}: {e}"));
                        cache.fork_into(&mut fork).unwrap();
                        same(&cache, &fork, &what);
                    }
                    if token == n - 1 {
                        let map = cache.tier_map(0, Side::Key).unwrap();
                        let held: usize = map.iter().map(|tier| tier.tokens).sum();
                        assert_eq!(held < n, when_full == WhenFull::Evict, "{what}");
                    }
                    if outcome[0].is_err() {
                        assert_ne!(when_full, WhenFull::Evict, "{what}: {outcome:?}");
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn trims_and_appends_go_on_alike_on_both_sides_of_a_break() {
    let shape = KvShape::new(2, unless_miri(2, 1), unless_miri(32, 4));
    let sequence = Sequence::new(shape, unless_miri(900, 200), 8);
    for (round, policy) in policies().into_iter().rev().cycle().take(unless_miri(24, 1)).enumerate() {
        let mut random = Random::new(round as u64 + 40);
        let mut cache = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
        let mut twin = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
        for _ in 0..unless_miri(20, 2) {
            let len = cache.len();
            if random.below(2) == 0 && len > 0 {
                let to = len - random.below(len.min(120) + 1);
                cache.trim(to).unwrap();
                twin.trim(to).unwrap();
            } else {
                let to = (len + 1 + random.below(unless_miri(90, 30))).min(sequence.tokens.len());
                append(&mut cache, &sequence, len, to);
                append(&mut twin, &sequence, len, to);
            }
            same(&cache, &twin, &format!("round {round}"));
            twin = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
            twin.restore(&snapshot(&cache)).unwrap();
        }
    }
}

#[test]
fn layers_of_different_length_are_kept_apart() {
    let shape = KvShape::new(2, unless_miri(2, 1), unless_miri(32, 4));
    let sequence = Sequence::new(shape, unless_miri(90, 30), 9);
    let mut cache =
        Cache::new(shape, lighter(Policy::FOUR_X), Backend::detect(), Growing::default()).unwrap();
    let (from, to) = unless_miri((80, 90), (20, 30));
    append(&mut cache, &sequence, 0, from);
    let (k, v) = (sequence.slab(from, to, true), sequence.slab(from, to, false));
    cache.append(0, 10, &k, &v).unwrap();
    let mut twin = Cache::new(shape, lighter(Policy::FOUR_X), Backend::detect(), Growing::default()).unwrap();
    twin.restore(&snapshot(&cache)).unwrap();
    cache.append(1, 10, &k, &v).unwrap();
    twin.append(1, 10, &k, &v).unwrap();
    same(&cache, &twin, "second layer later");
}

#[test]
fn where_the_units_lie_does_not_show() {
    // One cache has demoted, been trimmed and grown; the other, of another length, took the snapshot in
    // order; a third is built fresh in a third buffer.
    let shape = KvShape::new(1, unless_miri(2, 1), unless_miri(32, 4));
    let policy = lighter(aged(&[Layout::T4, Layout::T3], 16, 16));
    let n = unless_miri(300, 66);
    let sequence = Sequence::new(shape, n, 10);
    let (mut one, mut two) = (vec![0x11; 120_000], vec![0xee; 60_000]);
    let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut one).unwrap();
    append(&mut cache, &sequence, 0, n - 50);
    cache.trim(2).unwrap();
    append(&mut cache, &sequence, 2, n);
    let mut fresh = KvCache::new(shape, policy, Backend::SCALAR, &mut two).unwrap();
    append(&mut fresh, &sequence, 0, n);
    assert!(snapshot(&cache) == snapshot(&fresh));
    let mut grown = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
    grown.restore(&snapshot(&fresh)).unwrap();
    same(&cache, &grown, "grown");
}

#[test]
fn errors_are_small() {
    assert!(size_of::<Error>() <= 32, "{}", size_of::<Error>());
}
