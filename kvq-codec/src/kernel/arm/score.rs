//! Dot products of packed keys with queries: see the folder's head.

use super::dsp::{even_bytes, odd_bytes, smlad};
use super::pairs::{S4_PAIRS, pair};
use super::serves;
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
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        for (i, scores) in scores.iter_mut().enumerate().take(queries.n) {
            let scores = scores.get_mut(first..).unwrap_or(&mut []);
            if layout == Layout::S4 {
                let pairs = queries.pairs.row(i, head.head_dim / 2);
                score_rows(run.planes[0], pairs.len(), scores, |rows| dot_s4(rows, pairs));
            } else {
                let query = queries.wide_rows.get(i).and_then(|q| q.get(..head.head_dim)).unwrap_or(&[]);
                score_rows(run.planes[0], query.len(), scores, |rows| dot_q8(rows, query));
            }
        }
        first += run.n;
    }
}

/// Two rows at a time; the last of an odd number is taken twice.
#[inline(always)]
fn score_rows(rows: &[u8], row_bytes: usize, scores: &mut [i32], dot: impl Fn([&[u8]; 2]) -> [i32; 2]) {
    let twos = rows.chunks(2 * row_bytes.max(1)).zip(scores.chunks_mut(2));
    for (rows, scores) in twos {
        let (a, b) = rows.split_at_checked(row_bytes).unwrap_or((rows, &[]));
        let dots = dot([a, if b.is_empty() { a } else { b }]);
        for (score, dot) in scores.iter_mut().zip(dots) {
            *score = dot;
        }
    }
}

/// Dot products of two 4-bit rows with a query in pairs.
#[inline(always)]
fn dot_s4([a, b]: [&[u8]; 2], pairs: &[u32]) -> [i32; 2] {
    let (mut sum_a, mut sum_b) = (0, 0);
    let mut step = |a: u8, b: u8, query: u32| {
        sum_a = smlad(S4_PAIRS[usize::from(a)], query, sum_a);
        sum_b = smlad(S4_PAIRS[usize::from(b)], query, sum_b);
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
fn dot_q8([a, b]: [&[u8]; 2], query: &[i16]) -> [i32; 2] {
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
