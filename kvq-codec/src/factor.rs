//! Positive factors and powers of two of fixed-point logarithms, for attention in integers alone.
//!
//! A logarithm to base 2 is in units of 2^-16, so that the exponent of a scale, in eighths, is one without
//! rounding, and so that a product of weights and scales is a sum.

use crate::math::mantissa;

/// Fractional bits of a logarithm.
pub(crate) const LOG2_BITS: u32 = 16;

/// One eighth of an octave as a logarithm.
pub(crate) const EIGHTH: i64 = 1 << (LOG2_BITS - 3);

/// The largest magnitude of a score, far beyond what matters to a softmax; two of them can be subtracted.
const LARGEST: i64 = 1 << 60;

/// `2^x` on [0, 1/8) in units of 2^-30, highest power first: fitted, relative error below 1e-7.
const EXP2_TERMS_Q30: [u64; 4] = [61_571_779, 257_848_171, 744_261_765, 1_073_741_824];

/// `2^fraction` for a fraction in units of 2^-16, in units of 2^-30.
#[inline]
fn exp2_fraction(fraction: u32) -> u32 {
    let rest = u64::from(fraction & 0x1fff);
    let mut p = 0;
    for term in EXP2_TERMS_Q30 {
        p = term + ((p * rest) >> LOG2_BITS);
    }
    ((p * u64::from(mantissa((fraction >> 13) as i32))) >> 30) as u32
}

/// `2^x` in units of 2^-30, rounded down, for `x <= 0`: relative error below 1e-6 above 2^-10.
#[inline(never)]
pub(crate) fn exp2_q30(x: i64) -> u32 {
    if x < -(31 << LOG2_BITS) {
        return 0;
    }
    let x = x.min(0) as i32;
    exp2_fraction(x as u32 & 0xffff) >> (-(x >> LOG2_BITS) & 31)
}

/// A positive number `mantissa · 2^(exponent - 30)` with a mantissa of 31 bits, or 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor {
    pub mantissa: u32,
    pub exponent: i32,
}

impl Factor {
    pub const ZERO: Self = Self { mantissa: 0, exponent: 0 };

    /// `x · 2^exponent`, rounded down to 31 bits.
    pub fn new(x: u64, exponent: i32) -> Self {
        if x == 0 {
            return Self::ZERO;
        }
        let zeros = x.leading_zeros() as i32;
        Self { mantissa: (x << zeros >> 33) as u32, exponent: exponent + 63 - zeros }
    }

    /// `2^(e/8)`.
    pub fn exp2_8(e: i32) -> Self {
        Self { mantissa: mantissa(e), exponent: e >> 3 }
    }

    /// `2^x` of a logarithm.
    pub fn exp2(x: i64) -> Self {
        let exponent = (x >> LOG2_BITS).clamp(i64::from(i32::MIN / 4), i64::from(i32::MAX / 4)) as i32;
        Self { mantissa: exp2_fraction(x as u32 & 0xffff), exponent }
    }

    /// `1/x`, rounded down; 0 for 0.
    pub fn reciprocal(x: u64) -> Self {
        let zeros = x.leading_zeros();
        let Some(quotient) = (1u64 << 63).checked_div(x << (zeros & 63) >> 32) else { return Self::ZERO };
        // x is its upper half times 2^(32 - zeros).
        Self::new(quotient, zeros as i32 - 95)
    }

    /// `1/sqrt(n)` of a head size, rounded down.
    pub fn inverse_root(n: usize) -> Self {
        Self::new((1u64 << 62).checked_div(n as u64).unwrap_or(0).isqrt(), -31)
    }

    /// The product.
    pub fn times(self, other: Self) -> Self {
        let product = u64::from(self.mantissa) * u64::from(other.mantissa);
        Self::new(product, self.exponent + other.exponent - 60)
    }

    /// `x · self`, rounded to nearest (halves up), saturated to `i32`.
    #[inline]
    pub fn apply(self, x: i32) -> i32 {
        let y = shift_q(i64::from(x) * i64::from(self.mantissa), 30 - self.exponent);
        y.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
    }

    /// `x · 2^(e/8) · self` as a logarithm, for `|x| <= 2^30`.
    #[inline]
    pub fn score(self, x: i32, e: i32) -> i64 {
        let product = (u64::from(mantissa(e)) * u64::from(self.mantissa)) >> 30;
        shift_q(i64::from(x) * product as i64, 30 - LOG2_BITS as i32 - (e >> 3) - self.exponent)
    }
}

/// `x >> shift` rounded to nearest (halves up), or `x << -shift`, kept within [`LARGEST`]; for `|x| <= 2^62`.
#[inline]
fn shift_q(x: i64, shift: i32) -> i64 {
    if shift > 62 {
        0
    } else if shift > 0 {
        ((x + (1i64 << (shift - 1))) >> shift).clamp(-LARGEST, LARGEST)
    } else {
        x.saturating_mul(1i64 << shift.saturating_neg().min(62)).clamp(-LARGEST, LARGEST)
    }
}

/// `x · factor` for a factor in units of 2^-30, at most 1.
#[inline]
pub(crate) fn scale_sum(x: u64, factor: u32) -> u64 {
    let factor = u64::from(factor);
    (((x >> 32) * factor) << 2) + (((x & 0xffff_ffff) * factor) >> 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(f: Factor) -> f64 {
        f64::from(f.mantissa) * f64::from(f.exponent - 30).exp2()
    }

    fn close(got: f64, expected: f64, bound: f64) {
        assert!((got / expected - 1.0).abs() < bound, "{got} {expected}");
    }

    #[test]
    fn powers_of_two_of_logarithms_are_accurate() {
        for x in (-(40i64 << 16)..=0).step_by(if cfg!(miri) { 9973 } else { 7 }) {
            let expected = (x as f64 / 65_536.0).exp2() * f64::from(1 << 30);
            let got = f64::from(exp2_q30(x));
            assert!(
                got <= expected * 1.000_000_1 && got > expected * 0.999_999_8 - 1.0,
                "{x}: {got} {expected}"
            );
        }
        assert_eq!([exp2_q30(0), exp2_q30(-1 << 16), exp2_q30(i64::MIN)], [1 << 30, 1 << 29, 0]);
        for x in [-5_000_000i64, -65_537, -1, 0, 1, 77_777, 3_000_000] {
            close(value(Factor::exp2(x)), (x as f64 / 65_536.0).exp2(), 2e-7);
        }
    }

    #[test]
    fn factors_multiply_and_divide() {
        for x in [1u64, 3, 1000, u64::from(u32::MAX), 1 << 40, (1 << 61) + 12_345] {
            close(value(Factor::new(x, -7)), x as f64 / 128.0, 1e-9);
            close(value(Factor::reciprocal(x)), 1.0 / x as f64, 2e-9);
            let product = Factor::new(x, 0).times(Factor::exp2_8(-13));
            close(value(product), x as f64 * (-13.0f64 / 8.0).exp2(), 3e-9);
        }
        for n in (4..=256).step_by(4) {
            close(value(Factor::inverse_root(n)), 1.0 / (n as f64).sqrt(), 1e-8);
        }
        assert_eq!([Factor::reciprocal(0).mantissa, Factor::inverse_root(0).mantissa], [0, 0]);
    }

    #[test]
    fn scores_and_products_are_rounded_and_saturate() {
        let half = Factor::new(1, -1);
        assert_eq!([half.apply(5), half.apply(-5), half.apply(i32::MIN)], [3, -2, i32::MIN / 2]);
        assert_eq!([Factor::new(1, 40).apply(-1), Factor::new(1, 40).apply(1)], [i32::MIN, i32::MAX]);
        assert_eq!([Factor::new(1, -80).apply(i32::MAX), Factor::ZERO.apply(9)], [0, 0]);
        for e in -100..100 {
            let expected = 12_345.0 * (f64::from(e) / 8.0).exp2() * 0.5 * 65_536.0;
            let got = half.score(12_345, e) as f64;
            assert!((got - expected).abs() < 0.51 + 1e-9 * expected, "{e}: {got} {expected}");
        }
        assert_eq!(half.score(-(1 << 30), 8 * 300), -LARGEST);
        for (x, f) in [(u64::MAX >> 1, 1u32 << 30), (1 << 50, 1 << 29), (12_345_678_901, 123_456_789)] {
            let expected = x as f64 * f64::from(f) / f64::from(1 << 30);
            close(scale_sum(x, f) as f64, expected, 1e-9);
        }
    }
}
