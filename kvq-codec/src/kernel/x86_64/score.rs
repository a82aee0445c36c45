//! Integer scores of packed keys.

use core::arch::x86_64::*;

use super::columns::{COLUMNS, TOKENS, are_strided, query_columns, unpack_by_token};
use super::load::{load_query, load_sixteen, load_vector, load8_as_16, store_four, store_sums};
use super::unpack::{for_each_of_one, unpack_rows};
use crate::block::{Layout, Rows};
use crate::kernel::simd::{by_dim, by_layout};
use crate::kernel::{Levels, Queries, Scores};

#[target_feature(enable = "avx2,fma")]
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

/// Rows that come as columns, two registers of eight tokens at a time.
#[target_feature(enable = "avx2,fma")]
pub(super) fn score_columns(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    queries: &Queries,
    levels: &mut Levels,
    scores: &mut Scores,
) {
    let n = rows.n.next_multiple_of(2 * TOKENS);
    let unpack = |out: &mut [[u8; 32]]| unpack_by_token(layout, rows, head_dim, out);
    let levels = levels.get_or_unpack(n * head_dim / 32, unpack);
    by_dim!(columns, head_dim, queries.n, (levels, are_strided(layout), queries, scores));
}

#[target_feature(enable = "avx2,fma")]
fn columns<const V: usize, const N: usize>(
    levels: &[[u8; 32]],
    strided: bool,
    queries: &Queries,
    scores: &mut Scores,
) {
    let one = _mm256_set1_epi16(1);
    // Four codes in a word for each column.
    let mut query = [[[0i32; COLUMNS]; V]; N];
    let mut magnitude = query;
    for ((query, magnitude), row) in query.iter_mut().zip(&mut magnitude).zip(&queries.rows) {
        for (m, (query, magnitude)) in query.iter_mut().zip(magnitude).enumerate() {
            let codes = query_columns(load_query(row, m), strided);
            store_sums(query, 0, codes);
            store_sums(magnitude, 0, _mm256_abs_epi8(codes));
        }
    }
    let groups = levels.as_chunks::<COLUMNS>().0.as_chunks::<V>().0;
    for (pair, [a, b]) in groups.as_chunks::<2>().0.iter().enumerate() {
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        for m in 0..V {
            for c in 0..COLUMNS {
                let levels = [load_vector(&a[m][c]), load_vector(&b[m][c])];
                for (q, sums) in sums.iter_mut().enumerate() {
                    let signed = _mm256_set1_epi32(query[q][m][c]);
                    let magnitude = _mm256_set1_epi32(magnitude[q][m][c]);
                    for (sum, level) in sums.iter_mut().zip(levels) {
                        let products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(level, signed));
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, one));
                    }
                }
            }
        }
        for ([a, b], scores) in sums.into_iter().zip(scores.iter_mut()) {
            store_sums(scores, 2 * TOKENS * pair, a);
            store_sums(scores, 2 * TOKENS * pair + TOKENS, b);
        }
    }
}

/// One row, as a span's center is.
#[target_feature(enable = "avx2,fma")]
pub(super) fn score_one(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    queries: &Queries,
    scores: &mut Scores,
) {
    by_layout!(one, layout, head_dim, (rows, queries, scores));
}

#[target_feature(enable = "avx2,fma")]
fn one<const LAYOUT: u8, const D: usize, const V: usize>(
    rows: &Rows<'_>,
    queries: &Queries,
    scores: &mut Scores,
) {
    let one = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); 4];
    for_each_of_one::<LAYOUT, D, V>(rows, |v, level| {
        for (sum, query) in sums.iter_mut().zip(&queries.rows) {
            let query = load_query(query, v);
            let signed = _mm256_sign_epi8(level, query);
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(query), signed);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, one));
        }
    });
    let [a, b, c, d] = sums;
    let mut first = [0; 4];
    store_four(&mut first, sum_lanes([_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d)]));
    for (scores, first) in scores.iter_mut().zip(first).take(queries.n) {
        scores[0] = first;
    }
}

/// 8-bit rows and 16-bit queries.
#[target_feature(enable = "avx2,fma")]
fn precise<const V: usize, const N: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        let mut token = 0;
        while token < run.n {
            let mut sums = [[_mm256_setzero_si256(); 4]; N];
            for (r, at) in (token..token + 4).enumerate() {
                for c in 0..2 * V {
                    let row = load8_as_16(run.planes[0], at * 2 * V + c);
                    for (sum, query) in sums.iter_mut().zip(&queries.wide_rows) {
                        let products = _mm256_madd_epi16(row, load_sixteen(query, c));
                        sum[r] = _mm256_add_epi32(sum[r], products);
                    }
                }
            }
            for (sum, scores) in sums.into_iter().zip(scores.iter_mut()) {
                let pairs = [_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[3])];
                put_four(first + token, sum_lanes(pairs), scores);
            }
            token += 4;
        }
        first += run.n;
    }
}

/// Unpacked levels and 8-bit queries.
#[target_feature(enable = "avx2,fma")]
fn coarse<const V: usize, const N: usize>(levels: &[[u8; 32]], queries: &Queries, scores: &mut Scores) {
    let mut query = [[Query::NONE; V]; N];
    for (vectors, row) in query.iter_mut().zip(&queries.rows) {
        for (v, vector) in vectors.iter_mut().enumerate() {
            let signed = load_query(row, v);
            *vector = Query { signed, magnitude: _mm256_abs_epi8(signed) };
        }
    }
    for (four, rows) in levels.as_chunks::<V>().0.as_chunks::<4>().0.iter().enumerate() {
        let mut pairs = [[_mm256_setzero_si256(); 2]; N];
        for (half, [a, b]) in rows.as_chunks::<2>().0.iter().enumerate() {
            for (pair, query) in pairs.iter_mut().zip(&query) {
                pair[half] = _mm256_hadd_epi32(dot(a, query), dot(b, query));
            }
        }
        for (pairs, scores) in pairs.into_iter().zip(scores.iter_mut()) {
            if let Some(to) = scores.as_chunks_mut::<4>().0.get_mut(four) {
                store_four(to, sum_lanes(pairs));
            }
        }
    }
}

/// 32 values of a query.
#[derive(Clone, Copy)]
struct Query {
    signed: __m256i,
    magnitude: __m256i,
}

impl Query {
    // SAFETY: all bits 0 is a vector.
    const NONE: Self = unsafe { core::mem::zeroed() };
}

/// Products of a row and a query, summed to eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot<const V: usize>(levels: &[[u8; 32]; V], query: &[Query; V]) -> __m256i {
    let one = _mm256_set1_epi16(1);
    let mut sum = _mm256_setzero_si256();
    for (level, query) in levels.iter().zip(query) {
        let signed = _mm256_sign_epi8(load_vector(level), query.signed);
        let products = _mm256_maddubs_epi16(query.magnitude, signed);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, one));
    }
    sum
}

/// The sums of four rows' lanes from the pairwise sums of two and two.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_lanes(pairs: [__m256i; 2]) -> __m128i {
    let sums = _mm256_hadd_epi32(pairs[0], pairs[1]);
    _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1))
}

/// Stores the scores of four tokens from `token` on, as far as there is room.
#[inline]
#[target_feature(enable = "avx2")]
fn put_four(token: usize, four: __m128i, scores: &mut [i32]) {
    let to = scores.get_mut(token..).unwrap_or(&mut []);
    if let Some(chunk) = to.first_chunk_mut::<4>() {
        store_four(chunk, four);
    } else {
        put_last(to, four);
    }
}

#[cold]
#[target_feature(enable = "avx2")]
fn put_last(to: &mut [i32], four: __m128i) {
    let mut chunk = [0; 4];
    store_four(&mut chunk, four);
    for (to, from) in to.iter_mut().zip(chunk) {
        *to = from;
    }
}
