//! Integer sums of packed values.

use core::arch::x86_64::*;

use super::load::{load_sums, load_weights, load32, store_bytes, store_sums};
use super::specialise;
use super::unpack::{MAX_VECTORS, codebook, levels};
use crate::block::{Layout, Run};
use crate::kernel::{SEGMENT, Sums, Weights};

#[target_feature(enable = "avx2,fma")]
pub(super) fn accumulate_values(
    layout: Layout,
    runs: &[Run<'_>],
    head_dim: usize,
    n_queries: usize,
    weights: &Weights,
    sums: &mut Sums,
) {
    if layout == Layout::Q8 {
        specialise!(@dim precise, 0, head_dim, n_queries, (runs, weights, sums));
    } else {
        specialise!(coarse, layout, head_dim, n_queries, (runs, weights, sums));
    }
}

/// 8-bit rows, 15-bit weights, two tokens at a time.
#[target_feature(enable = "avx2,fma")]
fn precise<const Q8: u8, const D: usize, const N: usize>(
    runs: &[Run<'_>],
    weights: &Weights,
    sums: &mut Sums,
) {
    for v in 0..D / 32 {
        // Dimensions 0-7, 8-15, 16-23 and 24-31 of the vector, for every query.
        let mut total = [[_mm256_setzero_si256(); 4]; N];
        for run in runs {
            let mut token = 0;
            while token < run.n {
                let a = load32(run.planes[0], token * D + 32 * v);
                let b = load32(run.planes[0], (token + 1) * D + 32 * v);
                let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
                let pairs = [
                    _mm256_cvtepi8_epi16(_mm256_castsi256_si128(low)),
                    _mm256_cvtepi8_epi16(_mm256_castsi256_si128(high)),
                    _mm256_cvtepi8_epi16(_mm256_extracti128_si256(low, 1)),
                    _mm256_cvtepi8_epi16(_mm256_extracti128_si256(high, 1)),
                ];
                for (total, weights) in total.iter_mut().zip(weights) {
                    let weight = _mm256_set1_epi32(weight_pair(weights, run.first + token, run.n - token));
                    for (sum, pair) in total.iter_mut().zip(pairs) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pair, weight));
                    }
                }
                token += 2;
            }
        }
        for (total, sums) in total.into_iter().zip(sums.iter_mut()) {
            for (i, part) in total.into_iter().enumerate() {
                add_to(sums, 32 * v + 8 * i, part);
            }
        }
    }
}

/// Coarser rows, 7-bit weights, four tokens at a time.
#[target_feature(enable = "avx2,fma")]
fn coarse<const LAYOUT: u8, const D: usize, const N: usize>(
    runs: &[Run<'_>],
    weights: &Weights,
    sums: &mut Sums,
) {
    let codebook = codebook::<LAYOUT>();
    let one = _mm256_set1_epi16(1);
    let mut bytes = [[0u8; SEGMENT]; N];
    for (bytes, weights) in bytes.iter_mut().zip(weights) {
        narrow(weights, bytes);
    }
    // Lanes hold dimensions 0-3 and 16-19, 4-7 and 20-23, … of each vector.
    let mut total = [[[_mm256_setzero_si256(); 4]; MAX_VECTORS]; N];
    for run in runs {
        let mut token = 0;
        while token < run.n {
            let rows = [
                levels::<LAYOUT, D>(run, token, codebook),
                levels::<LAYOUT, D>(run, token + 1, codebook),
                levels::<LAYOUT, D>(run, token + 2, codebook),
                levels::<LAYOUT, D>(run, token + 3, codebook),
            ];
            let mut weight = [_mm256_setzero_si256(); N];
            for (weight, bytes) in weight.iter_mut().zip(&bytes) {
                *weight = _mm256_set1_epi32(weight_quad(bytes, run.first + token, run.n - token));
            }
            for v in 0..D / 32 {
                let a = _mm256_unpacklo_epi8(rows[0][v], rows[1][v]);
                let b = _mm256_unpackhi_epi8(rows[0][v], rows[1][v]);
                let c = _mm256_unpacklo_epi8(rows[2][v], rows[3][v]);
                let d = _mm256_unpackhi_epi8(rows[2][v], rows[3][v]);
                let quads = [
                    _mm256_unpacklo_epi16(a, c),
                    _mm256_unpackhi_epi16(a, c),
                    _mm256_unpacklo_epi16(b, d),
                    _mm256_unpackhi_epi16(b, d),
                ];
                for (total, &weight) in total.iter_mut().zip(&weight) {
                    for (sum, quad) in total[v].iter_mut().zip(quads) {
                        let products = _mm256_madd_epi16(_mm256_maddubs_epi16(weight, quad), one);
                        *sum = _mm256_add_epi32(*sum, products);
                    }
                }
            }
            token += 4;
        }
    }
    for (total, sums) in total.iter().zip(sums.iter_mut()) {
        for (v, t) in total.iter().enumerate().take(D / 32) {
            let ordered = [
                _mm256_permute2x128_si256(t[0], t[1], 0x20),
                _mm256_permute2x128_si256(t[2], t[3], 0x20),
                _mm256_permute2x128_si256(t[0], t[1], 0x31),
                _mm256_permute2x128_si256(t[2], t[3], 0x31),
            ];
            for (i, part) in ordered.into_iter().enumerate() {
                add_to(sums, 32 * v + 8 * i, part);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_to(sums: &mut [i32], at: usize, part: __m256i) {
    let sum = _mm256_add_epi32(load_sums(sums, at), part);
    store_sums(sums, at, sum);
}

/// 7-bit weights as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(weights: &[i16; SEGMENT], bytes: &mut [u8; SEGMENT]) {
    for at in [0, 32] {
        let packed = _mm256_packus_epi16(load_weights(weights, at), load_weights(weights, at + 16));
        store_bytes(bytes, at, _mm256_permute4x64_epi64(packed, 0b11_01_10_00));
    }
}

/// Two weights from `at`, those from the `n`-th on 0.
#[inline]
fn weight_pair(weights: &[i16; SEGMENT], at: usize, n: usize) -> i32 {
    let weight = |i: usize| weights.get(at + i).copied().unwrap_or(0) as u16;
    i32::from(weight(0)) | if n > 1 { i32::from(weight(1)) << 16 } else { 0 }
}

/// Four weights from `at`, those from the `n`-th on 0.
#[inline]
fn weight_quad(bytes: &[u8; SEGMENT], at: usize, n: usize) -> i32 {
    let quad = bytes.get(at..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_le_bytes(*b));
    let keep = if n >= 4 { u32::MAX } else { (1 << (8 * n)) - 1 };
    (quad & keep) as i32
}
