//! Rows of heads of 64 whose codes lie in planes of one and two bits, to indices into a codebook.
//!
//! A byte of a plane of two bits has the codes of values `b`, `b + 16`, `b + 32` and `b + 48`. A row's plane of one bit is
//! a matrix of eight by eight bits, which `GF2P8AFFINEQB` turns, so that both bits of a label come to lie like such a
//! code. Two codes then make nibbles of a register each, several indices at once, before they are taken apart.

use core::arch::x86_64::*;

use super::super::unpack::high_plane;
use super::load::{load_64, load_64_at};
use crate::block::{Layout, MAX_PLANES};

/// Whether indices have two bits each of a plane and of a label.
const fn has_nibbles(layout: u8) -> bool {
    layout == Layout::T4.tag() || layout == Layout::T3.tag()
}

/// Whether indices have two bits of a label.
const fn has_labels(layout: u8) -> bool {
    has_nibbles(layout) || layout == Layout::T2.tag()
}

/// The plane of trellis bits.
fn trellis_plane<'a, const LAYOUT: u8>(planes: &[&'a [u8]; MAX_PLANES]) -> &'a [u8] {
    if LAYOUT == Layout::T4.tag() { planes[2] } else { planes[1] }
}

/// The plane that has the uppermost bit of indices.
fn upper_plane<'a, const LAYOUT: u8>(planes: &[&'a [u8]; MAX_PLANES]) -> Option<&'a [u8]> {
    if LAYOUT == Layout::S3.tag() { Some(planes[1]) } else { high_plane::<LAYOUT>(planes) }
}

/// Eight tokens: a 64-bit lane belongs to each, and a column has eight of its values, side by side.
pub(super) struct Columns<const LAYOUT: u8> {
    /// Lower bits of the indices of even columns, and of odd ones: see [`Indices`].
    halves: [Indices<LAYOUT>; 2],
    /// The uppermost bit, where an index has more than those: of column `c` at bit `7 - c` of each byte.
    upper: __m512i,
}

impl<const LAYOUT: u8> Columns<LAYOUT> {
    /// Of the `eight`-th eight rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    pub fn new(planes: &[&[u8]; MAX_PLANES], eight: usize) -> Self {
        let none = _mm512_setzero_si512();
        let codes = if LAYOUT == Layout::T2.tag() {
            [none; 2]
        } else {
            let (a, b) = (load_64_at(planes[0], 2 * eight), load_64_at(planes[0], 2 * eight + 1));
            let (even, odd) =
                (_mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15));
            [_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b)]
        };
        let labels = if has_labels(LAYOUT) {
            let [z1, z0] = label_bits(load_64_at(trellis_plane::<LAYOUT>(planes), eight));
            let even_bytes = _mm512_set1_epi16(0xff);
            let select = |a, b| _mm512_ternarylogic_epi64::<0xca>(even_bytes, a, b);
            let reversed = _mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
            let reversed = _mm512_broadcast_i32x4(reversed);
            [select(z0, _mm512_rol_epi64::<8>(z1)), select(_mm512_ror_epi64::<8>(z0), z1)]
                .map(|bits| turn_bits(_mm512_shuffle_epi8(bits, reversed)))
        } else {
            [none; 2]
        };
        Self {
            halves: [Indices::new(codes[0], labels[0]), Indices::new(codes[1], labels[1])],
            upper: upper_plane::<LAYOUT>(planes).map_or(none, |plane| turn_bits(load_64_at(plane, eight))),
        }
    }

    /// Indices of values `8·c .. 8·c + 8`; bits above those that count are anything.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn index(&self, c: usize) -> __m512i {
        with_upper::<LAYOUT>(self.halves[c % 2].at(c / 2), self.upper, 7 - c)
    }
}

/// Four tokens: a 32-bit lane has one of sixteen values of each.
pub(super) struct Quads<const LAYOUT: u8> {
    indices: Indices<LAYOUT>,
    /// The uppermost bit, where an index has more than those: of values `16·m ..` at bit `4 + m` of each byte.
    upper: __m512i,
}

impl<const LAYOUT: u8> Quads<LAYOUT> {
    /// Of the first eight rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    pub fn new(planes: &[&[u8]; MAX_PLANES]) -> [Self; 2] {
        let none = _mm512_setzero_si512();
        // In pairs of lanes of four tokens.
        let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        let bits = |plane| _mm512_permutexvar_epi64(order, load_64_at(plane, 0));
        let labels = if has_labels(LAYOUT) {
            let [z1, z0] = label_bits(bits(trellis_plane::<LAYOUT>(planes)));
            // Those of even bytes in the lower half of a row, from the last on.
            let order = _mm_setr_epi8(13, 12, 9, 8, 5, 4, 1, 0, 15, 14, 11, 10, 7, 6, 3, 2);
            [_mm512_unpacklo_epi8(z0, z1), _mm512_unpackhi_epi8(z0, z1)]
                .map(|bits| turn_bits(_mm512_shuffle_epi8(bits, _mm512_broadcast_i32x4(order))))
        } else {
            [none; 2]
        };
        let upper = match upper_plane::<LAYOUT>(planes) {
            Some(plane) => {
                let bits = bits(plane);
                let order = _mm_setr_epi8(6, 4, 2, 0, 6, 4, 2, 0, 7, 5, 3, 1, 7, 5, 3, 1);
                let second = _mm_add_epi8(order, _mm_set1_epi8(8));
                [order, second]
                    .map(|order| turn_bits(_mm512_shuffle_epi8(bits, _mm512_broadcast_i32x4(order))))
            }
            None => [none; 2],
        };
        let four = |i: usize| {
            let codes = if LAYOUT == Layout::T2.tag() { none } else { load_64_at(planes[0], i) };
            Self {
                indices: Indices::new(codes, labels[i]).turned(),
                upper: if upper_plane::<LAYOUT>(planes).is_some() { turn_bytes(upper[i]) } else { none },
            }
        };
        [four(0), four(1)]
    }

    /// Indices of values `16·m .. 16·m + 16`; bits above those that count are anything.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn index(&self, m: usize) -> __m512i {
        with_upper::<LAYOUT>(self.indices.at(m), self.upper, 4 + m)
    }
}

/// Indices, but for an uppermost bit, of values whose numbers have the same last four bits in one byte each: two nibbles
/// in either register, values `0 ..` and `32 ..` in the first; or four codes of two bits in the first one alone.
#[derive(Clone, Copy)]
struct Indices<const LAYOUT: u8>([__m512i; 2]);

impl<const LAYOUT: u8> Indices<LAYOUT> {
    /// Of codes of a plane of two bits and of labels, where a layout has those.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(codes: __m512i, labels: __m512i) -> Self {
        if has_nibbles(LAYOUT) {
            Self([
                select(0x33, labels, _mm512_rol_epi64::<2>(codes)),
                select(0x33, _mm512_ror_epi64::<2>(labels), codes),
            ])
        } else if LAYOUT == Layout::T2.tag() {
            Self([labels; 2])
        } else {
            Self([codes; 2])
        }
    }

    /// See [`turn_bytes`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi")]
    fn turned(self) -> Self {
        let Self([a, b]) = self;
        if has_nibbles(LAYOUT) { Self([turn_bytes(a), turn_bytes(b)]) } else { Self([turn_bytes(a); 2]) }
    }

    /// Those of the `m`-th sixteen values, from bit 0 of each byte on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn at(&self, m: usize) -> __m512i {
        if has_nibbles(LAYOUT) {
            from_bit(self.0[m % 2], 4 * (m / 2), 0)
        } else {
            from_bit(self.0[0], 2 * m, 0)
        }
    }
}

/// Indices and their uppermost bit, which is at bit `at` of each byte of `upper`.
#[inline]
#[target_feature(enable = "avx512f")]
fn with_upper<const LAYOUT: u8>(lower: __m512i, upper: __m512i, at: usize) -> __m512i {
    let is = |layout: Layout| LAYOUT == layout.tag();
    if is(Layout::T4) {
        select(15, lower, from_bit(upper, at, 4))
    } else if is(Layout::T2) || is(Layout::S3) {
        select(3, lower, from_bit(upper, at, 2))
    } else {
        lower
    }
}

/// Both bits of labels, the upper one first: parities of trellis bits, which wrap around the row.
#[inline]
#[target_feature(enable = "avx512f")]
fn label_bits(bits: __m512i) -> [__m512i; 2] {
    let (by_1, by_3) = (_mm512_rol_epi64::<1>(bits), _mm512_rol_epi64::<3>(bits));
    [_mm512_xor_si512(bits, _mm512_xor_si512(by_1, by_3)), _mm512_rol_epi64::<2>(bits)]
}

/// In each 64-bit lane, bit `k` of byte `i` becomes bit `7 - i` of byte `k`.
#[inline]
#[target_feature(enable = "avx512f,gfni")]
fn turn_bits(bits: __m512i) -> __m512i {
    let one_each = _mm512_set1_epi64(0x8040_2010_0804_0201_u64.cast_signed());
    _mm512_gf2p8affine_epi64_epi8::<0>(one_each, bits)
}

/// Byte `b` of quarter `t` becomes byte `t` of 32-bit lane `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi")]
pub(super) fn turn_bytes(bytes: __m512i) -> __m512i {
    const ORDER: [[u8; 32]; 2] = {
        let mut order = [[0; 32]; 2];
        let mut i = 0;
        while i < 64 {
            order[i / 32][i % 32] = (16 * (i % 4) + i / 4) as u8;
            i += 1;
        }
        order
    };
    _mm512_permutexvar_epi8(load_64(&ORDER), bytes)
}

/// The bits of `mask`, the same in each byte, of `a`, and the other ones of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn select(mask: i8, a: __m512i, b: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0xca>(_mm512_set1_epi8(mask), a, b)
}

/// Bit `s` of each byte at bit `to`; around it those that are around it, or of a neighbour.
#[inline]
#[target_feature(enable = "avx512f")]
fn from_bit(lanes: __m512i, s: usize, to: usize) -> __m512i {
    _mm512_rorv_epi64(lanes, _mm512_set1_epi64(((s + 64 - to) % 64) as i64))
}
