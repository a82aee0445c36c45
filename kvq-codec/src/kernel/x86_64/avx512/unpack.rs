//! Packed rows to levels, 64 at a time.
//!
//! Bits that a layout stores by the bit are masks as they lie in memory: each adds its place to the index of its value.

use core::arch::x86_64::*;

use super::super::load::load_u64;
use super::super::unpack::high_plane;
use super::load::{load_16_four_times, load_32_twice, load_64, load_64_at};
use crate::block::{Layout, MAX_PLANES};

/// A layout's levels, each plus `BIAS`, over and over: `VPERMB` looks at six bits of an index.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn codebook<const LAYOUT: u8, const BIAS: u8>() -> __m512i {
    load_64(const { &repeated(LAYOUT, BIAS) })
}

const fn repeated(layout: u8, bias: u8) -> [[u8; 32]; 2] {
    let mut table = [[0; 32]; 2];
    if let Some(layout) = Layout::from_tag(layout) {
        let levels = layout.codewords();
        let mut i = 0;
        while i < 64 && !levels.is_empty() {
            table[i / 32][i % 32] = (levels[i % levels.len()] as u8).wrapping_add(bias);
            i += 1;
        }
    }
    table
}

/// The levels of values `64·c .. 64·c + 64` of row `r`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn levels<const LAYOUT: u8, const D: usize>(
    planes: &[&[u8]; MAX_PLANES],
    (r, c): (usize, usize),
    codebook: __m512i,
) -> __m512i {
    _mm512_permutexvar_epi8(index::<LAYOUT, D>(planes, (r, c)), codebook)
}

/// Indices into a codebook that repeats; bits above those that count are anything.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn index<const LAYOUT: u8, const D: usize>(planes: &[&[u8]; MAX_PLANES], (r, c): (usize, usize)) -> __m512i {
    let word = |plane: usize| load_u64(planes[plane], r * (D / 64) + c);
    if LAYOUT == Layout::S4.tag() {
        return four_bits::<D>(planes[0], (r, c));
    }
    if LAYOUT == Layout::S2.tag() {
        return two_bits::<D>(planes[0], (r, c), 0);
    }
    if LAYOUT == Layout::S3.tag() {
        let low = _mm512_and_si512(two_bits::<D>(planes[0], (r, c), 0), _mm512_set1_epi8(3));
        return add_where(word(1), 4, low);
    }
    let bits = if LAYOUT == Layout::T4.tag() { planes[2] } else { planes[1] };
    let [z1, z0] = labels::<D>(bits, (r, c));
    let upper = if LAYOUT == Layout::T2.tag() {
        _mm512_setzero_si512()
    } else {
        _mm512_and_si512(two_bits::<D>(planes[0], (r, c), 2), _mm512_set1_epi8(12))
    };
    let index = add_where(z0, 1, add_where(z1, 2, upper));
    match high_plane::<LAYOUT>(planes) {
        Some(plane) => {
            let place = if LAYOUT == Layout::T2.tag() { 4 } else { 16 };
            add_where(load_u64(plane, r * (D / 64) + c), place, index)
        }
        None => index,
    }
}

/// Adds `place` to each byte whose bit is set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_where(bits: u64, place: i8, to: __m512i) -> __m512i {
    _mm512_mask_add_epi8(to, bits, to, _mm512_set1_epi8(place))
}

/// Codes of a 4-bit plane in the low bits of bytes: code `i` is in byte `i mod D/2`, at bit `4·(i div D/2)`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn four_bits<const D: usize>(rows: &[u8], (r, c): (usize, usize)) -> __m512i {
    match D {
        64 => _mm512_rorv_epi32(load_32_twice(rows, r), by_half([0, 4])),
        128 => rotate_right(load_64_at(rows, r), 4 * c),
        _ => rotate_right(load_64_at(rows, 2 * r + c % 2), 4 * (c / 2)),
    }
}

/// Codes of a 2-bit plane at bit `to` of bytes: code `i` is in byte `i mod D/4`, at bit `2·(i div D/4)`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn two_bits<const D: usize>(rows: &[u8], (r, c): (usize, usize), to: usize) -> __m512i {
    let by = |bit: usize| ((bit + 32 - to) % 32) as i32;
    match D {
        64 => {
            let (a, b, c, d) = (by(0), by(2), by(4), by(6));
            let by = _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
            _mm512_rorv_epi32(load_16_four_times(rows, r), by)
        }
        128 => _mm512_rorv_epi32(load_32_twice(rows, r), by_half([by(4 * c), by(4 * c + 2)])),
        _ => rotate_right(load_64_at(rows, r), by(2 * c) as usize),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rotate_right(x: __m512i, by: usize) -> __m512i {
    _mm512_rorv_epi32(x, _mm512_set1_epi32(by as i32))
}

/// A number for each half of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn by_half([low, high]: [i32; 2]) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_set1_epi32(low), _mm256_set1_epi32(high))
}

/// Both label bits of 64 values: parities of trellis bits, which wrap around the row.
#[inline]
fn labels<const D: usize>(bits: &[u8], (r, c): (usize, usize)) -> [u64; 2] {
    let n = D / 64;
    let word = load_u64(bits, r * n + c);
    let before = load_u64(bits, r * n + (c + n - 1) % n);
    let back = |by: u32| word << by | before >> (64 - by);
    [word ^ back(1) ^ back(3), back(2)]
}
