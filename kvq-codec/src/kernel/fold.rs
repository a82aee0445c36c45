//! One segment's scores into the running softmax.
//!
//! Attention reads a segment of at most 64 tokens at a time and keeps, per query, the largest score so far
//! and the sum of weights relative to it (online softmax: Milakov and Gimelshein, arXiv 1805.02867). The
//! segment's weights, times the scales of its value blocks, become integers, so that the value sum is one of
//! integers and floats appear once per segment. Their unit is such that no two neighbours weigh more than 255
//! together: a multiply-add of two bytes by two levels then stays within 16 bits, and a token that outweighs all
//! others, where fine steps matter, has a whole byte for itself.

use super::SEGMENT;
use crate::math::{exp_nonpositive, larger, round_to_i32};

/// The running softmax of one query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoldState {
    /// Largest score so far.
    pub max: f32,
    /// Sum of `e^(score - max)`.
    pub sum: f32,
}

impl FoldState {
    pub const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// What a segment brings to the fold.
pub(crate) struct Fold<'a> {
    /// Tokens in the segment.
    pub n: usize,
    /// Integer scores.
    pub scores: &'a [i32; SEGMENT],
    /// Scales of the key blocks.
    pub key_scales: &'a [f32; SEGMENT],
    /// Scales of the value blocks.
    pub value_scales: &'a [f32; SEGMENT],
    /// Query scale times softmax scale.
    pub factor: f32,
    /// Score of the span's center, already scaled.
    pub bias: f32,
    /// Tokens `from..to` are visible to this query.
    pub from: usize,
    /// See `from`.
    pub to: usize,
    /// The most that two neighbours weigh together, before each is rounded: 255 or 32,767.
    pub max_weight: f32,
}

/// Updates `state`, writes the integer weights, and returns the factor for what was summed before and the
/// value of one weight unit.
///
/// Weights are written for whole eights of tokens: those that are not visible get 0, later ones are left.
#[inline(always)]
pub(crate) fn fold(fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
    let mut score = [[0.0f32; 8]; SEGMENT / 8];
    let n = fold.n.div_ceil(8).min(SEGMENT / 8);
    let score = &mut score[..n];
    let key_scales = fold.key_scales.as_chunks::<8>().0;
    let inputs = fold.scores.as_chunks::<8>().0.iter().zip(key_scales);
    let mut first = 0;
    let mut peak = [f32::NEG_INFINITY; 8];
    for (score, (integers, scales)) in score.iter_mut().zip(inputs) {
        for i in 0..8 {
            let value = integers[i] as f32 * scales[i] * fold.factor + fold.bias;
            let t = (first + i) as i32;
            let visible = t >= fold.from as i32 && t < fold.to as i32;
            score[i] = if visible { value } else { f32::NEG_INFINITY };
            peak[i] = larger(peak[i], score[i]);
        }
        first += 8;
    }
    let peak = larger(across(peak, larger), state.max);
    if peak == f32::NEG_INFINITY {
        weights.fill(0);
        return (1.0, 0.0);
    }
    let mut sum = [0.0f32; 8];
    let mut largest = [0.0f32; 8];
    for (score, scales) in score.iter_mut().zip(fold.value_scales.as_chunks::<8>().0) {
        for i in 0..8 {
            let weight = exp_nonpositive(score[i] - peak);
            sum[i] += weight;
            score[i] = weight * scales[i];
            largest[i] = larger(largest[i], score[i]);
        }
    }
    let rescale = exp_nonpositive(state.max - peak);
    *state = FoldState { max: peak, sum: state.sum * rescale + across(sum, |a, b| a + b) };
    let largest = heaviest_two(largest);
    if largest < f32::MIN_POSITIVE * 65_536.0 {
        weights.fill(0);
        return (rescale, 0.0);
    }
    let inverse = fold.max_weight / largest;
    for (weights, score) in weights.as_chunks_mut::<8>().0.iter_mut().zip(&*score) {
        for i in 0..8 {
            weights[i] = round_to_i32(score[i] * inverse) as i16;
        }
    }
    (rescale, largest / fold.max_weight)
}

/// The largest sum of two neighbouring lanes.
fn heaviest_two([a, b, c, d, e, f, g, h]: [f32; 8]) -> f32 {
    larger(larger(a + b, c + d), larger(e + f, g + h))
}

/// Reduces eight lanes in an order that every backend keeps.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline(always))]
fn across(lane: [f32; 8], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let four = [
        combine(lane[0], lane[4]),
        combine(lane[1], lane[5]),
        combine(lane[2], lane[6]),
        combine(lane[3], lane[7]),
    ];
    combine(combine(four[0], four[2]), combine(four[1], four[3]))
}
