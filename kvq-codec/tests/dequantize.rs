//! Restored floats: close to what went in, and what attention computes with.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::{Growing, Random, Sequence, aged, backends, lighter, relative_error, unless_miri};
use kvq_codec::{Backend, Cache, Error, KvShape, Layout, Policy, Side};

/// Keys or values of one head, `(n_held, head_dim)`.
fn restored(cache: &Cache<Growing>, side: Side, head: usize) -> Vec<f32> {
    let shape = cache.shape();
    let dim = if side == Side::Key { shape.key_head_dim } else { shape.value_head_dim };
    let layer = shape.n_layers - 1;
    let mut out = vec![f32::NAN; cache.n_held(layer).unwrap() * dim];
    cache.dequantize_into(layer, side, head, &mut out).unwrap();
    out
}

fn filled(sequence: &Sequence, policy: Policy, backend: Backend) -> Cache<Growing> {
    let mut cache = Cache::new(sequence.shape, policy, backend, Growing::default()).unwrap();
    let n = sequence.tokens.len();
    for layer in 0..sequence.shape.n_layers {
        cache.append(layer, n, &sequence.slab(0, n, true), &sequence.slab(0, n, false)).unwrap();
    }
    cache
}

/// Float attention over the restored rows is what `attend` gives, to the rounding of queries and weights.
fn check_attention(cache: &Cache<Growing>, bound: f64) {
    let shape = cache.shape();
    let (kd, vd, layer) = (shape.key_head_dim, shape.value_head_dim, shape.n_layers - 1);
    let mut random = Random::new(7);
    let queries: Vec<f32> = (0..shape.n_kv_heads * kd).map(|_| random.gaussian()).collect();
    let mut got = vec![0.0; shape.n_kv_heads * vd];
    cache.attend(layer, 1, &queries, &mut got).unwrap();
    for head in 0..shape.n_kv_heads {
        let (keys, values) = (restored(cache, Side::Key, head), restored(cache, Side::Value, head));
        let query = &queries[head * kd..][..kd];
        let score = |key: &[f32]| -> f64 {
            let dot: f64 = key.iter().zip(query).map(|(a, b)| f64::from(a * b)).sum();
            dot / (kd as f64).sqrt()
        };
        let scores: Vec<f64> = keys.chunks_exact(kd).map(score).collect();
        let peak = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
        let weights: Vec<f64> = scores.iter().map(|s| (s - peak).exp()).collect();
        let mut expected = vec![0.0f64; vd];
        for (value, weight) in values.chunks_exact(vd).zip(&weights) {
            expected.iter_mut().zip(value).for_each(|(e, v)| *e += weight * f64::from(*v));
        }
        let sum: f64 = weights.iter().sum();
        expected.iter_mut().for_each(|e| *e /= sum);
        let error = relative_error(&got[head * vd..][..vd], &expected);
        assert!(error < bound, "head {head} of {shape:?}: {error}");
    }
}

#[test]
fn every_layout_and_head_size_is_restored_to_what_is_attended() {
    let layouts = unless_miri(&Layout::ALL[..], &[Layout::Q8, Layout::S2]);
    // Tokens, and the length of a span and of the recent window.
    let (n, span_len, recent_len) = unless_miri((150, 32, 32), (22, 16, 0));
    for backend in backends() {
        for &head_dim in unless_miri(&[4, 8, 16, 24, 64, 80, 128, 256][..], &[4]) {
            for &layout in layouts {
                let shape = KvShape::new(2, unless_miri(3, 1), head_dim);
                let sequence = Sequence::new(shape, n, head_dim as u64);
                // An 8-bit query of few values is the coarsest part.
                let bound = if head_dim < 16 { 0.08 } else { 0.04 };
                let policy = aged(&[layout], span_len, recent_len);
                check_attention(&filled(&sequence, policy, backend), bound);
            }
        }
    }
    let shape = KvShape::new(1, 2, unless_miri(64, 12)).with_value_head_dim(unless_miri(32, 8));
    let sequence = Sequence::new(shape, unless_miri(300, 10), 3);
    check_attention(&filled(&sequence, lighter(Policy::FOUR_X), Backend::detect()), unless_miri(0.03, 0.06));
}

#[test]
fn tokens_come_back_in_their_order_and_close_to_what_they_were() {
    const DIM: usize = unless_miri(16, 8);
    let shape = KvShape::new(1, unless_miri(3, 2), DIM);
    let n_tokens = unless_miri(200, 40);
    let sequence = Sequence::new(shape, n_tokens, 5);
    let policy = lighter(aged(&[Layout::S4, Layout::S3], 16, unless_miri(16, 0)));
    let mut cache = filled(&sequence, policy, Backend::detect());
    for n in [n_tokens, unless_miri(131, 39), 37, 4, 2].into_iter().step_by(unless_miri(1, 2)) {
        cache.trim(n).unwrap();
        for (side, keys) in [(Side::Key, true), (Side::Value, false)] {
            for head in 0..shape.n_kv_heads {
                let expected = &sequence.slab(0, n, keys)[head * n * DIM..][..n * DIM];
                for (token, (got, expected)) in
                    restored(&cache, side, head).chunks(DIM).zip(expected.chunks(DIM)).enumerate()
                {
                    let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
                    let error = relative_error(got, &expected);
                    let bound = if token < 4 { 0.02 } else { 0.5 };
                    assert!(error < bound, "token {token} of {n}, head {head}, {side:?}: {error}");
                }
            }
        }
    }
    cache.clear();
    assert_eq!(cache.n_held(0), Ok(0));
    assert_eq!(cache.dequantize_into(0, Side::Key, 0, &mut []), Ok(()));
}

#[test]
fn wrong_arguments_are_errors() {
    let sequence = Sequence::new(KvShape::new(1, 2, 8), 5, 1);
    let cache = filled(&sequence, Policy::FOUR_X, Backend::detect());
    let mut out = [0.0; 40];
    assert_eq!(cache.dequantize_into(0, Side::Value, 1, &mut out), Ok(()));
    assert!(matches!(cache.dequantize_into(1, Side::Key, 0, &mut out), Err(Error::Layer { .. })));
    assert!(matches!(cache.n_held(1), Err(Error::Layer { .. })));
    assert!(matches!(cache.dequantize_into(0, Side::Key, 2, &mut out), Err(Error::KvHead { .. })));
    assert!(matches!(cache.dequantize_into(0, Side::Key, 0, &mut out[..39]), Err(Error::Length { .. })));
}
