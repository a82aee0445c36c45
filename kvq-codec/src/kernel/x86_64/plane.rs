//! Codes to the bits of a plane, in the order of `crate::pack`.

use core::arch::x86_64::*;

use super::load::{load_sixteen_bytes, load_vector, store_sixteen_bytes};

/// Codes of a row must be a multiple of this, so that planes of every width are whole registers of 16 bytes or, of one
/// bit, whole eights.
pub(super) const STEP: usize = 64;

/// Writes a plane of 1, 2 or 4 bits from the bits `shift..shift + width` of `codes`.
#[target_feature(enable = "avx2")]
pub(super) fn put(width: u8, shift: u32, codes: &[u8], row: &mut [u8]) {
    let down = _mm_cvtsi32_si128(shift as i32);
    match width {
        1 => put_bits(shift, codes, row),
        2 => {
            let [a, b, c, d] = quarters(codes);
            for ((((a, b), c), d), to) in a.iter().zip(b).zip(c).zip(d).zip(row.as_chunks_mut::<16>().0) {
                let [a, b, c, d] = [a, b, c, d].map(|codes| bits_of(codes, down, 3));
                let low = _mm_or_si128(a, _mm_slli_epi16::<2>(b));
                let high = _mm_or_si128(c, _mm_slli_epi16::<2>(d));
                store_sixteen_bytes(to, _mm_or_si128(low, _mm_slli_epi16::<4>(high)));
            }
        }
        _ => {
            let (a, b) = codes.split_at(codes.len() / 2);
            let (a, b) = (a.as_chunks::<16>().0, b.as_chunks::<16>().0);
            for ((a, b), to) in a.iter().zip(b).zip(row.as_chunks_mut::<16>().0) {
                let [a, b] = [a, b].map(|codes| bits_of(codes, down, 15));
                store_sixteen_bytes(to, _mm_or_si128(a, _mm_slli_epi16::<4>(b)));
            }
        }
    }
}

/// The sixteens of each quarter.
#[inline(always)]
fn quarters(codes: &[u8]) -> [&[[u8; 16]]; 4] {
    let (low, high) = codes.split_at(codes.len() / 2);
    let ((a, b), (c, d)) = (low.split_at(low.len() / 2), high.split_at(high.len() / 2));
    [a, b, c, d].map(|quarter| quarter.as_chunks::<16>().0)
}

/// Sixteen codes shifted down, and what `mask` leaves of them.
#[inline]
#[target_feature(enable = "avx2")]
fn bits_of(codes: &[u8; 16], down: __m128i, mask: i8) -> __m128i {
    _mm_and_si128(_mm_srl_epi16(load_sixteen_bytes(codes), down), _mm_set1_epi8(mask))
}

/// One bit of every code.
#[inline]
#[target_feature(enable = "avx2")]
fn put_bits(shift: u32, codes: &[u8], row: &mut [u8]) {
    let up = _mm_cvtsi32_si128(7 - shift.min(7) as i32);
    for (codes, to) in codes.as_chunks::<32>().0.iter().zip(row.as_chunks_mut::<4>().0) {
        *to = _mm256_movemask_epi8(_mm256_sll_epi16(load_vector(codes), up)).to_le_bytes();
    }
}
