//! Attention on packed bytes against plain floats, for every head size, group size, layout and backend.

mod common;

use common::{Growing, Random, Sequence, aged, backends, lighter, reference, relative_error, unless_miri};
use kvq_codec::{Backend, Cache, KvShape, Layout, Policy};

const HEAD_DIMS: &[usize] =
    unless_miri(&[4, 8, 12, 16, 24, 32, 40, 48, 64, 72, 80, 96, 112, 120, 128, 160, 192, 256], &[4]);

fn filled(sequence: &Sequence, policy: Policy, backend: Backend) -> Cache<Growing> {
    let mut cache = Cache::new(sequence.shape, policy, backend, Growing::default()).unwrap();
    let n = sequence.tokens.len();
    for layer in 0..sequence.shape.n_layers {
        cache.append(layer, n, &sequence.slab(0, n, true), &sequence.slab(0, n, false)).unwrap();
    }
    cache
}

fn queries(shape: KvShape, n_heads: usize, n_tokens: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n_heads * n_tokens * shape.key_head_dim).map(|_| random.gaussian()).collect()
}

/// The largest relative error over all query rows.
fn worst_error(sequence: &Sequence, cache: &Cache<Growing>, group: usize, n_tokens: usize) -> f64 {
    let shape = sequence.shape;
    let n_heads = group * shape.n_kv_heads;
    let q = queries(shape, n_heads, n_tokens, 99);
    let mut out = vec![f32::NAN; n_heads * n_tokens * shape.value_head_dim];
    cache.attend(shape.n_layers - 1, n_tokens, &q, &mut out).unwrap();
    let mut worst = 0.0f64;
    for row in 0..n_heads * n_tokens {
        let (head, back) = (row / n_tokens, n_tokens - 1 - row % n_tokens);
        let query = &q[row * shape.key_head_dim..(row + 1) * shape.key_head_dim];
        let expected = reference(sequence, head / group, query, 0..sequence.tokens.len() - back);
        let got = &out[row * shape.value_head_dim..(row + 1) * shape.value_head_dim];
        worst = worst.max(relative_error(got, &expected));
    }
    worst
}

#[test]
fn eight_bits_are_close_to_exact_for_every_head_size_and_backend() {
    for backend in backends() {
        for &head_dim in HEAD_DIMS {
            let sequence = Sequence::new(
                KvShape::new(2, unless_miri(3, 1), head_dim),
                unless_miri(200, 40),
                head_dim as u64,
            );
            let cache = filled(&sequence, Policy::EIGHT_BIT, backend);
            let error = worst_error(&sequence, &cache, 2, 3);
            assert!(error < 0.045, "{} head_dim {head_dim}: {error}", backend.name());
        }
    }
}

#[test]
fn every_layout_stays_within_its_error_for_every_head_size_and_backend() {
    for backend in backends() {
        let bounds = [0.35, 0.6, 1.1, 0.32, 0.55, 1.0];
        for (layout, bound) in Layout::ALL.into_iter().skip(1).zip(bounds) {
            for &head_dim in HEAD_DIMS {
                let (span_len, n_tokens) = unless_miri((64, 300), (16, 22));
                let sequence =
                    Sequence::new(KvShape::new(1, unless_miri(3, 1), head_dim), n_tokens, head_dim as u64);
                let cache = filled(&sequence, aged(&[layout], span_len, 0), backend);
                let error = worst_error(&sequence, &cache, 1, 1);
                assert!(error < bound, "{} {layout:?} head_dim {head_dim}: {error}", backend.name());
            }
        }
    }
}

#[test]
fn query_groups_and_span_lengths_agree_with_the_reference() {
    for backend in backends() {
        for &group in unless_miri(&[1, 2, 3, 4, 7, 8][..], &[3]) {
            for &span_len in unless_miri(&[16, 32, 64][..], &[16]) {
                let sequence = Sequence::new(KvShape::new(1, 2, unless_miri(64, 8)), unless_miri(333, 40), 5);
                let cache = filled(&sequence, aged(&[Layout::Q8], span_len, span_len), backend);
                let error = worst_error(&sequence, &cache, group, 5);
                assert!(error < 0.06, "{} group {group} span {span_len}: {error}", backend.name());
            }
        }
    }
}

/// A window that is asked for hides what a policy's window hides, and the shorter one of both counts.
#[test]
fn windows_of_a_call_are_those_of_a_policy() {
    let (n, group) = (200, 2);
    let sequence = Sequence::new(KvShape::new(1, 3, 32), n, 8);
    let windowed = |window_len| {
        // A capture of parts of a policy breaks rustc 1.95.
        let policy = Policy { window_len, ..aged(&[Layout::Q8, Layout::T4], 16, 16) };
        filled(&sequence, policy, Backend::detect())
    };
    let q = queries(sequence.shape, 3 * group, 3, 4);
    let attend = |cache: &Cache<Growing>, window: usize| {
        let mut out = vec![f32::NAN; q.len()];
        cache.attend_within(0, 3, window, &q, &mut out).unwrap();
        out
    };
    let (all, narrow) = (windowed(0), windowed(50));
    let whole = attend(&all, 0);
    for window in [1, 2, 16, 49, 50, 77, 197] {
        let out = attend(&all, window);
        assert_eq!(out, attend(&windowed(window as u32), 0), "{window}");
        assert_eq!(attend(&narrow, window), attend(&all, window.min(50)), "{window}");
        assert_ne!(out, whole, "{window}");
        for (row, got) in out.chunks_exact(32).enumerate() {
            let to = n - 2 + row % 3;
            let query = &q[row * 32..][..32];
            let expected = reference(&sequence, row / 3 / group, query, to.saturating_sub(window)..to);
            assert!(relative_error(got, &expected) < 0.35, "{window} {row}");
        }
    }
    assert_eq!(attend(&all, n), whole);
}

#[test]
fn keys_and_values_may_differ_in_width() {
    for &(key_dim, value_dim) in unless_miri(&[(64, 128), (192, 128), (96, 64)][..], &[(12, 8)]) {
        let shape = KvShape::new(1, 2, key_dim).with_value_head_dim(value_dim);
        let sequence = Sequence::new(shape, unless_miri(300, 40), 3);
        for policy in [Policy::EIGHT_BIT, aged(&[Layout::Q8], 32, 32)] {
            let cache = filled(&sequence, policy, Backend::detect());
            let error = worst_error(&sequence, &cache, 1, 2);
            assert!(error < 0.04, "{key_dim}/{value_dim}: {error}");
        }
        let cache = filled(&sequence, aged(&[Layout::S4, Layout::S3, Layout::S2], 16, 16), Backend::detect());
        assert!(worst_error(&sequence, &cache, 1, 2) < 1.0, "{key_dim}/{value_dim}");
    }
}

#[test]
fn tokens_one_by_one_give_the_bytes_of_all_at_once() {
    let shape = KvShape::new(unless_miri(2, 1), unless_miri(3, 1), unless_miri(32, 4));
    let sequence = Sequence::new(shape, unless_miri(700, 75), 11);
    for (_, policy) in Policy::PRESETS.into_iter().take(unless_miri(4, 2)) {
        let policy = lighter(policy);
        let at_once = filled(&sequence, policy, Backend::detect());
        let mut one_by_one = Cache::new(shape, policy, Backend::SCALAR, Growing::default()).unwrap();
        for t in 0..sequence.tokens.len() {
            for layer in 0..shape.n_layers {
                let (k, v) = (sequence.slab(t, t + 1, true), sequence.slab(t, t + 1, false));
                one_by_one.append(layer, 1, &k, &v).unwrap();
            }
        }
        let q = queries(shape, shape.n_kv_heads, 1, 1);
        let (mut a, mut b) = (vec![0.0; q.len()], vec![0.0; q.len()]);
        for layer in 0..shape.n_layers {
            at_once.attend(layer, 1, &q, &mut a).unwrap();
            one_by_one.attend(layer, 1, &q, &mut b).unwrap();
            for (x, y) in a.iter().zip(&b) {
                assert!((x - y).abs() < 1e-4, "{x} {y}");
            }
        }
    }
}
