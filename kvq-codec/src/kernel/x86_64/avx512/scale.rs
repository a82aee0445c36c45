//! What lies around the integers, sixteen values at a time: the scales of a segment, and its sums added to an output.

use core::arch::x86_64::*;

use super::super::load::{load_eight_floats, load_sixteen_bytes};
use super::load::{load_floats, load_ints, store_floats};
use crate::kernel::SEGMENT;
use crate::math::MANTISSAS;
use crate::shape::MAX_HEAD_DIM;

/// `out[t] = 2^((base - bytes[t])/8)`, 0 for byte 255.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn scales_into(base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
    let table = _mm512_castps256_ps512(load_eight_floats(&MANTISSAS));
    let mut padded;
    let bytes = if let Some(whole) = bytes.first_chunk::<SEGMENT>() {
        whole
    } else {
        padded = [255u8; SEGMENT];
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        &padded
    };
    for (chunk, scale) in bytes.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0) {
        let byte = _mm512_cvtepu8_epi32(load_sixteen_bytes(chunk));
        let e = _mm512_sub_epi32(_mm512_set1_epi32(i32::from(base)), byte);
        let octave = _mm512_min_epi32(_mm512_srai_epi32::<3>(e), _mm512_set1_epi32(126));
        let there = _mm512_cmpneq_epi32_mask(byte, _mm512_set1_epi32(255))
            & _mm512_cmpge_epi32_mask(octave, _mm512_set1_epi32(-126));
        let mantissa = _mm512_permutexvar_ps(_mm512_and_epi32(e, _mm512_set1_epi32(7)), table);
        store_floats(scale, _mm512_maskz_scalef_ps(there, mantissa, _mm512_cvtepi32_ps(octave)));
    }
}

/// `out[d] = out[d] · rescale + sums[d] · scale`, for whole sixteens of values.
#[target_feature(enable = "avx512f")]
pub(super) fn add_scaled(out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
    let (rescale, scale) = (_mm512_set1_ps(rescale), _mm512_set1_ps(scale));
    for (out, sums) in out.as_chunks_mut::<16>().0.iter_mut().zip(sums.as_chunks::<16>().0) {
        let before = _mm512_mul_ps(load_floats(out), rescale);
        let added = _mm512_mul_ps(_mm512_cvtepi32_ps(load_ints(sums)), scale);
        store_floats(out, _mm512_add_ps(before, added));
    }
}
