//! Every backend against the portable code: equal integers, equal codes, floats within a bound.

use super::*;
use crate::block::{MAX_PLANES, PlanePlace, Planes};
use crate::math::mantissa;
use crate::pack::plane_row_bytes;
use crate::quantize::span::normalise;
use std::{vec, vec::Vec};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
}

/// `all`, or some under Miri, which takes a thousand times as long.
fn few<'a, T>(all: &'a [T], some: &'a [T]) -> &'a [T] {
    if cfg!(miri) { some } else { all }
}

/// The kernels for Arm say themselves what its instructions compute, so that they run here, too.
fn others() -> impl Iterator<Item = Backend> {
    Backend::available().filter(|b| *b != Backend::SCALAR).chain([Backend(Kind::Arm)])
}

fn for_each_case(mut case: impl FnMut(Backend, Layout, Rows<'_>, HeadRow, usize, &mut Random)) {
    let mut random = Random(0x1234_5678_9abc_def1);
    for backend in others() {
        for layout in Layout::ALL.into_iter().filter(|layout| layout.is_available()) {
            for &head_dim in few(&[8usize, 32, 64, 80, 96, 128, 192, 256], &[32]) {
                let heads = if head_dim < 32 { 32 / head_dim } else { 1 };
                let block_values = heads * head_dim;
                for &n in few(&[1usize, 2, 3, 7, 8, 16, 31, 64], &[11]) {
                    for &tokens_log2 in few(&[0u32, 3, 6], &[3]) {
                        let head = HeadRow { block_values, offset: (heads - 1) * head_dim, head_dim };
                        let (units, ids, planes) = random_units(layout, head, tokens_log2, &mut random);
                        let unit_bytes = units.len() / (ids.len() / 4);
                        let rows = Rows::in_units(&units, unit_bytes, &ids, planes, n);
                        for n_queries in (1..=TILE).step_by(if cfg!(miri) { 3 } else { 1 }) {
                            case(backend, layout, rows, head, n_queries, &mut random);
                        }
                    }
                }
            }
        }
    }
}

/// Units of random codes for up to 64 tokens, in descending order.
fn random_units(
    layout: Layout,
    head: HeadRow,
    tokens_log2: u32,
    random: &mut Random,
) -> (Vec<u8>, Vec<u8>, Planes) {
    let units_of_plane = 64 >> tokens_log2;
    let mut planes = [PlanePlace::default(); MAX_PLANES];
    for (p, (&width, place)) in layout.planes().iter().zip(&mut planes).enumerate() {
        let row_bytes = plane_row_bytes(width, head.block_values);
        *place = PlanePlace {
            offset: 5,
            row_bytes: row_bytes as u16,
            first_unit: (p * units_of_plane) as u8,
            tokens_log2: tokens_log2 as u8,
        };
    }
    let n_planes = layout.planes().len();
    let n_units = (n_planes * units_of_plane) as u32;
    let unit_bytes = 5 + (usize::from(planes[0].row_bytes) << tokens_log2);
    // Codes of 8 bits are never -128.
    let code = |random: &mut Random| ((random.next() % 255) as u8).max(1) ^ 0x80;
    let units = (0..n_units as usize * unit_bytes).map(|_| code(random)).collect();
    let ids = (0..n_units).rev().flat_map(u32::to_le_bytes).collect();
    (units, ids, Planes::new(planes, n_planes))
}

#[test]
fn the_fastest_backend_is_detected_unless_another_is_forced() {
    let neon = Backend::neon().is_some();
    assert_eq!(neon, cfg!(all(target_arch = "aarch64", target_endian = "little")));
    let forced = if cfg!(kvq_force_avx2) { Backend::avx2() } else { None };
    let forced = if cfg!(kvq_force_scalar) { Some(Backend::SCALAR) } else { forced };
    assert_eq!(forced.or(Backend::available().last()), Some(Backend::detect()));
}

#[test]
fn scores_are_the_same_integers() {
    for_each_case(|backend, layout, rows, head, n, random| {
        let mut queries = Queries { n, ..Queries::EMPTY };
        queries.rows.iter_mut().flatten().for_each(|c| *c = ((random.next() % 255) as i8).max(-127));
        let wide = queries.wide_rows.iter_mut().flatten();
        wide.for_each(|c| *c = (random.next() as i16).max(-32_767));
        queries.pair_up(head.head_dim);
        let (mut expected, mut got) = ([[7; SEGMENT]; TILE], [[7; SEGMENT]; TILE]);
        let mut levels = Levels::new();
        Backend::SCALAR.score_keys(layout, &rows, head, &queries, &mut levels, &mut expected);
        // Unpacked for these queries alone, for several tiles, and read by the second of them.
        for shared in [Some(false), Some(true), None] {
            if let Some(shared) = shared {
                levels.forget(shared);
            }
            backend.score_keys(layout, &rows, head, &queries, &mut levels, &mut got);
            for (expected, got) in expected.iter().zip(&mut got) {
                let n = rows.n;
                assert_eq!(
                    expected[..n],
                    got[..n],
                    "{} {layout:?} {head:?} n {n} {shared:?}",
                    backend.name()
                );
                got.fill(7);
            }
        }
    });
}

#[test]
fn value_sums_are_the_same_integers() {
    for_each_case(|backend, layout, rows, head, n, random| {
        let mut weights = [[0i16; SEGMENT]; TILE];
        for pair in weights.iter_mut().flat_map(|w| w[..rows.n].chunks_mut(2)) {
            let mut left = 256;
            for weight in pair {
                let bound = if layout == Layout::Q8 { 32_768 } else { left.min(255) + 1 };
                *weight = (random.next() % bound) as i16;
                left -= (*weight as u64).min(left);
            }
        }
        let (mut expected, mut got) = ([[7; MAX_HEAD_DIM]; TILE], [[7; MAX_HEAD_DIM]; TILE]);
        let (weights, mut levels) = ((n, &weights), Levels::new());
        Backend::SCALAR.accumulate_values(layout, &rows, head, weights, &mut levels, &mut expected);
        for shared in [Some(false), Some(true), None] {
            if let Some(shared) = shared {
                levels.forget(shared);
            }
            backend.accumulate_values(layout, &rows, head, weights, &mut levels, &mut got);
            for (expected, got) in expected.iter().zip(&mut got) {
                let (d, n) = (head.head_dim, rows.n);
                assert_eq!(
                    expected[..d],
                    got[..d],
                    "{} {layout:?} {head:?} n {n} {shared:?}",
                    backend.name()
                );
                got.fill(7);
            }
        }
    });
}

#[test]
fn rows_are_encoded_and_rotated_to_the_same_bits() {
    let mut random = Random(99);
    for backend in others() {
        for &n in few(&[32usize, 40, 64, 80, 96, 128, 256], &[40]) {
            for _ in 0..if cfg!(miri) { 1 } else { 200 } {
                let row: Vec<i16> =
                    (0..n).map(|_| (random.next() % 60_000) as i32 - 30_000).map(|v| v as i16).collect();
                // Levels in units of 2^8, as rows that are encoded again have them; few values; the extremes.
                let levels = row.iter().map(|r| (r % 16) << 8).collect();
                let spike = (0..n).map(|i| if i == n / 3 { row[0] } else { 0 }).collect();
                let extremes = row.iter().map(|r| if r % 2 == 0 { i16::MIN } else { i16::MAX }).collect();
                let rows = [row.clone(), levels, spike, extremes];
                for row in rows.into_iter().take(if cfg!(miri) { 1 } else { 4 }) {
                    for layout in Layout::ALL.into_iter().skip(1).filter(|layout| layout.is_available()) {
                        let (mut a, mut b) = ([0; 256], [0; 256]);
                        let fa = Backend::SCALAR.encode_row(layout, &row, &mut a[..n]);
                        let fb = backend.encode_row(layout, &row, &mut b[..n]);
                        assert_eq!((fa, a), (fb, b), "{} {layout:?} {row:?}", backend.name());
                    }
                }
                let mut x: Vec<f32> = row.iter().map(|&r| f32::from(r) * 1.7e-3).collect();
                let mut y = x.clone();
                Backend::SCALAR.rotate(Rotation::new(n), &mut x);
                backend.rotate(Rotation::new(n), &mut y);
                assert_eq!(x, y);
                let (mut a, mut b) = ([0; 256], [0; 256]);
                assert_eq!(
                    Backend::SCALAR.encode_precise(&x, &mut a[..n]),
                    backend.encode_precise(&y, &mut b[..n])
                );
                assert_eq!(a, b);
                Backend::SCALAR.unrotate(Rotation::new(n), &mut x);
                backend.unrotate(Rotation::new(n), &mut y);
                assert_eq!(x, y);
            }
        }
    }
}

#[test]
fn planes_are_the_same_bytes() {
    let mut random = Random(3);
    for backend in others() {
        for layout in Layout::ALL.into_iter().filter(|layout| layout.is_available()) {
            for &n in few(&[4usize, 32, 60, 64, 96, 128, 192, 256], &[64]) {
                let codes: Vec<u8> = (0..n).map(|_| random.next() as u8).collect();
                let mut shift = 0;
                for &width in layout.planes() {
                    let row_bytes = plane_row_bytes(width, n);
                    let (mut expected, mut got) = (vec![1; row_bytes], vec![2; row_bytes]);
                    Backend::SCALAR.put_plane(width, shift, &codes, &mut expected);
                    backend.put_plane(width, shift, &codes, &mut got);
                    assert_eq!(expected, got, "{} {layout:?} {n} {width} {shift}", backend.name());
                    shift += u32::from(width);
                }
            }
        }
    }
}

#[test]
fn rows_against_a_center_are_the_same_integers() {
    let mut random = Random(17);
    for backend in others() {
        for &n in few(&[16usize, 48, 64, 128, 256], &[16]) {
            for up in [0, 5, 11, 19] {
                let scale = FixedScale { up, mantissa: mantissa(random.next() as i32) };
                let codes: Vec<u8> = (0..n).map(|_| ((random.next() % 255) as i8).max(-127) as u8).collect();
                let center: Vec<i32> = (0..n).map(|_| (random.next() as i32) >> 8).collect();
                let fixed = |i: usize| {
                    let product = i64::from(i32::from(codes[i] as i8) << up) * i64::from(scale.mantissa);
                    ((product + (1 << 31)) >> 32) as i32
                };
                let mut sum = center.clone();
                if backend.add_fixed(&codes, scale, &mut sum) {
                    assert!((0..n).all(|i| sum[i] == center[i] + fixed(i)), "{} {n}", backend.name());
                }
                // Centers that are far larger and far smaller than the rows: shifts both ways.
                for down in [0, 12, 23] {
                    let center: Vec<i32> = center.iter().map(|c| c >> down).collect();
                    let residual: Vec<i32> = (0..n).map(|i| fixed(i) - center[i]).collect();
                    let (mut expected, mut got) = (vec![1; n], vec![2; n]);
                    let shift = normalise(&residual, &mut expected);
                    if let Some(got_shift) = backend.residual_into(&codes, scale, &center, &mut got) {
                        assert_eq!((shift, &expected), (got_shift, &got), "{} {n} {up}", backend.name());
                    }
                }
            }
        }
    }
}

#[test]
fn scales_and_folds_agree() {
    let mut random = Random(5);
    for backend in others() {
        for base in [-1100i16, -900, -20, 0, 300, 1100] {
            let bytes: Vec<u8> =
                (0..SEGMENT).map(|i| if i == 3 { 255 } else { random.next() as u8 }).collect();
            let (mut a, mut b) = ([0.0; SEGMENT], [0.0; SEGMENT]);
            Backend::SCALAR.scales_into(base, &bytes, &mut a);
            backend.scales_into(base, &bytes, &mut b);
            assert_eq!(a, b, "base {base}");
        }
        let mut scores = [0; SEGMENT];
        scores.iter_mut().for_each(|s| *s = (random.next() % 20_000) as i32 - 10_000);
        let mut scales = [0.0; SEGMENT];
        scales.iter_mut().for_each(|s| *s = (random.next() % 1000) as f32 * 1e-3);
        let fold = Fold {
            n: 61,
            scores: &scores,
            key_scales: &scales,
            value_scales: &scales,
            factor: 1e-3,
            bias: 0.3,
            from: 3,
            to: 60,
            max_weight: 255.0,
        };
        let (mut sa, mut sb) = (FoldState { max: -3.0, sum: 2.0 }, FoldState { max: -3.0, sum: 2.0 });
        let (mut wa, mut wb) = ([0; SEGMENT], [0; SEGMENT]);
        let ra = fold_one(Backend::SCALAR, &fold, &mut sa, &mut wa);
        let rb = fold_one(backend, &fold, &mut sb, &mut wb);
        assert!((ra.0 - rb.0).abs() < 1e-5 && (ra.1 - rb.1).abs() < 1e-5);
        assert!((sa.sum / sb.sum - 1.0).abs() < 1e-5 && (sa.max - sb.max).abs() < 1e-5);
        assert!(wa.iter().zip(&wb).all(|(a, b)| (a - b).abs() <= 1));
        assert!(wa[..3].iter().chain(&wa[60..]).all(|w| *w == 0));
        assert!(heaviest(&wa) >= 127 && heaviest_pair(&wa) <= 256);
    }
}

#[test]
fn rows_side_by_side_are_folded_as_each_alone() {
    check_rows_side_by_side::<2>();
    check_rows_side_by_side::<3>();
}

fn check_rows_side_by_side<const N: usize>() {
    let mut random = Random(13);
    for backend in others().chain([Backend::SCALAR]) {
        for n in [1, 15, 16, 17, 48, 64] {
            let mut scores = [[0; SEGMENT]; N];
            scores.iter_mut().flatten().for_each(|s| *s = (random.next() % 2_000) as i32 - 1_000);
            let mut scales = [0.0; SEGMENT];
            scales.iter_mut().for_each(|s| *s = (random.next() % 1000) as f32 * 1e-3);
            // The last row sees all, some, or nothing.
            for to in [n, n / 2, 0] {
                let folds = core::array::from_fn(|i| Fold {
                    n,
                    scores: &scores[i],
                    key_scales: &scales,
                    value_scales: &scales,
                    factor: 1e-2,
                    bias: 0.3 * i as f32,
                    from: 0,
                    to: if i == N - 1 { to } else { n },
                    max_weight: 255.0,
                });
                let (mut states, mut weights) = ([FoldState::EMPTY; N], [[0; SEGMENT]; N]);
                let steps = backend.fold(&folds, states.each_mut(), &mut weights);
                for (i, fold) in folds.iter().enumerate() {
                    let (mut state, mut alone) = (FoldState::EMPTY, [0; SEGMENT]);
                    assert_eq!(fold_one(backend, fold, &mut state, &mut alone), steps[i]);
                    assert_eq!((state.max, state.sum), (states[i].max, states[i].sum));
                    assert_eq!(alone[..n], weights[i][..n], "{} n {n} to {to}", backend.name());
                }
            }
        }
    }
}

fn fold_one(
    backend: Backend,
    fold: &Fold<'_>,
    state: &mut FoldState,
    weights: &mut [i16; SEGMENT],
) -> (f32, f32) {
    let [step] = backend.fold(core::array::from_ref(fold), [state], core::array::from_mut(weights));
    step
}

#[test]
fn a_token_that_outweighs_all_others_has_the_most_that_a_byte_holds() {
    let mut random = Random(11);
    for backend in others().chain([Backend::SCALAR]) {
        for peak in 0..SEGMENT {
            let mut scores = [0; SEGMENT];
            scores.iter_mut().for_each(|s| *s = (random.next() % 100) as i32);
            scores[peak] = 900;
            let (scales, n) = ([1.0; SEGMENT], SEGMENT);
            let fold = Fold {
                n,
                scores: &scores,
                key_scales: &scales,
                value_scales: &scales,
                factor: 1e-2,
                bias: 0.0,
                from: 0,
                to: n,
                max_weight: 255.0,
            };
            let mut weights = [0; SEGMENT];
            fold_one(backend, &fold, &mut { FoldState::EMPTY }, &mut weights);
            assert!((250..=255).contains(&weights[peak]), "{} {weights:?}", backend.name());
            assert!(heaviest_pair(&weights) <= 256);
        }
    }
}

fn heaviest(weights: &[i16; SEGMENT]) -> i16 {
    weights.iter().copied().max().unwrap_or(0)
}

fn heaviest_pair(weights: &[i16; SEGMENT]) -> i16 {
    weights.as_chunks::<2>().0.iter().map(|[a, b]| a + b).max().unwrap_or(0)
}
