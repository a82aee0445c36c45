//! Reads and writes in byte slices that cannot panic.
//!
//! Offsets come from the storage plan, so they are in range; were one not, a read gives zeros or an
//! empty slice and a write does nothing. That keeps every caller free of panicking branches.

/// `len` bytes from `offset`, or an empty slice where they do not exist.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn slice(bytes: &[u8], offset: usize, len: usize) -> &[u8] {
    bytes.get(offset..).and_then(|rest| rest.get(..len)).unwrap_or(&[])
}

/// As [`slice`], to be written.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn slice_mut(bytes: &mut [u8], offset: usize, len: usize) -> &mut [u8] {
    bytes.get_mut(offset..).and_then(|rest| rest.get_mut(..len)).unwrap_or(&mut [])
}

/// The byte at `offset`.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn get_u8(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset).copied().unwrap_or(0)
}

/// Writes the byte at `offset`.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn put_u8(bytes: &mut [u8], offset: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(offset) {
        *byte = value;
    }
}

/// The little-endian `i16` at `offset`.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn get_i16(bytes: &[u8], offset: usize) -> i16 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |b| i16::from_le_bytes(*b))
}

/// Writes a little-endian `i16` at `offset`.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn put_i16(bytes: &mut [u8], offset: usize, value: i16) {
    put(bytes, offset, &value.to_le_bytes());
}

/// The little-endian `u32` at `offset`.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// Writes a little-endian `u32` at `offset`.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    put(bytes, offset, &value.to_le_bytes());
}

/// Copies `source` to `offset`.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn put(bytes: &mut [u8], offset: usize, source: &[u8]) {
    if let Some(to) = bytes.get_mut(offset..).and_then(|rest| rest.get_mut(..source.len())) {
        to.copy_from_slice(source);
    }
}

/// Moves `len` bytes from `from` down to `to`; the ranges may overlap. A loop, since `memmove` takes 1.6 KB of flash.
pub(crate) fn shift_down(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    for i in 0..len {
        let byte = get_u8(bytes, from.saturating_add(i));
        put_u8(bytes, to.saturating_add(i), byte);
    }
}

/// Moves `len` bytes from `from` up to `to`; the ranges may overlap.
pub(crate) fn shift_up(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    let distance = to.saturating_sub(from);
    // From the first byte that is read to the last one that is written.
    let all = len.checked_add(distance).and_then(|n| bytes.get_mut(from..)?.get_mut(..n)).unwrap_or(&mut []);
    if distance <= all.len() {
        all.copy_within(..all.len() - distance, distance);
    }
}
