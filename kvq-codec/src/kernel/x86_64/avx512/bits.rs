//! Eight rows of heads of 64 by columns, where codes lie in planes of one and two bits.
//!
//! A 64-bit lane belongs to a token, as its plane of one bit does in memory. Turned by `s` bits, the bytes of that begin
//! with the bits of values `s`, `s + 8`, and so on, so that a column of eight values takes a rotation for each such
//! plane, and `VPMULTISHIFTQB` for one of two bits. Rows that are unpacked first have to be turned at twice the size.

use core::arch::x86_64::*;

use super::super::unpack::high_plane;
use super::load::load_64_at;
use crate::block::{Layout, MAX_PLANES};

/// Tokens of a register, and values of a column.
pub(super) const TOKENS: usize = 8;

/// The planes of eight rows.
pub(super) struct Bits<const LAYOUT: u8> {
    /// Codes of two bits, those of values that differ in their last three bits only in one byte each: first those whose
    /// last three bits are 0 to 3.
    quarters: [__m512i; 2],
    /// Both bits of the labels of even values, and of odd ones; for 3-bit scalar codes, the upper bits, twice.
    labels: [__m512i; 2],
    /// See [`high_plane`].
    high: __m512i,
}

impl<const LAYOUT: u8> Bits<LAYOUT> {
    /// Of eight rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn new(planes: &[&[u8]; MAX_PLANES]) -> Self {
        let none = _mm512_setzero_si512();
        let words = |plane: usize| load_64_at(planes[plane], 0);
        let is = |layout: Layout| LAYOUT == layout.tag();
        Self {
            quarters: if is(Layout::T2) { [none; 2] } else { quarters(words(0), load_64_at(planes[0], 1)) },
            labels: match () {
                () if is(Layout::T4) => labels(words(2)),
                () if is(Layout::S2) => [none; 2],
                () if is(Layout::S3) => [words(1); 2],
                () => labels(words(1)),
            },
            high: high_plane::<LAYOUT>(planes).map_or(none, |plane| load_64_at(plane, 0)),
        }
    }

    /// Indices into the codebook of values `s`, `s + 8`, and so on; bits above those that count are anything.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi")]
    pub fn index(&self, s: usize) -> __m512i {
        let is = |layout: Layout| LAYOUT == layout.tag();
        if is(Layout::S2) {
            return self.quarter(s, 0);
        }
        if is(Layout::S3) {
            return select(3, self.quarter(s, 0), from_bit(self.labels[0], s, 2));
        }
        let label = from_bit(self.labels[s % 2], s - s % 2, 0);
        if is(Layout::T2) {
            return select(3, label, from_bit(self.high, s, 2));
        }
        let low = select(3, label, self.quarter(s, 2));
        if is(Layout::T3) { low } else { select(15, low, from_bit(self.high, s, 4)) }
    }

    /// Two-bit codes of values `s`, `s + 8`, and so on, from bit `to` of each byte on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi")]
    fn quarter(&self, s: usize, to: usize) -> __m512i {
        let mut bits = [0; 8];
        for (k, bit) in bits.iter_mut().enumerate() {
            *bit = ((16 * (s % 4) + 8 * (k % 2) + 2 * (k / 2) + 64 - to) % 64) as u8;
        }
        let bits = _mm512_set1_epi64(i64::from_le_bytes(bits));
        _mm512_multishift_epi64_epi8(bits, self.quarters[s / 4])
    }
}

/// Code `i` of a row is in byte `i mod 16`, at bit `2·(i div 16)`: bytes `s` and `s + 8` are brought side by side, and
/// halves of rows apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn quarters(first: __m512i, second: __m512i) -> [__m512i; 2] {
    let pairs = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    let (first, second) = (_mm512_shuffle_epi8(first, pairs), _mm512_shuffle_epi8(second, pairs));
    let (even, odd) =
        (_mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15));
    [_mm512_permutex2var_epi64(first, even, second), _mm512_permutex2var_epi64(first, odd, second)]
}

/// Both bits of the labels of even values side by side, and of odd ones, from the bit of the even value on in either:
/// parities of trellis bits, which wrap around the row.
#[inline]
#[target_feature(enable = "avx512f")]
fn labels(bits: __m512i) -> [__m512i; 2] {
    let (by_1, by_2, by_3) =
        (_mm512_rol_epi64::<1>(bits), _mm512_rol_epi64::<2>(bits), _mm512_rol_epi64::<3>(bits));
    let upper = _mm512_xor_si512(bits, _mm512_xor_si512(by_1, by_3));
    // Of an odd value the lower bit is `by_2` at its own place, `by_1` at the one before.
    [select(0x55, by_2, _mm512_rol_epi64::<1>(upper)), select(0x55, by_1, upper)]
}

/// The bits of `mask`, the same in each byte, of `a`, and the other ones of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn select(mask: i8, a: __m512i, b: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0xca>(_mm512_set1_epi8(mask), a, b)
}

/// Bits `s`, `s + 8`, and so on of each lane, at bit `to` of each byte; around them those that are around them.
#[inline]
#[target_feature(enable = "avx512f")]
fn from_bit(lanes: __m512i, s: usize, to: usize) -> __m512i {
    _mm512_rorv_epi64(lanes, _mm512_set1_epi64(((s + 64 - to) % 64) as i64))
}
