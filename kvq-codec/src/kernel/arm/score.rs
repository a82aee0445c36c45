//! Dot products of packed keys with queries: see the folder's head.

use super::dsp::{even_bytes, odd_bytes, smlad};
use super::pairs::{S4_PAIRS, pair};
use super::serves;
use super::walk::Walk;
use crate::block::{Layout, Rows};
use crate::kernel::{HeadRow, Queries, Scores, scalar};

pub(crate) fn score_keys(
    layout: Layout,
    rows: &Rows<'_>,
    head: HeadRow,
    queries: &Queries,
    scores: &mut Scores,
) {
    if !serves(layout, head) {
        return scalar::score_keys(layout, rows, head, queries, scores);
    }
    for (i, scores) in scores.iter_mut().enumerate().take(queries.n) {
        let scores = scores.get_mut(..rows.n).unwrap_or(&mut []);
        if layout == Layout::S4 {
            let pairs = queries.pairs.row(i, head.head_dim / 2);
            score_rows(Walk::new(rows, pairs.len()), scores, |a, b| dot_s4(a, b, pairs));
        } else {
            let query = queries.wide_rows.get(i).and_then(|q| q.get(..head.head_dim)).unwrap_or(&[]);
            score_rows(Walk::new(rows, query.len()), scores, |a, b| dot_q8(a, b, query));
        }
    }
}

/// Two rows at a time, and the last of an odd number with itself.
#[inline(always)]
fn score_rows(mut walk: Walk<'_>, scores: &mut [i32], dot: impl Fn(&[u8], &[u8]) -> [i32; 2]) {
    for scores in scores.chunks_mut(2) {
        let a = walk.row();
        let b = if scores.len() == 2 { walk.row() } else { a };
        for (score, dot) in scores.iter_mut().zip(dot(a, b)) {
            *score = dot;
        }
    }
}

/// Dot products of two 4-bit rows with a query in pairs.
#[inline(always)]
fn dot_s4(a: &[u8], b: &[u8], pairs: &[u32]) -> [i32; 2] {
    let (mut sum_a, mut sum_b) = (0, 0);
    // Otherwise the table's address is made anew for every load.
    let table = core::hint::black_box(&S4_PAIRS);
    let mut step = |a: u8, b: u8, query: u32| {
        sum_a = smlad(table[usize::from(a)], query, sum_a);
        sum_b = smlad(table[usize::from(b)], query, sum_b);
    };
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let (pairs, pairs_rest) = pairs.as_chunks::<8>();
    for ((a, b), query) in a.iter().zip(b).zip(pairs) {
        for i in 0..8 {
            step(a[i], b[i], query[i]);
        }
    }
    for ((&a, &b), &query) in a_rest.iter().zip(b_rest).zip(pairs_rest) {
        step(a, b, query);
    }
    [sum_a, sum_b]
}

/// Dot products of two 8-bit rows, a whole number of fours, with a 16-bit query.
#[inline(always)]
fn dot_q8(a: &[u8], b: &[u8], query: &[i16]) -> [i32; 2] {
    let (mut sum_a, mut sum_b) = (0, 0);
    let fours = a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0).zip(query.as_chunks::<4>().0);
    for ((a, b), q) in fours {
        let (even, odd) = (pair(q[0], q[2]), pair(q[1], q[3]));
        let (a, b) = (u32::from_le_bytes(*a), u32::from_le_bytes(*b));
        sum_a = smlad(odd_bytes(a), odd, smlad(even_bytes(a), even, sum_a));
        sum_b = smlad(odd_bytes(b), odd, smlad(even_bytes(b), even, sum_b));
    }
    [sum_a, sum_b]
}
