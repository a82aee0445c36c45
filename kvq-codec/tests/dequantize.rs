//! Restored floats: close to what went in, and what attention computes with.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::{Growing, Random, Sequence, aged, relative_error};
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
    for backend in Backend::available() {
        for head_dim in [4, 8, 16, 24, 64, 80, 128, 256] {
            for layout in Layout::ALL {
                let sequence = Sequence::new(KvShape::new(2, 3, head_dim), 150, head_dim as u64);
                // An 8-bit query of few values is the coarsest part.
                let bound = if head_dim < 16 { 0.08 } else { 0.04 };
                check_attention(&filled(&sequence, aged(&[layout], 32, 32), backend), bound);
            }
        }
    }
    let shape = KvShape::new(1, 2, 64).with_value_head_dim(32);
    let sequence = Sequence::new(shape, 300, 3);
    check_attention(&filled(&sequence, Policy::FOUR_X, Backend::detect()), 0.03);
}

#[test]
fn tokens_come_back_in_their_order_and_close_to_what_they_were() {
    let shape = KvShape::new(1, 3, 16);
    let sequence = Sequence::new(shape, 200, 5);
    let mut cache = filled(&sequence, aged(&[Layout::S4, Layout::S3], 16, 16), Backend::detect());
    for n in [200, 131, 37, 4, 2] {
        cache.trim(n).unwrap();
        for (side, keys) in [(Side::Key, true), (Side::Value, false)] {
            for head in 0..3 {
                let expected = &sequence.slab(0, n, keys)[head * n * 16..][..n * 16];
                for (token, (got, expected)) in
                    restored(&cache, side, head).chunks(16).zip(expected.chunks(16)).enumerate()
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
