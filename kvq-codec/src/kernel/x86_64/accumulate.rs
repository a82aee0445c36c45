//! Integer sums of packed values.

use core::arch::x86_64::*;

use super::load::{load_sums, store_sums};
use super::specialise;
use super::unpack::{codebook, levels};
use crate::block::{Layout, Run};
use crate::kernel::{SEGMENT, Sums, Weights};

#[target_feature(enable = "avx2,fma")]
pub(super) fn accumulate_values(
    layout: Layout,
    run: &Run<'_>,
    head_dim: usize,
    n_queries: usize,
    weights: &Weights,
    sums: &mut Sums,
) {
    specialise!(accumulate, layout, head_dim, n_queries, (run, weights, sums));
}

#[target_feature(enable = "avx2,fma")]
fn accumulate<const LAYOUT: u8, const D: usize, const N: usize>(
    run: &Run<'_>,
    weights: &Weights,
    sums: &mut Sums,
) {
    let codebook = codebook::<LAYOUT>();
    let mut token = 0;
    if LAYOUT == Layout::Q8.tag() {
        while token < run.n {
            let (a, b) =
                (levels::<LAYOUT, D>(run, token, codebook), levels::<LAYOUT, D>(run, token + 1, codebook));
            for v in 0..D / 32 {
                let (low, high) = (_mm256_unpacklo_epi8(a[v], b[v]), _mm256_unpackhi_epi8(a[v], b[v]));
                let pairs = [
                    _mm256_cvtepi8_epi16(_mm256_castsi256_si128(low)),
                    _mm256_cvtepi8_epi16(_mm256_castsi256_si128(high)),
                    _mm256_cvtepi8_epi16(_mm256_extracti128_si256(low, 1)),
                    _mm256_cvtepi8_epi16(_mm256_extracti128_si256(high, 1)),
                ];
                for (sums, weights) in sums.iter_mut().zip(weights).take(N) {
                    let weight = _mm256_set1_epi32(weight_pair(weights, run.first + token, run.n - token));
                    for (i, &pair) in pairs.iter().enumerate() {
                        let at = 32 * v + 8 * i;
                        let sum = _mm256_add_epi32(load_sums(sums, at), _mm256_madd_epi16(pair, weight));
                        store_sums(sums, at, sum);
                    }
                }
            }
            token += 2;
        }
        return;
    }
    let one = _mm256_set1_epi16(1);
    // Lanes hold dimensions 0-3 and 16-19, 4-7 and 20-23, … of each vector.
    let mut total = [[[_mm256_setzero_si256(); 4]; super::unpack::MAX_VECTORS]; N];
    while token < run.n {
        let rows = [
            levels::<LAYOUT, D>(run, token, codebook),
            levels::<LAYOUT, D>(run, token + 1, codebook),
            levels::<LAYOUT, D>(run, token + 2, codebook),
            levels::<LAYOUT, D>(run, token + 3, codebook),
        ];
        let mut weight = [_mm256_setzero_si256(); N];
        for (weight, weights) in weight.iter_mut().zip(weights) {
            *weight = _mm256_set1_epi32(weight_quad(weights, run.first + token, run.n - token));
        }
        for v in 0..D / 32 {
            let (a, b) =
                (_mm256_unpacklo_epi8(rows[0][v], rows[1][v]), _mm256_unpackhi_epi8(rows[0][v], rows[1][v]));
            let (c, d) =
                (_mm256_unpacklo_epi8(rows[2][v], rows[3][v]), _mm256_unpackhi_epi8(rows[2][v], rows[3][v]));
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
    for (total, sums) in total.iter().zip(sums.iter_mut()) {
        for (v, t) in total.iter().enumerate().take(D / 32) {
            let ordered = [
                _mm256_permute2x128_si256(t[0], t[1], 0x20),
                _mm256_permute2x128_si256(t[2], t[3], 0x20),
                _mm256_permute2x128_si256(t[0], t[1], 0x31),
                _mm256_permute2x128_si256(t[2], t[3], 0x31),
            ];
            for (i, part) in ordered.into_iter().enumerate() {
                let at = 32 * v + 8 * i;
                let sum = _mm256_add_epi32(load_sums(sums, at), part);
                store_sums(sums, at, sum);
            }
        }
    }
}

/// The weight of token `at`, 0 from the `n`-th on.
#[inline]
fn weight(weights: &[i16; SEGMENT], at: usize, i: usize, n: usize) -> i16 {
    if i < n { weights.get(at + i).copied().unwrap_or(0) } else { 0 }
}

#[inline]
fn weight_pair(weights: &[i16; SEGMENT], at: usize, n: usize) -> i32 {
    let pair = [weight(weights, at, 0, n), weight(weights, at, 1, n)];
    i32::from(pair[0] as u16) | i32::from(pair[1]) << 16
}

#[inline]
fn weight_quad(weights: &[i16; SEGMENT], at: usize, n: usize) -> i32 {
    let mut bytes = [0u8; 4];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = weight(weights, at, i, n) as u8;
    }
    i32::from_le_bytes(bytes)
}
