//! Codes of the scalar codebooks, 32 values at a time: the codes and the errors of `quantize::row`.
//!
//! The codebooks are symmetric, so a magnitude is compared with half of the thresholds. These are whole multiples of
//! eight sixteenths: a value's eighths, saturated to a byte, say on which side of each it lies. A value on a
//! threshold takes the lower code, which is the one further from zero where it is negative, and so does 0.

use core::arch::x86_64::*;

use super::load::{load_sixteen, load16_twice, store_vector};
use crate::block::Layout;
use crate::quantize::codebook;
use crate::quantize::row::{Nearest, search};

/// Values at a time.
pub(super) const STEP: usize = 32;

/// Encodes a row of whole [`STEP`]s: see `quantize::row::encode_scalar`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn encode_scalar(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    match layout {
        Layout::S2 => search(2, &Codebook::new(const { &Table::<1>::new(&codebook::S2) }), row, codes),
        Layout::S3 => search(3, &Codebook::new(const { &Table::<3>::new(&codebook::S3) }), row, codes),
        _ => search(4, &Codebook::new(const { &Table::<7>::new(&codebook::S4) }), row, codes),
    }
}

/// The upper half of a codebook of `2N + 2` codewords.
struct Table<const N: usize> {
    /// Eighths from which on a magnitude is nearer to the next codeword, less 129: bytes are compared as signed.
    thresholds: [i8; N],
    /// Magnitudes of the codewords.
    magnitudes: [u8; 16],
}

impl<const N: usize> Table<N> {
    const fn new(codewords: &[i8]) -> Self {
        let mut table = Self { thresholds: [0; N], magnitudes: [0; 16] };
        let mut i = 0;
        while i <= N {
            table.magnitudes[i] = codewords[N + 1 + i] as u8;
            if i < N {
                table.thresholds[i] = (codewords[N + 1 + i] as i16 + codewords[N + 2 + i] as i16 - 129) as i8;
            }
            i += 1;
        }
        table
    }
}

/// A codebook in registers: one exists only where AVX2 does.
struct Codebook<const N: usize> {
    thresholds: [__m256i; N],
    /// The magnitudes, in both lanes.
    magnitudes: __m256i,
}

/// 32 values in units of a scale.
struct Values {
    /// Sixteenths of a codeword unit, without their signs.
    magnitudes: [__m256i; 2],
    /// Bytes of -1 where a value is above 0.
    above: __m256i,
    /// Bytes with the place of the nearest magnitude.
    places: __m256i,
}

impl<const N: usize> Codebook<N> {
    #[target_feature(enable = "avx2")]
    fn new(table: &Table<N>) -> Self {
        Self {
            thresholds: table.thresholds.map(|t| _mm256_set1_epi8(t)),
            magnitudes: load16_twice(&table.magnitudes, 0),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn find(&self, row: &[i16; STEP], inverse: __m256i) -> Values {
        let zero = _mm256_setzero_si256();
        let y = [0, 1].map(|i| _mm256_mulhrs_epi16(load_sixteen(row, i), inverse));
        let above = y.map(|y| _mm256_cmpgt_epi16(y, zero));
        let magnitudes = y.map(|y| _mm256_abs_epi16(y));
        let eighth = |i: usize| _mm256_srli_epi16(_mm256_add_epi16(magnitudes[i], above[i]), 3);
        let eighths = _mm256_packus_epi16(eighth(0), eighth(1));
        let signed = _mm256_xor_si256(eighths, _mm256_set1_epi8(-128));
        let mut places = zero;
        for threshold in self.thresholds {
            places = _mm256_sub_epi8(places, _mm256_cmpgt_epi8(signed, threshold));
        }
        Values { magnitudes, above: _mm256_packs_epi16(above[0], above[1]), places }
    }

    #[target_feature(enable = "avx2")]
    fn error_of(&self, row: &[i16], inverse: i16) -> u64 {
        let (zero, scale) = (_mm256_setzero_si256(), _mm256_set1_epi16(inverse));
        // The squares of a whole row in units of a scale near its own are below 2^30.
        let mut sum = zero;
        for block in row.as_chunks::<STEP>().0 {
            let Values { magnitudes, places, .. } = self.find(block, scale);
            let nearest = _mm256_shuffle_epi8(self.magnitudes, places);
            let nearest = [_mm256_unpacklo_epi8(nearest, zero), _mm256_unpackhi_epi8(nearest, zero)];
            for (magnitude, nearest) in magnitudes.into_iter().zip(nearest) {
                let e = _mm256_sub_epi16(magnitude, _mm256_slli_epi16(nearest, 4));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(e, e));
            }
        }
        let mut lanes = [0; STEP];
        store_vector(&mut lanes, sum);
        lanes.as_chunks::<4>().0.iter().map(|lane| u64::from(u32::from_le_bytes(*lane))).sum()
    }

    #[target_feature(enable = "avx2")]
    fn encode_all(&self, row: &[i16], inverse: i16, codes: &mut [u8]) {
        let scale = _mm256_set1_epi16(inverse);
        for (block, codes) in row.as_chunks::<STEP>().0.iter().zip(codes.as_chunks_mut::<STEP>().0) {
            let Values { above, places, .. } = self.find(block, scale);
            // Below zero the codes count down from the middle.
            let below = _mm256_andnot_si256(above, _mm256_set1_epi8(-1));
            let code = _mm256_add_epi8(_mm256_xor_si256(places, below), _mm256_set1_epi8(N as i8 + 1));
            store_vector(codes, _mm256_permute4x64_epi64(code, 0b11_01_10_00));
        }
    }
}

impl<const N: usize> Nearest for Codebook<N> {
    #[inline]
    fn error(&self, row: &[i16], inverse: i16) -> u64 {
        // SAFETY: a codebook is made only by code that needs AVX2.
        unsafe { self.error_of(row, inverse) }
    }

    #[inline]
    fn encode(&self, row: &[i16], inverse: i16, codes: &mut [u8]) {
        // SAFETY: a codebook is made only by code that needs AVX2.
        unsafe { self.encode_all(row, inverse, codes) }
    }
}
