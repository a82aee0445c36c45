//! Loads from and stores to arrays of a register's size.

use core::arch::x86_64::*;

use super::super::load::{load16_twice, load32};

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_64(bytes: &[[u8; 32]; 2]) -> __m512i {
    // SAFETY: the arrays are 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Stores 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_64(out: &mut [[u8; 32]; 2], value: __m512i) {
    // SAFETY: the arrays are 64 writable bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), value) }
}

/// The `i`-th 64 bytes; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_64_at(bytes: &[u8], i: usize) -> __m512i {
    match bytes.as_chunks::<32>().0.as_chunks::<2>().0.get(i) {
        Some(chunk) => load_64(chunk),
        None => _mm512_setzero_si512(),
    }
}

/// The `i`-th 32 bytes, in both halves; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_32_twice(bytes: &[u8], i: usize) -> __m512i {
    _mm512_broadcast_i64x4(load32(bytes, i))
}

/// The `i`-th 16 bytes, in all quarters; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_16_four_times(bytes: &[u8], i: usize) -> __m512i {
    _mm512_broadcast_i32x4(_mm256_castsi256_si128(load16_twice(bytes, i)))
}

/// 64 codes of a query.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_query(codes: &[i8; 64]) -> __m512i {
    // SAFETY: the array is 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) }
}

/// Sixteen integers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_ints(values: &[i32; 16]) -> __m512i {
    // SAFETY: the array is 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// Sixteen floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_floats(values: &[f32; 16]) -> __m512 {
    // SAFETY: the array is 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

/// 32 numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_numbers(values: &[i16; 32]) -> __m512i {
    // SAFETY: the array is 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// Stores 32 numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_numbers(out: &mut [i16; 32], value: __m512i) {
    // SAFETY: the array is 64 writable bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), value) }
}

/// Stores sixteen integers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_ints(out: &mut [i32; 16], value: __m512i) {
    // SAFETY: the array is 64 writable bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), value) }
}

/// Stores sixteen floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_floats(out: &mut [f32; 16], value: __m512) {
    // SAFETY: the array is 64 writable bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), value) }
}

/// Stores sixteen weights.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_weights(out: &mut [i16; 16], value: __m256i) {
    // SAFETY: the array is 32 writable bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), value) }
}
