//! Integer sums of packed values.

use core::arch::x86_64::*;

use super::columns::{COLUMNS, TOKENS, are_strided, turn, unpack_by_value};
use super::load::{
    load_sixteen, load_sixteen_bytes, load_u32, load_u64, load_vector, store_bytes, store_sums,
};
use super::unpack::unpack_quads;
use crate::block::{Layout, Rows};
use crate::kernel::simd::by_dim;
use crate::kernel::{Levels, SEGMENT, Sums, Weights};

#[target_feature(enable = "avx2,fma")]
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
        let levels = levels.get_or_unpack(n * head_dim / 32, |out| unpack_quads(layout, rows, head_dim, out));
        by_dim!(coarse, head_dim, n_queries, (levels, weights, sums));
    }
}

/// Rows that come as columns.
#[target_feature(enable = "avx2,fma")]
pub(super) fn accumulate_columns(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    (n_queries, weights): (usize, &Weights),
    levels: &mut Levels,
    sums: &mut Sums,
) {
    let n = rows.n.next_multiple_of(TOKENS);
    let unpack = |out: &mut [[u8; 32]]| unpack_by_value(layout, rows, head_dim, out);
    let levels = levels.get_or_unpack(n * head_dim / 32, unpack);
    by_dim!(columns, head_dim, n_queries, (levels, are_strided(layout), weights, sums));
}

/// One query after another, so that the sums of eight columns and its weights are all that registers hold; levels are
/// operands in memory.
#[target_feature(enable = "avx2,fma")]
fn columns<const V: usize, const N: usize>(
    levels: &[[u8; 32]],
    strided: bool,
    weights: &Weights,
    sums: &mut Sums,
) {
    let groups = levels.as_chunks::<COLUMNS>().0.as_chunks::<V>().0;
    for (weights, sums) in weights.iter().zip(sums).take(N) {
        let mut bytes = [0u8; SEGMENT];
        narrow(weights, &mut bytes);
        let mut fours = [_mm256_setzero_si256(); SEGMENT / TOKENS];
        for (g, fours) in fours.iter_mut().enumerate() {
            *fours = four_and_four(load_u64(&bytes, g));
        }
        for m in 0..V {
            let [a, b, c, d] = sum_columns(groups.iter().map(|group| &group[m]), &fours);
            let ordered = if strided {
                turn([a, b, c, d])
            } else {
                [
                    _mm256_permute2x128_si256(a, b, 0x20),
                    _mm256_permute2x128_si256(c, d, 0x20),
                    _mm256_permute2x128_si256(a, b, 0x31),
                    _mm256_permute2x128_si256(c, d, 0x31),
                ]
            };
            for (i, part) in ordered.into_iter().enumerate() {
                store_sums(sums, 32 * m + 8 * i, part);
            }
        }
    }
}

/// Sums of eight columns: lane `k` of register `i` is value `k` of column `i`, and then of column `i + 4`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_columns<'a>(
    groups: impl Iterator<Item = &'a [[u8; 32]; COLUMNS]>,
    fours: &[__m256i; SEGMENT / TOKENS],
) -> [__m256i; 4] {
    let one = _mm256_set1_epi16(1);
    let mut total = [_mm256_setzero_si256(); COLUMNS];
    for (group, fours) in groups.zip(fours) {
        for (total, column) in total.iter_mut().zip(group) {
            let products = _mm256_maddubs_epi16(*fours, load_vector(column));
            *total = _mm256_add_epi32(*total, _mm256_madd_epi16(products, one));
        }
    }
    // Columns `i` and `i + 4` lie side by side, and the two fours of tokens in the halves.
    let mut halves = [_mm256_setzero_si256(); 4];
    for (half, [a, b]) in halves.iter_mut().zip(total.as_chunks().0) {
        let low = _mm256_permute2x128_si256(*a, *b, 0x20);
        *half = _mm256_add_epi32(low, _mm256_permute2x128_si256(*a, *b, 0x31));
    }
    halves
}

/// Eight weights: the first four in each lane of the lower half, the others in the upper one.
#[inline]
#[target_feature(enable = "avx2")]
fn four_and_four(weights: u64) -> __m256i {
    let order = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    _mm256_permutevar8x32_epi32(_mm256_set1_epi64x(weights as i64), order)
}

/// 8-bit rows, 15-bit weights, two tokens and 16 values at a time.
#[target_feature(enable = "avx2,fma")]
fn precise<const V: usize, const N: usize>(rows: &Rows<'_>, weights: &Weights, sums: &mut Sums) {
    for c in 0..2 * V {
        // Lanes hold values 0-3 and 8-11, and 4-7 and 12-15.
        let mut total = [[_mm256_setzero_si256(); 2]; N];
        let mut first = 0;
        while first < rows.n {
            let run = rows.run(first);
            let pairs = run.planes[0].as_chunks::<16>().0.chunks_exact(4 * V);
            let (last, mut at) = (pairs.remainder().get(c), first / 2);
            for two in pairs {
                let (Some(a), Some(b)) = (two.get(c), two.get(2 * V + c)) else { break };
                add_pair(&mut total, [widen(a), widen(b)], weights, at);
                at += 1;
            }
            if let Some(last) = last {
                add_pair(&mut total, [widen(last), _mm256_setzero_si256()], weights, at);
            }
            first += run.n;
        }
        for (total, sums) in total.into_iter().zip(sums.iter_mut()) {
            store_sums(sums, 16 * c, _mm256_permute2x128_si256(total[0], total[1], 0x20));
            store_sums(sums, 16 * c + 8, _mm256_permute2x128_si256(total[0], total[1], 0x31));
        }
    }
}

/// Adds the `i`-th two tokens.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pair<const N: usize>(
    total: &mut [[__m256i; 2]; N],
    [a, b]: [__m256i; 2],
    weights: &Weights,
    i: usize,
) {
    let pairs = [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
    for (total, weights) in total.iter_mut().zip(weights) {
        let weight = _mm256_set1_epi32(weight_pair(weights, i % (SEGMENT / 2)));
        for (sum, pair) in total.iter_mut().zip(pairs) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pair, weight));
        }
    }
}

/// Sixteen signed bytes as numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(bytes: &[u8; 16]) -> __m256i {
    _mm256_cvtepi8_epi16(load_sixteen_bytes(bytes))
}

/// Unpacked levels, interleaved by four tokens, and 8-bit weights.
#[target_feature(enable = "avx2,fma")]
fn coarse<const V: usize, const N: usize>(levels: &[[u8; 32]], weights: &Weights, sums: &mut Sums) {
    let mut bytes = [[0u8; SEGMENT]; N];
    for (bytes, weights) in bytes.iter_mut().zip(weights) {
        narrow(weights, bytes);
    }
    let groups = levels.as_chunks::<4>().0.as_chunks::<V>().0;
    for v in 0..V {
        // Lanes hold values 0-3 and 16-19, 4-7 and 20-23, 8-11 and 24-27, 12-15 and 28-31. Two quads at a
        // time: the sums of four and what they are made from need more registers than there are.
        let mut total = [[_mm256_setzero_si256(); 4]; N];
        for first in [0, 2] {
            let halves = sum_two_quads::<V, N>(groups, (v, first), &bytes);
            for (total, half) in total.iter_mut().zip(halves) {
                total[first] = half[0];
                total[first + 1] = half[1];
            }
        }
        for (total, sums) in total.iter().zip(sums.iter_mut()) {
            let ordered = [
                _mm256_permute2x128_si256(total[0], total[1], 0x20),
                _mm256_permute2x128_si256(total[2], total[3], 0x20),
                _mm256_permute2x128_si256(total[0], total[1], 0x31),
                _mm256_permute2x128_si256(total[2], total[3], 0x31),
            ];
            for (i, part) in ordered.into_iter().enumerate() {
                store_sums(sums, 32 * v + 8 * i, part);
            }
        }
    }
}

/// Sums of the quads `first` and `first + 1` of vector `v` of each group of four tokens.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_two_quads<const V: usize, const N: usize>(
    groups: &[[[[u8; 32]; 4]; V]],
    (v, first): (usize, usize),
    weights: &[[u8; SEGMENT]; N],
) -> [[__m256i; 2]; N] {
    let one = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (four, group) in groups.iter().take(SEGMENT / 4).enumerate() {
        for (sums, weights) in sums.iter_mut().zip(weights) {
            let weight = _mm256_set1_epi32(load_u32(weights, four) as i32);
            for (sum, quad) in sums.iter_mut().zip(&group[v][first..]) {
                let products = _mm256_maddubs_epi16(weight, load_vector(quad));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, one));
            }
        }
    }
    sums
}

/// 8-bit weights as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(weights: &[i16; SEGMENT], bytes: &mut [u8; SEGMENT]) {
    for i in [0, 2] {
        let packed = _mm256_packus_epi16(load_sixteen(weights, i), load_sixteen(weights, i + 1));
        store_bytes(bytes, 16 * i, _mm256_permute4x64_epi64(packed, 0b11_01_10_00));
    }
}

/// The `i`-th two weights.
#[inline]
pub(super) fn weight_pair(weights: &[i16; SEGMENT], i: usize) -> i32 {
    let pair = weights.as_chunks::<2>().0.get(i).copied().unwrap_or([0; 2]);
    i32::from(pair[0] as u16) | i32::from(pair[1]) << 16
}
