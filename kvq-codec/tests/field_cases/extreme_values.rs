//! Numbers that overflow a 16-bit scale, vanish below it, do not vary or are none: what is finite comes back finite and
//! within the bounds of `docs/NUMERICS.md`; what is not is refused by head and position, and nothing has changed.

use super::common::snapshots::snapshot;
use super::common::{Random, aged, backends, lighter, unless_miri};
use super::{fresh, restored};
use kvq_codec::{Backend, Cache, Error, KvShape, Layout, Side, Storage};

const SHAPE: KvShape =
    KvShape::new(unless_miri(2, 1), 2, unless_miri(64, 8)).with_value_head_dim(unless_miri(40, 8));
const LAST: usize = SHAPE.n_layers - 1;

/// Enough for the sinks, some packed spans of 16 and a part of the recent window.
const TOKENS: usize = unless_miri(100, 22);

/// What one value of one vector is, by its place: token, then number within the vector.
type Value = fn(usize, usize, &mut Random) -> f32;

const KINDS: [(&str, Value); 11] = [
    ("1e5", |_, _, random| 1e5 * random.gaussian()),
    ("1e30", |_, _, random| 1e30 * (2.0 * random.uniform() - 1.0)),
    ("1e-30", |_, _, random| 1e-30 * random.gaussian()),
    ("all zeros", |_, _, _| 0.0),
    ("negative zeros", |_, _, _| -0.0),
    ("constant 1", |_, _, _| 1.0),
    ("constant -1e30", |_, _, _| -1e30),
    ("one outlier per vector", |t, i, random| if i == t % 4 { 1e4 } else { 1e-2 * random.gaussian() }),
    ("one outlying vector", |t, _, random| if t % 16 == 9 { 1e4 } else { 1e-2 * random.gaussian() }),
    ("zeros between others", |t, _, random| if t % 3 == 0 { 0.0 } else { random.gaussian() }),
    ("from 1e-30 to 1e30", |t, i, random| {
        10f32.powi((t % 61) as i32 - 30) * if i == 0 { 1.0 } else { random.uniform() }
    }),
];

/// Keys or values of `TOKENS` tokens, `(n_kv_heads, n_tokens, head_dim)`.
fn slab(value: Value, head_dim: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let places = (0..SHAPE.n_kv_heads * TOKENS * head_dim).map(|at| (at / head_dim % TOKENS, at % head_dim));
    places.map(|(token, i)| value(token, i, &mut random)).collect()
}

fn norm(x: impl IntoIterator<Item = f32>) -> f64 {
    x.into_iter().map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Error of a vector as a share of its own norm (values) or of the largest within reach of its span (keys, which are
/// coded around a common center): `docs/NUMERICS.md`, "At the edges".
fn bound(layout: Layout) -> f64 {
    match layout.code_bits() {
        8 => 0.07,
        4 => 0.2,
        3 => 0.4,
        _ => 0.8,
    }
}

/// Magnitudes below this are stored as zeros, and so is what is far below the largest of its span.
const ABSOLUTE: f64 = 4e-36;

fn check_rows<S: Storage>(cache: &Cache<S>, side: Side, given: &[f32], layout: Layout, what: &str) {
    let dim = given.len() / SHAPE.n_kv_heads / TOKENS;
    for (head, given) in given.chunks_exact(TOKENS * dim).enumerate() {
        let got = restored(cache, LAST, side, head);
        let norms: Vec<f64> = given.chunks_exact(dim).map(|row| norm(row.iter().copied())).collect();
        for (token, (got, given)) in got.chunks_exact(dim).zip(given.chunks_exact(dim)).enumerate() {
            assert!(got.iter().all(|x| x.is_finite()), "{what}, token {token}: {got:?}");
            let error = norm(got.iter().zip(given).map(|(a, b)| a - b));
            // A span of 16 that contains the token lies within 15 tokens of it.
            let near = norms[token.saturating_sub(15)..(token + 16).min(TOKENS)]
                .iter()
                .fold(0.0f64, |a, b| a.max(*b));
            let (own, floor) = match side {
                Side::Value => (norms[token], near * 0.5f64.powi(29) * 127.0),
                Side::Key if layout == Layout::Q8 => (norms[token], near * 0.5f64.powi(29) * 127.0),
                Side::Key => (near, 0.0),
            };
            let limit = bound(layout) * own + floor + ABSOLUTE * (dim as f64).sqrt();
            assert!(
                error <= limit,
                "{what}, {side:?} of head {head}, token {token}: off by {error:e}, allowed {limit:e}"
            );
        }
    }
}

#[test]
fn finite_numbers_of_any_size_come_back_within_the_bound() {
    for backend in backends() {
        for &layout in unless_miri(&Layout::ALL[..], &[Layout::S2]) {
            for (kind, value) in KINDS.into_iter().step_by(unless_miri(1, 3)) {
                let what = format!("{} {layout:?} {kind}", backend.name());
                let mut cache = fresh(SHAPE, aged(&[layout], 16, 0), backend);
                let (k, v) = (slab(value, SHAPE.key_head_dim, 1), slab(value, SHAPE.value_head_dim, 2));
                for layer in 0..SHAPE.n_layers {
                    cache.append(layer, TOKENS, &k, &v).unwrap();
                }
                check_rows(&cache, Side::Key, &k, layout, &what);
                check_rows(&cache, Side::Value, &v, layout, &what);
                // Attention mixes values with weights that add up to 1: no output is larger than the largest value.
                let largest = |head: usize| {
                    let rows = v[head * TOKENS * SHAPE.value_head_dim..][..TOKENS * SHAPE.value_head_dim]
                        .chunks_exact(SHAPE.value_head_dim);
                    rows.map(|row| norm(row.iter().copied())).fold(0.0f64, f64::max)
                };
                for size in [1e-30, 1.0, 1e5, 1e30].into_iter().step_by(unless_miri(1, 3)) {
                    let q: Vec<f32> = (0..2 * SHAPE.key_head_dim).map(|i| size * (i as f32).cos()).collect();
                    let mut out = vec![f32::NAN; 2 * SHAPE.value_head_dim];
                    cache.attend(LAST, 1, &q, &mut out).unwrap();
                    assert!(out.iter().all(|x| x.is_finite()), "{what}, queries of {size:e}: {out:?}");
                    for (head, out) in out.chunks_exact(SHAPE.value_head_dim).enumerate() {
                        let (got, most) = (norm(out.iter().copied()), largest(head));
                        let limit = (1.0 + bound(layout)) * most + 1e-34;
                        assert!(got <= limit, "{what}, queries of {size:e}: {got:e} of {most:e}");
                    }
                }
            }
        }
    }
}

/// One token, so that the output is its value whatever the scores are.
#[test]
fn attention_over_a_single_token_is_its_value_at_any_size() {
    for backend in backends() {
        for &size in unless_miri(&[1e-30f32, 1e-20, 1.0, 65_504.0, 65_520.0, 1e5, 1e30][..], &[1e-30, 1e30]) {
            let mut cache = fresh(SHAPE, aged(&[Layout::S4], 16, 0), backend);
            let mut random = Random::new(4);
            let mut vector =
                |n: usize| -> Vec<f32> { (0..n).map(|_| size * (2.0 * random.uniform() - 1.0)).collect() };
            let (k, v) = (vector(2 * SHAPE.key_head_dim), vector(2 * SHAPE.value_head_dim));
            cache.append(0, 1, &k, &v).unwrap();
            let mut out = vec![f32::NAN; v.len()];
            cache.attend(0, 1, &vec![1.0; k.len()], &mut out).unwrap();
            let error = norm(out.iter().zip(&v).map(|(a, b)| a - b)) / norm(v);
            assert!(error < 0.02, "{} {size:e}: {error}", backend.name());
        }
    }
}

#[test]
fn what_is_not_finite_is_refused_by_head_and_position_and_changes_nothing() {
    let mut cache = fresh(SHAPE, lighter(aged(&[Layout::T4, Layout::T3], 16, 0)), Backend::detect());
    let usual: Value = |_, _, random| random.gaussian();
    let (k, v) = (slab(usual, SHAPE.key_head_dim, 1), slab(usual, SHAPE.value_head_dim, 2));
    for layer in 0..SHAPE.n_layers {
        cache.append(layer, TOKENS, &k, &v).unwrap();
    }
    let (before, bytes) = (snapshot(&cache), cache.storage_bytes());
    let all = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.3e30, -f32::MAX];
    for bad in all.into_iter().step_by(unless_miri(1, 4)) {
        // Far enough on that a span would be packed on the way, had the call not been refused.
        for (side, head, token, lane) in
            [(Side::Key, 1, unless_miri(37, 21), 3), (Side::Value, 0, 0, 0), (Side::Value, 1, TOKENS - 1, 2)]
        {
            let (mut k, mut v) = (k.clone(), v.clone());
            let (slab, dim) = match side {
                Side::Key => (&mut k, SHAPE.key_head_dim),
                Side::Value => (&mut v, SHAPE.value_head_dim),
            };
            slab[(head * TOKENS + token) * dim + lane] = bad;
            let error = cache.append(LAST, TOKENS, &k, &v).unwrap_err();
            let pos = (TOKENS + token) as u32;
            assert_eq!(error, Error::NotFinite { side, head: head as u32, pos }, "{bad}");
            let text = error.to_string();
            assert!(text.contains(&format!("head {head} at position {pos}")), "{text}");
        }
    }
    assert_eq!((cache.storage_bytes(), cache.len()), (bytes, TOKENS));
    assert!(snapshot(&cache) == before);
}

/// A query is not stored, so it is not refused: what cannot be scored scores all tokens alike.
#[test]
fn queries_that_are_not_finite_give_the_mean_of_the_values() {
    for backend in backends() {
        let mut cache = fresh(SHAPE, aged(&[Layout::Q8], 16, 0), backend);
        let usual: Value = |_, _, random| random.gaussian();
        let (k, v) = (slab(usual, SHAPE.key_head_dim, 1), slab(usual, SHAPE.value_head_dim, 2));
        cache.append(0, TOKENS, &k, &v).unwrap();
        let mean = |i: usize| -> f32 {
            let of_token = |t: usize| {
                v[(i / SHAPE.value_head_dim * TOKENS + t) * SHAPE.value_head_dim + i % SHAPE.value_head_dim]
            };
            (0..TOKENS).map(of_token).sum::<f32>() / TOKENS as f32
        };
        for bad in
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX].into_iter().step_by(unless_miri(1, 3))
        {
            let mut q = vec![0.5; 2 * SHAPE.key_head_dim];
            (q[3], q[SHAPE.key_head_dim]) = (bad, bad);
            if bad == f32::MAX {
                q.fill(bad);
            }
            let mut out = vec![f32::NAN; 2 * SHAPE.value_head_dim];
            cache.attend(0, 1, &q, &mut out).unwrap();
            for (i, got) in out.iter().enumerate() {
                assert!(
                    (got - mean(i)).abs() < 0.02,
                    "{} {bad}: {got} instead of {}",
                    backend.name(),
                    mean(i)
                );
            }
        }
    }
}
