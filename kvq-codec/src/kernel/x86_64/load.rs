//! Loads from and stores to slices, each with a real check.

use core::arch::x86_64::*;

/// 32 bytes from `at`; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load32(bytes: &[u8], at: usize) -> __m256i {
    match bytes.get(at..).and_then(|b| b.first_chunk::<32>()) {
        // SAFETY: the chunk is 32 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
        None => _mm256_setzero_si256(),
    }
}

/// 16 bytes from `at`, in both lanes; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load16_twice(bytes: &[u8], at: usize) -> __m256i {
    match bytes.get(at..).and_then(|b| b.first_chunk::<16>()) {
        Some(chunk) => {
            // SAFETY: the chunk is 16 readable bytes, and the load needs no alignment.
            let half = unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) };
            _mm256_broadcastsi128_si256(half)
        }
        None => _mm256_setzero_si256(),
    }
}

/// 32 signed bytes from value `at` of a row.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_query(row: &[i8], at: usize) -> __m256i {
    match row.get(at..).and_then(|r| r.first_chunk::<32>()) {
        // SAFETY: the chunk is 32 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
        None => _mm256_setzero_si256(),
    }
}

/// Eight integers from `at`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_sums(sums: &[i32], at: usize) -> __m256i {
    match sums.get(at..).and_then(|s| s.first_chunk::<8>()) {
        // SAFETY: the chunk is 32 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
        None => _mm256_setzero_si256(),
    }
}

/// Stores eight integers at `at`, if there is room.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_sums(sums: &mut [i32], at: usize, value: __m256i) {
    if let Some(chunk) = sums.get_mut(at..).and_then(|s| s.first_chunk_mut::<8>()) {
        // SAFETY: the chunk is 32 writable bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(chunk.as_mut_ptr().cast(), value) }
    }
}

/// Stores eight floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_floats(out: &mut [f32; 8], value: __m256) {
    // SAFETY: the array is 32 writable bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) }
}

/// Sixteen weights from `at`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_weights(weights: &[i16], at: usize) -> __m256i {
    match weights.get(at..).and_then(|w| w.first_chunk::<16>()) {
        // SAFETY: the chunk is 32 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
        None => _mm256_setzero_si256(),
    }
}

/// Stores 32 bytes at `at`, if there is room.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_bytes(bytes: &mut [u8], at: usize, value: __m256i) {
    if let Some(chunk) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut::<32>()) {
        // SAFETY: the chunk is 32 writable bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(chunk.as_mut_ptr().cast(), value) }
    }
}

/// Eight floats from `at`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_floats(values: &[f32], at: usize) -> __m256 {
    match values.get(at..).and_then(|v| v.first_chunk::<8>()) {
        // SAFETY: the chunk is 32 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm256_loadu_ps(chunk.as_ptr()) },
        None => _mm256_setzero_ps(),
    }
}

/// Stores eight weights at `at`, if there is room.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_half(weights: &mut [i16], at: usize, value: __m128i) {
    if let Some(chunk) = weights.get_mut(at..).and_then(|w| w.first_chunk_mut::<8>()) {
        // SAFETY: the chunk is 16 writable bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(chunk.as_mut_ptr().cast(), value) }
    }
}

/// Eight 16-bit values from `at`; zeros where the row has fewer left.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_eight(row: &[i16], at: usize) -> __m128i {
    let rest = row.get(at..).unwrap_or(&[]);
    let mut eight = [0i16; 8];
    let chunk = rest.first_chunk::<8>().unwrap_or_else(|| {
        for (to, from) in eight.iter_mut().zip(rest) {
            *to = *from;
        }
        &eight
    });
    // SAFETY: the chunk is 16 readable bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) }
}
