//! One segment's scores into the running softmax.
//!
//! Attention reads a segment of at most 64 tokens at a time and keeps, per query, the largest score so far
//! and the sum of weights relative to it (online softmax: Milakov and Gimelshein, arXiv 1805.02867). The
//! segment's weights, times the scales of its value blocks, become integers relative to their largest, so
//! that the value sum is one of integers and floats appear once per segment.

use super::SEGMENT;
use crate::math::{exp_nonpositive, round_to_i32};

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
    /// Largest integer weight: 127 or 32,767.
    pub max_weight: f32,
}

/// Updates `state`, writes the integer weights, and returns the factor for what was summed before and the
/// value of one weight unit.
#[inline(always)]
pub(crate) fn fold(fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
    let mut score = [f32::NEG_INFINITY; SEGMENT];
    for (t, s) in score.iter_mut().enumerate() {
        let value = fold.scores[t] as f32 * fold.key_scales[t] * fold.factor + fold.bias;
        *s = if t >= fold.from && t < fold.to { value } else { f32::NEG_INFINITY };
    }
    let peak = lanes(&score, f32::NEG_INFINITY, f32::max).max(state.max);
    if peak == f32::NEG_INFINITY {
        weights.fill(0);
        return (1.0, 0.0);
    }
    for s in &mut score {
        *s = exp_nonpositive(*s - peak);
    }
    let rescale = exp_nonpositive(state.max - peak);
    *state = FoldState { max: peak, sum: state.sum * rescale + lanes(&score, 0.0, |a, b| a + b) };
    for (s, scale) in score.iter_mut().zip(fold.value_scales) {
        *s *= scale;
    }
    let largest = lanes(&score, 0.0, f32::max);
    if largest < f32::MIN_POSITIVE * 65_536.0 {
        weights.fill(0);
        return (rescale, 0.0);
    }
    let inverse = fold.max_weight / largest;
    for (w, s) in weights.iter_mut().zip(score) {
        *w = round_to_i32(s * inverse) as i16;
    }
    (rescale, largest / fold.max_weight)
}

/// Reduces in eight lanes, then the lanes: an order that every backend keeps.
#[inline(always)]
fn lanes(values: &[f32; SEGMENT], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lane = [start; 8];
    for chunk in values.as_chunks::<8>().0 {
        for (l, v) in lane.iter_mut().zip(chunk) {
            *l = combine(*l, *v);
        }
    }
    let four = [
        combine(lane[0], lane[4]),
        combine(lane[1], lane[5]),
        combine(lane[2], lane[6]),
        combine(lane[3], lane[7]),
    ];
    combine(combine(four[0], four[2]), combine(four[1], four[3]))
}
