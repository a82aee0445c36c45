//! Integer scores of packed keys.

use core::arch::x86_64::*;

use super::load::{load_query, store_sums};
use super::specialise;
use super::unpack::{MAX_VECTORS, codebook, levels};
use crate::block::{Layout, Run};
use crate::kernel::{Queries, Scores};

#[target_feature(enable = "avx2,fma")]
pub(super) fn score_keys(
    layout: Layout,
    runs: &[Run<'_>],
    head_dim: usize,
    queries: &Queries,
    scores: &mut Scores,
) {
    specialise!(score, layout, head_dim, queries.n, (runs, queries, scores));
}

#[target_feature(enable = "avx2,fma")]
fn score<const LAYOUT: u8, const D: usize, const N: usize>(
    runs: &[Run<'_>],
    queries: &Queries,
    scores: &mut Scores,
) {
    let codebook = codebook::<LAYOUT>();
    let mut query = [[_mm256_setzero_si256(); MAX_VECTORS]; N];
    for (vectors, row) in query.iter_mut().zip(&queries.rows) {
        for (v, vector) in vectors.iter_mut().enumerate().take(D / 32) {
            *vector = load_query(row, 32 * v);
        }
    }
    for run in runs {
        score_run::<LAYOUT, D, N>(run, codebook, &query, scores);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn score_run<const LAYOUT: u8, const D: usize, const N: usize>(
    run: &Run<'_>,
    codebook: [__m256i; 2],
    query: &[[__m256i; MAX_VECTORS]; N],
    scores: &mut Scores,
) {
    let one = _mm256_set1_epi16(1);
    let mut token = 0;
    while token < run.n {
        let n = (run.n - token).min(8);
        let mut dots = [[_mm256_setzero_si256(); 8]; N];
        for r in 0..n {
            let level = levels::<LAYOUT, D>(run, token + r, codebook);
            for (dot, query) in dots.iter_mut().zip(query) {
                let mut sum = _mm256_setzero_si256();
                for v in 0..D / 32 {
                    let magnitude = _mm256_abs_epi8(level[v]);
                    let signed = _mm256_sign_epi8(query[v], level[v]);
                    sum = _mm256_add_epi32(
                        sum,
                        _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, signed), one),
                    );
                }
                dot[r] = sum;
            }
        }
        for (dot, row) in dots.into_iter().zip(scores.iter_mut()) {
            let sums = sum_lanes(dot);
            if n == 8 {
                store_sums(row, run.first + token, sums);
            } else {
                let mut eight = [0i32; 8];
                store_sums(&mut eight, 0, sums);
                for (to, from) in row.iter_mut().skip(run.first + token).zip(eight).take(n) {
                    *to = from;
                }
            }
        }
        token += 8;
    }
}

/// The sums of eight vectors' lanes, one per lane.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_lanes(v: [__m256i; 8]) -> __m256i {
    let a = _mm256_hadd_epi32(v[0], v[1]);
    let b = _mm256_hadd_epi32(v[2], v[3]);
    let c = _mm256_hadd_epi32(v[4], v[5]);
    let d = _mm256_hadd_epi32(v[6], v[7]);
    let (e, f) = (_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm256_add_epi32(_mm256_permute2x128_si256(e, f, 0x20), _mm256_permute2x128_si256(e, f, 0x31))
}
