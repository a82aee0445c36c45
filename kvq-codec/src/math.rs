//! Powers of two in steps of an eighth octave, logarithms of integers, and `exp`, without a C library.
//!
//! Every scale in the format is `2^(e/8)` with an integer `e`: one table of eight mantissas gives it as a
//! float ([`exp2_8`]) and as an integer factor ([`scale_q`]).

/// `2^(i/8)` in units of 2^-30, rounded.
pub(crate) const MANTISSA_Q30: [u32; 8] = [
    1_073_741_824,
    1_170_923_762,
    1_276_901_417,
    1_392_470_869,
    1_518_500_250,
    1_655_936_265,
    1_805_811_301,
    1_969_251_188,
];

#[inline]
pub(crate) fn mantissa(e: i32) -> u32 {
    MANTISSA_Q30[(e & 7) as usize]
}

/// [`MANTISSA_Q30`] as floats.
pub(crate) static MANTISSAS: [f32; 8] = {
    let mut mantissas = [0.0; 8];
    let mut i = 0;
    while i < 8 {
        mantissas[i] = MANTISSA_Q30[i] as f32 * (1.0 / 1_073_741_824.0);
        i += 1;
    }
    mantissas
};

/// `2^(e/8)` as a float; 0 below the smallest normal number, and no larger than 2^127.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline(always))]
pub(crate) fn exp2_8(e: i32) -> f32 {
    let octave = (e >> 3).min(126);
    if octave < -126 {
        return 0.0;
    }
    // All are normal numbers: the octave is added to the exponent.
    f32::from_bits(MANTISSAS[(e & 7) as usize].to_bits().wrapping_add((octave as u32) << 23))
}

/// `value * 2^(e/8)`, rounded to nearest (halves up), saturated to `i32`.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline)]
pub(crate) fn scale_q(value: i32, e: i32) -> i32 {
    let product = i64::from(value) * i64::from(mantissa(e));
    let shift = 30 - (e >> 3);
    if shift > 62 {
        return 0;
    }
    if shift >= 1 {
        ((product + (1i64 << (shift - 1))) >> shift).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
    } else {
        product.saturating_mul(1i64 << (-shift).min(40)).clamp(i64::from(i32::MIN), i64::from(i32::MAX))
            as i32
    }
}

/// `value >> shift` rounded to nearest (halves up), or `value << -shift`.
#[inline(always)]
pub(crate) fn round_shift(value: i32, shift: i32) -> i32 {
    if shift > 0 { (value + (1 << (shift - 1))) >> shift } else { value << -shift }
}

/// `log2(x)` in units of 1/256, rounded down; 0 for `x = 0`.
pub(crate) fn log2_q8(x: u64) -> i32 {
    if x == 0 {
        return 0;
    }
    let whole = 63 - x.leading_zeros() as i32;
    if x.is_power_of_two() {
        return whole * 256;
    }
    // Mantissa in [1, 2) with 31 fractional bits; each squaring yields one bit of the logarithm.
    let mut m = (x << (63 - whole)) >> 32;
    let mut fraction = 0;
    for _ in 0..8 {
        m = (m * m) >> 31;
        fraction <<= 1;
        if m >= 1 << 32 {
            m >>= 1;
            fraction |= 1;
        }
    }
    whole * 256 + fraction
}

/// The smallest `e` with `2^(e/8) >= x`, for a positive, finite, normal `x`.
pub(crate) fn ceil_log2_8(x: f32) -> i32 {
    let bits = x.to_bits();
    let octave = ((bits >> 23) & 0xff) as i32 - 127;
    let mantissa = ((bits & 0x7f_ffff) | 0x80_0000) << 7; // units of 2^-30
    // They ascend, so that all that are smaller come first; a loop that stops there is one that no CPU foresees.
    let step = MANTISSA_Q30.iter().filter(|&&m| m < mantissa).count();
    octave * 8 + step as i32
}

/// `2^f` on [-1/2, 1/2], highest power first, exact at 0: the coefficients whose largest relative error, 2.9e-6, is
/// the least. That of the argument is 5e-6 far below 0, so that more terms would make no weight better.
pub(crate) const EXP2_TERMS: [f32; 5] = [0.009_582_853, 0.055_906_426, 0.240_240_99, 0.693_124_2, 1.0];

/// The larger one, `a` if `b` is NaN. Where a core has no instruction for it, `f32::max` is a call of the C
/// library's `fmaxf`; this is a comparison everywhere.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// `e^x` for `x <= 0`: relative error below 9e-6 (below 3e-6 near 0), and 0 below -87.
///
/// Written without branches so that a loop over it vectorises.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    let t = larger(-87.5, x) * core::f32::consts::LOG2_E;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low mantissa bits.
    let shifted = t + 12_582_912.0;
    let whole = shifted - 12_582_912.0;
    let f = t - whole;
    let mut p = EXP2_TERMS[0];
    for term in EXP2_TERMS.into_iter().skip(1) {
        p = term + f * p;
    }
    let exponent = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { p * exponent }
}

/// `1/sqrt(x)` for a positive normal `x`, to the last bit or the one before.
pub(crate) fn inverse_sqrt(x: f32) -> f32 {
    let mut y = f32::from_bits(0x5f37_59df - (x.to_bits() >> 1));
    for _ in 0..4 {
        y *= 1.5 - 0.5 * x * y * y;
    }
    y
}

/// The nearest integer to `x`, ties to even, for `|x| < 2^22`.
#[inline(always)]
pub(crate) fn round_to_i32(x: f32) -> i32 {
    (x + 12_582_912.0).to_bits() as i32 - 0x4b40_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_in_eighths_match_the_reference() {
        for e in -1000..=1000 {
            let reference = (f64::from(e) / 8.0).exp2();
            if (-1008..=1015).contains(&e) {
                let relative = (f64::from(exp2_8(e)) / reference - 1.0).abs();
                assert!(relative < 1e-7, "e = {e}: {relative}");
            }
        }
        assert_eq!(exp2_8(-2000), 0.0);
        assert!(exp2_8(i32::from(i16::MAX)).is_finite());
    }

    #[test]
    fn integer_scaling_rounds_to_nearest() {
        for e in -100..=80 {
            for value in [-127, -3, 0, 1, 58, 127] {
                let reference = f64::from(value) * (f64::from(e) / 8.0).exp2();
                assert!((f64::from(scale_q(value, e)) - reference).abs() <= 0.500_001, "{value} * 2^({e}/8)");
            }
        }
    }

    #[test]
    fn logarithm_is_the_floor_in_256ths() {
        for x in [1u64, 2, 3, 5, 7, 100, 12_345, 1 << 40, u64::MAX] {
            let reference = (x as f64).log2() * 256.0;
            let got = f64::from(log2_q8(x));
            assert!(got <= reference + 1e-6 && got > reference - 1.01, "{x}: {got} {reference}");
        }
    }

    #[test]
    fn ceiling_logarithm_never_undershoots() {
        let mut x = 1e-37f32;
        while x < 1e37 {
            let e = ceil_log2_8(x);
            assert!(f64::from(e) / 8.0 >= f64::from(x).log2() - 1e-6, "{x}");
            assert!(f64::from(e - 1) / 8.0 < f64::from(x).log2() + 1e-6, "{x}");
            x *= if cfg!(miri) { 3.7 } else { 1.013 };
        }
        assert_eq!(ceil_log2_8(1.0), 0);
    }

    #[test]
    fn exponential_is_accurate() {
        for i in (0..87_000).step_by(if cfg!(miri) { 997 } else { 1 }) {
            let x = -(i as f32) / 1000.0;
            let relative = (f64::from(exp_nonpositive(x)) / f64::from(x).exp() - 1.0).abs();
            assert!(relative < if i < 10_000 { 4e-6 } else { 9e-6 }, "{x}: {relative}");
        }
        assert_eq!(exp_nonpositive(-100.0), 0.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_nonpositive(0.0), 1.0);
    }

    #[test]
    fn rounding_and_inverse_root() {
        assert_eq!(
            [round_to_i32(2.5), round_to_i32(-2.5), round_to_i32(3.5), round_to_i32(-0.4)],
            [2, -2, 4, 0]
        );
        for d in 4..=256 {
            let x = d as f32;
            assert!((f64::from(inverse_sqrt(x)) * f64::from(x).sqrt() - 1.0).abs() < 2e-7, "{d}");
        }
    }
}
