//! The first tokens are stored at 8 bits from the moment they come, and never touched again.

use super::common::{Sequence, aged, lighter, unless_miri};
use super::{append, fresh, restored};
use kvq_codec::{Backend, Cache, KvCache, KvShape, Layout, Policy, Side, Storage, WhenFull, minimum_bytes};

const DIM: usize = unless_miri(64, 16);
const SHAPE: KvShape = KvShape::new(1, unless_miri(2, 1), DIM);

/// Demotes early and far, so that a sink that was treated like other tokens would show.
fn policy(n_sink: u16) -> Policy {
    Policy { n_sink, ..aged(unless_miri(&[Layout::S3, Layout::S2][..], &[Layout::Q8, Layout::S2]), 16, 0) }
}

/// The rows of the sinks as bits, keys and values of every head; each within half a step of 8 bits of what was given.
fn precise_sinks<S: Storage>(cache: &Cache<S>, sequence: &Sequence, what: &str) -> Vec<u32> {
    let n_sink = usize::from(cache.policy().n_sink).min(cache.len());
    let map = cache.tier_map(0, Side::Key).unwrap();
    assert_eq!((map[0].layout, map[0].tokens), (Layout::Q8, n_sink), "{what}");
    let mut bits = Vec::new();
    for side in [Side::Key, Side::Value] {
        let given = sequence.slab(0, n_sink, side == Side::Key);
        for head in 0..SHAPE.n_kv_heads {
            let got = restored(cache, 0, side, head);
            let given = given[head * n_sink * DIM..][..n_sink * DIM].chunks_exact(DIM);
            for (got, given) in got.chunks_exact(DIM).zip(given) {
                let norm = given.iter().map(|x| x * x).sum::<f32>().sqrt();
                let error = got.iter().zip(given).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
                // docs/NUMERICS.md: half a step per rotated value, whose largest is at most the norm.
                let bound = norm / 127.0 * 1.0906 / 2.0 * (DIM as f32).sqrt();
                assert!(error <= bound, "{what}: {error} above {bound}");
                bits.extend(got.iter().map(|x| x.to_bits()));
            }
        }
    }
    bits
}

#[test]
fn sinks_are_precise_from_the_first_token_on_and_stay_as_they_are() {
    let n = unless_miri(400, 54);
    let sequence = Sequence::new(SHAPE, n, 21);
    for &n_sink in unless_miri(&[1, 4, 7, 70][..], &[4]) {
        let mut cache = fresh(SHAPE, policy(n_sink), Backend::detect());
        let mut seen: Vec<Vec<u32>> = Vec::new();
        for t in 0..n {
            append(&mut cache, &sequence, t, t + 1);
            if t < usize::from(n_sink) || t % 23 == 0 || t + 1 == n {
                seen.push(precise_sinks(&cache, &sequence, &format!("{n_sink} sinks, token {t}")));
            }
        }
        let map = cache.tier_map(0, Side::Value).unwrap();
        assert!(map[3].tokens > 0 && map[4].tokens > 0, "the others were packed and demoted: {map:?}");
        let whole = seen.last().unwrap();
        let per_row = |rows: &[u32], n: usize| -> Vec<Vec<u32>> {
            rows.chunks_exact(n * DIM).flat_map(|head| head.chunks_exact(DIM)).map(<[u32]>::to_vec).collect()
        };
        for (i, early) in seen.iter().enumerate() {
            let held = early.len() / (2 * SHAPE.n_kv_heads * DIM);
            let (early, late) = (per_row(early, held), per_row(whole, usize::from(n_sink)));
            let mut late = late.chunks_exact(usize::from(n_sink)).flat_map(|head| &head[..held]);
            assert!(early.iter().all(|row| Some(row) == late.next()), "{n_sink} sinks, look {i}");
        }
    }
}

/// Prompts that end before, at and behind the sinks, and far behind, in one call: as token by token.
#[test]
fn a_prefill_in_one_call_gives_the_same_sinks() {
    for &n_sink in unless_miri(&[0u16, 1, 4, 70][..], &[4]) {
        let sinks = usize::from(n_sink);
        let lengths =
            [1, sinks.saturating_sub(1), sinks, sinks + 1, sinks + 17, sinks + unless_miri(300, 34)];
        for len in lengths.into_iter().filter(|&len| len > 0).step_by(unless_miri(1, 3)) {
            let sequence = Sequence::new(SHAPE, len, 22);
            let (mut at_once, mut one_by_one) = (
                fresh(SHAPE, policy(n_sink), Backend::detect()),
                fresh(SHAPE, policy(n_sink), Backend::SCALAR),
            );
            append(&mut at_once, &sequence, 0, len);
            (0..len).for_each(|t| append(&mut one_by_one, &sequence, t, t + 1));
            let what = format!("{n_sink} sinks, {len} tokens");
            let bits = |cache: &Cache<_>| precise_sinks(cache, &sequence, &what);
            let close = |(a, b): (&u32, &u32)| (f32::from_bits(*a) - f32::from_bits(*b)).abs() < 1e-5;
            assert!(bits(&at_once).iter().zip(&bits(&one_by_one)).all(close), "{what}");
            // A prompt that the rest of the sinks follow in a second call.
            let mut in_two = fresh(SHAPE, policy(n_sink), Backend::detect());
            append(&mut in_two, &sequence, 0, len / 2);
            append(&mut in_two, &sequence, len / 2, len);
            assert_eq!(bits(&in_two), bits(&at_once), "{what}");
        }
    }
}

/// Pressure, eviction and rollback leave them alone as well.
#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn neither_pressure_nor_eviction_nor_rollback_reaches_the_sinks() {
    let n = 900;
    let sequence = Sequence::new(SHAPE, n, 23);
    let preset = Policy { span_len: 16, recent_len: 16, ..Policy::SIX_X };
    let policy = lighter(preset).with_byte_budget(WhenFull::Evict);
    let mut memory = vec![0; minimum_bytes(SHAPE, policy).unwrap() + 6_000];
    let mut cache = KvCache::new(SHAPE, policy, Backend::detect(), &mut memory).unwrap();
    append(&mut cache, &sequence, 0, 4);
    let first = precise_sinks(&cache, &sequence, "at first");
    let sinks_of = |rows: Vec<u32>, n: usize| -> Vec<u32> {
        rows.chunks_exact(n * DIM).flat_map(|head| &head[..4 * DIM]).copied().collect()
    };
    for t in 4..n {
        append(&mut cache, &sequence, t, t + 1);
        if t % 40 == 0 {
            assert_eq!(sinks_of(precise_sinks(&cache, &sequence, "under pressure"), 4), first, "token {t}");
        }
    }
    assert!(cache.n_held(0).unwrap() < n, "nothing was evicted");
    cache.trim(n - 5).unwrap();
    assert_eq!(precise_sinks(&cache, &sequence, "after a rollback"), first);
    // Into the sinks and on with other tokens: the rest of them is precise again.
    cache.trim(2).unwrap();
    let mut other = Sequence::new(SHAPE, 80, 24);
    other.tokens[..2].clone_from_slice(&sequence.tokens[..2]);
    append(&mut cache, &other, 2, other.tokens.len());
    precise_sinks(&cache, &other, "after a rollback into the sinks");
}
