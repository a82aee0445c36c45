//! Rolling back: what remains attends exactly as before, and the cache goes on as if nothing had been.

mod common;

use common::{Growing, Random, Sequence, aged, reference, relative_error, unless_miri};
use kvq_codec::{Backend, Cache, KvShape, Layout, Policy, Side};

const SHAPE: KvShape = KvShape::new(2, 2, unless_miri(32, 8));
const HEAD_DIM: usize = SHAPE.key_head_dim;

fn append(cache: &mut Cache<Growing>, sequence: &Sequence, from: usize, to: usize) {
    for layer in 0..SHAPE.n_layers {
        cache
            .append(layer, to - from, &sequence.slab(from, to, true), &sequence.slab(from, to, false))
            .unwrap();
    }
}

fn attend(cache: &Cache<Growing>, layer: usize) -> Vec<f32> {
    let q: Vec<f32> = (0..2 * HEAD_DIM).map(|i| (i as f32 * 0.37).cos()).collect();
    let mut out = vec![0.0; 2 * HEAD_DIM];
    cache.attend(layer, 1, &q, &mut out).unwrap();
    out
}

fn policies() -> Vec<Policy> {
    vec![
        Policy::EIGHT_BIT,
        Policy::FOUR_X,
        Policy { span_len: 16, recent_len: 0, ..Policy::FIVE_X },
        aged(&[Layout::S4, Layout::S3, Layout::S2], 16, 16),
    ]
}

#[test]
fn what_was_appended_after_a_length_leaves_no_trace_when_trimmed_to_it() {
    // Within the room before the next packing nothing is demoted, so the comparison is exact.
    for policy in policies() {
        let mut cache = Cache::new(SHAPE, policy, Backend::detect(), Growing::default()).unwrap();
        let mut random = Random::new(3);
        let sequence = Sequence::new(SHAPE, unless_miri(1500, 250), 8);
        let (mut len, mut compared) = (0, 0);
        for _ in 0..unless_miri(60, 8) {
            let step = (1 + random.below(40)).min(sequence.tokens.len() - len);
            append(&mut cache, &sequence, len, len + step);
            len += step;
            let before = [attend(&cache, 0), attend(&cache, 1)];
            let more = random.below(cache.room_before_packing(0)).min(sequence.tokens.len() - len);
            let recent = |cache: &Cache<Growing>| cache.tier_map(0, Side::Key).unwrap()[5].tokens;
            let recent_before = recent(&cache);
            append(&mut cache, &sequence, len, len + more);
            let packed = recent(&cache) < recent_before;
            cache.trim(len).unwrap();
            assert_eq!(cache.len(), len);
            if packed {
                // The window was full: packing took its oldest tokens, which stay packed.
                continue;
            }
            compared += 1;
            assert_eq!(before, [attend(&cache, 0), attend(&cache, 1)], "at {len}, {more} more");
        }
        assert!(compared > unless_miri(30, 3));
    }
}

#[test]
fn any_earlier_length_can_be_returned_to() {
    for policy in policies() {
        let n = unless_miri(700, 110);
        let sequence = Sequence::new(SHAPE, n, 8);
        let all = [699, 640, 639, 600, 577, 576, 444, 130, 68, 67, 20, 5, 4, 3, 1, 0];
        for &to in unless_miri(&all[..], &[100, 67, 20, 3]) {
            let mut cache = Cache::new(SHAPE, policy, Backend::detect(), Growing::default()).unwrap();
            append(&mut cache, &sequence, 0, n);
            cache.trim(to).unwrap();
            assert_eq!(cache.len(), to);
            if to > 0 {
                let q: Vec<f32> = (0..HEAD_DIM).map(|i| (i as f32 * 0.37).cos()).collect();
                let mut out = vec![0.0; 2 * HEAD_DIM];
                cache.attend(1, 1, &[q.clone(), q.clone()].concat(), &mut out).unwrap();
                let expected = reference(&sequence, 1, &q, 0..to);
                let error = relative_error(&out[HEAD_DIM..], &expected);
                assert!(error < 0.9, "to {to}: {error}");
            }
            append(&mut cache, &sequence, to, n);
            assert_eq!(cache.len(), n);
            let report = cache.memory();
            assert_eq!(report.total(), cache.storage_bytes() + size_of_val(&cache));
            let tokens: usize = cache.tier_map(0, Side::Key).unwrap().iter().map(|t| t.tokens).sum();
            assert_eq!(tokens, n);
        }
    }
}

#[test]
fn random_sequences_equal_a_cache_built_fresh_while_nothing_is_demoted() {
    // With one 8-bit tier, packing copies codes: a rebuilt cache must agree to the last float.
    let policy = aged(&[Layout::Q8], 16, 16);
    let mut random = Random::new(17);
    for round in 0..unless_miri(40, 3) {
        let mut sequence = Sequence::new(SHAPE, 0, round);
        let mut cache = Cache::new(SHAPE, policy, Backend::detect(), Growing::default()).unwrap();
        for _ in 0..unless_miri(25, 8) {
            let len = sequence.tokens.len();
            if random.below(3) == 0 && len > 0 {
                let to = random.below(len + 1);
                cache.trim(to).unwrap();
                sequence.tokens.truncate(to);
            } else {
                let more = 1 + random.below(30);
                for _ in 0..more {
                    sequence.push(&mut random);
                }
                append(&mut cache, &sequence, len, len + more);
            }
        }
        let len = sequence.tokens.len();
        if len == 0 {
            continue;
        }
        let mut fresh = Cache::new(SHAPE, policy, Backend::detect(), Growing::default()).unwrap();
        append(&mut fresh, &sequence, 0, len);
        for layer in 0..2 {
            for (a, b) in attend(&cache, layer).iter().zip(attend(&fresh, layer)) {
                assert!((a - b).abs() < 2e-4, "round {round}, {len} tokens: {a} {b}");
            }
        }
    }
}

#[test]
fn clear_gives_a_fresh_cache() {
    let n = unless_miri(300, 120);
    let sequence = Sequence::new(SHAPE, n, 8);
    let mut cache = Cache::new(SHAPE, Policy::FOUR_X, Backend::detect(), Growing::default()).unwrap();
    append(&mut cache, &sequence, 0, n);
    cache.clear();
    assert!(cache.is_empty());
    append(&mut cache, &sequence, 0, n / 2 + 20);
    let mut fresh = Cache::new(SHAPE, Policy::FOUR_X, Backend::detect(), Growing::default()).unwrap();
    append(&mut fresh, &sequence, 0, n / 2 + 20);
    assert_eq!(attend(&cache, 1), attend(&fresh, 1));
}
