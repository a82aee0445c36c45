//! Packed rows to levels, 32 at a time.

use core::arch::x86_64::*;

use super::load::{load_eight_bytes, load_u32, load_u64, load16_twice, load32, store_floats, store_vector};
use crate::block::{Layout, MAX_PLANES, Rows};
use crate::kernel::SEGMENT;
use crate::kernel::simd::by_layout;
use crate::math::MANTISSAS;
use crate::pack::plane_row_bytes;
use crate::shape::MAX_HEAD_DIM;

/// Levels of all rows, one behind the other.
#[target_feature(enable = "avx2")]
pub(super) fn unpack_rows(layout: Layout, rows: &Rows<'_>, head_dim: usize, out: &mut [[u8; 32]]) {
    by_layout!(write_rows, layout, head_dim, (rows, out));
}

/// Levels of all rows, interleaved by four tokens: for each group of them and each 32 values, four vectors
/// whose 32-bit lanes hold one value of each token; values 0-3 and 16-19, 4-7 and 20-23, and so on.
#[target_feature(enable = "avx2")]
pub(super) fn unpack_quads(layout: Layout, rows: &Rows<'_>, head_dim: usize, out: &mut [[u8; 32]]) {
    by_layout!(write_quads, layout, head_dim, (rows, out));
}

/// Calls `f` with the levels of the only row, 32 at a time.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn for_each_of_one<const LAYOUT: u8, const D: usize, const V: usize>(
    rows: &Rows<'_>,
    mut f: impl FnMut(usize, __m256i),
) {
    let codebook = codebook::<LAYOUT>();
    for_each_rows::<LAYOUT, D, 1>(rows, |planes| {
        for v in 0..V {
            f(v, levels::<LAYOUT, D>(planes, 0, v, codebook));
        }
    });
}

#[target_feature(enable = "avx2")]
fn write_rows<const LAYOUT: u8, const D: usize, const V: usize>(rows: &Rows<'_>, out: &mut [[u8; 32]]) {
    let codebook = codebook::<LAYOUT>();
    let mut out = out.as_chunks_mut::<V>().0.as_chunks_mut::<4>().0.iter_mut();
    for_each_rows::<LAYOUT, D, 4>(rows, |planes| {
        let Some(out) = out.next() else { return };
        let rows = four_rows::<LAYOUT, D, V>(planes, codebook);
        for (out, row) in out.iter_mut().zip(&rows) {
            for (out, vector) in out.iter_mut().zip(row) {
                store_vector(out, *vector);
            }
        }
    });
}

#[target_feature(enable = "avx2")]
fn write_quads<const LAYOUT: u8, const D: usize, const V: usize>(rows: &Rows<'_>, out: &mut [[u8; 32]]) {
    let codebook = codebook::<LAYOUT>();
    let mut out = out.as_chunks_mut::<4>().0.as_chunks_mut::<V>().0.iter_mut();
    for_each_rows::<LAYOUT, D, 4>(rows, |planes| {
        let Some(group) = out.next() else { return };
        let rows = four_rows::<LAYOUT, D, V>(planes, codebook);
        for (v, quads) in group.iter_mut().enumerate() {
            let [r0, r1, r2, r3] = [rows[0][v], rows[1][v], rows[2][v], rows[3][v]];
            let (a, b) = (_mm256_unpacklo_epi8(r0, r1), _mm256_unpackhi_epi8(r0, r1));
            let (c, d) = (_mm256_unpacklo_epi8(r2, r3), _mm256_unpackhi_epi8(r2, r3));
            store_vector(&mut quads[0], _mm256_unpacklo_epi16(a, c));
            store_vector(&mut quads[1], _mm256_unpackhi_epi16(a, c));
            store_vector(&mut quads[2], _mm256_unpacklo_epi16(b, d));
            store_vector(&mut quads[3], _mm256_unpackhi_epi16(b, d));
        }
    });
}

/// Rows that [`for_each_rows`] takes together at the most.
const MAX_ROWS: usize = 8;

/// Calls `f` with the planes of each `N` rows, in order; rows past the last read as zeros.
///
/// The slices have lengths that are known when this is compiled, so that loads from them need no checks.
#[inline(always)]
pub(super) fn for_each_rows<const LAYOUT: u8, const D: usize, const N: usize>(
    rows: &Rows<'_>,
    mut f: impl FnMut(&[&[u8]; MAX_PLANES]),
) {
    let lens = const { rows_bytes::<LAYOUT, D, N>() };
    let n_planes = Layout::from_tag(LAYOUT).map_or(0, |layout| layout.planes().len());
    let mut first = 0;
    while first < rows.n {
        let run = rows.run_of(first, n_planes);
        for i in 0..run.n.div_ceil(N) {
            let mut planes: [&[u8]; MAX_PLANES] = [&[]; MAX_PLANES];
            let mut whole = true;
            for ((plane, bytes), len) in planes.iter_mut().zip(run.planes).zip(lens) {
                match bytes.get(i * len..i * len + len) {
                    Some(rows) => *plane = rows,
                    None => whole = false,
                }
            }
            let padded;
            if !whole {
                padded = pad(i, &run.planes, lens);
                // What the compiler knows of whole rows holds here as well.
                for ((plane, padded), len) in planes.iter_mut().zip(&padded).zip(lens) {
                    let Some(rows) = padded.get(..len) else { return };
                    *plane = rows;
                }
            }
            f(&planes);
        }
        first += run.n;
    }
}

/// The bytes of the most and widest rows: codes have at most 4 bits.
const MAX_BYTES: usize = MAX_ROWS * MAX_HEAD_DIM / 2;

/// The `i`-th rows, of which some do not exist, with zeros for those.
#[cold]
#[inline(never)]
fn pad(i: usize, planes: &[&[u8]; MAX_PLANES], lens: [usize; MAX_PLANES]) -> [[u8; MAX_BYTES]; MAX_PLANES] {
    let mut out = [[0; MAX_BYTES]; MAX_PLANES];
    for ((rows, plane), len) in out.iter_mut().zip(planes).zip(lens) {
        for (to, from) in rows.iter_mut().take(len).zip(plane.iter().skip(i * len)) {
            *to = *from;
        }
    }
    out
}

/// Bytes of `N` rows in each plane, 0 where a layout has fewer.
const fn rows_bytes<const LAYOUT: u8, const D: usize, const N: usize>() -> [usize; MAX_PLANES] {
    let mut bytes = [0; MAX_PLANES];
    if let Some(layout) = Layout::from_tag(LAYOUT) {
        let widths = layout.planes();
        let mut p = 0;
        while p < widths.len() {
            bytes[p] = N * plane_row_bytes(widths[p], D);
            p += 1;
        }
    }
    bytes
}

/// The levels of four rows.
#[inline]
#[target_feature(enable = "avx2")]
fn four_rows<const LAYOUT: u8, const D: usize, const V: usize>(
    planes: &[&[u8]; MAX_PLANES],
    codebook: [__m256i; 2],
) -> [[__m256i; V]; 4] {
    let trellis = LAYOUT == Layout::T4.tag() || LAYOUT == Layout::T3.tag() || LAYOUT == Layout::T2.tag();
    // As many rows share a register of trellis bits as have 256 of them.
    let (by_register, at_a_time) = (trellis && (D == 64 || D == 128 || D == 256), 256 / D);
    let mut out = [[_mm256_setzero_si256(); V]; 4];
    let mut bits = TrellisBits::NONE;
    for (r, row) in out.iter_mut().enumerate() {
        if by_register && r % at_a_time == 0 {
            bits.load::<LAYOUT, D>(planes, r / at_a_time);
        }
        for (v, vector) in row.iter_mut().enumerate() {
            *vector = if by_register {
                let k = r % at_a_time * V + v;
                bits.levels::<LAYOUT, D>(planes, (r, k, v), codebook)
            } else {
                levels::<LAYOUT, D>(planes, r, v, codebook)
            };
        }
    }
    out
}

/// A layout's codebook, its lower and upper sixteen levels each in both lanes of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn codebook<const LAYOUT: u8>() -> [__m256i; 2] {
    let mut table = [0u8; 32];
    if let Some(layout) = Layout::from_tag(LAYOUT) {
        for (entry, &level) in table.iter_mut().zip(layout.codewords()) {
            *entry = level as u8;
        }
    }
    [load16_twice(&table, 0), load16_twice(&table, 1)]
}

/// Vector `v` of the levels of row `token`: values `32·v .. 32·v + 32`.
#[inline]
#[target_feature(enable = "avx2")]
fn levels<const LAYOUT: u8, const D: usize>(
    planes: &[&[u8]; MAX_PLANES],
    token: usize,
    v: usize,
    codebook: [__m256i; 2],
) -> __m256i {
    if LAYOUT == Layout::S4.tag() {
        return _mm256_shuffle_epi8(codebook[0], four_bits::<D>(planes[0], token, v));
    }
    if LAYOUT == Layout::S2.tag() {
        return _mm256_shuffle_epi8(codebook[0], two_bits::<D>(planes[0], token, v));
    }
    if LAYOUT == Layout::S3.tag() {
        let high = _mm256_and_si256(one_bit::<D>(planes[1], token, v), _mm256_set1_epi8(4));
        let index = _mm256_or_si256(two_bits::<D>(planes[0], token, v), high);
        return _mm256_shuffle_epi8(codebook[0], index);
    }
    trellis_levels::<LAYOUT, D>(planes, token, v, codebook)
}

/// Codes of a 4-bit plane: code `i` is in byte `i mod D/2`, at bit `4·(i div D/2)`.
#[inline]
#[target_feature(enable = "avx2")]
fn four_bits<const D: usize>(rows: &[u8], token: usize, v: usize) -> __m256i {
    let nibble = _mm256_set1_epi8(15);
    if D == 32 {
        // The row's 16 bytes are in both lanes; the upper one takes the high nibbles.
        let by_0_4 = _mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0);
        return _mm256_and_si256(_mm256_srlv_epi32(load16_twice(rows, token), by_0_4), nibble);
    }
    let (half, c) = (v / (D / 64).max(1), v % (D / 64).max(1));
    let by = _mm_cvtsi32_si128(4 * half as i32);
    _mm256_and_si256(_mm256_srl_epi16(load32(rows, token * (D / 64) + c), by), nibble)
}

/// Codes of a 2-bit plane: code `i` is in byte `i mod D/4`, at bit `2·(i div D/4)`.
#[inline]
#[target_feature(enable = "avx2")]
fn two_bits<const D: usize>(rows: &[u8], token: usize, v: usize) -> __m256i {
    let three = _mm256_set1_epi8(3);
    if D == 32 {
        let row = _mm256_set1_epi64x(load_u64(rows, token) as i64);
        return _mm256_and_si256(_mm256_srlv_epi64(row, _mm256_set_epi64x(6, 4, 2, 0)), three);
    }
    if D == 64 {
        // The row's 16 bytes are in both lanes, which shift by different amounts.
        let low = 4 * v as i32;
        let by = _mm256_setr_epi32(low, low, low, low, low + 2, low + 2, low + 2, low + 2);
        return _mm256_and_si256(_mm256_srlv_epi32(load16_twice(rows, token), by), three);
    }
    if D == 192 {
        // Quarters of 48: vectors straddle them, so they are put together from halves of 16.
        let low = quarter_of_48(rows, token, 2 * v);
        let high = quarter_of_48(rows, token, 2 * v + 1);
        return _mm256_and_si256(_mm256_set_m128i(high, low), three);
    }
    let (quarter, c) = (v / (D / 128).max(1), v % (D / 128).max(1));
    let by = _mm_cvtsi32_si128(2 * quarter as i32);
    _mm256_and_si256(_mm256_srl_epi16(load32(rows, token * (D / 128) + c), by), three)
}

/// The bytes with the `i`-th sixteen codes of 192, in their low bits.
#[inline]
#[target_feature(enable = "avx2")]
fn quarter_of_48(rows: &[u8], token: usize, i: usize) -> __m128i {
    let bytes = _mm256_castsi256_si128(load16_twice(rows, token * 3 + i % 3));
    _mm_srl_epi16(bytes, _mm_cvtsi32_si128(2 * (i / 3) as i32))
}

/// Codes of a 1-bit plane as masks.
#[inline]
#[target_feature(enable = "avx2")]
fn one_bit<const D: usize>(rows: &[u8], token: usize, v: usize) -> __m256i {
    spread_bits(load_u32(rows, token * (D / 32) + v))
}

/// Levels of trellis codes, for heads whose rows do not fill a register of trellis bits: see [`TrellisBits`].
#[inline]
#[target_feature(enable = "avx2")]
fn trellis_levels<const LAYOUT: u8, const D: usize>(
    planes: &[&[u8]; MAX_PLANES],
    token: usize,
    v: usize,
    codebook: [__m256i; 2],
) -> __m256i {
    let bits = if LAYOUT == Layout::T4.tag() { planes[2] } else { planes[1] };
    let (z1, z0) = labels::<D>(bits, token, v);
    let high = match high_plane::<LAYOUT>(planes) {
        Some(plane) => one_bit::<D>(plane, token, v),
        None => _mm256_setzero_si256(),
    };
    levels_of_bits::<LAYOUT, D>(planes, (token, v), [spread_bits(z1), spread_bits(z0), high], codebook)
}

/// The plane of the bit that comes as a mask: the uppermost of T4, the only upper one of T2.
#[inline]
pub(super) fn high_plane<'a, const LAYOUT: u8>(planes: &[&'a [u8]; MAX_PLANES]) -> Option<&'a [u8]> {
    match Layout::from_tag(LAYOUT) {
        Some(Layout::T4) => Some(planes[1]),
        Some(Layout::T2) => Some(planes[0]),
        _ => None,
    }
}

/// Vector `v` of row `token` from the masks of both label bits and of the high bit.
#[inline]
#[target_feature(enable = "avx2")]
fn levels_of_bits<const LAYOUT: u8, const D: usize>(
    planes: &[&[u8]; MAX_PLANES],
    (token, v): (usize, usize),
    [z1, z0, high]: [__m256i; 3],
    codebook: [__m256i; 2],
) -> __m256i {
    // Masks are -1: index = upper·4 + 2·z1 + z0.
    let label = _mm256_add_epi8(_mm256_add_epi8(z1, z1), z0);
    if LAYOUT == Layout::T2.tag() {
        let upper = _mm256_and_si256(high, _mm256_set1_epi8(4));
        return _mm256_shuffle_epi8(codebook[0], _mm256_sub_epi8(upper, label));
    }
    let upper = _mm256_slli_epi16(two_bits::<D>(planes[0], token, v), 2);
    let index = _mm256_sub_epi8(upper, label);
    let level = _mm256_shuffle_epi8(codebook[0], index);
    if LAYOUT == Layout::T3.tag() {
        return level;
    }
    _mm256_blendv_epi8(level, _mm256_shuffle_epi8(codebook[1], index), high)
}

/// Both label bits of values `32·v ..`: parities of trellis bits, which wrap around the row. Heads of 32 and 192.
#[inline]
fn labels<const D: usize>(bits: &[u8], token: usize, v: usize) -> (u32, u32) {
    if D == 32 {
        let u = load_u32(bits, token);
        return (u ^ u.rotate_left(1) ^ u.rotate_left(3), u.rotate_left(2));
    }
    let (n, w) = ((D / 64).max(1), v / 2);
    let word = load_u64(bits, token * n + w);
    let before = load_u64(bits, token * n + (w + n - 1) % n);
    let back = |by: u32| word << by | before >> (64 - by);
    let half = 32 * (v % 2);
    ((((word ^ back(1) ^ back(3)) >> half) as u32), (back(2) >> half) as u32)
}

/// The bits of 256 values' codes that are stored by the bit. They lie in memory, from where a load spreads a
/// word over a register at no cost; moving it from another register takes two shuffles.
struct TrellisBits {
    z1: [u8; 32],
    z0: [u8; 32],
    /// See [`high_plane`]; zeros where a layout has none.
    high: [u8; 32],
}

impl TrellisBits {
    const NONE: Self = Self { z1: [0; 32], z0: [0; 32], high: [0; 32] };

    /// Those of the `i`-th 256 values of a plane's rows of `D`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load<const LAYOUT: u8, const D: usize>(&mut self, planes: &[&[u8]; MAX_PLANES], i: usize) {
        let u = load32(if LAYOUT == Layout::T4.tag() { planes[2] } else { planes[1] }, i);
        // The word before each, around the row.
        let before = match D {
            64 => u,
            128 => _mm256_shuffle_epi32(u, 0b01_00_11_10),
            _ => _mm256_permute4x64_epi64(u, 0b10_01_00_11),
        };
        let by_1 = _mm256_or_si256(_mm256_slli_epi64(u, 1), _mm256_srli_epi64(before, 63));
        let by_2 = _mm256_or_si256(_mm256_slli_epi64(u, 2), _mm256_srli_epi64(before, 62));
        let by_3 = _mm256_or_si256(_mm256_slli_epi64(u, 3), _mm256_srli_epi64(before, 61));
        store_vector(&mut self.z1, _mm256_xor_si256(u, _mm256_xor_si256(by_1, by_3)));
        store_vector(&mut self.z0, by_2);
        if let Some(plane) = high_plane::<LAYOUT>(planes) {
            store_vector(&mut self.high, load32(plane, i));
        }
    }

    /// Levels of the `k`-th 32 of the values, which are vector `v` of row `token`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn levels<const LAYOUT: u8, const D: usize>(
        &self,
        planes: &[&[u8]; MAX_PLANES],
        (token, k, v): (usize, usize, usize),
        codebook: [__m256i; 2],
    ) -> __m256i {
        let masks = [&self.z1, &self.z0, &self.high].map(|words| spread_bits(load_u32(words, k)));
        levels_of_bits::<LAYOUT, D>(planes, (token, v), masks, codebook)
    }
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
    // SAFETY: the array is 32 readable bytes, and the load needs no alignment.
    let table = unsafe { _mm256_loadu_ps(MANTISSAS.as_ptr()) };
    let mut padded;
    let bytes = if let Some(whole) = bytes.first_chunk() {
        whole
    } else {
        padded = [255u8; SEGMENT];
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        &padded
    };
    let near = (-126 * 8 + 255..=126 * 8).contains(&base);
    for (chunk, scale) in bytes.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<8>().0) {
        let byte = _mm256_cvtepu8_epi32(load_eight_bytes(chunk));
        let zero = _mm256_castsi256_ps(_mm256_cmpeq_epi32(byte, _mm256_set1_epi32(255)));
        let e = _mm256_sub_epi32(_mm256_set1_epi32(i32::from(base)), byte);
        let mantissa = _mm256_permutevar8x32_ps(table, e);
        if near {
            // All are normal numbers: octaves are added to the exponents.
            let octave = _mm256_and_si256(_mm256_slli_epi32(e, 20), _mm256_set1_epi32(-1 << 23));
            let value = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(mantissa), octave));
            store_floats(scale, _mm256_andnot_ps(zero, value));
            continue;
        }
        let octave = _mm256_min_epi32(_mm256_srai_epi32(e, 3), _mm256_set1_epi32(126));
        let power = _mm256_slli_epi32(_mm256_add_epi32(octave, _mm256_set1_epi32(127)), 23);
        let value = _mm256_mul_ps(mantissa, _mm256_castsi256_ps(power));
        let too_small = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(-126), octave));
        store_floats(scale, _mm256_andnot_ps(_mm256_or_ps(too_small, zero), value));
    }
}
