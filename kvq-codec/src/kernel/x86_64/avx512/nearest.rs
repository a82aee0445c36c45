//! Codes of the scalar codebooks, 64 values at a time: the codes and the errors of `quantize::row`.
//!
//! The codebooks are symmetric, so a magnitude alone is looked up. Thresholds are whole multiples of eight sixteenths:
//! a value's eighths, saturated to a byte, are an index into a table of all 256 answers, in four registers. A value on a
//! threshold takes the lower code, which is the one further from zero where it is negative, and so does 0.

use core::arch::x86_64::*;

use super::load::{load_64_bytes, load_numbers, store_64_bytes};
use crate::block::Layout;
use crate::quantize::codebook;
use crate::quantize::row::{CANDIDATES, Nearest, search};

/// Values at a time.
pub(super) const STEP: usize = 64;

/// Encodes a row of whole [`STEP`]s: see `quantize::row::encode_scalar`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512vbmi")]
pub(super) fn encode_scalar(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    match layout {
        Layout::S2 => search(2, &Codebook(const { &Tables::new(&codebook::S2) }), row, codes),
        Layout::S3 => search(3, &Codebook(const { &Tables::new(&codebook::S3) }), row, codes),
        _ => search(4, &Codebook(const { &Tables::new(&codebook::S4) }), row, codes),
    }
}

/// By eighths of a magnitude: the nearest magnitude, and its code where the value is above 0.
struct Tables {
    magnitudes: [[u8; 64]; 4],
    codes: [[u8; 64]; 4],
}

impl Tables {
    const fn new(codewords: &[i8]) -> Self {
        let mut tables = Self { magnitudes: [[0; 64]; 4], codes: [[0; 64]; 4] };
        let mut i = 0;
        while i < 256 {
            let mut code = codewords.len() / 2;
            while code + 1 < codewords.len() && codewords[code] as usize + codewords[code + 1] as usize <= i {
                code += 1;
            }
            tables.magnitudes[i / 64][i % 64] = codewords[code] as u8;
            tables.codes[i / 64][i % 64] = code as u8;
            i += 1;
        }
        tables
    }
}

/// A codebook: one is used only where AVX-512 exists.
struct Codebook(&'static Tables);

/// 64 values in units of a scale.
struct Values {
    /// Sixteenths of a codeword unit, without their signs.
    magnitudes: [__m512i; 2],
    /// Whether a value is above 0.
    above: [__mmask32; 2],
    /// Their eighths, in the order that packing leaves.
    eighths: __m512i,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn scaled(row: &[[i16; 32]; 2], inverse: __m512i) -> Values {
    let zero = _mm512_setzero_si512();
    let (mut magnitudes, mut above, mut eighths) = ([zero; 2], [0; 2], [zero; 2]);
    for i in 0..2 {
        let y = _mm512_mulhrs_epi16(load_numbers(&row[i]), inverse);
        above[i] = _mm512_cmpgt_epi16_mask(y, zero);
        magnitudes[i] = _mm512_abs_epi16(y);
        let lowered = _mm512_mask_sub_epi16(magnitudes[i], above[i], magnitudes[i], _mm512_set1_epi16(1));
        eighths[i] = _mm512_srli_epi16::<3>(lowered);
    }
    Values { magnitudes, above, eighths: _mm512_packus_epi16(eighths[0], eighths[1]) }
}

/// The entry of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up(table: &[[u8; 64]; 4], bytes: __m512i) -> __m512i {
    let low = _mm512_permutex2var_epi8(load_64_bytes(&table[0]), bytes, load_64_bytes(&table[1]));
    let high = _mm512_permutex2var_epi8(load_64_bytes(&table[2]), bytes, load_64_bytes(&table[3]));
    _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high)
}

impl Codebook {
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512vbmi")]
    fn error_of(&self, row: &[i16], inverse: i16) -> u64 {
        let (zero, scale) = (_mm512_setzero_si512(), _mm512_set1_epi16(inverse));
        // The squares of a whole row in units of a scale near its own are below 2^30.
        let mut sum = zero;
        for block in row.as_chunks::<32>().0.as_chunks::<2>().0 {
            let Values { magnitudes, eighths, .. } = scaled(block, scale);
            let nearest = look_up(&self.0.magnitudes, eighths);
            let nearest = [_mm512_unpacklo_epi8(nearest, zero), _mm512_unpackhi_epi8(nearest, zero)];
            for (magnitude, nearest) in magnitudes.into_iter().zip(nearest) {
                let e = _mm512_sub_epi16(magnitude, _mm512_slli_epi16::<4>(nearest));
                sum = _mm512_dpwssd_epi32(sum, e, e);
            }
        }
        u64::from(_mm512_reduce_add_epi32(sum) as u32)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn encode_all(&self, row: &[i16], inverse: i16, codes: &mut [u8]) {
        let scale = _mm512_set1_epi16(inverse);
        let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        let blocks = row.as_chunks::<32>().0.as_chunks::<2>().0.iter();
        for (block, codes) in blocks.zip(codes.as_chunks_mut::<STEP>().0) {
            let Values { above, eighths, .. } = scaled(block, scale);
            let code = _mm512_permutexvar_epi64(order, look_up(&self.0.codes, eighths));
            let below = !(u64::from(above[1]) << 32 | u64::from(above[0]));
            // Below zero the codes count down: the code of the magnitude from the last one.
            let last = _mm512_set1_epi8(self.last_code());
            store_64_bytes(codes, _mm512_mask_sub_epi8(code, below, last, code));
        }
    }

    /// The largest code.
    #[inline(always)]
    fn last_code(&self) -> i8 {
        self.0.codes[3][63] as i8
    }
}

impl Nearest for Codebook {
    #[inline]
    fn errors(&self, row: &[i16], inverses: &[i16; CANDIDATES]) -> [u64; CANDIDATES] {
        // SAFETY: a codebook is used only by code that needs AVX-512.
        inverses.map(|inverse| unsafe { self.error_of(row, inverse) })
    }

    #[inline]
    fn encode(&self, row: &[i16], inverse: i16, codes: &mut [u8]) {
        // SAFETY: a codebook is used only by code that needs AVX-512.
        unsafe { self.encode_all(row, inverse, codes) }
    }
}
