//! Scores to weights, sixteen tokens at a time, with the same bits as `kernel::fold`.

use core::arch::x86_64::*;

use super::super::fold::{across, heaviest_two, rescale};
use super::load::{load_floats, load_ints, store_weights};
use crate::kernel::{Fold, FoldState, SEGMENT};
use crate::math::EXP2_TERMS;

/// Registers of a whole segment.
const REGISTERS: usize = SEGMENT / 16;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) fn fold(fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
    let n = fold.n.div_ceil(16).min(REGISTERS);
    let none = _mm512_set1_ps(f32::NEG_INFINITY);
    let (factor, bias) = (_mm512_set1_ps(fold.factor), _mm512_set1_ps(fold.bias));
    let mut visible = tokens(fold.from, fold.to);
    let mut score = [none; REGISTERS];
    let mut peak = none;
    let inputs = fold.scores.as_chunks::<16>().0.iter().zip(fold.key_scales.as_chunks::<16>().0);
    for (score, (integers, scales)) in score.iter_mut().zip(inputs).take(n) {
        let integers = _mm512_cvtepi32_ps(load_ints(integers));
        let scaled = _mm512_mul_ps(_mm512_mul_ps(integers, load_floats(scales)), factor);
        *score = _mm512_mask_blend_ps(visible as u16, none, _mm512_add_ps(scaled, bias));
        // In this order a score that is no number, as hostile scales have it, leaves the peak.
        peak = _mm512_max_ps(*score, peak);
        visible >>= 16;
    }
    let peak = _mm512_reduce_max_ps(peak).max(state.max);
    if peak == f32::NEG_INFINITY {
        weights.fill(0);
        return (1.0, 0.0);
    }
    let (mut sum, mut largest) = (_mm256_setzero_ps(), _mm512_setzero_ps());
    for (score, scales) in score.iter_mut().zip(fold.value_scales.as_chunks::<16>().0).take(n) {
        let weight = exp16(_mm512_sub_ps(*score, _mm512_set1_ps(peak)));
        // Lane by lane of eight, as everywhere.
        sum = _mm256_add_ps(sum, _mm512_castps512_ps256(weight));
        sum = _mm256_add_ps(sum, upper_half(weight));
        *score = _mm512_mul_ps(weight, load_floats(scales));
        largest = _mm512_max_ps(largest, *score);
    }
    let rescale = rescale(state.max, peak);
    *state = FoldState { max: peak, sum: state.sum * rescale + across(sum, |a, b| _mm_add_ps(a, b)) };
    let largest = heaviest_two(_mm256_max_ps(_mm512_castps512_ps256(largest), upper_half(largest)));
    if largest < f32::MIN_POSITIVE * 65_536.0 {
        weights.fill(0);
        return (rescale, 0.0);
    }
    let inverse = _mm512_set1_ps(fold.max_weight / largest);
    for (weights, score) in weights.as_chunks_mut::<16>().0.iter_mut().zip(score).take(n) {
        let integers = _mm512_cvtps_epi32(_mm512_mul_ps(score, inverse));
        store_weights(weights, _mm512_cvtsepi32_epi16(integers));
    }
    (rescale, largest / fold.max_weight)
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
