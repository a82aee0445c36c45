//! Windows shorter than, as long as and longer than the recent window, with eviction and rollback: each query sees
//! the positions that it should, no more and no less.

use super::common::{Sequence, aged, backends, lighter, reference, relative_error, unless_miri};
use super::{append, filled, fresh, queries};
use kvq_codec::{Backend, Cache, Error, KvCache, KvShape, Layout, Policy, Storage, WhenFull, minimum_bytes};

const DIM: usize = unless_miri(64, 16);
const SHAPE: KvShape = KvShape::new(1, 1, DIM);

/// Spans of 16 behind a recent window of 32 to 47 tokens.
fn policy(window_len: usize) -> Policy {
    lighter(Policy { window_len: window_len as u32, ..aged(&[Layout::S4, Layout::S3], 16, 32) })
}

/// Shorter than the recent window, as long as it (with and without the span that fills), and longer.
const WINDOWS: &[usize] = unless_miri(&[1, 2, 16, 31, 32, 48, 49, 100, 130], &[49]);

/// Tokens of zeros but for probes, whose values are each a unit vector of its own.
fn probes(n: usize, at: &[usize]) -> Sequence {
    assert!(at.len() <= DIM);
    let mut sequence = Sequence::new(SHAPE, n, 41);
    for (_, values) in &mut sequence.tokens {
        values.fill(0.0);
    }
    for (i, &pos) in at.iter().enumerate() {
        sequence.tokens[pos].1[i] = 1.0;
    }
    sequence
}

/// Scales are steps of 9 %, so a probe may be off by that; which ones are seen is told to the token.
/// With a query of zeros all visible tokens weigh the same: a probe is 1/visible where it is seen, and 0 elsewhere.
fn check_probes<S: Storage>(
    cache: &Cache<S>,
    window: usize,
    at: &[usize],
    is_held: impl Fn(usize) -> bool,
    what: &str,
) {
    let n_tokens = 3.min(cache.len());
    let mut out = vec![f32::NAN; n_tokens * DIM];
    cache.attend_within(0, n_tokens, window, &vec![0.0; n_tokens * DIM], &mut out).unwrap();
    for (row, out) in out.chunks_exact(DIM).enumerate() {
        let to = cache.len() - (n_tokens - 1 - row);
        let from = if window == 0 { 0 } else { to.saturating_sub(window) };
        let is_seen = |pos: usize| (from..to).contains(&pos) && is_held(pos);
        let visible = (from..to).filter(|&pos| is_held(pos)).count();
        for (i, &pos) in at.iter().enumerate() {
            let want = if is_seen(pos) { 1.0 / visible as f32 } else { 0.0 };
            assert!(
                (out[i] - want).abs() < 0.15 * want + 1e-6,
                "{what}, {pos} from {to}: {} not {want}",
                out[i]
            );
        }
    }
}

#[test]
fn each_query_sees_its_window_to_the_token() {
    let n = unless_miri(200, 72);
    for &window in WINDOWS {
        // The first visible positions and those just before, for each of the last three queries, and the ends.
        let at: Vec<usize> =
            (0..6).map(|i| n - window - i.min(n - window)).chain([0, 3, 4, n - 3, n - 2]).collect();
        let mut at: Vec<usize> = at.into_iter().filter(|&pos| pos < n).collect();
        at.sort_unstable();
        at.dedup();
        let sequence = probes(n, &at);
        for backend in backends() {
            for own in [true, false].into_iter().take(unless_miri(2, 1)) {
                let mut cache = fresh(SHAPE, policy(if own { window } else { 0 }), backend);
                append(&mut cache, &sequence, 0, n);
                let what = format!("window {window}, of the {}", if own { "policy" } else { "call" });
                if own {
                    let q = queries(SHAPE, 1, 1, 3);
                    let (mut out, mut same) = (vec![f32::NAN; DIM], vec![f32::NAN; DIM]);
                    cache.attend(0, 1, &q, &mut out).unwrap();
                    cache.attend_within(0, 1, window, &q, &mut same).unwrap();
                    assert_eq!(out, same, "{what}");
                }
                check_probes(&cache, window, &at, |_| true, &what);
                // Rolled back by a part of the recent window and into a span, and on again with the same tokens.
                for &back in unless_miri(&[1, 20, 60][..], &[40]) {
                    cache.trim(n - back).unwrap();
                    let left: Vec<usize> = at.iter().copied().take_while(|&pos| pos < n - back).collect();
                    check_probes(&cache, window, &left, |_| true, &format!("{what}, back by {back}"));
                    append(&mut cache, &sequence, n - back, n);
                    check_probes(&cache, window, &at, |_| true, &format!("{what}, on again by {back}"));
                }
            }
        }
    }
}

/// A cache of fixed bytes whose oldest spans are dropped while windows of all lengths look at it.
#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn eviction_and_rollback_keep_positions_right() {
    let n = 700;
    for window in [0, 16, 32, 48, 64, 130] {
        let policy = Policy { when_full: WhenFull::Evict, ..policy(window) };
        let bytes = minimum_bytes(SHAPE, policy).unwrap() + 7_000;
        let mut memory = vec![0; bytes];
        let mut cache = KvCache::new(SHAPE, policy, Backend::detect(), &mut memory).unwrap();
        let at: Vec<usize> =
            [0, 3, 4, 20, n / 2, n - 140, n - 131, n - 100, n - 65, n - 50, n - 33, n - 17, n - 2, n - 1]
                .into();
        let sequence = probes(n, &at);
        append(&mut cache, &sequence, 0, n);
        let first_held = |cache: &KvCache<'_>| 4 + cache.len() - cache.n_held(0).unwrap();
        let held_from = first_held(&cache);
        assert!(held_from > n / 2 && held_from < n - 48, "evicted up to {held_from} of {n}");
        assert_eq!(cache.len(), n, "evicted tokens count as positions");
        check_probes(&cache, window, &at, |pos| pos < 4 || pos >= held_from, &format!("window {window}"));
        // Back to before the recent window, in a span, and on with other tokens at the same positions.
        let to = n - 55;
        cache.trim(to).unwrap();
        let held = |pos: usize| pos < 4 || pos >= held_from;
        let below: Vec<usize> = at.iter().copied().take_while(|&pos| pos < to).collect();
        check_probes(&cache, window, &below, held, &format!("window {window}, rolled back"));
        let at: Vec<usize> = below.iter().copied().chain([to, to + 1, n - 20, n - 1]).collect();
        let mut other = probes(n, &at);
        other.tokens[..to].clone_from_slice(&sequence.tokens[..to]);
        for (i, &pos) in at.iter().enumerate() {
            other.tokens[pos].1.fill(0.0);
            other.tokens[pos].1[i] = 1.0;
        }
        append(&mut cache, &other, to, n);
        assert_eq!(cache.len(), n);
        let held_from = first_held(&cache);
        check_probes(
            &cache,
            window,
            &at,
            |pos| pos < 4 || pos >= held_from,
            &format!("window {window}, on again"),
        );
        // What was evicted cannot come back, and is not taken for what follows it.
        let error = cache.trim(held_from - 1).unwrap_err();
        assert_eq!(error, Error::Evicted { needed: held_from as u32, got: held_from as u32 - 1 });
        assert!(error.to_string().contains("Cache::trim can go back to"), "{error}");
        assert_eq!(cache.len(), n);
    }
}

/// A window that is asked for hides what a policy's window hides, and the shorter one of both counts.
#[test]
fn windows_of_a_call_are_those_of_a_policy() {
    let (n, group) = (unless_miri(200, 60), 2);
    let shape = KvShape::new(1, unless_miri(3, 1), unless_miri(32, 8));
    let sequence = Sequence::new(shape, n, 8);
    let windowed = |window_len| {
        // A capture of parts of a policy breaks rustc 1.95.
        let policy =
            Policy { window_len, ..aged(&[Layout::Q8, unless_miri(Layout::T4, Layout::S4)], 16, 16) };
        filled(&sequence, policy, Backend::detect())
    };
    let q = queries(shape, shape.n_kv_heads * group, 3, 4);
    let attend = |cache: &Cache<_>, window: usize| {
        let mut out = vec![f32::NAN; q.len()];
        cache.attend_within(0, 3, window, &q, &mut out).unwrap();
        out
    };
    let (all, narrow) = (windowed(0), windowed(50));
    let whole = attend(&all, 0);
    for &window in unless_miri(&[1, 2, 16, 49, 50, 77, 197][..], &[50]) {
        let out = attend(&all, window);
        assert_eq!(out, attend(&windowed(window as u32), 0), "{window}");
        assert_eq!(attend(&narrow, window), attend(&all, window.min(50)), "{window}");
        assert_ne!(out, whole, "{window}");
        for (row, got) in out.chunks_exact(shape.key_head_dim).enumerate() {
            let to = n - 2 + row % 3;
            let query = &q[row * shape.key_head_dim..][..shape.key_head_dim];
            let expected = reference(&sequence, row / 3 / group, query, to.saturating_sub(window)..to);
            assert!(relative_error(got, &expected) < unless_miri(0.35, 0.5), "{window} {row}");
        }
    }
    assert_eq!(attend(&all, n), whole);
}
