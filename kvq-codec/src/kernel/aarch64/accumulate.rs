//! Integer sums of packed values.

use core::arch::aarch64::*;

use super::load::{load_levels, store_sums};
use super::unpack::unpack_pairs;
use crate::block::{Layout, Rows};
use crate::kernel::simd::by_dim;
use crate::kernel::{Levels, SEGMENT, Sums, Weights};

#[target_feature(enable = "neon")]
pub(super) fn accumulate_values(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    (n_queries, weights): (usize, &Weights),
    levels: &mut Levels,
    sums: &mut Sums,
) {
    if layout == Layout::Q8 {
        by_dim!(precise, head_dim, n_queries, (rows, weights, sums));
    } else {
        let n = rows.n.next_multiple_of(4);
        let levels = levels.get_or_unpack(n * head_dim / 32, |out| unpack_pairs(layout, rows, head_dim, out));
        by_dim!(coarse, head_dim, n_queries, (levels, weights, sums));
    }
}

/// 8-bit rows and 15-bit weights, 16 values at a time.
#[target_feature(enable = "neon")]
fn precise<const V: usize, const N: usize>(rows: &Rows<'_>, weights: &Weights, sums: &mut Sums) {
    for c in 0..2 * V {
        let mut total = [[vdupq_n_s32(0); 4]; N];
        let mut first = 0;
        while first < rows.n {
            let run = rows.run(first);
            for token in 0..run.n {
                let row = load_levels(run.planes[0], token * 2 * V + c);
                let (low, high) = (vmovl_s8(vget_low_s8(row)), vmovl_high_s8(row));
                for (total, weights) in total.iter_mut().zip(weights) {
                    let weight = weights.get(first + token).copied().unwrap_or(0);
                    total[0] = vmlal_n_s16(total[0], vget_low_s16(low), weight);
                    total[1] = vmlal_high_n_s16(total[1], low, weight);
                    total[2] = vmlal_n_s16(total[2], vget_low_s16(high), weight);
                    total[3] = vmlal_high_n_s16(total[3], high, weight);
                }
            }
            first += run.n;
        }
        put(total, c, sums);
    }
}

/// Unpacked levels, interleaved by two tokens, and 8-bit weights, 16 values at a time.
///
/// There is no product of a byte with sign and one without, so 128 goes off each weight, and 128 times the sum of the
/// levels comes on again, once for all queries.
#[target_feature(enable = "neon")]
fn coarse<const V: usize, const N: usize>(levels: &[[u8; 32]], weights: &Weights, sums: &mut Sums) {
    let mut pairs = [[[0u16; 2]; SEGMENT / 4]; N];
    for (pairs, weights) in pairs.iter_mut().zip(weights) {
        for (pair, four) in pairs.iter_mut().zip(weights.as_chunks::<4>().0) {
            *pair = [byte_pair(four[0], four[1]), byte_pair(four[2], four[3])];
        }
    }
    let groups = levels.as_chunks::<2>().0.as_chunks::<2>().0.as_chunks::<V>().0;
    for v in 0..V {
        for half in 0..2 {
            let mut total = [[vdupq_n_s32(0); 4]; N];
            let mut plain = [vdupq_n_s16(0); 2];
            for (four, group) in groups.iter().enumerate() {
                // Values 0-7 and 8-15 of the first two tokens, then of the last two.
                let [first, last] = &group[v][half];
                let first = [load_levels(first, 0), load_levels(first, 1)];
                let last = [load_levels(last, 0), load_levels(last, 1)];
                for (plain, (first, last)) in plain.iter_mut().zip(first.into_iter().zip(last)) {
                    *plain = vpadalq_s8(vpadalq_s8(*plain, first), last);
                }
                for (total, pairs) in total.iter_mut().zip(&pairs) {
                    let [a, b] = pairs.get(four).copied().unwrap_or([0; 2]);
                    let a = vreinterpretq_s8_u16(vdupq_n_u16(a));
                    let b = vreinterpretq_s8_u16(vdupq_n_u16(b));
                    for (i, sums) in total.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        // Two products of at most 127 · 128 fit into a lane.
                        let low = vmull_s8(vget_low_s8(first[i]), vget_low_s8(a));
                        let low = vmlal_s8(low, vget_low_s8(last[i]), vget_low_s8(b));
                        sums[0] = vpadalq_s16(sums[0], low);
                        let high = vmlal_high_s8(vmull_high_s8(first[i], a), last[i], b);
                        sums[1] = vpadalq_s16(sums[1], high);
                    }
                }
            }
            for total in &mut total {
                for (sums, plain) in total.as_chunks_mut::<2>().0.iter_mut().zip(plain) {
                    sums[0] = vaddq_s32(sums[0], vshll_n_s16::<7>(vget_low_s16(plain)));
                    sums[1] = vaddq_s32(sums[1], vshll_high_n_s16::<7>(plain));
                }
            }
            put(total, 2 * v + half, sums);
        }
    }
}

/// Two 8-bit weights, less 128, as the bytes of a 16-bit lane.
#[inline]
fn byte_pair(a: i16, b: i16) -> u16 {
    u16::from_le_bytes([a as u8 ^ 0x80, b as u8 ^ 0x80])
}

/// Stores the sums of the `c`-th 16 values.
#[inline]
#[target_feature(enable = "neon")]
fn put<const N: usize>(total: [[int32x4_t; 4]; N], c: usize, sums: &mut Sums) {
    for (total, sums) in total.into_iter().zip(sums.iter_mut()) {
        for (i, four) in total.into_iter().enumerate() {
            store_sums(sums, 16 * c + 4 * i, four);
        }
    }
}
