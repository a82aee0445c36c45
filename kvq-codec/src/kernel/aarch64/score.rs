//! Integer scores of packed keys.

use core::arch::aarch64::*;

use super::load::{load_levels, load_query, load_wide_query, store_four};
use super::unpack::unpack_rows;
use crate::block::{Layout, Rows};
use crate::kernel::simd::by_dim;
use crate::kernel::{Levels, Queries, Scores};

#[target_feature(enable = "neon")]
pub(super) fn score_keys(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    queries: &Queries,
    levels: &mut Levels,
    scores: &mut Scores,
) {
    if layout == Layout::Q8 {
        by_dim!(precise, head_dim, queries.n, (rows, queries, scores));
    } else {
        let n = rows.n.next_multiple_of(4);
        let levels = levels.get_or_unpack(n * head_dim / 32, |out| unpack_rows(layout, rows, head_dim, out));
        by_dim!(coarse, head_dim, queries.n, (levels, queries, scores));
    }
}

/// 8-bit rows and 16-bit queries.
#[target_feature(enable = "neon")]
fn precise<const V: usize, const N: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        let mut token = 0;
        while token < run.n {
            let mut sums = [[vdupq_n_s32(0); 4]; N];
            for c in 0..2 * V {
                let mut query = [[vdupq_n_s16(0); 2]; N];
                for (halves, row) in query.iter_mut().zip(&queries.wide_rows) {
                    *halves = [load_wide_query(row, 2 * c), load_wide_query(row, 2 * c + 1)];
                }
                for r in 0..4 {
                    let row = load_levels(run.planes[0], (token + r) * 2 * V + c);
                    let (low, high) = (vmovl_s8(vget_low_s8(row)), vmovl_high_s8(row));
                    for (sum, query) in sums.iter_mut().zip(&query) {
                        sum[r] = add_products(add_products(sum[r], low, query[0]), high, query[1]);
                    }
                }
            }
            for (sum, scores) in sums.into_iter().zip(scores.iter_mut()) {
                put_four(first + token, sum_lanes(sum), scores);
            }
            token += 4;
        }
        first += run.n;
    }
}

/// `sum` and the products of eight values.
#[inline]
#[target_feature(enable = "neon")]
fn add_products(sum: int32x4_t, a: int16x8_t, b: int16x8_t) -> int32x4_t {
    vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b)
}

/// Unpacked levels and 8-bit queries.
#[target_feature(enable = "neon")]
fn coarse<const V: usize, const N: usize>(levels: &[[u8; 32]], queries: &Queries, scores: &mut Scores) {
    for (four, rows) in levels.as_chunks::<V>().0.as_chunks::<4>().0.iter().enumerate() {
        let mut sums = [[vdupq_n_s32(0); 4]; N];
        for v in 0..V {
            for half in 0..2 {
                let row = rows.each_ref().map(|row| load_levels(&row[v], half));
                for (sums, query) in sums.iter_mut().zip(&queries.rows) {
                    let query = load_query(query, 2 * v + half);
                    for (sum, level) in sums.iter_mut().zip(row) {
                        // Two products of at most 127 · 127 fit into a lane.
                        let low = vmull_s8(vget_low_s8(level), vget_low_s8(query));
                        *sum = vpadalq_s16(*sum, vmlal_high_s8(low, level, query));
                    }
                }
            }
        }
        for (sums, scores) in sums.into_iter().zip(scores.iter_mut()) {
            if let Some(to) = scores.as_chunks_mut::<4>().0.get_mut(four) {
                store_four(to, sum_lanes(sums));
            }
        }
    }
}

/// The sums of four rows' lanes.
#[inline]
#[target_feature(enable = "neon")]
fn sum_lanes(sums: [int32x4_t; 4]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]))
}

/// Stores the scores of four tokens from `token` on, as far as there is room.
#[inline]
#[target_feature(enable = "neon")]
fn put_four(token: usize, four: int32x4_t, scores: &mut [i32]) {
    let to = scores.get_mut(token..).unwrap_or(&mut []);
    if let Some(chunk) = to.first_chunk_mut::<4>() {
        store_four(chunk, four);
    } else {
        put_last(to, four);
    }
}

#[cold]
#[target_feature(enable = "neon")]
fn put_last(to: &mut [i32], four: int32x4_t) {
    let mut chunk = [0; 4];
    store_four(&mut chunk, four);
    for (to, from) in to.iter_mut().zip(chunk) {
        *to = from;
    }
}
