//! Rotated floats to 8-bit rows: what sinks and the recent window hold, and what spans are packed from.

use crate::math::{ceil_log2_8, exp2_8, larger, round_to_i32};

/// Exponent that stands for a row of zeros.
pub(crate) const ZERO: i16 = i16::MIN;

/// Writes the codes of `row` and returns its exponent `e`: value ≈ code × 2^(e/8).
///
/// `e` is the smallest for which every code is within ±127. Rows whose largest magnitude is below 2^-118
/// are stored as zeros.
#[inline(always)]
pub(crate) fn encode_precise(row: &[f32], codes: &mut [u8]) -> i16 {
    let mut peak = 0.0f32;
    for &x in row {
        peak = larger(peak, x.abs());
    }
    let Some(e) = exponent_of(peak) else {
        codes.fill(0);
        return ZERO;
    };
    let inverse = exp2_8(-e);
    for (code, &x) in codes.iter_mut().zip(row) {
        *code = round_to_i32(x * inverse).clamp(-127, 127) as i8 as u8;
    }
    e as i16
}

/// The exponent of a row whose largest magnitude is `peak`; `None` for zeros.
#[inline(always)]
pub(crate) fn exponent_of(peak: f32) -> Option<i32> {
    if peak < MIN_PEAK {
        return None;
    }
    // 2^(e/8) >= peak/127, so that |x| / 2^(e/8) <= 127 up to rounding.
    Some(ceil_log2_8(peak * (1.0 / 127.0)))
}

/// 2^-118: below it, a quotient of the row would leave the normal numbers.
const MIN_PEAK: f32 = 3.009_265_5e-36;
