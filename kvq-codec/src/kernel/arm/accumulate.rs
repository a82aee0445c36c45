//! Weighted sums of packed values: see the folder's head.

use super::dsp::{high, low};
use super::pairs::S4_PAIRS;
use super::serves;
use crate::block::{Layout, Rows};
use crate::kernel::{HeadRow, Sums, Weights, scalar};

/// Rows that are added at a time.
const ROWS: usize = 4;

pub(crate) fn accumulate_values(
    layout: Layout,
    rows: &Rows<'_>,
    head: HeadRow,
    (n_queries, weights): (usize, &Weights),
    sums: &mut Sums,
) {
    if !serves(layout, head) {
        return scalar::accumulate_values(layout, rows, head, (n_queries, weights), sums);
    }
    for (weights, sums) in weights.iter().zip(sums).take(n_queries) {
        let sums = sums.get_mut(..head.head_dim).unwrap_or(&mut []);
        sums.fill(0);
        let mut first = 0;
        while first < rows.n {
            let run = rows.run(first);
            let weights = weights.get(first..).and_then(|w| w.get(..run.n)).unwrap_or(&[]);
            if layout == Layout::S4 {
                let (low, high) = sums.split_at_mut(head.head_dim / 2);
                add_rows(run.planes[0], low.len(), weights, |rows, w| add_s4(rows, w, low, high));
            } else {
                add_rows(run.planes[0], head.head_dim, weights, |rows, w| add_q8(rows, w, sums));
            }
            first += run.n;
        }
    }
}

/// Calls `add` with four rows at a time; where fewer are left, the last ones weigh nothing.
#[inline(always)]
fn add_rows(
    rows: &[u8],
    row_bytes: usize,
    weights: &[i16],
    mut add: impl FnMut([&[u8]; ROWS], [i32; ROWS]),
) {
    for (rows, weights) in rows.chunks(ROWS * row_bytes.max(1)).zip(weights.chunks(ROWS)) {
        let (mut four, mut w) = ([rows; ROWS], [0; ROWS]);
        let each = rows.chunks(row_bytes.max(1)).zip(weights);
        for ((row, w), (bytes, &weight)) in four.iter_mut().zip(&mut w).zip(each) {
            (*row, *w) = (bytes, i32::from(weight));
        }
        add(four, w);
    }
}

#[inline(always)]
fn add_s4([a, b, c, d]: [&[u8]; ROWS], w: [i32; ROWS], low_sums: &mut [i32], high_sums: &mut [i32]) {
    let bytes = a.iter().zip(b).zip(c).zip(d);
    for ((low_sum, high_sum), (((&a, &b), &c), &d)) in low_sums.iter_mut().zip(high_sums).zip(bytes) {
        for (byte, w) in [a, b, c, d].into_iter().zip(w) {
            let pair = S4_PAIRS[usize::from(byte)];
            *low_sum += low(pair) * w;
            *high_sum += high(pair) * w;
        }
    }
}

#[inline(always)]
fn add_q8([a, b, c, d]: [&[u8]; ROWS], w: [i32; ROWS], sums: &mut [i32]) {
    let bytes = a.iter().zip(b).zip(c).zip(d);
    for (sum, (((&a, &b), &c), &d)) in sums.iter_mut().zip(bytes) {
        for (byte, w) in [a, b, c, d].into_iter().zip(w) {
            *sum += i32::from(byte as i8) * w;
        }
    }
}
