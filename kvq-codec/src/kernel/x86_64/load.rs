//! Loads from and stores to slices, each with a real check.

use core::arch::x86_64::*;

/// Asks for the cache lines of `bytes`.
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    for line in bytes.as_chunks::<64>().0 {
        prefetch_line(&line[0]);
    }
    // Lines begin anywhere in the bytes, so the end may lie in one more.
    if let Some(last) = bytes.last() {
        prefetch_line(last);
    }
}

#[inline]
fn prefetch_line(byte: &u8) {
    // SAFETY: a prefetch reads nothing; every x86-64 CPU has the instruction.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(byte).cast()) }
}

/// The `i`-th 32 bytes; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load32(bytes: &[u8], i: usize) -> __m256i {
    match bytes.as_chunks::<32>().0.get(i) {
        // SAFETY: the chunk is 32 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
        None => _mm256_setzero_si256(),
    }
}

/// The `i`-th 16 bytes, in both lanes; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load16_twice(bytes: &[u8], i: usize) -> __m256i {
    match bytes.as_chunks::<16>().0.get(i) {
        Some(chunk) => {
            // SAFETY: the chunk is 16 readable bytes, and the load needs no alignment.
            let half = unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) };
            _mm256_broadcastsi128_si256(half)
        }
        None => _mm256_setzero_si256(),
    }
}

/// The `i`-th 8 bytes as a number; 0 where they do not exist.
#[inline]
pub(super) fn load_u64(bytes: &[u8], i: usize) -> u64 {
    bytes.as_chunks().0.get(i).map_or(0, |b| u64::from_le_bytes(*b))
}

/// The `i`-th 4 bytes as a number; 0 where they do not exist.
#[inline]
pub(super) fn load_u32(bytes: &[u8], i: usize) -> u32 {
    bytes.as_chunks().0.get(i).map_or(0, |b| u32::from_le_bytes(*b))
}

/// The `i`-th 16 signed bytes as 16-bit values; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load8_as_16(bytes: &[u8], i: usize) -> __m256i {
    match bytes.as_chunks::<16>().0.get(i) {
        // SAFETY: the chunk is 16 readable bytes, and the load needs no alignment.
        Some(chunk) => _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) }),
        None => _mm256_setzero_si256(),
    }
}

/// The `i`-th 32 values of a query.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_query(row: &[i8], i: usize) -> __m256i {
    match row.as_chunks::<32>().0.get(i) {
        // SAFETY: the chunk is 32 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
        None => _mm256_setzero_si256(),
    }
}

/// The `i`-th 16 numbers of 16 bits; zeros where they do not exist.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_sixteen(row: &[i16], i: usize) -> __m256i {
    match row.as_chunks::<16>().0.get(i) {
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

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_vector(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array is 32 readable bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Stores 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_vector(bytes: &mut [u8; 32], value: __m256i) {
    // SAFETY: the array is 32 writable bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
}

/// Stores four integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_four(out: &mut [i32; 4], value: __m128i) {
    // SAFETY: the array is 16 writable bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), value) }
}

/// Eight integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_eight_ints(values: &[i32; 8]) -> __m256i {
    // SAFETY: the array is 32 readable bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

/// Stores eight integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_ints(out: &mut [i32; 8], value: __m256i) {
    // SAFETY: the array is 32 writable bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), value) }
}

/// Eight bytes, in the lower half.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_eight_bytes(bytes: &[u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(*bytes))
}

/// Sixteen bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_sixteen_bytes(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array is 16 readable bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Stores sixteen bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_sixteen_bytes(out: &mut [u8; 16], value: __m128i) {
    // SAFETY: the array is 16 writable bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), value) }
}

/// Stores sixteen 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_sixteen(out: &mut [i16; 16], value: __m256i) {
    // SAFETY: the array is 32 writable bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), value) }
}

/// Eight floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_eight_floats(values: &[f32; 8]) -> __m256 {
    // SAFETY: the array is 32 readable bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// Stores eight 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_eight(out: &mut [i16; 8], value: __m128i) {
    // SAFETY: the array is 16 writable bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), value) }
}

/// Stores eight floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_floats(out: &mut [f32; 8], value: __m256) {
    // SAFETY: the array is 32 writable bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) }
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
