//! Portable kernels: what every other backend is tested against.

use super::{Fold, FoldState, HeadRow, Queries, SEGMENT, Scores, Sums, Weights};
use crate::block::{Layout, Run, levels_into};
use crate::math::exp2_8;
use crate::quantize::row::MAX_ROW;
use crate::quantize::span::block_exponent;
use crate::quantize::{precise, row, trellis};
use crate::rotate::Rotation;
use crate::shape::MAX_HEAD_DIM;

pub(super) fn encode_row(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    if layout.is_trellis() {
        trellis::encode_trellis(layout, &trellis::ScalarSearch, row, codes)
    } else {
        row::encode_scalar(layout, row, codes)
    }
}

pub(super) fn encode_precise(x: &[f32], codes: &mut [u8]) -> i16 {
    precise::encode_precise(x, codes)
}

pub(super) fn rotate(rotation: Rotation, x: &mut [f32]) {
    rotation.forward(x);
}

pub(super) fn unrotate(rotation: Rotation, x: &mut [f32]) {
    rotation.inverse(x);
}

pub(super) fn scales_into(base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
    for (scale, &byte) in out.iter_mut().zip(bytes) {
        *scale = block_exponent(base, byte).map_or(0.0, exp2_8);
    }
}

pub(super) fn fold(fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
    super::fold::fold(fold, state, weights)
}

/// The levels of one head in row `token`.
pub(super) fn head_levels<'a>(
    layout: Layout,
    run: &Run<'_>,
    token: usize,
    head: HeadRow,
    row: &'a mut [i8; MAX_ROW],
) -> &'a [i8] {
    let values = row.get_mut(..head.block_values).unwrap_or(&mut []);
    levels_into(layout, run, token, values);
    values.get(head.offset..).and_then(|v| v.get(..head.head_dim)).unwrap_or(&[])
}

/// Every token of every run.
fn tokens<'r, 'a>(runs: &'r [Run<'a>]) -> impl Iterator<Item = (&'r Run<'a>, usize)> {
    runs.iter().flat_map(|run| (0..run.n).map(move |token| (run, token)))
}

pub(super) fn score_keys(
    layout: Layout,
    runs: &[Run<'_>],
    head: HeadRow,
    queries: &Queries,
    scores: &mut Scores,
) {
    let mut row = [0i8; MAX_ROW];
    for (run, token) in tokens(runs) {
        let levels = head_levels(layout, run, token, head, &mut row);
        for (query, scores) in queries.rows.iter().zip(scores.iter_mut()).take(queries.n) {
            let dot = levels.iter().zip(query).map(|(&l, &q)| i32::from(l) * i32::from(q)).sum();
            if let Some(score) = scores.get_mut(run.first + token) {
                *score = dot;
            }
        }
    }
}

pub(super) fn accumulate_values(
    layout: Layout,
    runs: &[Run<'_>],
    head: HeadRow,
    n_queries: usize,
    weights: &Weights,
    sums: &mut Sums,
) {
    let mut row = [0i8; MAX_ROW];
    for (run, token) in tokens(runs) {
        let levels = head_levels(layout, run, token, head, &mut row);
        for (weights, sums) in weights.iter().zip(sums.iter_mut()).take(n_queries) {
            let weight = weights.get(run.first + token).map_or(0, |&w| i32::from(w));
            for (sum, &level) in sums.iter_mut().zip(levels) {
                *sum += weight * i32::from(level);
            }
        }
    }
}

pub(super) fn add_scaled(out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
    for (o, &sum) in out.iter_mut().zip(sums) {
        *o = *o * rescale + sum as f32 * scale;
    }
}
