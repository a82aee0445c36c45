//! 8-bit rows, sixteen values at a time: the codes and exponents of `quantize::precise`.

use core::arch::x86_64::*;

use super::super::load::store_sixteen_bytes;
use super::load::load_floats;
use crate::math::exp2_8;
use crate::quantize::precise::{ZERO, exponent_of};

/// Values at a time.
pub(super) const STEP: usize = 16;

/// Encodes a row of whole [`STEP`]s: see `quantize::precise::encode_precise`.
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn encode_precise(row: &[f32], codes: &mut [u8]) -> i16 {
    let mut peak = _mm512_setzero_ps();
    for x in row.as_chunks::<STEP>().0 {
        peak = _mm512_max_ps(_mm512_abs_ps(load_floats(x)), peak);
    }
    let Some(e) = exponent_of(_mm512_reduce_max_ps(peak)) else {
        codes.fill(0);
        return ZERO;
    };
    let inverse = _mm512_set1_ps(exp2_8(-e));
    for (x, codes) in row.as_chunks::<STEP>().0.iter().zip(codes.as_chunks_mut::<STEP>().0) {
        let integers = _mm512_cvtps_epi32(_mm512_mul_ps(load_floats(x), inverse));
        store_sixteen_bytes(
            codes,
            _mm512_cvtsepi32_epi8(_mm512_max_epi32(integers, _mm512_set1_epi32(-127))),
        );
    }
    e as i16
}
