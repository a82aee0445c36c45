//! Codes of the scalar codebooks, 32 values at a time: the codes and the errors of `quantize::row`.
//!
//! The codebooks are symmetric, so a magnitude is compared with half of the thresholds. These are whole multiples of
//! eight sixteenths, and two of them are sixteen of these or more apart: a value's eighths, saturated to a byte, fall into
//! one of sixteen bins, and a shuffle finds the only threshold that they have to be compared with. A value on a threshold
//! takes the lower code, which is the one further from zero where it is negative, and so does 0; its error is the same.

use core::arch::x86_64::*;

use super::load::{load_sixteen, load16_twice, store_four, store_vector};
use crate::block::Layout;
use crate::quantize::codebook;
use crate::quantize::row::{CANDIDATES, Nearest, search};

/// Values at a time.
pub(super) const STEP: usize = 32;

/// Encodes a row of whole [`STEP`]s: see `quantize::row::encode_scalar`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn encode_scalar(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    match layout {
        Layout::S2 => search(2, &Codebook::new(const { &Table::new(&codebook::S2) }), row, codes),
        Layout::S3 => search(3, &Codebook::new(const { &Table::new(&codebook::S3) }), row, codes),
        _ => search(4, &Codebook::new(const { &Table::new(&codebook::S4) }), row, codes),
    }
}

/// The upper half of a codebook by bins of sixteen eighths.
struct Table {
    /// A magnitude with more eighths than these in its bin is nearest to what the next bin begins with; less 128, since
    /// bytes are compared as signed.
    thresholds: [u8; 16],
    /// 16 times the magnitude with which a bin begins, in two bytes.
    low: [u8; 16],
    high: [u8; 16],
    /// Its code where the value is above 0.
    codes: [u8; 16],
}

impl Table {
    const fn new(codewords: &[i8]) -> Self {
        let mut table = Self { thresholds: [127; 16], low: [0; 16], high: [0; 16], codes: [0; 16] };
        let mut bin = 0;
        while bin < 16 {
            let mut code = codewords.len() / 2;
            let mut next = code + 1;
            while next < codewords.len() {
                let threshold = codewords[next - 1] as usize + codewords[next] as usize;
                if threshold <= 16 * bin {
                    code = next;
                } else if threshold < 16 * (bin + 1) {
                    assert!(table.thresholds[bin] == 127 && bin < 15);
                    table.thresholds[bin] = (threshold as u8 - 1) ^ 0x80;
                }
                next += 1;
            }
            [table.low[bin], table.high[bin]] = (16 * codewords[code] as i16).to_le_bytes();
            table.codes[bin] = code as u8;
            bin += 1;
        }
        table
    }
}

/// A codebook in registers, each table in both lanes: one exists only where AVX2 does.
struct Codebook {
    thresholds: __m256i,
    low: __m256i,
    high: __m256i,
    codes: __m256i,
    /// All bytes the largest code.
    last: __m256i,
}

impl Codebook {
    #[target_feature(enable = "avx2")]
    fn new(table: &Table) -> Self {
        Self {
            thresholds: load16_twice(&table.thresholds, 0),
            low: load16_twice(&table.low, 0),
            high: load16_twice(&table.high, 0),
            codes: load16_twice(&table.codes, 0),
            last: _mm256_set1_epi8(table.codes[15] as i8),
        }
    }

    /// The bins that begin with the magnitudes nearest to these, which are in sixteenths of a codeword unit.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn find(&self, magnitudes: [__m256i; 2]) -> __m256i {
        let [a, b] = magnitudes.map(|magnitude| _mm256_srli_epi16::<3>(magnitude));
        let eighths = _mm256_packus_epi16(a, b);
        let bins = _mm256_and_si256(_mm256_srli_epi16::<4>(eighths), _mm256_set1_epi8(15));
        let signed = _mm256_xor_si256(eighths, _mm256_set1_epi8(-128));
        _mm256_sub_epi8(bins, _mm256_cmpgt_epi8(signed, _mm256_shuffle_epi8(self.thresholds, bins)))
    }

    #[target_feature(enable = "avx2")]
    fn errors_of(&self, row: &[i16], inverses: &[i16; CANDIDATES]) -> [u64; CANDIDATES] {
        let scales = inverses.map(|inverse| _mm256_set1_epi16(inverse));
        // The squares of a whole row in units of a scale near its own are below 2^30.
        let mut sums = [_mm256_setzero_si256(); CANDIDATES];
        for block in row.as_chunks::<STEP>().0 {
            for (sum, scale) in sums.iter_mut().zip(scales) {
                let magnitudes = scaled(block, scale).map(|y| _mm256_abs_epi16(y));
                let bins = self.find(magnitudes);
                let (low, high) = (_mm256_shuffle_epi8(self.low, bins), _mm256_shuffle_epi8(self.high, bins));
                let nearest = [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)];
                let [a, b] = [0, 1].map(|i| _mm256_sub_epi16(magnitudes[i], nearest[i]));
                let squares = _mm256_add_epi32(_mm256_madd_epi16(a, a), _mm256_madd_epi16(b, b));
                *sum = _mm256_add_epi32(*sum, squares);
            }
        }
        let [a, b, c, d, e] = sums;
        // Both halves of each sum, and then the halves together.
        let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let mut four = [0; 4];
        store_four(
            &mut four,
            _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves)),
        );
        let [a, b, c, d] = four;
        [a, b, c, d, sum_of_lanes(e)].map(|sum| u64::from(sum as u32))
    }

    #[target_feature(enable = "avx2")]
    fn encode_all(&self, row: &[i16], inverse: i16, codes: &mut [u8]) {
        let scale = _mm256_set1_epi16(inverse);
        let zero = _mm256_setzero_si256();
        for (block, codes) in row.as_chunks::<STEP>().0.iter().zip(codes.as_chunks_mut::<STEP>().0) {
            let y = scaled(block, scale);
            let above = y.map(|y| _mm256_cmpgt_epi16(y, zero));
            let bins = self.find([0, 1].map(|i| _mm256_add_epi16(_mm256_abs_epi16(y[i]), above[i])));
            let code = _mm256_shuffle_epi8(self.codes, bins);
            // Below zero the codes count down: the code of the magnitude from the last one.
            let below = _mm256_sub_epi8(self.last, code);
            let code = _mm256_blendv_epi8(below, code, _mm256_packs_epi16(above[0], above[1]));
            store_vector(codes, _mm256_permute4x64_epi64(code, 0b11_01_10_00));
        }
    }
}

/// Values in sixteenths of a codeword unit.
#[inline]
#[target_feature(enable = "avx2")]
fn scaled(row: &[i16; STEP], inverse: __m256i) -> [__m256i; 2] {
    [0, 1].map(|i| _mm256_mulhrs_epi16(load_sixteen(row, i), inverse))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_lanes(sums: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

impl Nearest for Codebook {
    #[inline]
    fn errors(&self, row: &[i16], inverses: &[i16; CANDIDATES]) -> [u64; CANDIDATES] {
        // SAFETY: a codebook is made only by code that needs AVX2.
        unsafe { self.errors_of(row, inverses) }
    }

    #[inline]
    fn encode(&self, row: &[i16], inverse: i16, codes: &mut [u8]) {
        // SAFETY: a codebook is made only by code that needs AVX2.
        unsafe { self.encode_all(row, inverse, codes) }
    }
}
