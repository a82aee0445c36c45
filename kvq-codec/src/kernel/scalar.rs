//! Portable kernels: what every other backend is tested against.

use super::{Fold, FoldState, HeadRow, Queries, SEGMENT, Scores, Sums, Weights};
use crate::block::{Layout, Rows, Run, levels_into};
use crate::math::exp2_8;
use crate::quantize::row::MAX_ROW;
use crate::quantize::span::block_exponent;
use crate::quantize::{precise, row, trellis};
use crate::rotate::Rotation;
use crate::shape::MAX_HEAD_DIM;

#[inline(never)]
pub(super) fn encode_row(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    let layout = layout.available();
    if layout.is_trellis() {
        trellis::encode_trellis(layout, &trellis::ScalarSearch, row, codes)
    } else {
        #[cfg(target_arch = "arm")]
        return row::encode_scalar_by_table(layout, row, codes);
        #[cfg(not(target_arch = "arm"))]
        row::encode_scalar(layout, row, codes)
    }
}

#[inline(never)]
pub(super) fn encode_precise(x: &[f32], codes: &mut [u8]) -> i16 {
    precise::encode_precise(x, codes)
}

pub(super) fn rotate(rotation: Rotation, x: &mut [f32]) {
    turn(rotation, x, false);
}

pub(super) fn unrotate(rotation: Rotation, x: &mut [f32]) {
    turn(rotation, x, true);
}

/// Both ways in one piece of code, since flash is short.
#[inline(never)]
fn turn(rotation: Rotation, x: &mut [f32], inverse: bool) {
    rotation.turn(x, inverse);
}

#[inline(never)]
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

/// Calls `f` with every token of a head and its levels. `dyn`, so that it is compiled once.
#[inline(never)]
fn for_each_token(layout: Layout, rows: &Rows<'_>, head: HeadRow, f: &mut dyn FnMut(usize, &[i8])) {
    let mut row = [0i8; MAX_ROW];
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        for token in 0..run.n {
            f(first + token, head_levels(layout, &run, token, head, &mut row));
        }
        first += run.n;
    }
}

fn dot<Q: Copy + Into<i32>>(levels: &[i8], query: Option<&[Q; MAX_HEAD_DIM]>) -> i32 {
    let query = query.map_or(&[][..], |q| q);
    levels.iter().zip(query).map(|(&l, &q)| i32::from(l) * q.into()).sum()
}

pub(super) fn score_keys(
    layout: Layout,
    rows: &Rows<'_>,
    head: HeadRow,
    queries: &Queries,
    scores: &mut Scores,
) {
    for_each_token(layout, rows, head, &mut |token, levels| {
        for (i, scores) in scores.iter_mut().enumerate().take(queries.n) {
            let dot = if layout == Layout::Q8 {
                dot(levels, queries.wide_rows.get(i))
            } else {
                dot(levels, queries.rows.get(i))
            };
            if let Some(score) = scores.get_mut(token) {
                *score = dot;
            }
        }
    });
}

pub(super) fn accumulate_values(
    layout: Layout,
    rows: &Rows<'_>,
    head: HeadRow,
    (n_queries, weights): (usize, &Weights),
    sums: &mut Sums,
) {
    for sums in sums.iter_mut().take(n_queries) {
        sums.get_mut(..head.head_dim).unwrap_or(&mut []).fill(0);
    }
    for_each_token(layout, rows, head, &mut |token, levels| {
        for (weights, sums) in weights.iter().zip(sums.iter_mut()).take(n_queries) {
            let weight = weights.get(token).map_or(0, |&w| i32::from(w));
            for (sum, &level) in sums.iter_mut().zip(levels) {
                *sum += weight * i32::from(level);
            }
        }
    });
}

pub(super) fn add_scaled(out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
    for (o, &sum) in out.iter_mut().zip(sums) {
        *o = *o * rescale + sum as f32 * scale;
    }
}
