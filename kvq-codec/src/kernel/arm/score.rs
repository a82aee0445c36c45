//! Dot products of packed keys with queries: see the folder's head.

use super::dsp::{dot_bytes, even_bytes, odd_bytes, smlad};
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
            let one = |row: &[u8]| dot_s4_once(row, pairs);
            score_rows(Walk::new(rows, pairs.len()), scores, |a, b| dot_s4(a, b, pairs), one);
        } else {
            let query = queries.wide_rows.get(i).and_then(|q| q.get(..head.head_dim)).unwrap_or(&[]);
            let two = |a: &[u8], b: &[u8]| dot_q8(a, b, query);
            score_rows(Walk::new(rows, query.len()), scores, two, |row| two(row, row)[0]);
        }
    }
}

/// Two rows at a time, and the last of an odd number by itself.
#[inline(always)]
fn score_rows(
    mut walk: Walk<'_>,
    scores: &mut [i32],
    two: impl Fn(&[u8], &[u8]) -> [i32; 2],
    one: impl Fn(&[u8]) -> i32,
) {
    let (pairs, last) = scores.as_chunks_mut::<2>();
    for pair in pairs {
        let (a, b) = (walk.row(), walk.row());
        *pair = two(a, b);
    }
    for score in last {
        *score = one(walk.row());
    }
}

/// Dot product of one 4-bit row, which a span's center is.
fn dot_s4_once(row: &[u8], pairs: &[u32]) -> i32 {
    let table = core::hint::black_box(&S4_PAIRS);
    let mut sum = 0;
    let mut step = |byte: u8, query: u32| sum = smlad(table[usize::from(byte)], query, sum);
    let ((row, row_rest), (pairs, pairs_rest)) = (row.as_chunks::<8>(), pairs.as_chunks::<8>());
    for (row, pairs) in row.iter().zip(pairs) {
        for i in 0..8 {
            step(row[i], pairs[i]);
        }
    }
    row_rest.iter().zip(pairs_rest).for_each(|(&byte, &query)| step(byte, query));
    sum
}

/// Dot products of two 4-bit rows with a query in pairs.
#[inline(always)]
fn dot_s4(a: &[u8], b: &[u8], pairs: &[u32]) -> [i32; 2] {
    let mut sums = [0; 2];
    // Otherwise the table's address is made anew for every load.
    let table = core::hint::black_box(&S4_PAIRS);
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks(), b.as_chunks());
    let (pairs, pairs_rest) = pairs.as_chunks();
    dot_bytes((a, b), pairs, table, &mut sums);
    let [mut sum_a, mut sum_b] = sums;
    for ((&a, &b), &query) in a_rest.iter().zip(b_rest).zip(pairs_rest) {
        sum_a = smlad(table[usize::from(a)], query, sum_a);
        sum_b = smlad(table[usize::from(b)], query, sum_b);
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
