//! Rows against a span's center, sixteen values at a time: what `quantize::span` does with products of one shift.

use core::arch::x86_64::*;

use super::super::load::load_sixteen_bytes;
use super::load::{load_ints, store_ints, store_weights};
use crate::quantize::span::{FixedScale, normal_shift};

/// `sum[i] += code[i]` in fixed point.
#[target_feature(enable = "avx512f")]
pub(super) fn add_fixed(codes: &[u8], scale: FixedScale, sum: &mut [i32]) {
    for (codes, sum) in codes.as_chunks::<16>().0.iter().zip(sum.as_chunks_mut::<16>().0) {
        store_ints(sum, _mm512_add_epi32(load_ints(sum), fixed(codes, scale)));
    }
}

/// `code[i]` in fixed point less `center[i]`, shifted so that the largest magnitude takes 15 bits; returns the shift.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn residual_into(codes: &[u8], scale: FixedScale, center: &[i32], row: &mut [i16]) -> i32 {
    let mut peak = _mm512_setzero_si512();
    for (codes, center) in codes.as_chunks::<16>().0.iter().zip(center.as_chunks::<16>().0) {
        let residual = _mm512_sub_epi32(fixed(codes, scale), load_ints(center));
        peak = _mm512_or_si512(peak, _mm512_abs_epi32(residual));
    }
    let shift = normal_shift(_mm512_reduce_or_epi32(peak) as u32);
    let half = _mm512_set1_epi32(if shift > 0 { 1 << (shift - 1) } else { 0 });
    // A count of bits that is negative shifts everything out: one of the two shifts does nothing.
    let down = _mm_cvtsi32_si128(shift.max(0));
    let up = _mm_cvtsi32_si128((-shift).max(0));
    let limit = _mm512_set1_epi32(-32_767);
    let rows = row.as_chunks_mut::<16>().0.iter_mut();
    for ((codes, center), row) in codes.as_chunks::<16>().0.iter().zip(center.as_chunks::<16>().0).zip(rows) {
        let residual = _mm512_sub_epi32(fixed(codes, scale), load_ints(center));
        let rounded = _mm512_sra_epi32(_mm512_add_epi32(residual, half), down);
        store_weights(row, _mm512_cvtsepi32_epi16(_mm512_max_epi32(_mm512_sll_epi32(rounded, up), limit)));
    }
    shift
}

/// `code << up`, times the mantissa, over `2^32` and rounded: see [`FixedScale`].
#[inline]
#[target_feature(enable = "avx512f")]
fn fixed(codes: &[u8; 16], scale: FixedScale) -> __m512i {
    let x = _mm512_sll_epi32(_mm512_cvtepi8_epi32(load_sixteen_bytes(codes)), _mm_cvtsi32_si128(scale.up));
    let (factor, half) = (_mm512_set1_epi64(i64::from(scale.mantissa)), _mm512_set1_epi64(1 << 31));
    let even = _mm512_add_epi64(_mm512_mul_epi32(x, factor), half);
    let odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64::<32>(x), factor), half);
    _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<32>(even), odd)
}
