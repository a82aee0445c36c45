//! 8-bit rows, 32 values at a time: the codes and exponents of `quantize::precise`.

use core::arch::x86_64::*;

use super::load::{load_eight_floats, store_vector};
use crate::math::exp2_8;
use crate::quantize::precise::{ZERO, exponent_of};

/// Values at a time.
pub(super) const STEP: usize = 32;

/// Encodes a row of whole [`STEP`]s: see `quantize::precise::encode_precise`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn encode_precise(row: &[f32], codes: &mut [u8]) -> i16 {
    let mut peak = _mm256_setzero_ps();
    for x in row.as_chunks::<8>().0 {
        peak = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0), load_eight_floats(x)), peak);
    }
    let four = _mm_max_ps(_mm256_castps256_ps128(peak), _mm256_extractf128_ps(peak, 1));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    let peak = _mm_cvtss_f32(_mm_max_ps(two, _mm_movehdup_ps(two)));
    let Some(e) = exponent_of(peak) else {
        codes.fill(0);
        return ZERO;
    };
    let inverse = _mm256_set1_ps(exp2_8(-e));
    for (x, codes) in row.as_chunks::<8>().0.as_chunks::<4>().0.iter().zip(codes.as_chunks_mut::<STEP>().0) {
        let [a, b, c, d] =
            x.each_ref().map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(load_eight_floats(x), inverse)));
        // Both steps work on the two halves apart, and leave their fours in the order 0, 2, 4, 6, 1, 3, 5, 7.
        let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        store_vector(codes, _mm256_max_epi8(ordered, _mm256_set1_epi8(-127)));
    }
    e as i16
}
