//! Packed rows to levels by columns: a register holds four values of each of eight tokens.
//!
//! A 32-bit lane belongs to a token, so that products with four codes of a query add up to eight scores without a sum
//! across a register; and a byte shuffle makes it a lane of four tokens' levels of one value, which products with four
//! weights add up. Codes are turned while they are packed. The value that byte `k` of column `c` holds is
//! `4·c + k` for 4-bit codes; where there are planes of one or two bits, a shift moves every eighth of a word's
//! bits into place, and it is `32·(c div 8) + c mod 8 + 8·k`.

use core::arch::x86_64::*;

use super::load::{load16_twice, load32, store_vector};
use super::unpack::{for_each_rows, high_plane};
use crate::block::{Layout, MAX_PLANES, Rows};
use crate::kernel::HeadRow;
use crate::kernel::simd::is_fast;
use crate::pack::plane_row_bytes;

/// Tokens of a register.
pub(super) const TOKENS: usize = 8;

/// Columns of 32 values.
pub(super) const COLUMNS: usize = 8;

/// Whether rows come as columns: eight of them together.
pub(super) fn serves(head: HeadRow, rows: &Rows<'_>) -> bool {
    matches!(head.head_dim, 32 | 64 | 128 | 256) && is_fast(head, rows, TOKENS)
}

/// Whether the four values of a column lie eight apart, not side by side.
pub(super) fn are_strided(layout: Layout) -> bool {
    layout != Layout::S4
}

/// Calls `$function::<LAYOUT, D, $by_value>`.
macro_rules! by_layout {
    ($function:ident, $layout:expr, $head_dim:expr, $by_value:tt, $args:tt) => {
        match $layout {
            Layout::Q8 => {}
            Layout::S4 => by_layout!(@dim $function, { Layout::S4.tag() }, $head_dim, $by_value, $args),
            Layout::S3 => by_layout!(@dim $function, { Layout::S3.tag() }, $head_dim, $by_value, $args),
            Layout::S2 => by_layout!(@dim $function, { Layout::S2.tag() }, $head_dim, $by_value, $args),
            Layout::T4 => by_layout!(@dim $function, { Layout::T4.tag() }, $head_dim, $by_value, $args),
            Layout::T3 => by_layout!(@dim $function, { Layout::T3.tag() }, $head_dim, $by_value, $args),
            Layout::T2 => by_layout!(@dim $function, { Layout::T2.tag() }, $head_dim, $by_value, $args),
        }
    };
    (@dim $function:ident, $layout:tt, $head_dim:expr, $by_value:tt, $args:tt) => {
        match $head_dim {
            32 => $function::<$layout, 32, $by_value> $args,
            64 => $function::<$layout, 64, $by_value> $args,
            128 => $function::<$layout, 128, $by_value> $args,
            _ => $function::<$layout, 256, $by_value> $args,
        }
    };
}

/// Columns of all rows, those of eight tokens one behind the other.
#[target_feature(enable = "avx2")]
pub(super) fn unpack_by_token(layout: Layout, rows: &Rows<'_>, head_dim: usize, out: &mut [[u8; 32]]) {
    by_layout!(write, layout, head_dim, false, (rows, out));
}

/// As [`unpack_by_token`], with the levels of tokens 0-3 for each value in a lane of the lower half, and those of
/// tokens 4-7 in the upper one.
#[target_feature(enable = "avx2")]
pub(super) fn unpack_by_value(layout: Layout, rows: &Rows<'_>, head_dim: usize, out: &mut [[u8; 32]]) {
    by_layout!(write, layout, head_dim, true, (rows, out));
}

#[target_feature(enable = "avx2")]
fn write<const LAYOUT: u8, const D: usize, const BY_VALUE: bool>(rows: &Rows<'_>, out: &mut [[u8; 32]]) {
    let codebook = codebook::<LAYOUT>();
    let mut groups = out.chunks_exact_mut(D / 4);
    for_each_rows::<LAYOUT, D, TOKENS>(rows, |planes| {
        // Of a length that is known when this is compiled, like the planes.
        let Some(columns) = groups.next().and_then(|group| group.get_mut(..D / 4)) else { return };
        let put = |c: usize, levels| {
            if BY_VALUE {
                store_vector(&mut columns[pair_up(c)], four_by_four(levels));
            } else {
                store_vector(&mut columns[c], levels);
            }
        };
        if LAYOUT == Layout::S4.tag() {
            nibbles::<D>(planes[0], codebook[0], put);
        } else {
            planes_of_bits::<LAYOUT, D>(planes, codebook, put);
        }
    });
}

/// Where column `c` is stored by value: columns `i` and `i + 4` of each eight side by side.
const fn pair_up(c: usize) -> usize {
    c / COLUMNS * COLUMNS + c % 4 * 2 + c % COLUMNS / 4
}

/// The levels that an index stands for, its lower and upper sixteen in both halves of a register each. Where a trellis
/// has a plane of two bits, the bits of the label come above them in an index, not below as in a code.
#[inline]
#[target_feature(enable = "avx2")]
fn codebook<const LAYOUT: u8>() -> [__m256i; 2] {
    let mut table = [0u8; 32];
    if let Some(layout) = Layout::from_tag(LAYOUT) {
        let turned = layout.is_trellis() && layout != Layout::T2;
        for (code, &level) in layout.codewords().iter().enumerate() {
            let index = if turned { code & 16 | (code & 3) << 2 | code >> 2 & 3 } else { code };
            table[index & 31] = level as u8;
        }
    }
    [load16_twice(&table, 0), load16_twice(&table, 1)]
}

/// Turns four lanes of four bytes in each half.
#[inline]
#[target_feature(enable = "avx2")]
fn four_by_four(levels: __m256i) -> __m256i {
    let order = _mm256_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, //
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
    );
    _mm256_shuffle_epi8(levels, order)
}

/// Columns of 4-bit codes: code `i` is in byte `i mod D/2`, at bit `4·(i div D/2)`.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles<const D: usize>(rows: &[u8], codebook: __m256i, mut put: impl FnMut(usize, __m256i)) {
    let nibble = _mm256_set1_epi8(15);
    for part in 0..D / 32 {
        for (i, low) in turn(sixteenths::<D, 4>(rows, part)).into_iter().enumerate() {
            let high = _mm256_srli_epi16(low, 4);
            put(4 * part + i, _mm256_shuffle_epi8(codebook, _mm256_and_si256(low, nibble)));
            put(D / 8 + 4 * part + i, _mm256_shuffle_epi8(codebook, _mm256_and_si256(high, nibble)));
        }
    }
}

/// Columns of codes with planes of one or two bits.
#[inline]
#[target_feature(enable = "avx2")]
fn planes_of_bits<const LAYOUT: u8, const D: usize>(
    planes: &[&[u8]; MAX_PLANES],
    codebook: [__m256i; 2],
    mut put: impl FnMut(usize, __m256i),
) {
    let is = |layout: Layout| LAYOUT == layout.tag();
    let quarters = if is(Layout::T2) { Quarters::NONE } else { Quarters::new::<D>(planes[0]) };
    let bits = words_of_bits::<D>(if is(Layout::T4) { planes[2] } else { planes[1] });
    let high = match high_plane::<LAYOUT>(planes) {
        Some(plane) => words_of_bits::<D>(plane),
        None => [_mm256_setzero_si256(); MAX_WORDS],
    };
    let mut labels = [Labels::NONE; MAX_WORDS];
    for m in 0..D / 32 {
        labels[m] = Labels::new(bits[m], bits[(m + D / 32 - 1) % (D / 32)]);
    }
    // As a loop it is too long for the compiler to write out, and every shift by a constant would become two operations.
    macro_rules! columns {
        ($($s:literal)*) => {$(
            for m in 0..D / 32 {
                let index = if is(Layout::S2) {
                    quarters.codes::<D>(m, $s)
                } else if is(Layout::S3) {
                    _mm256_or_si256(quarters.codes::<D>(m, $s), bit::<2>(bits[m], $s))
                } else if is(Layout::T2) {
                    _mm256_or_si256(labels[m].at::<0>($s), bit::<2>(high[m], $s))
                } else {
                    _mm256_or_si256(quarters.codes::<D>(m, $s), labels[m].at::<2>($s))
                };
                let mut levels = _mm256_shuffle_epi8(codebook[0], index);
                if is(Layout::T4) {
                    let upper = _mm256_shuffle_epi8(codebook[1], index);
                    levels = _mm256_blendv_epi8(levels, upper, shift(high[m], 7 - $s));
                }
                put(COLUMNS * m + $s, levels);
            }
        )*};
    }
    columns!(0 1 2 3 4 5 6 7);
}

/// Both bits of the labels of 32 values, those of neighbours side by side: parities of trellis bits, which wrap around
/// the row.
#[derive(Clone, Copy)]
struct Labels {
    even: __m256i,
    odd: __m256i,
}

impl Labels {
    // SAFETY: all bits 0 is a vector.
    const NONE: Self = unsafe { core::mem::zeroed() };

    /// Of a word of trellis bits and the one before.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(word: __m256i, before: __m256i) -> Self {
        let back = |by| {
            let (by, rest) = (_mm_cvtsi32_si128(by), _mm_cvtsi32_si128(32 - by));
            _mm256_or_si256(_mm256_sll_epi32(word, by), _mm256_srl_epi32(before, rest))
        };
        let (z1, z0) = (_mm256_xor_si256(word, _mm256_xor_si256(back(1), back(3))), back(2));
        let even = _mm256_set1_epi32(0x5555_5555);
        let z1_even = _mm256_and_si256(z1, even);
        let z0_even = _mm256_and_si256(z0, even);
        Self {
            even: _mm256_or_si256(_mm256_add_epi32(z1_even, z1_even), z0_even),
            odd: _mm256_or_si256(
                _mm256_andnot_si256(even, z1),
                _mm256_srli_epi32(_mm256_andnot_si256(even, z0), 1),
            ),
        }
    }

    /// Labels of values `s`, `s + 8`, and so on, from bit `AT` of each byte on.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn at<const AT: i32>(&self, s: usize) -> __m256i {
        let (labels, from) =
            if s.is_multiple_of(2) { (self.even, s as i32) } else { (self.odd, s as i32 - 1) };
        _mm256_and_si256(shift(labels, AT - from), _mm256_set1_epi8(3 << AT))
    }
}

/// Bits `s`, `s + 8`, and so on of each lane, at bit `AT` of each byte.
#[inline]
#[target_feature(enable = "avx2")]
fn bit<const AT: i32>(word: __m256i, s: usize) -> __m256i {
    _mm256_and_si256(shift(word, AT - s as i32), _mm256_set1_epi8(1 << AT))
}

/// Lanes shifted to the left, or to the right where `by` is negative.
#[inline]
#[target_feature(enable = "avx2")]
fn shift(word: __m256i, by: i32) -> __m256i {
    let count = _mm_cvtsi32_si128(by.abs());
    match by {
        0 => word,
        1.. => _mm256_sll_epi32(word, count),
        _ => _mm256_srl_epi32(word, count),
    }
}

/// The most words of 32 values that a row has.
const MAX_WORDS: usize = 8;

/// A plane of two bits, turned: code `i` is in byte `i mod D/4`, at bit `2·(i div D/4)`. What belongs to values `s`,
/// `s + 8`, and so on lies in one register, or in two; in half a register for heads of 64, a quarter of one for heads of 32.
struct Quarters([[__m256i; COLUMNS]; 2]);

impl Quarters {
    // SAFETY: all bits 0 is a vector.
    const NONE: Self = unsafe { core::mem::zeroed() };

    #[inline]
    #[target_feature(enable = "avx2")]
    fn new<const D: usize>(rows: &[u8]) -> Self {
        let mut all = Self::NONE;
        if D == 32 {
            // Four rows in each 32 bytes, two words in each.
            let [a, b] = [0, 1].map(|i| _mm256_castsi256_ps(load32(rows, i)));
            let [a, b] = [_mm256_shuffle_ps::<0b10_00_10_00>(a, b), _mm256_shuffle_ps::<0b11_01_11_01>(a, b)]
                .map(|words| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(words)));
            all.0[0] = [a, a, a, a, b, b, b, b];
            return all;
        }
        if D == 64 {
            let [a, b, c, d] = turn(pairs_of::<D>(rows, 0));
            all.0[0] = [a, a, b, b, c, c, d, d];
            return all;
        }
        for half in 0..D / 128 {
            let low = pairs_of::<D>(rows, 2 * half);
            let high = pairs_of::<D>(rows, 2 * half + 1);
            let mut fours = [[_mm256_setzero_si256(); 4]; 2];
            for t in 0..4 {
                fours[0][t] = _mm256_unpacklo_epi16(low[t], high[t]);
                fours[1][t] = _mm256_unpackhi_epi16(low[t], high[t]);
            }
            let ([a, b, c, d], [e, f, g, h]) = (turn(fours[0]), turn(fours[1]));
            all.0[half] = [a, b, c, d, e, f, g, h];
        }
        all
    }

    /// Codes of values `s`, `s + 8`, and so on of the `m`-th 32.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn codes<const D: usize>(&self, m: usize, s: usize) -> __m256i {
        let (codes, by) = match D {
            32 => (one_to_four(self.0[0][s], s), 0),
            64 => (two_to_four(self.0[0][s], s), 4 * m),
            128 => (self.0[0][s], 2 * m),
            _ => (self.0[m % 2][s], 2 * (m / 2)),
        };
        _mm256_and_si256(shift(codes, -(by as i32)), _mm256_set1_epi8(3))
    }
}

/// [`sixteenths`] of a plane of two bits, with bytes `s` and `s + 8` side by side.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs_of<const D: usize>(rows: &[u8], part: usize) -> [__m256i; 4] {
    let mut parts = sixteenths::<D, 2>(rows, part);
    for row in &mut parts {
        *row = eights_to_pairs(*row);
    }
    parts
}

/// Byte `s` and byte `s + 8` of each half side by side.
#[inline]
#[target_feature(enable = "avx2")]
fn eights_to_pairs(row: __m256i) -> __m256i {
    let order = _mm256_setr_epi8(
        0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, //
        0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,
    );
    _mm256_shuffle_epi8(row, order)
}

/// Four bytes of 32 for each column, in the order of a layout's columns.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn query_columns(codes: __m256i, strided: bool) -> __m256i {
    if !strided {
        return codes;
    }
    let pairs = eights_to_pairs(codes);
    let (low, high) = (_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm256_set_m128i(_mm_unpackhi_epi16(low, high), _mm_unpacklo_epi16(low, high))
}

/// The lower two bytes of each lane twice, or the upper two for an odd `s`; the second time shifted by two bits, as the
/// second half of the values lies higher.
#[inline]
#[target_feature(enable = "avx2")]
fn two_to_four(lanes: __m256i, s: usize) -> __m256i {
    if s.is_multiple_of(2) {
        _mm256_blend_epi16(lanes, _mm256_slli_epi32(lanes, 14), 0b1010_1010)
    } else {
        _mm256_blend_epi16(_mm256_srli_epi32(lanes, 16), _mm256_srli_epi16(lanes, 2), 0b1010_1010)
    }
}

/// The `s mod 4`-th byte of each lane four times, each time shifted by two bits more.
#[inline]
#[target_feature(enable = "avx2")]
fn one_to_four(lanes: __m256i, s: usize) -> __m256i {
    let byte = _mm256_and_si256(shift(lanes, -8 * (s as i32 % 4)), _mm256_set1_epi32(255));
    let two = _mm256_or_si256(byte, _mm256_slli_epi32(byte, 6));
    _mm256_or_si256(two, _mm256_slli_epi32(two, 12))
}

/// A plane of one bit, turned: a register for each 32 values.
#[inline]
#[target_feature(enable = "avx2")]
fn words_of_bits<const D: usize>(rows: &[u8]) -> [__m256i; MAX_WORDS] {
    let mut words = [_mm256_setzero_si256(); MAX_WORDS];
    if D == 32 {
        words[0] = load32(rows, 0);
        return words;
    }
    if D == 64 {
        // Two rows in each 16 bytes.
        let (a, b) = (two_sixteens(rows, 0, 2), two_sixteens(rows, 1, 3));
        let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
        words[0] = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0b10_00_10_00));
        words[1] = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0b11_01_11_01));
        return words;
    }
    for part in 0..D / 128 {
        let turned = turn(sixteenths::<D, 1>(rows, part));
        words[4 * part..4 * part + 4].copy_from_slice(&turned);
    }
    words
}

/// The `part`-th 16 bytes of each row of a plane: those of rows `i` and `i + 4` in the halves of register `i`.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteenths<const D: usize, const WIDTH: u8>(rows: &[u8], part: usize) -> [__m256i; 4] {
    let per_row = const { plane_row_bytes(WIDTH, D) / 16 };
    let mut out = [_mm256_setzero_si256(); 4];
    for (t, out) in out.iter_mut().enumerate() {
        *out = two_sixteens(rows, t * per_row + part, (t + 4) * per_row + part);
    }
    out
}

/// The `low`-th and the `high`-th 16 bytes, which come after them; zeros where they do not exist.
///
/// Half of a load is thrown away: what puts a half where it is wanted takes the one port that crosses halves.
#[inline]
#[target_feature(enable = "avx2")]
fn two_sixteens(bytes: &[u8], low: usize, high: usize) -> __m256i {
    let load = |i: usize| match bytes.as_chunks::<16>().0.get(i..i + 2) {
        // SAFETY: the chunks are 32 readable bytes, and the load needs no alignment.
        Some(chunks) => unsafe { _mm256_loadu_si256(chunks.as_ptr().cast()) },
        None => _mm256_setzero_si256(),
    };
    _mm256_blend_epi32(load(low), load(high - 1), 0b1111_0000)
}

/// Turns four lanes of four registers in each half: lane `i` of register `j` becomes lane `j` of register `i`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn turn([r0, r1, r2, r3]: [__m256i; 4]) -> [__m256i; 4] {
    let (a, b) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
    let (c, d) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
    [
        _mm256_unpacklo_epi64(a, c),
        _mm256_unpackhi_epi64(a, c),
        _mm256_unpacklo_epi64(b, d),
        _mm256_unpackhi_epi64(b, d),
    ]
}
