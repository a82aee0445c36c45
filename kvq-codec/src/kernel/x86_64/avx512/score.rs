//! Integer scores of packed keys.

use core::arch::x86_64::*;

use super::super::load::{load32, store_four};
use super::super::unpack::for_each_four;
use super::by_layout;
use super::load::{load_64, load_numbers, load_query, store_eight_ints};
use super::unpack::{codebook, levels};
use crate::block::{Layout, Rows};
use crate::kernel::simd::by_dim;
use crate::kernel::{Queries, Scores, TILE};
use crate::shape::MAX_HEAD_DIM;

/// What makes a level a byte without sign.
const BIAS: u8 = 128;

/// 4-bit rows of heads of 64, two of them in a register.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn score_s4(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    match queries.n {
        1 => eight_by_eight::<1>(rows, queries, scores),
        2 => eight_by_eight::<2>(rows, queries, scores),
        3 => eight_by_eight::<3>(rows, queries, scores),
        _ => eight_by_eight::<4>(rows, queries, scores),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn eight_by_eight<const N: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    let codebook = codebook::<{ Layout::S4.tag() }, BIAS>();
    let mut query = [[_mm512_setzero_si512(); 2]; N];
    let mut excess = [_mm256_setzero_si256(); N];
    for ((query, excess), row) in query.iter_mut().zip(&mut excess).zip(&queries.rows) {
        let whole = first_64(row);
        *query = [
            _mm512_shuffle_i64x2::<0b01_00_01_00>(whole, whole),
            _mm512_shuffle_i64x2::<0b11_10_11_10>(whole, whole),
        ];
        *excess = _mm256_set1_epi32(biased_by(whole));
    }
    for_each_eight(rows, |eight, rows| {
        let mut sums = [[_mm512_setzero_si512(); 4]; N];
        for (i, two) in rows.as_chunks::<2>().0.iter().enumerate() {
            let codes = load_64(two);
            let low = _mm512_permutexvar_epi8(codes, codebook);
            let high = _mm512_permutexvar_epi8(_mm512_srli_epi32::<4>(codes), codebook);
            for (sums, [query_low, query_high]) in sums.iter_mut().zip(&query) {
                let sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), low, *query_low);
                sums[i] = _mm512_dpbusd_epi32(sum, high, *query_high);
            }
        }
        for ((sums, excess), scores) in sums.into_iter().zip(excess).zip(scores.iter_mut()) {
            if let Some(to) = scores.as_chunks_mut::<8>().0.get_mut(eight) {
                store_eight_ints(to, _mm256_sub_epi32(sum_pairs(sums), excess));
            }
        }
    });
}

/// Calls `f` with each eight rows and their place; rows past the last read as zeros.
#[inline(always)]
fn for_each_eight(rows: &Rows<'_>, mut f: impl FnMut(usize, &[[u8; 32]; 8])) {
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        let (whole, rest) = run.planes[0].as_chunks::<32>().0.as_chunks::<8>();
        for (i, eight) in whole.iter().enumerate() {
            f(first / 8 + i, eight);
        }
        if !rest.is_empty() {
            let mut padded = [[0; 32]; 8];
            padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            f(first / 8 + whole.len(), &padded);
        }
        first += run.n.max(1);
    }
}

/// Sums of eight rows in order, of which register `i` has row `2·i` in its lower half and the next in the upper one.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn sum_pairs(sums: [__m512i; 4]) -> __m256i {
    let four = sum_fours(sums);
    let two = _mm512_add_epi32(four, _mm512_shuffle_i64x2::<0b10_11_00_01>(four, four));
    let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, two))
}

/// In each quarter of the register, the four sums over that quarter of the four registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_fours([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// What the bias adds to a dot product with 64 codes of a query.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn biased_by(query: __m512i) -> i32 {
    let biases = _mm512_set1_epi8(BIAS as i8);
    _mm512_reduce_add_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), biases, query))
}

/// The first 64 codes of a query.
#[inline]
#[target_feature(enable = "avx512f")]
fn first_64(row: &[i8; MAX_HEAD_DIM]) -> __m512i {
    row.first_chunk().map_or(_mm512_setzero_si512(), |codes| load_query(codes))
}

/// Rows of any coarse layout, unpacked into registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn score_rows(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    queries: &Queries,
    scores: &mut Scores,
) {
    by_layout!(four_by_four, layout, head_dim, (rows, queries, scores));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn four_by_four<const LAYOUT: u8, const D: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    match queries.n {
        1 => four_by::<LAYOUT, D, 1>(rows, queries, scores),
        2 => four_by::<LAYOUT, D, 2>(rows, queries, scores),
        3 => four_by::<LAYOUT, D, 3>(rows, queries, scores),
        _ => four_by::<LAYOUT, D, TILE>(rows, queries, scores),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn four_by<const LAYOUT: u8, const D: usize, const N: usize>(
    rows: &Rows<'_>,
    queries: &Queries,
    scores: &mut Scores,
) {
    let codebook = codebook::<LAYOUT, BIAS>();
    let mut excess = [_mm_setzero_si128(); N];
    for (excess, row) in excess.iter_mut().zip(&queries.rows) {
        let codes = row.as_chunks::<64>().0.iter().take(D / 64);
        *excess = _mm_set1_epi32(codes.map(|codes| biased_by(load_query(codes))).sum());
    }
    let mut four = 0;
    for_each_four::<LAYOUT, D>(rows, |planes| {
        let mut sums = [[_mm512_setzero_si512(); 4]; N];
        for r in 0..4 {
            for c in 0..D / 64 {
                let levels = levels::<LAYOUT, D>(planes, (r, c), codebook);
                for (sums, query) in sums.iter_mut().zip(&queries.rows) {
                    let Some(codes) = query.as_chunks::<64>().0.get(c) else { return };
                    sums[r] = _mm512_dpbusd_epi32(sums[r], levels, load_query(codes));
                }
            }
        }
        for ((sums, excess), scores) in sums.into_iter().zip(excess).zip(scores.iter_mut()) {
            if let Some(to) = scores.as_chunks_mut::<4>().0.get_mut(four) {
                store_four(to, _mm_sub_epi32(sum_all(sums), excess));
            }
        }
        four += 1;
    });
}

/// The sums over four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn sum_all(sums: [__m512i; 4]) -> __m128i {
    let four = sum_fours(sums);
    let two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64::<1>(four));
    _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
}

/// 8-bit rows and 16-bit queries.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn score_precise(rows: &Rows<'_>, head_dim: usize, queries: &Queries, scores: &mut Scores) {
    by_dim!(precise, head_dim, queries.n, (rows, queries, scores));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn precise<const V: usize, const N: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        for four in 0..run.n.div_ceil(4) {
            let mut sums = [[_mm512_setzero_si512(); 4]; N];
            for r in 0..4 {
                for v in 0..V {
                    let row = _mm512_cvtepi8_epi16(load32(run.planes[0], (4 * four + r) * V + v));
                    for (sums, query) in sums.iter_mut().zip(&queries.wide_rows) {
                        let Some(codes) = query.as_chunks::<32>().0.get(v) else { return };
                        sums[r] = _mm512_dpwssd_epi32(sums[r], row, load_numbers(codes));
                    }
                }
            }
            for (sums, scores) in sums.into_iter().zip(scores.iter_mut()) {
                if let Some(to) = scores.as_chunks_mut::<4>().0.get_mut(first / 4 + four) {
                    store_four(to, sum_all(sums));
                }
            }
        }
        first += run.n.max(1);
    }
}
