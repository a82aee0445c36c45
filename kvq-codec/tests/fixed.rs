//! The integer path: bytes against those of the same numbers as floats, attention against plain floats.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::{Growing, Random, Sequence, aged, backends, lighter, reference, relative_error, unless_miri};
use kvq_codec::{Backend, Cache, Error, Fixed, KvCache, KvShape, Layout, Policy, Side, Storage, WhenFull};

const HEAD_DIMS: &[usize] =
    unless_miri(&[4, 8, 12, 16, 24, 32, 40, 48, 64, 72, 80, 96, 112, 120, 128, 160, 192, 252, 256], &[4, 12]);

const KEY_BITS: i8 = 11;
const VALUE_BITS: i8 = 12;
const QUERY_BITS: i8 = 12;
const OUT_BITS: i8 = 20;

fn to_fixed(x: &[f32], fraction_bits: i8) -> Vec<i16> {
    let unit = f32::from(fraction_bits).exp2();
    x.iter().map(|v| (v * unit).round() as i16).collect()
}

fn to_floats<T: Copy + Into<f64>>(x: &[T], fraction_bits: i8) -> Vec<f32> {
    let unit = (-f64::from(fraction_bits)).exp2();
    x.iter().map(|&v| (v.into() * unit) as f32).collect()
}

/// A sequence of numbers that are exact in fixed point.
fn sequence(shape: KvShape, n_tokens: usize, seed: u64) -> Sequence {
    let mut sequence = Sequence::new(shape, n_tokens, seed);
    for (keys, values) in &mut sequence.tokens {
        *keys = to_floats(&to_fixed(keys, KEY_BITS), KEY_BITS);
        *values = to_floats(&to_fixed(values, VALUE_BITS), VALUE_BITS);
    }
    sequence
}

/// A cache with all tokens, from floats or from fixed point.
fn filled(sequence: &Sequence, policy: Policy, backend: Backend, in_integers: bool) -> Cache<Growing> {
    let mut cache = Cache::new(sequence.shape, policy, backend, Growing::default()).unwrap();
    let n = sequence.tokens.len();
    let (k, v) = (sequence.slab(0, n, true), sequence.slab(0, n, false));
    for layer in 0..sequence.shape.n_layers {
        if in_integers {
            let (k, v) = (to_fixed(&k, KEY_BITS), to_fixed(&v, VALUE_BITS));
            cache.append_fixed(layer, n, Fixed::new(&k, KEY_BITS), Fixed::new(&v, VALUE_BITS)).unwrap();
        } else {
            cache.append(layer, n, &k, &v).unwrap();
        }
    }
    cache
}

/// Keys or values of a head as floats.
fn rows<S: Storage>(cache: &Cache<S>, side: Side, head: usize) -> Vec<f32> {
    let shape = cache.shape();
    let dim = if side == Side::Key { shape.key_head_dim } else { shape.value_head_dim };
    let mut out = vec![0.0; cache.n_held(0).unwrap() * dim];
    cache.dequantize_into(0, side, head, &mut out).unwrap();
    out
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// The bounds of `docs/NUMERICS.md` for a dequantized row against that of the same numbers as floats.
const ROW_BOUNDS: [f64; 2] = [0.02, 0.4];

#[test]
fn a_cache_from_integers_is_that_from_floats_but_for_few_codes() {
    for backend in backends() {
        let (mut differ, mut all, mut worst) = (0, 0, [0.0f64; 2]);
        for &head_dim in unless_miri(HEAD_DIMS, &[12]) {
            let shape = KvShape::new(1, unless_miri(3, 1), head_dim);
            let sequence = sequence(shape, unless_miri(100, 20), head_dim as u64);
            for layout in [Layout::Q8, Layout::S4] {
                let policy = aged(&[layout], 16, 16);
                let floats = filled(&sequence, policy, backend, false);
                let integers = filled(&sequence, policy, backend, true);
                for head in 0..shape.n_kv_heads {
                    for side in [Side::Key, Side::Value] {
                        let (a, b) = (rows(&floats, side, head), rows(&integers, side, head));
                        for (a, b) in a.chunks_exact(head_dim).zip(b.chunks_exact(head_dim)) {
                            let error = relative_error(b, &wide(a));
                            let worst = &mut worst[usize::from(layout != Layout::Q8)];
                            *worst = worst.max(error);
                        }
                    }
                }
                if layout == Layout::Q8 {
                    let (a, b) = (snapshot(&floats), snapshot(&integers));
                    assert_eq!(a.len(), b.len());
                    differ += a.iter().zip(&b).filter(|(a, b)| a != b).count();
                    all += a.len();
                }
            }
        }
        println!("{}: {differ} of {all} bytes differ, rows by {worst:?}", backend.name());
        assert!(worst[0] < ROW_BOUNDS[0] && worst[1] < ROW_BOUNDS[1], "{}: {worst:?}", backend.name());
        assert!(differ * 300 < all, "{}: {differ} of {all} bytes differ", backend.name());
    }
}

fn snapshot<S: Storage>(cache: &Cache<S>) -> Vec<u8> {
    let mut bytes = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut bytes).unwrap();
    bytes
}

/// The largest relative errors of `attend_fixed` against `attend` of the same cache, and of both against plain floats.
fn worst_errors(sequence: &Sequence, cache: &Cache<Growing>, group: usize, n_tokens: usize) -> [f64; 3] {
    let shape = sequence.shape;
    let n_heads = group * shape.n_kv_heads;
    let mut random = Random::new(99);
    let q: Vec<f32> = (0..n_heads * n_tokens * shape.key_head_dim).map(|_| random.gaussian()).collect();
    let fixed = to_fixed(&q, QUERY_BITS);
    let q = to_floats(&fixed, QUERY_BITS);
    let n_out = n_heads * n_tokens * shape.value_head_dim;
    let (mut from_floats, mut out) = (vec![f32::NAN; n_out], vec![i32::MIN; n_out]);
    cache.attend(0, n_tokens, &q, &mut from_floats).unwrap();
    cache.attend_fixed(0, n_tokens, Fixed::new(&fixed, QUERY_BITS), &mut out, OUT_BITS).unwrap();
    let out = to_floats(&out, OUT_BITS);
    let mut worst = [0.0f64; 3];
    for row in 0..n_heads * n_tokens {
        let (head, back) = (row / n_tokens, n_tokens - 1 - row % n_tokens);
        let query = &q[row * shape.key_head_dim..(row + 1) * shape.key_head_dim];
        let expected = reference(sequence, head / group, query, 0..sequence.tokens.len() - back);
        let at = row * shape.value_head_dim..(row + 1) * shape.value_head_dim;
        let (a, b) = (&from_floats[at.clone()], &out[at]);
        let errors =
            [relative_error(b, &wide(a)), relative_error(b, &expected), relative_error(a, &expected)];
        worst.iter_mut().zip(errors).for_each(|(worst, error)| *worst = worst.max(error));
    }
    worst
}

/// The bounds of `docs/NUMERICS.md` for `attend_fixed` against `attend` of the same cache.
const ATTEND_BOUNDS: [f64; 2] = [0.0005, 0.02];

#[test]
fn attention_in_integers_is_that_in_floats_for_every_head_size_layout_and_backend() {
    for backend in backends() {
        for &layout in
            unless_miri(&Layout::ALL[..], &[Layout::Q8, Layout::S4, Layout::S3, Layout::S2, Layout::T2])
        {
            let (mut most, mut sums) = ([0.0f64; 3], 0);
            for &head_dim in unless_miri(HEAD_DIMS, &[4]) {
                let shape = KvShape::new(1, unless_miri(3, 1), head_dim);
                let sequence = sequence(shape, unless_miri(200, 21), head_dim as u64);
                let cache = filled(&sequence, aged(&[layout], 16, 0), backend, true);
                let errors = worst_errors(&sequence, &cache, 1, 1);
                assert!(
                    errors[0] < ATTEND_BOUNDS[usize::from(layout != Layout::Q8)],
                    "{layout:?} {head_dim}: {errors:?}"
                );
                assert!(
                    errors[1] < 1.02 * errors[2] + 0.001,
                    "{} {layout:?} {head_dim}: {errors:?}",
                    backend.name()
                );
                most.iter_mut().zip(errors).for_each(|(m, e)| *m = m.max(e));
                sums += 1;
            }
            println!("{} {layout:?}, {sums} head sizes: {most:?}", backend.name());
        }
    }
}

#[test]
fn groups_of_queries_spans_and_prefills_agree() {
    for &group in unless_miri(&[1, 2, 3, 4, 7, 8][..], &[3]) {
        for &span_len in unless_miri(&[16, 32, 64][..], &[16]) {
            for &n_tokens in unless_miri(&[1, 5, 40][..], &[3]) {
                let sequence = sequence(KvShape::new(1, 2, unless_miri(64, 8)), unless_miri(333, 22), 5);
                let policy = aged(&[Layout::Q8], span_len, span_len);
                let cache = filled(&sequence, policy, Backend::detect(), true);
                let errors = worst_errors(&sequence, &cache, group, n_tokens);
                assert!(errors[0] < ATTEND_BOUNDS[0] && errors[1] < 0.06, "{group} {span_len}: {errors:?}");
            }
        }
    }
}

#[test]
fn keys_and_values_may_differ_in_width_and_a_window_hides_tokens() {
    for &(key_dim, value_dim) in unless_miri(&[(64, 128), (192, 128), (96, 64)][..], &[(12, 8)]) {
        let shape = KvShape::new(1, 2, key_dim).with_value_head_dim(value_dim);
        let sequence = sequence(shape, unless_miri(300, 14), 3);
        let cache = filled(&sequence, Policy::EIGHT_BIT, Backend::detect(), true);
        let errors = worst_errors(&sequence, &cache, 1, 2);
        assert!(errors[0] < ATTEND_BOUNDS[0] && errors[1] < 0.04, "{key_dim}/{value_dim}: {errors:?}");
        let windowed = Policy { window_len: 7, ..Policy::EIGHT_BIT };
        let cache = filled(&sequence, windowed, Backend::detect(), true);
        assert!(worst_errors(&sequence, &cache, 2, 3)[0] < ATTEND_BOUNDS[0]);
    }
}

#[test]
fn every_backend_writes_the_same_bytes_and_gives_the_same_bits() {
    let shape = KvShape::new(1, unless_miri(3, 1), unless_miri(32, 4));
    let sequence = sequence(shape, unless_miri(400, 24), 17);
    let query = vec![1234i16; shape.n_kv_heads * shape.key_head_dim];
    for (_, policy) in Policy::PRESETS.into_iter().take(unless_miri(4, 1)) {
        let mut first = None;
        for backend in backends().chain([Backend::SCALAR]) {
            let cache = filled(&sequence, lighter(policy), backend, true);
            let mut out = vec![0; shape.n_kv_heads * shape.value_head_dim];
            cache.attend_fixed(0, 1, Fixed::new(&query, 10), &mut out, 18).unwrap();
            let result = (snapshot(&cache), out);
            assert!(*first.get_or_insert_with(|| result.clone()) == result, "{}", backend.name());
        }
    }
}

#[test]
fn bytes_of_8_bits_are_those_of_the_same_16_bits() {
    let shape = KvShape::new(1, 2, 32);
    let narrow: Vec<i8> = (0..64u8).map(|i| i.wrapping_mul(37) as i8).collect();
    let wide: Vec<i16> = narrow.iter().map(|&x| i16::from(x)).collect();
    let mut memory = [vec![0; 20_000], vec![0; 20_000]];
    let [one, two] = &mut memory;
    let mut a = KvCache::new(shape, Policy::EIGHT_BIT, Backend::detect(), one).unwrap();
    let mut b = KvCache::new(shape, Policy::EIGHT_BIT, Backend::detect(), two).unwrap();
    for _ in 0..10 {
        a.append_fixed(0, 1, Fixed::new(&narrow, 5), Fixed::new(&narrow, 7)).unwrap();
        b.append_fixed(0, 1, Fixed::new(&wide, 5), Fixed::new(&wide, 7)).unwrap();
    }
    assert!(memory[0] == memory[1]);
}

/// One token of constant rows, of which attention is to give the value itself.
fn attend_one(head_dim: usize, key: &[i16], value: &[i16], query: &[i16], bits: [i8; 4]) -> Vec<i32> {
    let mut memory = vec![0; 40_000];
    let shape = KvShape::new(1, 1, head_dim);
    let mut cache = KvCache::new(shape, Policy::EIGHT_BIT, Backend::detect(), &mut memory).unwrap();
    for _ in 0..6 {
        cache.append_fixed(0, 1, Fixed::new(key, bits[0]), Fixed::new(value, bits[1])).unwrap();
    }
    let mut out = vec![7; head_dim];
    cache.attend_fixed(0, 1, Fixed::new(query, bits[2]), &mut out, bits[3]).unwrap();
    out
}

#[test]
fn extreme_numbers_and_fraction_bits_are_kept() {
    for &head_dim in unless_miri(&[4, 12, 32, 48, 160, 192, 252, 256][..], &[12]) {
        for &number in unless_miri(&[i16::MIN, i16::MAX, -1, 1, 77][..], &[i16::MIN]) {
            // Constant rows, and rows with a single value.
            for n in [1, head_dim] {
                let mut row = vec![0i16; head_dim];
                row[..n].fill(number);
                for bits in
                    [[0; 4], [64; 4], [-64; 4], [-64, 64, -64, 64], [64, -64, 64, -64], [15, 3, -9, 3]]
                {
                    let out = attend_one(head_dim, &row, &row, &row, bits);
                    let scale = 0.08 * f64::from(number.unsigned_abs());
                    for (out, row) in out.iter().zip(&row) {
                        let error = f64::from(*out) - f64::from(*row);
                        assert!(error.abs() <= scale + 0.51, "{head_dim} {number} {n} {bits:?}: {out}");
                    }
                }
            }
        }
        let (zeros, row) = (vec![0i16; head_dim], vec![1000i16; head_dim]);
        assert_eq!(attend_one(head_dim, &row, &zeros, &row, [8; 4]), vec![0; head_dim]);
        // No score at all: the mean of what is visible.
        for (key, query) in [(&zeros, &row), (&row, &zeros), (&zeros, &zeros)] {
            let out = attend_one(head_dim, key, &row, query, [8; 4]);
            assert!(out.iter().all(|v| (v - 1000).abs() < 40), "{head_dim}: {out:?}");
        }
        // More fraction bits than an i32 has room for.
        let out = attend_one(head_dim, &row, &vec![-1000; head_dim], &row, [8, 0, 8, 30]);
        assert!(out.iter().all(|&v| v == i32::MIN), "{out:?}");
    }
}

/// Scores far beyond what a softmax can weigh: the largest one alone counts, whatever the order.
#[test]
fn huge_scores_leave_the_largest_alone() {
    for flip in [false, true] {
        let mut memory = vec![0; 20_000];
        let mut cache =
            KvCache::new(KvShape::new(1, 1, 64), Policy::EIGHT_BIT, Backend::detect(), &mut memory).unwrap();
        for t in 0..unless_miri(40i16, 12) {
            let large = if flip { t == 3 } else { t == unless_miri(37, 9) };
            let key = [if large { 32_000i16 } else { 31_000 }; 64];
            let value = [if large { 500i16 } else { t }; 64];
            cache.append_fixed(0, 1, Fixed::new(&key, -4), Fixed::new(&value, 4)).unwrap();
        }
        let mut out = [0; 64];
        cache.attend_fixed(0, 1, Fixed::new(&[30_000i16; 64], -4), &mut out, 4).unwrap();
        assert!(out.iter().all(|v| (v - 500).abs() < 20), "{out:?}");
    }
}

/// Values whose scales lie far apart: the unit of the sums follows, and the small ones are not lost before.
#[test]
fn values_of_every_scale_are_summed() {
    for up in [false, true] {
        let mut memory = vec![0; 200_000];
        let policy = Policy { n_sink: 0, ..Policy::EIGHT_BIT };
        let mut cache = KvCache::new(KvShape::new(1, 1, 32), policy, Backend::detect(), &mut memory).unwrap();
        let n: i32 = unless_miri(600, 12);
        let mut expected = 0.0;
        for t in 0..n {
            let e = 30 * if up { t } else { n - 1 - t } / n;
            cache
                .append_fixed(0, 1, Fixed::new(&[0i16; 32], 0), Fixed::new(&[1000i16; 32], -(e as i8)))
                .unwrap();
            expected += 1000.0 * f64::from(e).exp2() / f64::from(n);
        }
        let mut out = [0; 32];
        cache.attend_fixed(0, 1, Fixed::new(&[1i16; 32], 0), &mut out, -8).unwrap();
        for v in out {
            let got = f64::from(v) * 256.0;
            assert!((got / expected - 1.0).abs() < 0.05, "{up}: {got} {expected}");
        }
    }
}

#[test]
fn what_is_refused_leaves_the_cache_as_it_was() {
    let shape = KvShape::new(2, 2, 32);
    let policy = lighter(Policy { span_len: 16, recent_len: 16, ..Policy::FOUR_X });
    let policy = policy.with_byte_budget(WhenFull::Demote);
    let mut memory = vec![0; kvq_codec::minimum_bytes(shape, policy).unwrap()];
    let mut cache = KvCache::new(shape, policy, Backend::SCALAR, &mut memory).unwrap();
    let row = [100i16; 3 * 64];
    let fixed = |n: usize, bits| Fixed::new(&row[..n], bits);
    cache.append_fixed(0, 3, fixed(192, 4), fixed(192, 4)).unwrap();
    let before = snapshot(&cache);
    let refused = [
        (cache.append_fixed(2, 1, fixed(64, 4), fixed(64, 4)), Error::Layer { n_layers: 2, got: 2 }),
        (
            cache.append_fixed(0, 1, fixed(63, 4), fixed(64, 4)),
            Error::Length { argument: "keys", needed: 64, got: 63 },
        ),
        (
            cache.append_fixed(0, 1, fixed(64, 4), fixed(65, 4)),
            Error::Length { argument: "values", needed: 64, got: 65 },
        ),
        (cache.append_fixed(0, 1, fixed(64, 65), fixed(64, 4)), Error::FractionBits { got: 65 }),
        (cache.append_fixed(0, 1, fixed(64, 4), fixed(64, i8::MIN)), Error::FractionBits { got: -128 }),
    ];
    for (outcome, error) in refused {
        assert_eq!(outcome.unwrap_err(), error);
    }
    let mut out = [5; 64];
    let attend = |layer, n_tokens, queries, out: &mut [i32], bits| {
        cache.attend_fixed(layer, n_tokens, queries, out, bits).unwrap_err()
    };
    assert_eq!(attend(9, 1, fixed(64, 4), &mut out, 4), Error::Layer { n_layers: 2, got: 9 });
    assert_eq!(attend(0, 1, fixed(63, 4), &mut out, 4), Error::QueryHeads { multiple_of: 64, got: 63 });
    assert_eq!(attend(0, 1, fixed(0, 4), &mut out, 4), Error::QueryHeads { multiple_of: 64, got: 0 });
    assert_eq!(attend(1, 1, fixed(64, 4), &mut out, 4), Error::PastEnd { len: 0, got: 1 });
    assert!(matches!(attend(0, 1, fixed(64, 4), &mut out[1..], 4), Error::Length { argument: "out", .. }));
    assert_eq!(attend(0, 1, fixed(64, -65), &mut out, 4), Error::FractionBits { got: -65 });
    assert_eq!(attend(0, 1, fixed(64, 4), &mut out, 100), Error::FractionBits { got: 100 });
    assert_eq!(out, [5; 64]);
    assert!(snapshot(&cache) == before);
    let (n, values) = unless_miri((1, 64), (3, 192));
    let full = (0..2000).find_map(|_| {
        let before = snapshot(&cache);
        let error = cache.append_fixed(0, n, fixed(values, 4), fixed(values, 4)).err()?;
        Some((error, snapshot(&cache) == before))
    });
    assert!(matches!(full, Some((Error::Full { .. }, true))), "{full:?}");
}
