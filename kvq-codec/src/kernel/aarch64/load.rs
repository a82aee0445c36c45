//! Loads from and stores to slices, each with a real check.

use core::arch::aarch64::*;

/// 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the array is 16 readable bytes, and the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// The `i`-th 16 bytes; zeros where they do not exist.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_bytes(bytes: &[u8], i: usize) -> uint8x16_t {
    match bytes.as_chunks::<16>().0.get(i) {
        Some(chunk) => load(chunk),
        None => vdupq_n_u8(0),
    }
}

/// The `i`-th 16 signed bytes; zeros where they do not exist.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_levels(bytes: &[u8], i: usize) -> int8x16_t {
    vreinterpretq_s8_u8(load_bytes(bytes, i))
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

/// The `i`-th 16 values of a query.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_query(row: &[i8], i: usize) -> int8x16_t {
    match row.as_chunks::<16>().0.get(i) {
        // SAFETY: the chunk is 16 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { vld1q_s8(chunk.as_ptr()) },
        None => vdupq_n_s8(0),
    }
}

/// The `i`-th 8 values of a 16-bit query.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_wide_query(row: &[i16], i: usize) -> int16x8_t {
    match row.as_chunks::<8>().0.get(i) {
        // SAFETY: the chunk is 16 readable bytes, and the load needs no alignment.
        Some(chunk) => unsafe { vld1q_s16(chunk.as_ptr()) },
        None => vdupq_n_s16(0),
    }
}

/// Stores 16 levels.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store(bytes: &mut [u8; 16], levels: int8x16_t) {
    // SAFETY: the array is 16 writable bytes, and the store needs no alignment.
    unsafe { vst1q_s8(bytes.as_mut_ptr().cast(), levels) }
}

/// Stores four integers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store_four(out: &mut [i32; 4], four: int32x4_t) {
    // SAFETY: the array is 16 writable bytes, and the store needs no alignment.
    unsafe { vst1q_s32(out.as_mut_ptr(), four) }
}

/// Stores four integers at `at`, if there is room.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store_sums(sums: &mut [i32], at: usize, four: int32x4_t) {
    if let Some(chunk) = sums.get_mut(at..).and_then(|s| s.first_chunk_mut::<4>()) {
        store_four(chunk, four);
    }
}
