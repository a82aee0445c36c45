//! Rows to columns, in units of four bytes: sixteen tokens side by side, as `VPDPBUSD` wants them.

use core::arch::x86_64::*;

use super::load::load_64;

/// Register `i` gets the `i`-th four bytes of all sixteen rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn turn(rows: &[__m512i; 16]) -> [__m512i; 16] {
    // Quarters of rows four apart together, so that the last step leaves tokens in order.
    let a = turn_quarters([rows[0], rows[4], rows[8], rows[12]]);
    let b = turn_quarters([rows[1], rows[5], rows[9], rows[13]]);
    let c = turn_quarters([rows[2], rows[6], rows[10], rows[14]]);
    let d = turn_quarters([rows[3], rows[7], rows[11], rows[15]]);
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
    let (mut first, mut second) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
    let fours = rows.as_chunks::<2>().0.as_chunks::<2>().0;
    for (([x, y], first), second) in fours.iter().zip(&mut first).zip(&mut second) {
        let (x, y) = (load_64(x), load_64(y));
        *first = _mm512_shuffle_i64x2::<0b10_00_10_00>(x, y);
        *second = _mm512_shuffle_i64x2::<0b11_01_11_01>(x, y);
    }
    let ([a, b, c, d], [e, f, g, h]) = (turn_lanes(first), turn_lanes(second));
    [a, b, c, d, e, f, g, h]
}

/// In each quarter, register `i` gets the `i`-th four bytes of the four registers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn turn_lanes([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
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
