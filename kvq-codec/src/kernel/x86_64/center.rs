//! Rows against a span's center, sixteen values at a time: what `quantize::span` does with products of one shift.

use core::arch::x86_64::*;

use super::load::{load_eight_bytes, load_eight_ints, store_ints, store_sixteen};
use crate::quantize::span::{FixedScale, normal_shift};

/// Values at a time.
pub(in crate::kernel) const STEP: usize = 16;

/// `sum[i] += code[i]` in fixed point.
#[target_feature(enable = "avx2")]
pub(super) fn add_fixed(codes: &[u8], scale: FixedScale, sum: &mut [i32]) {
    for (codes, sum) in codes.as_chunks::<8>().0.iter().zip(sum.as_chunks_mut::<8>().0) {
        store_ints(sum, _mm256_add_epi32(load_eight_ints(sum), fixed(codes, scale)));
    }
}

/// `code[i]` in fixed point less `center[i]`, shifted so that the largest magnitude takes 15 bits; returns the shift.
#[target_feature(enable = "avx2")]
pub(super) fn residual_into(codes: &[u8], scale: FixedScale, center: &[i32], row: &mut [i16]) -> i32 {
    let residual = |codes, center| _mm256_sub_epi32(fixed(codes, scale), load_eight_ints(center));
    let codes = codes.as_chunks::<8>().0;
    let center = center.as_chunks::<8>().0;
    let mut peak = _mm256_setzero_si256();
    for (codes, center) in codes.iter().zip(center) {
        peak = _mm256_or_si256(peak, _mm256_abs_epi32(residual(codes, center)));
    }
    let four = _mm_or_si128(_mm256_castsi256_si128(peak), _mm256_extracti128_si256::<1>(peak));
    let two = _mm_or_si128(four, _mm_unpackhi_epi64(four, four));
    let peak = _mm_cvtsi128_si64(two) as u64;
    let shift = normal_shift((peak >> 32 | peak) as u32);
    let half = _mm256_set1_epi32(if shift > 0 { 1 << (shift - 1) } else { 0 });
    // A count of bits that is negative shifts everything out: one of the two shifts does nothing.
    let down = _mm_cvtsi32_si128(shift.max(0));
    let up = _mm_cvtsi32_si128((-shift).max(0));
    let normal = |codes, center| {
        let rounded = _mm256_sra_epi32(_mm256_add_epi32(residual(codes, center), half), down);
        _mm256_sll_epi32(rounded, up)
    };
    let pairs = codes.as_chunks::<2>().0.iter().zip(center.as_chunks::<2>().0);
    for ((codes, center), row) in pairs.zip(row.as_chunks_mut::<STEP>().0) {
        let sixteen = _mm256_packs_epi32(normal(&codes[0], &center[0]), normal(&codes[1], &center[1]));
        let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(sixteen);
        store_sixteen(row, _mm256_max_epi16(ordered, _mm256_set1_epi16(-32_767)));
    }
    shift
}

/// `code << up`, times the mantissa, over `2^32` and rounded: see [`FixedScale`].
#[inline]
#[target_feature(enable = "avx2")]
fn fixed(codes: &[u8; 8], scale: FixedScale) -> __m256i {
    let x = _mm256_sll_epi32(_mm256_cvtepi8_epi32(load_eight_bytes(codes)), _mm_cvtsi32_si128(scale.up));
    let (factor, half) = (_mm256_set1_epi64x(i64::from(scale.mantissa)), _mm256_set1_epi64x(1 << 31));
    let even = _mm256_add_epi64(_mm256_mul_epi32(x, factor), half);
    let odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64::<32>(x), factor), half);
    _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd)
}
