//! Packed rows to levels in registers: vector `v` holds values `32·v .. 32·v + 32`.

use core::arch::x86_64::*;

use super::load::{load16_twice, load32, store_floats};
use crate::block::{Layout, Run};
use crate::bytes::get_u32;
use crate::kernel::SEGMENT;
use crate::math::exp2_8;

/// The most vectors in a row: 256 values.
pub(super) const MAX_VECTORS: usize = 8;

/// A layout's codebook, its lower and upper sixteen levels each in both lanes of a register.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn codebook<const LAYOUT: u8>() -> [__m256i; 2] {
    let mut table = [0u8; 32];
    if let Some(layout) = Layout::from_tag(LAYOUT) {
        for (entry, &level) in table.iter_mut().zip(layout.codewords()) {
            *entry = level as u8;
        }
    }
    [load16_twice(&table, 0), load16_twice(&table, 16)]
}

/// The levels of row `token`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn levels<const LAYOUT: u8, const D: usize>(
    run: &Run<'_>,
    token: usize,
    codebook: [__m256i; 2],
) -> [__m256i; MAX_VECTORS] {
    let mut out = [_mm256_setzero_si256(); MAX_VECTORS];
    if LAYOUT == Layout::Q8.tag() {
        for (v, level) in out.iter_mut().enumerate().take(D / 32) {
            *level = load32(run.planes[0], token * D + 32 * v);
        }
        return out;
    }
    if LAYOUT == Layout::S4.tag() {
        let nibble = _mm256_set1_epi8(15);
        if D == 32 {
            // The row's 16 bytes are in both lanes; the upper one takes the high nibbles.
            let bytes = load16_twice(run.planes[0], token * 16);
            let by_0_4 = _mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0);
            let codes = _mm256_and_si256(_mm256_srlv_epi32(bytes, by_0_4), nibble);
            out[0] = _mm256_shuffle_epi8(codebook[0], codes);
            return out;
        }
        for c in 0..D / 64 {
            let bytes = load32(run.planes[0], token * (D / 2) + 32 * c);
            let low = _mm256_and_si256(bytes, nibble);
            let high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
            out[c] = _mm256_shuffle_epi8(codebook[0], low);
            out[D / 64 + c] = _mm256_shuffle_epi8(codebook[0], high);
        }
        return out;
    }
    if LAYOUT == Layout::T4.tag() || LAYOUT == Layout::T3.tag() || LAYOUT == Layout::T2.tag() {
        return trellis_levels::<LAYOUT, D>(run, token, codebook);
    }
    let mut codes = two_bits::<D>(run.planes[0], token);
    if LAYOUT == Layout::S3.tag() {
        for (v, code) in codes.iter_mut().enumerate().take(D / 32) {
            let word = get_u32(run.planes[1], token * (D / 8) + 4 * v);
            *code = _mm256_or_si256(*code, _mm256_and_si256(spread_bits(word), _mm256_set1_epi8(4)));
        }
    }
    for (level, code) in out.iter_mut().zip(codes).take(D / 32) {
        *level = _mm256_shuffle_epi8(codebook[0], code);
    }
    out
}

/// The codes of a 2-bit plane: code `i` is in byte `i mod D/4`, at bit `2·(i div D/4)`.
#[inline]
#[target_feature(enable = "avx2")]
fn two_bits<const D: usize>(rows: &[u8], token: usize) -> [__m256i; MAX_VECTORS] {
    let three = _mm256_set1_epi8(3);
    let mut out = [_mm256_setzero_si256(); MAX_VECTORS];
    if D == 32 {
        let row =
            rows.get(token * 8..).and_then(|r| r.first_chunk::<8>()).map_or(0, |r| i64::from_le_bytes(*r));
        let shifted = _mm256_srlv_epi64(_mm256_set1_epi64x(row), _mm256_set_epi64x(6, 4, 2, 0));
        out[0] = _mm256_and_si256(shifted, three);
    } else if D == 64 {
        // The row's 16 bytes are in both lanes; the lanes shift by different amounts.
        let bytes = load16_twice(rows, token * 16);
        let by_0_2 = _mm256_set_epi32(2, 2, 2, 2, 0, 0, 0, 0);
        let by_4_6 = _mm256_set_epi32(6, 6, 6, 6, 4, 4, 4, 4);
        out[0] = _mm256_and_si256(_mm256_srlv_epi32(bytes, by_0_2), three);
        out[1] = _mm256_and_si256(_mm256_srlv_epi32(bytes, by_4_6), three);
    } else if D == 192 {
        // Quarters of 48: vectors straddle them, so they are put together from halves of 16.
        for (v, code) in out.iter_mut().enumerate().take(6) {
            let half = |i: usize| {
                let (quarter, at) = (i / 3, 16 * (i % 3));
                let bytes = _mm256_castsi256_si128(load16_twice(rows, token * 48 + at));
                _mm_srl_epi16(bytes, _mm_cvtsi32_si128(2 * quarter as i32))
            };
            *code = _mm256_and_si256(_mm256_set_m128i(half(2 * v + 1), half(2 * v)), three);
        }
    } else {
        for c in 0..D / 128 {
            let bytes = load32(rows, token * (D / 4) + 32 * c);
            out[c] = _mm256_and_si256(bytes, three);
            out[D / 128 + c] = _mm256_and_si256(_mm256_srli_epi16(bytes, 2), three);
            out[2 * (D / 128) + c] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), three);
            out[3 * (D / 128) + c] = _mm256_and_si256(_mm256_srli_epi16(bytes, 6), three);
        }
    }
    out
}

/// The levels of a row of trellis codes.
#[inline]
#[target_feature(enable = "avx2")]
fn trellis_levels<const LAYOUT: u8, const D: usize>(
    run: &Run<'_>,
    token: usize,
    codebook: [__m256i; 2],
) -> [__m256i; MAX_VECTORS] {
    let bits = if LAYOUT == Layout::T4.tag() { run.planes[2] } else { run.planes[1] };
    let u = words::<D>(bits, token);
    let (by_1, by_2, by_3) = (rotate::<D, 1>(u), rotate::<D, 2>(u), rotate::<D, 3>(u));
    let upper = if LAYOUT == Layout::T2.tag() {
        [_mm256_setzero_si256(); MAX_VECTORS]
    } else {
        two_bits::<D>(run.planes[0], token)
    };
    let mut out = [_mm256_setzero_si256(); MAX_VECTORS];
    for (v, level) in out.iter_mut().enumerate().take(D / 32) {
        let half = |w: &[u64; 4]| (w[v / 2] >> (32 * (v % 2))) as u32;
        let z1 = _mm256_and_si256(spread_bits(half(&u) ^ half(&by_1) ^ half(&by_3)), _mm256_set1_epi8(2));
        let z0 = _mm256_and_si256(spread_bits(half(&by_2)), _mm256_set1_epi8(1));
        let label = _mm256_or_si256(z1, z0);
        let high_bit = |plane: usize| spread_bits(get_u32(run.planes[plane], token * (D / 8) + 4 * v));
        let index = if LAYOUT == Layout::T2.tag() {
            _mm256_or_si256(label, _mm256_and_si256(high_bit(0), _mm256_set1_epi8(4)))
        } else {
            _mm256_or_si256(label, _mm256_slli_epi16(upper[v], 2))
        };
        *level = _mm256_shuffle_epi8(codebook[0], index);
        if LAYOUT == Layout::T4.tag() {
            *level = _mm256_blendv_epi8(*level, _mm256_shuffle_epi8(codebook[1], index), high_bit(1));
        }
    }
    out
}

/// A row of a 1-bit plane as words, value 0 in the lowest bit.
#[inline]
fn words<const D: usize>(rows: &[u8], token: usize) -> [u64; 4] {
    let mut out = [0; 4];
    if D == 32 {
        out[0] = u64::from(get_u32(rows, token * 4));
        return out;
    }
    for (w, word) in out.iter_mut().enumerate().take(D / 64) {
        let at = token * (D / 8) + 8 * w;
        *word = u64::from(get_u32(rows, at)) | u64::from(get_u32(rows, at + 4)) << 32;
    }
    out
}

/// Bit `i` of the result is bit `i - BY` of the row, wrapping around it.
#[inline]
fn rotate<const D: usize, const BY: u32>(u: [u64; 4]) -> [u64; 4] {
    if D == 32 {
        return [u64::from((u[0] as u32).rotate_left(BY)), 0, 0, 0];
    }
    let n = D / 64;
    let mut out = [0; 4];
    for w in 0..n {
        out[w] = u[w] << BY | u[(w + n - 1) % n] >> (64 - BY);
    }
    out
}

/// Byte `i` is 0xff where bit `i` of `word` is set.
#[inline]
#[target_feature(enable = "avx2")]
fn spread_bits(word: u32) -> __m256i {
    let pick = _mm256_set_epi64x(
        0x0303_0303_0303_0303,
        0x0202_0202_0202_0202,
        0x0101_0101_0101_0101,
        0x0000_0000_0000_0000,
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(word as i32), pick);
    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
}

/// `out[t] = 2^((base - bytes[t])/8)`, 0 for byte 255.
#[target_feature(enable = "avx2")]
pub(super) fn scales_into(base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
    let mut mantissas = [0.0f32; 8];
    for (i, m) in mantissas.iter_mut().enumerate() {
        *m = exp2_8(i as i32);
    }
    // SAFETY: the array is 32 readable bytes, and the load needs no alignment.
    let table = unsafe { _mm256_loadu_ps(mantissas.as_ptr()) };
    let mut padded = [255u8; SEGMENT];
    for (to, from) in padded.iter_mut().zip(bytes) {
        *to = *from;
    }
    for (chunk, scale) in padded.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<8>().0) {
        let byte = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(*chunk)));
        let e = _mm256_sub_epi32(_mm256_set1_epi32(i32::from(base)), byte);
        let mantissa = _mm256_permutevar8x32_ps(table, _mm256_and_si256(e, _mm256_set1_epi32(7)));
        let octave = _mm256_min_epi32(_mm256_srai_epi32(e, 3), _mm256_set1_epi32(126));
        let power = _mm256_slli_epi32(_mm256_add_epi32(octave, _mm256_set1_epi32(127)), 23);
        let value = _mm256_mul_ps(mantissa, _mm256_castsi256_ps(power));
        let too_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(-126), octave);
        let none = _mm256_or_si256(too_small, _mm256_cmpeq_epi32(byte, _mm256_set1_epi32(255)));
        store_floats(scale, _mm256_andnot_ps(_mm256_castsi256_ps(none), value));
    }
}
