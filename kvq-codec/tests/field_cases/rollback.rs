//! Rolling back: what remains attends exactly as before, and the cache goes on as if nothing had been.

use super::common::snapshots::snapshot;
use super::common::{
    Growing, Random, Sequence, aged, every_tier, lighter, reference, relative_error, unless_miri,
};
use super::{append, fresh, queries, restored};
use kvq_codec::{Backend, Cache, Error, KvShape, Layout, Policy, Side};

const SHAPE: KvShape = KvShape::new(unless_miri(2, 1), 2, unless_miri(32, 4));
const LAST: usize = SHAPE.n_layers - 1;
const HEAD_DIM: usize = SHAPE.key_head_dim;

fn attend(cache: &Cache<Growing>, layer: usize) -> Vec<f32> {
    // No cosines: under Miri those of a library differ from call to call.
    let q = queries(SHAPE, 2, 1, 5);
    let mut out = vec![0.0; 2 * HEAD_DIM];
    cache.attend(layer, 1, &q, &mut out).unwrap();
    out
}

fn policies() -> Vec<Policy> {
    let all = [
        Policy::EIGHT_BIT,
        Policy::FOUR_X,
        Policy { span_len: 16, recent_len: 0, ..Policy::FIVE_X },
        aged(&[Layout::S4, Layout::S3, Layout::S2], 16, 16),
    ];
    all.into_iter().skip(unless_miri(0, 3)).map(lighter).collect()
}

#[test]
fn what_was_appended_after_a_length_leaves_no_trace_when_trimmed_to_it() {
    // Within the room before the next packing nothing is demoted, so the comparison is exact.
    for policy in policies() {
        let mut cache = fresh(SHAPE, policy, Backend::detect());
        let mut random = Random::new(3);
        let sequence = Sequence::new(SHAPE, unless_miri(1500, 100), 8);
        let (mut len, mut compared) = (0, 0);
        for _ in 0..unless_miri(60, 3) {
            let step = (1 + random.below(unless_miri(40, 20))).min(sequence.tokens.len() - len);
            append(&mut cache, &sequence, len, len + step);
            len += step;
            let before = [attend(&cache, 0), attend(&cache, LAST)];
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
            assert_eq!(before, [attend(&cache, 0), attend(&cache, LAST)], "at {len}, {more} more");
        }
        assert!(compared > unless_miri(30, 0));
    }
}

#[test]
fn any_earlier_length_can_be_returned_to() {
    for policy in policies() {
        let n = unless_miri(700, 40);
        let sequence = Sequence::new(SHAPE, n, 8);
        let all = [699, 640, 639, 600, 577, 576, 444, 130, 68, 67, 20, 5, 4, 3, 1, 0];
        for &to in unless_miri(&all[..], &[30]) {
            let mut cache = fresh(SHAPE, policy, Backend::detect());
            append(&mut cache, &sequence, 0, n);
            cache.trim(to).unwrap();
            assert_eq!(cache.len(), to);
            if to > 0 {
                let q: Vec<f32> = (0..HEAD_DIM).map(|i| (i as f32 * 0.37).cos()).collect();
                let mut out = vec![0.0; 2 * HEAD_DIM];
                cache.attend(LAST, 1, &[q.clone(), q.clone()].concat(), &mut out).unwrap();
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
    for round in 0..unless_miri(40, 1) {
        let mut sequence = Sequence::new(SHAPE, 0, round);
        let mut cache = fresh(SHAPE, policy, Backend::detect());
        for _ in 0..unless_miri(25, 4) {
            let len = sequence.tokens.len();
            if random.below(3) == 0 && len > 0 {
                let to = random.below(len + 1);
                cache.trim(to).unwrap();
                sequence.tokens.truncate(to);
            } else {
                let more = 1 + random.below(unless_miri(30, 12));
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
        let mut fresh = fresh(SHAPE, policy, Backend::detect());
        append(&mut fresh, &sequence, 0, len);
        for layer in 0..SHAPE.n_layers {
            for (a, b) in attend(&cache, layer).iter().zip(attend(&fresh, layer)) {
                assert!((a - b).abs() < 2e-4, "round {round}, {len} tokens: {a} {b}");
            }
        }
    }
}

/// Where a policy has all tiers at work: `(tier counted from the last, first position, tokens)` of keys, oldest first.
fn places(cache: &Cache<Growing>) -> Vec<(usize, usize, usize)> {
    let mut first = 0;
    let map = cache.tier_map(LAST, Side::Key).unwrap();
    let places = map.iter().enumerate().map(|(place, tier)| {
        first += tier.tokens;
        (place, first - tier.tokens, tier.tokens)
    });
    places.collect()
}

/// Inside a demoted span, across the borders of spans, to nothing and to where it is: what is left is what was there.
#[test]
fn a_rollback_keeps_every_row_before_it_and_nothing_else() {
    let n = unless_miri(230, 56);
    let policy = unless_miri(aged(&[Layout::S4, Layout::S3, Layout::S2], 16, 16), every_tier());
    let sequence = Sequence::new(SHAPE, n, 8);
    let mut whole = fresh(SHAPE, policy, Backend::detect());
    append(&mut whole, &sequence, 0, n);
    let all = places(&whole);
    let demoted = all.iter().find(|(place, ..)| *place == unless_miri(2, 3)).copied().unwrap();
    assert!(demoted.2 >= 32, "two spans in the last tier but one: {all:?}");
    let last_tier = all.iter().find(|(_, _, tokens)| *tokens >= 32).copied().unwrap();
    let (span, tail) = (demoted.1, n - 3);
    let targets = [span + 5, span, span + 16, span - 1, span + 17, last_tier.1 + 9, 4, 3, 0, tail, n];
    for &to in targets.iter().step_by(unless_miri(1, 5)) {
        let mut cache = fresh(SHAPE, policy, Backend::detect());
        whole.fork_into(&mut cache).unwrap();
        cache.trim(to).unwrap();
        assert_eq!((cache.len(), cache.n_held(0), cache.n_held(LAST)), (to, Ok(to), Ok(to)));
        for side in [Side::Key, Side::Value] {
            for head in 0..SHAPE.n_kv_heads {
                let before = restored(&whole, LAST, side, head);
                assert_eq!(restored(&cache, LAST, side, head), before[..to * HEAD_DIM], "{side:?} to {to}");
            }
        }
        // Queries of the newest tokens see what is left and nothing of what is gone.
        if to > 0 {
            let q: Vec<f32> = (0..2 * HEAD_DIM).map(|i| (i as f32 * 0.37).cos()).collect();
            let mut out = vec![0.0; 2 * HEAD_DIM];
            cache.attend(LAST, 1, &q, &mut out).unwrap();
            for head in 0..2 {
                let expected = reference(&sequence, head, &q[head * HEAD_DIM..][..HEAD_DIM], 0..to);
                let error = relative_error(&out[head * HEAD_DIM..][..HEAD_DIM], &expected);
                assert!(error < 0.9, "to {to}: {error}");
            }
        }
        if to == n {
            assert!(snapshot(&cache) == snapshot(&whole), "a rollback to the present length changes nothing");
        }
        if to == 0 {
            let mut other = fresh(SHAPE, policy, Backend::detect());
            append(&mut other, &sequence, 0, n);
            append(&mut cache, &sequence, 0, n);
            assert!(snapshot(&cache) == snapshot(&other), "after a rollback to 0 all is as in a fresh cache");
        }
    }
}

#[test]
fn a_rollback_past_the_end_is_an_error_that_changes_nothing() {
    let (shape, n) = (KvShape { n_layers: 2, ..SHAPE }, unless_miri(230, 20));
    let mut cache = fresh(shape, lighter(Policy::FOUR_X), Backend::detect());
    append(&mut cache, &Sequence::new(shape, n, 8), 0, n);
    let before = snapshot(&cache);
    for to in [n + 1, n + 64, usize::MAX] {
        let error = cache.trim(to).unwrap_err();
        assert_eq!(error, Error::PastEnd { len: n as u32, got: to.min(u32::MAX as usize) as u32 });
        let text = error.to_string();
        assert!(text.contains(&format!("{n} held")) && text.contains("Cache::len"), "{text}");
    }
    assert!(snapshot(&cache) == before);
    // A layer that is behind the others decides.
    let one = Sequence::new(SHAPE, 1, 9);
    cache.append(0, 1, &one.slab(0, 1, true), &one.slab(0, 1, false)).unwrap();
    let before = snapshot(&cache);
    assert_eq!(cache.trim(n + 1), Err(Error::PastEnd { len: n as u32, got: n as u32 + 1 }));
    assert!(snapshot(&cache) == before);
    cache.trim(n).unwrap();
    assert_eq!(cache.len(), n);
}
