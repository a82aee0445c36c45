//! Scores to weights, sixteen tokens at a time, with the same bits as `kernel::fold`.

use core::arch::x86_64::*;

use super::super::fold::{across, heaviest_two, rescale};
use super::load::{load_floats, load_ints, store_numbers, store_weights};
use crate::kernel::{Fold, FoldState, SEGMENT};
use crate::math::EXP2_TERMS;

/// Registers of a whole segment.
const REGISTERS: usize = SEGMENT / 16;

/// The rows of `N` queries over one segment, side by side: each step of a row waits for the one before.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) fn fold<const N: usize>(
    folds: &[Fold<'_>; N],
    states: &mut [&mut FoldState; N],
    weights: &mut [[i16; SEGMENT]; N],
) -> [(f32, f32); N] {
    // Loops of a length that is known when they are compiled keep everything in registers.
    let some = if folds.iter().all(|fold| fold.n <= 16) {
        fold_visible::<N, 1>(folds, states, weights)
    } else {
        fold_visible::<N, REGISTERS>(folds, states, weights)
    };
    if let Some(steps) = some {
        return steps;
    }
    let mut steps = [(1.0, 0.0); N];
    for (((step, fold), state), weights) in steps.iter_mut().zip(folds).zip(states).zip(weights) {
        *step = super::super::fold::fold(fold, state, weights);
    }
    steps
}

/// `R` registers of tokens, those of a segment or more: what lies behind it is not visible. `None`, and nothing done,
/// where a query sees nothing, or nothing but values of zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn fold_visible<const N: usize, const R: usize>(
    folds: &[Fold<'_>; N],
    states: &mut [&mut FoldState; N],
    weights: &mut [[i16; SEGMENT]; N],
) -> Option<[(f32, f32); N]> {
    let none = _mm512_set1_ps(f32::NEG_INFINITY);
    let (mut score, mut peak) = ([[none; N]; R], [none; N]);
    for (r, score) in score.iter_mut().enumerate() {
        for q in 0..N {
            let fold = &folds[q];
            let visible = (tokens(fold.from, fold.to) >> (16 * r)) as u16;
            let integers = _mm512_cvtepi32_ps(load_ints(&fold.scores.as_chunks::<16>().0[r]));
            let scales = load_floats(&fold.key_scales.as_chunks::<16>().0[r]);
            let scaled = _mm512_mul_ps(_mm512_mul_ps(integers, scales), _mm512_set1_ps(fold.factor));
            let biased = _mm512_add_ps(scaled, _mm512_set1_ps(fold.bias));
            score[q] = _mm512_mask_blend_ps(visible, none, biased);
            // In this order a score that is no number, as hostile scales have it, leaves the peak.
            peak[q] = _mm512_max_ps(score[q], peak[q]);
        }
    }
    let mut peaks = [0.0; N];
    for q in 0..N {
        peaks[q] = _mm512_reduce_max_ps(peak[q]).max(states[q].max);
    }
    if peaks.contains(&f32::NEG_INFINITY) {
        return None;
    }
    let (mut sum, mut largest) = ([_mm256_setzero_ps(); N], [_mm512_setzero_ps(); N]);
    for (r, score) in score.iter_mut().enumerate() {
        for q in 0..N {
            let weight = exp16(_mm512_sub_ps(score[q], _mm512_set1_ps(peaks[q])));
            // Lane by lane of eight, as everywhere.
            sum[q] = _mm256_add_ps(sum[q], _mm512_castps512_ps256(weight));
            sum[q] = _mm256_add_ps(sum[q], upper_half(weight));
            score[q] = _mm512_mul_ps(weight, load_floats(&folds[q].value_scales.as_chunks::<16>().0[r]));
            largest[q] = _mm512_max_ps(largest[q], score[q]);
        }
    }
    let mut heaviest = [0.0; N];
    for q in 0..N {
        let eight = _mm256_max_ps(_mm512_castps512_ps256(largest[q]), upper_half(largest[q]));
        heaviest[q] = heaviest_two(eight);
        if heaviest[q] < f32::MIN_POSITIVE * 65_536.0 {
            return None;
        }
    }
    let mut steps = [(1.0, 0.0); N];
    for q in 0..N {
        let rescale = rescale(states[q].max, peaks[q]);
        let sum = across(sum[q], |a, b| _mm_add_ps(a, b));
        *states[q] = FoldState { max: peaks[q], sum: states[q].sum * rescale + sum };
        let inverse = _mm512_set1_ps(folds[q].max_weight / heaviest[q]);
        let integers = score.map(|score| _mm512_cvtps_epi32(_mm512_mul_ps(score[q], inverse)));
        put(&integers, &mut weights[q]);
        steps[q] = (rescale, heaviest[q] / folds[q].max_weight);
    }
    Some(steps)
}

/// Stores sixteen weights for each register, 32 at a time, as they are read: narrower stores would keep a wide load waiting.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn put<const R: usize>(integers: &[__m512i; R], weights: &mut [i16; SEGMENT]) {
    let (twos, rest) = integers.as_chunks::<2>();
    let (to_twos, _) = weights.as_chunks_mut::<32>();
    for (&[a, b], weights) in twos.iter().zip(to_twos) {
        let quarters = _mm512_packs_epi32(a, b);
        let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        store_numbers(weights, _mm512_permutexvar_epi64(order, quarters));
    }
    let to_rest = weights.as_chunks_mut::<16>().0.iter_mut().skip(2 * twos.len());
    for (&integers, weights) in rest.iter().zip(to_rest) {
        store_weights(weights, _mm512_cvtsepi32_epi16(integers));
    }
}

/// A bit for each token of `from..to`.
fn tokens(from: usize, to: usize) -> u64 {
    let below = |t: usize| if t < 64 { (1u64 << t) - 1 } else { u64::MAX };
    below(to) & !below(from)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn upper_half(v: __m512) -> __m256 {
    _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)))
}

/// [`exp_nonpositive`](crate::math::exp_nonpositive) of sixteen values; what is below its limit may come as anything.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp16(x: __m512) -> __m512 {
    let t = _mm512_mul_ps(x, _mm512_set1_ps(core::f32::consts::LOG2_E));
    let magic = _mm512_set1_ps(12_582_912.0);
    let whole = _mm512_sub_ps(_mm512_add_ps(t, magic), magic);
    let f = _mm512_sub_ps(t, whole);
    let mut p = _mm512_set1_ps(EXP2_TERMS[0]);
    for term in EXP2_TERMS.into_iter().skip(1) {
        p = _mm512_add_ps(_mm512_set1_ps(term), _mm512_mul_ps(f, p));
    }
    let large_enough = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, _mm512_set1_ps(-87.0));
    _mm512_maskz_scalef_ps(large_enough, p, whole)
}
