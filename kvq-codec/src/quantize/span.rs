//! Packing a span: the center of its keys, and each block's codes, from the 8-bit rows of the recent window.
//!
//! Keys of one head share a large part that changes slowly with position. The mean of a span's keys is
//! stored once, in 4-bit codes, and each block codes what is left after subtracting the *stored* mean, so
//! the mean's own error costs nothing.

use super::precise::ZERO;
use super::row::MAX_ROW;
use crate::block::Layout;
use crate::kernel::Backend;
use crate::math::{mantissa, round_shift, scale_q};

/// Fractional bits of the integers in which a span's keys are summed, relative to its largest exponent.
///
/// 64 codes of 127 in this fixed point still fit an `i32`.
const FRACTION: i32 = 17;

/// How far a span's base exponent lies above its largest 8-bit exponent; residuals are at most twice as
/// large as rows, and a block's scale is below its row's peak, so no block needs more.
const BASE_MARGIN: i32 = 16;

/// Scale byte of a row of zeros.
pub(crate) const ZERO_SCALE: u8 = 255;

/// The exponent of a block whose span has `base` and whose scale byte is `byte`; `None` for zeros.
#[inline(always)]
pub(crate) fn block_exponent(base: i16, byte: u8) -> Option<i32> {
    if byte == ZERO_SCALE { None } else { Some(i32::from(base) - i32::from(byte)) }
}

/// The scale byte of exponent `e`, clamped to what a byte below `base` can say.
#[inline]
pub(crate) fn scale_byte(base: i16, e: i32) -> u8 {
    (i32::from(base) - e).clamp(0, 254) as u8
}

/// The base exponent of a span whose 8-bit rows have these exponents.
pub(crate) fn base_exponent(exponents: impl Iterator<Item = i16>) -> i16 {
    let peak = exponents.filter(|&e| e != ZERO).max();
    peak.map_or(0, |e| (i32::from(e) + BASE_MARGIN).min(i32::from(i16::MAX)) as i16)
}

/// An 8-bit row's exponent in fixed point: a code is shifted by `up`, multiplied, and the upper word of the product, rounded,
/// is its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FixedScale {
    pub up: i32,
    pub mantissa: u32,
}

/// Running sum of a span's key rows, and then its center.
pub(crate) struct Center {
    /// Sum, later the stored mean; units of 2^(reference/8 - 17).
    sum: [i32; MAX_ROW],
    /// The span's largest 8-bit exponent.
    reference: i32,
}

impl Center {
    /// An empty sum for a span with `base`.
    pub(crate) fn new(base: i16) -> Self {
        Self { sum: [0; MAX_ROW], reference: i32::from(base) - BASE_MARGIN }
    }

    /// What brings codes of exponent `e` to fixed point, where one shift and a product do.
    #[inline(always)]
    fn scale(&self, e: i16) -> Option<FixedScale> {
        let e = i32::from(e) - self.reference + 8 * FRACTION;
        let up = 2 + (e >> 3);
        (0..=2 + FRACTION).contains(&up).then(|| FixedScale { up, mantissa: mantissa(e) })
    }

    /// `code × 2^((e - reference)/8)` in fixed point, for a row.
    #[cfg_attr(kvq_small, inline(never))]
    #[cfg_attr(not(kvq_small), inline(always))]
    fn fixed_into(&self, codes: &[u8], e: i16, out: &mut [i32; MAX_ROW]) {
        if e == ZERO {
            return out.fill(0);
        }
        if let Some(FixedScale { up, mantissa }) = self.scale(e) {
            let m = i64::from(mantissa);
            for (out, &code) in out.iter_mut().zip(codes) {
                let product = i64::from(i32::from(code as i8) << up) * m;
                *out = ((product + (1 << 31)) >> 32) as i32;
            }
        } else {
            let e = i32::from(e) - self.reference + 8 * FRACTION;
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = scale_q(i32::from(code as i8), e);
            }
        }
    }

    /// Adds one 8-bit row.
    pub(crate) fn add(&mut self, backend: Backend, codes: &[u8], e: i16) {
        let scale = if e == ZERO { None } else { self.scale(e) };
        if scale.is_some_and(|scale| backend.add_fixed(codes, scale, &mut self.sum)) {
            return;
        }
        let mut step = [0i32; MAX_ROW];
        self.fixed_into(codes, e, &mut step);
        for (sum, s) in self.sum.iter_mut().zip(step).take(codes.len()) {
            *sum = sum.wrapping_add(s);
        }
    }

    /// Divides by the span's `2^log2_n` tokens and encodes the mean, which is replaced by its stored value.
    /// Returns the center's exponent ([`ZERO`] for none) and writes one code per value.
    pub(crate) fn encode(&mut self, backend: Backend, log2_n: u32, codes: &mut [u8]) -> i16 {
        let n_values = codes.len();
        for sum in self.sum.iter_mut().take(n_values) {
            *sum = round_shift(*sum, log2_n as i32);
        }
        let mut row = [0i16; MAX_ROW];
        let row = row.get_mut(..n_values).unwrap_or(&mut []);
        let shift = normalise(self.sum.get(..n_values).unwrap_or(&[]), row);
        let exponent = backend.encode_row(Layout::S4, row, codes).map(|f| f + 8 * shift);
        for (sum, &code) in self.sum.iter_mut().zip(&*codes) {
            let level = Layout::S4.codewords().get(usize::from(code)).copied().unwrap_or(0);
            *sum = exponent.map_or(0, |e| scale_q(i32::from(level), e));
        }
        exponent.map_or(ZERO, |e| self.absolute(e) as i16)
    }

    /// Encodes what is left of an 8-bit row after the center; returns the exponent.
    pub(crate) fn encode_residual(
        &self,
        backend: Backend,
        layout: Layout,
        (row_codes, e): (&[u8], i16),
        codes: &mut [u8],
    ) -> Option<i32> {
        let n_values = codes.len();
        let mut row = [0i16; MAX_ROW];
        let row = row.get_mut(..n_values).unwrap_or(&mut []);
        let scale = if e == ZERO { None } else { self.scale(e) };
        let shift = scale
            .and_then(|scale| backend.residual_into(row_codes, scale, &self.sum, row))
            .unwrap_or_else(|| self.residual_into((row_codes, e), row));
        backend.encode_row(layout, row, codes).map(|f| self.absolute(f + 8 * shift))
    }

    /// What is left of an 8-bit row after the center, [`normalise`]d; returns the shift.
    #[inline(always)]
    fn residual_into(&self, (codes, e): (&[u8], i16), row: &mut [i16]) -> i32 {
        let mut residual = [0i32; MAX_ROW];
        self.fixed_into(codes, e, &mut residual);
        for (r, center) in residual.iter_mut().zip(&self.sum).take(row.len()) {
            *r -= center;
        }
        normalise(residual.get(..row.len()).unwrap_or(&[]), row)
    }

    /// An exponent in fixed-point units as an absolute one.
    fn absolute(&self, e: i32) -> i32 {
        e - 8 * FRACTION + self.reference
    }
}

/// Encodes an 8-bit row without a center; returns the exponent.
pub(crate) fn encode_plain(
    backend: Backend,
    layout: Layout,
    (row_codes, e): (&[u8], i16),
    codes: &mut [u8],
) -> Option<i32> {
    let n_values = codes.len();
    let mut row = [0i16; MAX_ROW];
    for (r, &code) in row.iter_mut().zip(row_codes) {
        *r = i16::from(code as i8) << 8;
    }
    let f = backend.encode_row(layout, row.get(..n_values).unwrap_or(&[]), codes)?;
    if e == ZERO { None } else { Some(f + i32::from(e) - 64) }
}

/// Encodes the levels of a block again, in a layout of fewer bits; returns the change of its exponent.
pub(crate) fn encode_again(backend: Backend, layout: Layout, levels: &[i8], codes: &mut [u8]) -> Option<i32> {
    let n_values = codes.len();
    let mut row = [0i16; MAX_ROW];
    for (r, &level) in row.iter_mut().zip(levels) {
        *r = i16::from(level) << 8;
    }
    backend.encode_row(layout, row.get(..n_values).unwrap_or(&[]), codes).map(|f| f - 64)
}

/// The shift that brings the largest magnitude to 2^14..2^15, where `peak` has the highest bit of them all.
#[inline(always)]
pub(crate) const fn normal_shift(peak: u32) -> i32 {
    17 - peak.leading_zeros() as i32
}

/// Shifts `values` so that the largest magnitude is in 2^14..2^15; returns the shift: value ≈ row << shift.
#[inline(never)]
pub(crate) fn normalise(values: &[i32], row: &mut [i16]) -> i32 {
    let peak = values.iter().fold(0u32, |m, v| m | v.unsigned_abs());
    let shift = normal_shift(peak);
    for (r, &v) in row.iter_mut().zip(values) {
        *r = round_shift(v, shift).clamp(-32_767, 32_767) as i16;
    }
    shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn rows_of_every_exponent_are_brought_to_the_same_fixed_point() {
        let codes: Vec<u8> = (-127..=127i8).map(|c| c as u8).collect();
        let center = Center::new(300);
        let step = if cfg!(miri) { 61 } else { 1 };
        for e in (-120..=300 - BASE_MARGIN as i16).step_by(step).chain([ZERO]) {
            let mut out = [7; MAX_ROW];
            center.fixed_into(&codes, e, &mut out);
            for (out, code) in out.iter().zip(-127..=127) {
                let expected = scale_q(code, i32::from(e) - center.reference + 8 * FRACTION);
                assert_eq!(*out, if e == ZERO { 0 } else { expected }, "{code} {e}");
            }
        }
    }

    #[test]
    fn rows_are_normalised_to_fifteen_bits() {
        let mut row = [0; 3];
        assert_eq!(normalise(&[1 << 20, -5, 0], &mut row), 6);
        assert_eq!(row, [1 << 14, 0, 0]);
        assert_eq!(normalise(&[3, -1, 0], &mut row), -13);
        assert_eq!(row, [3 << 13, -(1 << 13), 0]);
        assert_eq!(normalise(&[0, 0, 0], &mut row), -15);
        assert_eq!(row, [0, 0, 0]);
    }
}
