//! Scores to weights, eight tokens at a time; the same operations in the same order as `kernel::fold`. No product is fused
//! with the sum it goes into: a weight that is rounded otherwise is a unit off.

use core::arch::x86_64::*;

use super::load::{load_eight_floats, load_eight_ints, store_eight};
use crate::kernel::{Fold, FoldState, SEGMENT};
use crate::math::exp_nonpositive;

/// Registers of a whole segment.
const REGISTERS: usize = SEGMENT / 8;

#[target_feature(enable = "avx2,fma")]
pub(super) fn fold(fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
    // Loops of a length that is known when they are compiled keep everything in registers.
    let step = if fold.n <= 8 {
        fold_visible::<1, false>(fold, state, weights)
    } else if fold.from == 0 && fold.n.min(fold.to) >= SEGMENT {
        fold_visible::<REGISTERS, true>(fold, state, weights)
    } else {
        fold_visible::<REGISTERS, false>(fold, state, weights)
    };
    step.unwrap_or_else(|| super::super::fold::fold(fold, state, weights))
}

/// `R` registers of tokens, those of a segment or more: what lies behind it is not visible, unless all is. `None`, and
/// nothing done, where the query sees nothing, or nothing but values of zero.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fold_visible<const R: usize, const ALL: bool>(
    fold: &Fold<'_>,
    state: &mut FoldState,
    weights: &mut [i16; SEGMENT],
) -> Option<(f32, f32)> {
    let none = _mm256_set1_ps(f32::NEG_INFINITY);
    let (scores, key_scales) = (fold.scores.as_chunks::<8>().0, fold.key_scales.as_chunks::<8>().0);
    let value_scales = fold.value_scales.as_chunks::<8>().0;
    let (factor, bias) = (_mm256_set1_ps(fold.factor), _mm256_set1_ps(fold.bias));
    let (mut score, mut peak) = ([none; R], none);
    for r in 0..R {
        let integers = _mm256_cvtepi32_ps(load_eight_ints(&scores[r]));
        let scaled = _mm256_mul_ps(_mm256_mul_ps(integers, load_eight_floats(&key_scales[r])), factor);
        score[r] = _mm256_add_ps(scaled, bias);
        if !ALL {
            score[r] = _mm256_blendv_ps(none, score[r], visible(fold, r));
        }
        // In this order a score that is no number, as hostile scales have it, leaves the peak.
        peak = _mm256_max_ps(score[r], peak);
    }
    let peak = across(peak, |a, b| _mm_max_ps(a, b)).max(state.max);
    if peak == f32::NEG_INFINITY {
        return None;
    }
    let (mut sum, mut largest) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for r in 0..R {
        let weight = exp8(_mm256_sub_ps(score[r], _mm256_set1_ps(peak)));
        sum = _mm256_add_ps(sum, weight);
        score[r] = _mm256_mul_ps(weight, load_eight_floats(&value_scales[r]));
        largest = _mm256_max_ps(largest, score[r]);
    }
    let heaviest = heaviest_two(largest);
    if heaviest < f32::MIN_POSITIVE * 65_536.0 {
        return None;
    }
    let rescale = rescale(state.max, peak);
    *state = FoldState { max: peak, sum: state.sum * rescale + across(sum, |a, b| _mm_add_ps(a, b)) };
    let inverse = _mm256_set1_ps(fold.max_weight / heaviest);
    let weights = weights.as_chunks_mut::<8>().0;
    for r in 0..R {
        let integers = _mm256_cvtps_epi32(_mm256_mul_ps(score[r], inverse));
        let halves = _mm_packs_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
        store_eight(&mut weights[r], halves);
    }
    Some((rescale, heaviest / fold.max_weight))
}

/// A mask of the `r`-th eight tokens: those that the query sees.
#[inline]
#[target_feature(enable = "avx2")]
fn visible(fold: &Fold<'_>, r: usize) -> __m256 {
    let token = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(8 * r as i32));
    // Token `t` is visible where `from - 1 < t < to`.
    let before = _mm256_set1_epi32(fold.from as i32 - 1);
    let to = _mm256_set1_epi32(fold.to as i32);
    _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(token, before), _mm256_cmpgt_epi32(to, token)))
}

/// What the sums before are worth when the largest score goes from `max` to `peak`: mostly it stays.
#[inline]
pub(super) fn rescale(max: f32, peak: f32) -> f32 {
    if max == peak { 1.0 } else { exp_nonpositive(max - peak) }
}

/// [`exp_nonpositive`] of eight values; 0 for what is no number.
#[inline]
#[target_feature(enable = "avx2")]
fn exp8(x: __m256) -> __m256 {
    let t = _mm256_mul_ps(x, _mm256_set1_ps(core::f32::consts::LOG2_E));
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
    // What is below may have come as anything.
    let large_enough = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0), _CMP_GE_OQ);
    _mm256_and_ps(large_enough, value)
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
