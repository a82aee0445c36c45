//! Bit packing of one row of codes into planes; no floats.
//!
//! A plane of width `w` (1, 2, 4 or 8 bits) stores a row of `n` codes in `ceil(n·w/8)` bytes.
//! Widths of 2 and 4: with `stride = ceil(n·w/8)`, code `i` is in byte `i mod stride`, at bit
//! `w·(i div stride)`, so that one masked load yields `stride` neighbours. Width 1: code `i` is bit
//! `i mod 8` of byte `i div 8`, so that a row is one number whose rotations are rotations of the vector.

/// Whether any layout of this build has a plane of one bit.
const HAS_BITS: bool = cfg!(any(feature = "trellis", feature = "low-bits"));

/// Bytes of a plane's row.
pub(crate) const fn plane_row_bytes(width: u8, n_values: usize) -> usize {
    (n_values * width as usize).div_ceil(8)
}

/// Adds a plane's bits to `codes`: `codes[i] |= bits << shift`.
pub(crate) fn or_plane(width: u8, shift: u32, row: &[u8], codes: &mut [i8]) {
    match width {
        8 => {
            for (code, &byte) in codes.iter_mut().zip(row) {
                *code |= byte as i8;
            }
        }
        1 if HAS_BITS => {
            for (i, code) in codes.iter_mut().enumerate() {
                let byte = row.get(i / 8).copied().unwrap_or(0);
                *code |= (((byte >> (i % 8)) & 1) << shift) as i8;
            }
        }
        _ => {
            let mask = (1u8 << width) - 1;
            let mut rest = codes;
            let mut at = 0u32;
            while at < 8 && !rest.is_empty() {
                let n = row.len().min(rest.len());
                if n == 0 {
                    return;
                }
                let (part, tail) = rest.split_at_mut(n);
                for (code, &byte) in part.iter_mut().zip(row) {
                    *code |= (((byte >> at) & mask) << shift) as i8;
                }
                rest = tail;
                at += u32::from(width);
            }
        }
    }
}

/// Writes a plane's row from the bits `shift..shift + width` of `codes`.
#[inline(never)]
pub(crate) fn put_plane(width: u8, shift: u32, codes: &[u8], row: &mut [u8]) {
    match width {
        8 => {
            for (byte, &code) in row.iter_mut().zip(codes) {
                *byte = code;
            }
        }
        1 if HAS_BITS => {
            let (whole, rest) = codes.as_chunks::<8>();
            for (byte, codes) in row.iter_mut().zip(whole) {
                *byte = bits_together(u64::from_le_bytes(*codes) >> shift);
            }
            if let Some(byte) = row.get_mut(whole.len()) {
                let mut last = [0; 8];
                last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                *byte = bits_together(u64::from_le_bytes(last) >> shift);
            }
        }
        _ => {
            let mask = (1u8 << width) - 1;
            row.fill(0);
            let mut rest = codes;
            let mut at = 0u32;
            while at < 8 && !rest.is_empty() {
                let n = row.len().min(rest.len());
                if n == 0 {
                    return;
                }
                let (part, tail) = rest.split_at(n);
                for (byte, &code) in row.iter_mut().zip(part) {
                    *byte |= ((code >> shift) & mask) << at;
                }
                rest = tail;
                at += u32::from(width);
            }
        }
    }
}

/// The lowest bits of eight bytes, that of the first at bit 0: the product moves bit `8·i` to `56 + i`.
#[inline(always)]
const fn bits_together(bytes: u64) -> u8 {
    ((bytes & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    #[test]
    fn planes_round_trip_for_every_width_and_length() {
        for n in (4..=256).step_by(if cfg!(miri) { 84 } else { 4 }) {
            let codes: Vec<u8> = (0..n).map(|i| (i * 37 + i / 7) as u8).collect();
            for (width, shift) in [(8u8, 0u32), (4, 0), (2, 0), (1, 2), (1, 0), (2, 1)] {
                if width == 1 && !HAS_BITS {
                    continue;
                }
                let mut row = vec![0xa5; plane_row_bytes(width, n)];
                put_plane(width, shift, &codes, &mut row);
                let mut back = vec![0i8; n];
                or_plane(width, shift, &row, &mut back);
                let mask = (((1u32 << width) - 1) << shift) as u8;
                for (i, (&code, &got)) in codes.iter().zip(&back).enumerate() {
                    assert_eq!(got as u8, code & mask, "n {n} width {width} value {i}");
                }
            }
        }
    }

    #[test]
    fn a_nibble_row_puts_its_second_half_in_the_high_bits() {
        let mut row = [0; 2];
        put_plane(4, 0, &[1, 2, 3, 4], &mut row);
        assert_eq!(row, [0x31, 0x42]);
    }
}
