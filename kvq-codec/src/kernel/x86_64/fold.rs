//! Scores to weights, eight tokens at a time; the same operations in the same order as `kernel::fold`. No product is fused
//! with the sum it goes into: a weight that is rounded otherwise is a unit off.

use core::arch::x86_64::*;

use super::load::{load_eight_floats, load_eight_ints, store_eight, store_floats};
use crate::kernel::{Fold, FoldState, SEGMENT};
use crate::math::exp_nonpositive;

#[target_feature(enable = "avx2,fma")]
pub(super) fn fold(fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
    let n = fold.n.div_ceil(8).min(SEGMENT / 8);
    let mut score = [[0.0f32; 8]; SEGMENT / 8];
    let score = &mut score[..n];
    let mut peak = scale_scores(fold, score);
    if fold.from > 0 || fold.to < 8 * n {
        peak = hide(fold, score);
    }
    let peak = across(peak, |a, b| _mm_max_ps(a, b)).max(state.max);
    if peak == f32::NEG_INFINITY {
        weights.fill(0);
        return (1.0, 0.0);
    }
    let (mut sum, mut largest) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for (score, scales) in score.iter_mut().zip(fold.value_scales.as_chunks::<8>().0) {
        let weight = exp8(_mm256_sub_ps(load_eight_floats(score), _mm256_set1_ps(peak)));
        sum = _mm256_add_ps(sum, weight);
        let scaled = _mm256_mul_ps(weight, load_eight_floats(scales));
        largest = _mm256_max_ps(largest, scaled);
        store_floats(score, scaled);
    }
    let rescale = rescale(state.max, peak);
    *state = FoldState { max: peak, sum: state.sum * rescale + across(sum, |a, b| _mm_add_ps(a, b)) };
    let largest = heaviest_two(largest);
    if largest < f32::MIN_POSITIVE * 65_536.0 {
        weights.fill(0);
        return (rescale, 0.0);
    }
    let inverse = _mm256_set1_ps(fold.max_weight / largest);
    for (weights, score) in weights.as_chunks_mut::<8>().0.iter_mut().zip(&*score) {
        let integers = _mm256_cvtps_epi32(_mm256_mul_ps(load_eight_floats(score), inverse));
        let halves = _mm_packs_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
        store_eight(weights, halves);
    }
    (rescale, largest / fold.max_weight)
}

/// What the sums before are worth when the largest score goes from `max` to `peak`: mostly it stays.
#[inline]
pub(super) fn rescale(max: f32, peak: f32) -> f32 {
    if max == peak { 1.0 } else { exp_nonpositive(max - peak) }
}

/// Integer scores to scores; returns the largest of each lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn scale_scores(fold: &Fold<'_>, score: &mut [[f32; 8]]) -> __m256 {
    let (factor, bias) = (_mm256_set1_ps(fold.factor), _mm256_set1_ps(fold.bias));
    let inputs = fold.scores.as_chunks::<8>().0.iter().zip(fold.key_scales.as_chunks::<8>().0);
    let mut peak = _mm256_set1_ps(f32::NEG_INFINITY);
    for (score, (integers, scales)) in score.iter_mut().zip(inputs) {
        let integers = _mm256_cvtepi32_ps(load_eight_ints(integers));
        let scaled = _mm256_mul_ps(_mm256_mul_ps(integers, load_eight_floats(scales)), factor);
        let value = _mm256_add_ps(scaled, bias);
        // In this order a score that is no number, as hostile scales have it, leaves the peak.
        peak = _mm256_max_ps(value, peak);
        store_floats(score, value);
    }
    peak
}

/// Takes away the scores of tokens that the query does not see; returns the largest of each lane.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn hide(fold: &Fold<'_>, score: &mut [[f32; 8]]) -> __m256 {
    let none = _mm256_set1_ps(f32::NEG_INFINITY);
    // Token `t` is visible where `from - 1 < t < to`.
    let before = _mm256_set1_epi32(fold.from as i32 - 1);
    let to = _mm256_set1_epi32(fold.to as i32);
    let mut token = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mut peak = none;
    for score in score {
        let visible = _mm256_and_si256(_mm256_cmpgt_epi32(token, before), _mm256_cmpgt_epi32(to, token));
        let value = _mm256_blendv_ps(none, load_eight_floats(score), _mm256_castsi256_ps(visible));
        peak = _mm256_max_ps(value, peak);
        store_floats(score, value);
        token = _mm256_add_epi32(token, _mm256_set1_epi32(8));
    }
    peak
}

/// [`exp_nonpositive`] of eight values.
#[inline]
#[target_feature(enable = "avx2")]
fn exp8(x: __m256) -> __m256 {
    let t = _mm256_mul_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.5)), _mm256_set1_ps(core::f32::consts::LOG2_E));
    let magic = _mm256_set1_ps(12_582_912.0);
    let shifted = _mm256_add_ps(t, magic);
    let f = _mm256_sub_ps(t, _mm256_sub_ps(shifted, magic));
    let mut p = _mm256_set1_ps(crate::math::EXP2_TERMS[0]);
    for term in crate::math::EXP2_TERMS.into_iter().skip(1) {
        p = _mm256_add_ps(_mm256_set1_ps(term), _mm256_mul_ps(f, p));
    }
    let exponent =
        _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23), _mm256_set1_epi32(0x3f80_0000));
    let value = _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
    let too_small = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0), _CMP_LT_OQ);
    _mm256_andnot_ps(too_small, value)
}

/// The largest sum of two neighbouring lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn heaviest_two(v: __m256) -> f32 {
    across(_mm256_add_ps(v, _mm256_permute_ps::<0b10_11_00_01>(v)), |a, b| _mm_max_ps(a, b))
}

/// Reduces eight lanes in the order of `kernel::fold`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn across(v: __m256, combine: impl Fn(__m128, __m128) -> __m128) -> f32 {
    let four = combine(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    let two = combine(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(combine(two, _mm_movehdup_ps(two)))
}
