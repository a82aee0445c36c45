//! Rows to columns, in units of four bytes: sixteen tokens side by side, as `VPDPBUSD` wants them.

use core::arch::x86_64::*;

use super::load::load_64;

/// Register `i` gets the `i`-th four bytes of all sixteen rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn turn(rows: &[__m512i; 16]) -> [__m512i; 16] {
    // Quarters of rows four apart together, so that the last step leaves tokens in order.
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| turn_quarters([rows[i], rows[4 + i], rows[8 + i], rows[12 + i]]));
    let mut out = [_mm512_setzero_si512(); 16];
    for (q, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *out = turn_lanes([a[q & 3], b[q & 3], c[q & 3], d[q & 3]]);
    }
    out
}

/// As [`turn`], for rows of half a register; token `4·k + i` comes out at place `4·i + k`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn turn_halves(rows: &[[u8; 32]; 16]) -> [__m512i; 8] {
    let two = |i: usize| load_64(&rows.as_chunks::<2>().0[i & 7]);
    let four = [0, 2, 4, 6].map(|i| (two(i), two(i + 1)));
    let [a, b, c, d] = turn_lanes(four.map(|(x, y)| _mm512_shuffle_i64x2::<0b10_00_10_00>(x, y)));
    let [e, f, g, h] = turn_lanes(four.map(|(x, y)| _mm512_shuffle_i64x2::<0b11_01_11_01>(x, y)));
    [a, b, c, d, e, f, g, h]
}

/// In each quarter, register `i` gets the `i`-th four bytes of the four registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn turn_lanes([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Register `i` gets quarter `i` of the four registers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn turn_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
    let (cd_low, cd_high) = (_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high),
    ]
}
