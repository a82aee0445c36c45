//! Rotated integers to 8-bit rows and to queries: what [`precise`](super::precise) is for floats.
//!
//! A row is brought to 17 bits, sign included, so that a product with a factor of 16 bits fits 32; cores
//! without a 64-bit multiplication take one instruction for it.

use super::precise::ZERO;
use crate::math::{MANTISSA_Q30, scale_q};

/// Bits by which inputs are lifted before they are rotated, for what a second pass has to round.
pub(crate) const GUARD_BITS: i32 = 4;

/// `127 · 2^(s/8)` in units of 2^-7 of a mantissa, rounded down: rows with a peak of 31 bits up to this have
/// an exponent of `s` eighths.
const LARGEST: [u32; 16] = {
    let (mut largest, mut s) = ([0; 16], 0);
    while s < 16 {
        largest[s] = (((MANTISSA_Q30[s % 8] as u64 * 127) << (s / 8)) >> 7) as u32;
        s += 1;
    }
    largest
};

/// A row of integers, and how it is brought to 17 bits.
struct Row<'a> {
    values: &'a [i32],
    /// The largest magnitude, brought to 31 bits.
    peak: u32,
    /// The shift left that did so.
    lift: u32,
}

impl<'a> Row<'a> {
    /// `None` for zeros.
    fn new(values: &'a [i32]) -> Option<Self> {
        let peak = values.iter().fold(0, |peak, v| v.unsigned_abs().max(peak));
        if peak == 0 {
            return None;
        }
        let lift = peak.leading_zeros().saturating_sub(1);
        Some(Self { values, peak: peak << lift, lift })
    }

    /// The values times `factor / 2^bits`, to nearest; `factor` is below 2^16, the products below 2^31.
    #[inline(always)]
    fn scaled(&self, factor: i32, bits: u32) -> impl Iterator<Item = i32> {
        // What the shift to 17 bits cuts off is half a unit on average.
        let half = (1 << (bits - 1)) + factor / 2;
        let lift = self.lift & 31;
        self.values.iter().map(move |&v| (((v << lift) >> 15) * factor + half) >> bits)
    }
}

/// Writes the codes of `row`, whose magnitudes are below 2^31, and returns its exponent `e`: value ≈ code × 2^(e/8).
///
/// `e` is the smallest for which every code is within ±127.
#[inline(never)]
pub(crate) fn encode_fixed(row: &[i32], codes: &mut [u8]) -> i16 {
    let Some(row) = Row::new(row) else {
        codes.fill(0);
        return ZERO;
    };
    let s = LARGEST.iter().take_while(|&&largest| largest < row.peak).count() as i32;
    let e = s + 8 * (23 - row.lift as i32);
    // 2^24 · 2^(-e/8) per unit of the 17 bits: at most 127 · 2^24 / peak.
    let factor = scale_q(1, 8 * (39 - row.lift as i32) - e);
    for (code, scaled) in codes.iter_mut().zip(row.scaled(factor, 24)) {
        *code = scaled as u8;
    }
    e as i16
}

/// Writes the 8-bit and the 16-bit codes of a rotated query. Returns `(peak, shift)`: a unit of the 8-bit codes is
/// `peak · 2^shift / 127`, one of the 16-bit codes `peak · 2^shift / 32767`; `None` for zeros, whose codes are left.
#[inline(never)]
pub(crate) fn encode_query(query: &[i32], codes: &mut [i8], wide: &mut [i16]) -> Option<(u32, i32)> {
    let row = Row::new(query)?;
    let peak = row.peak >> 15;
    let factor = |max: u32, bits: u32| ((max << bits) + peak / 2).checked_div(peak).unwrap_or(0) as i32;
    for (code, scaled) in codes.iter_mut().zip(row.scaled(factor(127, 23), 23)) {
        *code = scaled.clamp(-127, 127) as i8;
    }
    for (code, scaled) in wide.iter_mut().zip(row.scaled(factor(32_767, 15), 15)) {
        *code = scaled.clamp(-32_767, 32_767) as i16;
    }
    Some((peak, 15 - row.lift as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn rows() -> impl Iterator<Item = Vec<i32>> {
        let mut s = 99u64;
        (0..if cfg!(miri) { 40 } else { 4000 }).map(move |i| {
            (0..32)
                .map(|_| {
                    s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((s >> 33) as i32 - (1 << 30)) >> (i % 31)
                })
                .collect()
        })
    }

    #[test]
    fn codes_are_the_nearest_and_the_exponent_the_least() {
        let (mut differ, mut all) = (0, 0);
        for row in rows() {
            let mut codes = [0u8; 32];
            let e = encode_fixed(&row, &mut codes);
            let peak = row.iter().fold(0, |m, v| v.unsigned_abs().max(m));
            if peak == 0 {
                assert_eq!((e, codes), (ZERO, [0; 32]));
                continue;
            }
            let scale = (f64::from(e) / 8.0).exp2();
            assert!(scale * 127.0 * 1.000_000_01 >= f64::from(peak), "{row:?}");
            assert!(scale * 127.0 * (-1.0f64 / 8.0).exp2() < f64::from(peak) * 1.000_000_01, "{row:?}");
            for (&code, &v) in codes.iter().zip(&row) {
                let exact = f64::from(v) / scale;
                let error = (f64::from(code as i8) - exact).abs();
                assert!(error < 0.504, "{v}: {code} {exact}");
                differ += usize::from(error > 0.500_001);
                all += 1;
            }
        }
        assert!(cfg!(miri) || differ * 200 < all, "{differ} of {all} codes are not the nearest");
    }

    #[test]
    fn the_largest_magnitudes_keep_within_their_codes() {
        let mut peaks: Vec<i32> = LARGEST.iter().map(|&l| l as i32 & i32::MAX).collect();
        peaks.extend([1, 2, 3, 127, 128, 1 << 15, (1 << 16) - 1, 1 << 16, (1 << 30) - 1, 1 << 30, i32::MAX]);
        for peak in peaks.into_iter().flat_map(|p| [p - 1, p, p.saturating_add(1)]).filter(|&p| p > 0) {
            let row = [peak, -peak, peak / 2, 0];
            let mut codes = [0u8; 4];
            encode_fixed(&row, &mut codes);
            let codes = codes.map(|c| c as i8);
            assert!(codes[0] >= 116 && codes[1] == -codes[0] && codes[3] == 0, "{peak}: {codes:?}");
            let (mut narrow, mut wide) = ([0i8; 4], [0i16; 4]);
            let (unit, shift) = encode_query(&row, &mut narrow, &mut wide).unwrap();
            assert_eq!([narrow[0], narrow[1], narrow[3]], [127, -127, 0], "{peak}");
            assert!(wide[0] >= 32_766 && wide[1] <= -32_766 && wide[3] == 0, "{peak}: {wide:?}");
            let got = f64::from(unit) * f64::from(shift).exp2();
            assert!((got / f64::from(peak) - 1.0).abs() < 4e-5, "{peak}: {got}");
        }
        assert_eq!(encode_query(&[0; 4], &mut [0; 4], &mut [0; 4]), None);
    }
}
