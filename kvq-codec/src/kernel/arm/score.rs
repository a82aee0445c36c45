//! Dot products of packed keys with queries: see the folder's head.

use super::dsp::{dot_bytes, even_bytes, odd_bytes, smlad};
use super::pairs::{S4_PAIRS, pair, pair_up};
use super::walk::Walk;
use super::{HAS_MVE, mve, serves};
use crate::block::{Layout, Rows};
use crate::kernel::{HeadRow, Queries, Scores, scalar};
use crate::shape::MAX_HEAD_DIM;

pub(crate) fn score_keys(
    layout: Layout,
    rows: &Rows<'_>,
    head: HeadRow,
    queries: &Queries,
    scores: &mut Scores,
) {
    if !serves(layout) {
        return scalar::score_keys(layout, rows, head, queries, scores);
    }
    score_one_plane(layout, rows, head, queries, scores);
}

/// Apart, for its buffers are not to lie below those of the portable code.
#[inline(never)]
fn score_one_plane(layout: Layout, rows: &Rows<'_>, head: HeadRow, queries: &Queries, scores: &mut Scores) {
    for (i, scores) in scores.iter_mut().enumerate().take(queries.n) {
        let scores = scores.get_mut(..rows.n).unwrap_or(&mut []);
        if layout == Layout::Q8 {
            let mut wide_codes = [0; NARROW_BLOCK];
            let query = block_query(queries.wide_rows.get(i), head, &mut wide_codes);
            let walk = Walk::new(rows, query.len());
            if HAS_MVE {
                let one = |row: &[u8]| mve::dot_q8(row, query);
                score_rows(walk, scores, |a, b| [one(a), one(b)], one);
            } else {
                let two = |a: &[u8], b: &[u8]| dot_q8(a, b, query);
                score_rows(walk, scores, two, |row| two(row, row)[0]);
            }
            continue;
        }
        let mut codes = [0; NARROW_BLOCK];
        let walk = Walk::new(rows, head.block_values / 2);
        if HAS_MVE {
            let query = block_query(queries.rows.get(i), head, &mut codes);
            let Some((low, high)) = query.split_at_checked(query.len() / 2) else { return };
            let one = |row: &[u8]| mve::dot_s4(row, low, high);
            score_rows(walk, scores, |a, b| [one(a), one(b)], one);
            continue;
        }
        let mut pairs = [0; NARROW_BLOCK / 2];
        let pairs = if head.block_values == head.head_dim {
            queries.pairs.row(i, head.head_dim / 2)
        } else {
            pair_up(block_query(queries.rows.get(i), head, &mut codes), &mut pairs)
        };
        let one =
            |row: &[u8]| if cfg!(kvq_small) { dot_s4(row, row, pairs)[0] } else { dot_s4_once(row, pairs) };
        score_rows(walk, scores, |a, b| dot_s4(a, b, pairs), one);
    }
}

/// More values than a block of several heads has: one more head than fill 32 values, less than 64 in all.
const NARROW_BLOCK: usize = 64;

/// A head's query as that of its whole block, with zeros in the places of other heads.
#[inline(never)]
fn block_query<'a, T: Copy>(
    query: Option<&'a [T; MAX_HEAD_DIM]>,
    head: HeadRow,
    out: &'a mut [T; NARROW_BLOCK],
) -> &'a [T] {
    let query = query.and_then(|query| query.get(..head.head_dim)).unwrap_or(&[]);
    if head.block_values == head.head_dim {
        return query;
    }
    for (to, from) in out.iter_mut().skip(head.offset).zip(query) {
        *to = *from;
    }
    out.get(..head.block_values).unwrap_or(&[])
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
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline(always))]
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
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline(always))]
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
