//! Weighted sums of packed values: see the folder's head.

use super::dsp::{high, low};
use super::pairs::S4_PAIRS;
use super::walk::Walk;
use super::{HAS_MVE, mve, serves};
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
    if !serves(layout) {
        return scalar::accumulate_values(layout, rows, head, (n_queries, weights), sums);
    }
    for (weights, sums) in weights.iter().zip(sums).take(n_queries) {
        let weights = weights.get(..rows.n).unwrap_or(&[]);
        let sums = sums.get_mut(..head.block_values).unwrap_or(&mut []);
        sums.fill(0);
        if layout == Layout::S4 {
            let Some((low, high)) = sums.split_at_mut_checked(head.block_values / 2) else { return };
            add_rows(Walk::new(rows, low.len()), weights, |rows, w| add_s4(rows, w, low, high));
        } else {
            add_rows(Walk::new(rows, head.block_values), weights, |rows, w| add_q8(rows, w, sums));
        }
        // The head's sums to the front of its block's.
        if head.offset > 0 {
            for i in 0..head.head_dim {
                let sum = sums.get(head.offset + i).copied().unwrap_or(0);
                if let Some(to) = sums.get_mut(i) {
                    *to = sum;
                }
            }
        }
    }
}

/// Calls `add` with four rows at a time; where fewer are left, the last one fills up and weighs nothing.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline(always))]
fn add_rows(mut walk: Walk<'_>, weights: &[i16], mut add: impl FnMut([&[u8]; ROWS], [i32; ROWS])) {
    for weights in weights.chunks(ROWS) {
        let (mut rows, mut w) = ([&[][..]; ROWS], [0; ROWS]);
        let mut last: &[u8] = &[];
        for (i, (row, w)) in rows.iter_mut().zip(&mut w).enumerate() {
            if let Some(&weight) = weights.get(i) {
                (last, *w) = (walk.row(), i32::from(weight));
            }
            *row = last;
        }
        add(rows, w);
    }
}

#[inline(always)]
fn add_s4([a, b, c, d]: [&[u8]; ROWS], w: [i32; ROWS], low_sums: &mut [i32], high_sums: &mut [i32]) {
    if HAS_MVE {
        mve::add_s4([a, b], [w[0], w[1]], low_sums, high_sums);
        return mve::add_s4([c, d], [w[2], w[3]], low_sums, high_sums);
    }
    let table = core::hint::black_box(&S4_PAIRS);
    let bytes = a.iter().zip(b).zip(c).zip(d);
    for ((low_sum, high_sum), (((&a, &b), &c), &d)) in low_sums.iter_mut().zip(high_sums).zip(bytes) {
        for (byte, w) in [a, b, c, d].into_iter().zip(w) {
            let pair = table[usize::from(byte)];
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
