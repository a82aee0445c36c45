//! The rotation of a head vector: fast Walsh-Hadamard transforms with fixed random signs.
//!
//! A rotation spreads outliers over the whole vector, which makes one scale per head vector and one
//! codebook enough (QuIP, arXiv 2307.13304; QuaRot, arXiv 2404.00456). Attention does not notice it:
//! queries are rotated like keys, and the sum of rotated values is rotated back once.
//!
//! With `p` the largest power of two in `head_dim`, the first pass flips signs and transforms the first
//! `p` values; where `p < head_dim` a second pass does the same to the last `p`. Both passes are
//! orthonormal and overlap by at least half, so every size works without tables of Hadamard matrices of
//! other orders. Butterflies act element by element in a fixed order of strides (1, 2, 4, …), so the floats
//! are the same on every machine.
//!
//! Integers take the same way without the factor `1/sqrt(p)` of a pass: they come out larger by a known power of
//! two ([`Rotation::gain`]), and where there are two passes, what one of them leaves alone is made as much larger.

use core::ops::{Add, Sub};

use crate::crc::one_by_one;
use crate::math::scale_q;

/// Signs of the first pass, one bit per position; fixed, part of the format (digits of pi).
pub(crate) const FIRST_SIGNS: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

/// Signs of the second pass.
const SECOND_SIGNS: [u64; 4] =
    [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c, 0xc0ac_29b7_c97c_50dd, 0x3f84_d5b5_b547_0917];

/// Identifies the rotation in a snapshot: the CRC-32 of the sign words.
pub(crate) const ROTATION_ID: u32 = one_by_one(u32::MAX, sign_bytes().as_flattened());

const fn sign_bytes() -> [[u8; 8]; 8] {
    let mut bytes = [[0; 8]; 8];
    let mut i = 0;
    while i < 4 {
        bytes[i] = FIRST_SIGNS[i].to_le_bytes();
        bytes[4 + i] = SECOND_SIGNS[i].to_le_bytes();
        i += 1;
    }
    bytes
}

/// The rotation of one head size.
///
/// # Examples
/// ```
/// use kvq_codec::Rotation;
///
/// let rotation = Rotation::new(80);
/// let mut x = [0.0; 80];
/// x[3] = 80.0; // an outlier
/// rotation.forward(&mut x);
/// assert!(x.iter().all(|value| value.abs() < 30.0)); // is spread
/// rotation.inverse(&mut x);
/// assert!((x[3] - 80.0).abs() < 1e-3 && x[4].abs() < 1e-3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    head_dim: usize,
    power: usize,
}

impl Rotation {
    /// The rotation for vectors of `head_dim` values (4 to 256).
    pub const fn new(head_dim: usize) -> Self {
        let mut power = 1;
        while power <= head_dim / 2 {
            power *= 2;
        }
        Self { head_dim, power }
    }

    /// Rotates `x`, `head_dim` values, in place.
    #[inline(always)]
    pub fn forward(self, x: &mut [f32]) {
        self.turn(x, false);
    }

    /// Undoes [`forward`](Self::forward).
    #[inline(always)]
    pub fn inverse(self, x: &mut [f32]) {
        self.turn(x, true);
    }

    /// Both passes, or for the inverse what undoes them, the second one first.
    ///
    /// Integers come out `2^(gain/8)` times as large, and have room for it where they are within [`FIXED_PEAK`].
    #[inline(always)]
    pub(crate) fn turn<T: Number>(self, x: &mut [T], inverse: bool) {
        let two = self.has_two_passes();
        for i in 0..1 + usize::from(two) {
            let first = !two || (i == 0) != inverse;
            let at = if first { self.power } else { x.len().wrapping_sub(self.power) };
            let Some((low, high)) = x.split_at_mut_checked(at) else { return };
            let (part, rest, signs) =
                if first { (low, high, &FIRST_SIGNS) } else { (high, low, &SECOND_SIGNS) };
            if !inverse {
                flip_signs(part, signs);
            }
            butterflies(part);
            T::level(part, rest);
            if inverse {
                flip_signs(part, signs);
            }
        }
    }

    /// By how many eighths of an octave [`turn`](Self::turn) makes integers larger, either way.
    pub(crate) const fn gain(self) -> i32 {
        let passes = if self.has_two_passes() { 2 } else { 1 };
        passes * root_eighths(self.power)
    }

    /// Values of a vector.
    pub(crate) const fn head_dim(self) -> usize {
        self.head_dim
    }

    const fn has_two_passes(self) -> bool {
        self.power < self.head_dim
    }
}

/// The largest magnitude of integers that every rotation has room for: it lengthens a vector of 252 values at
/// most 128 times, in two passes, and one of 256 values 16 times.
pub(crate) const FIXED_PEAK: i32 = 1 << 19;

/// `sqrt(n)` for a power of two, in eighths of an octave.
const fn root_eighths(n: usize) -> i32 {
    4 * n.trailing_zeros() as i32
}

/// What can be rotated.
pub(crate) trait Number: Copy + Add<Output = Self> + Sub<Output = Self> {
    /// `-self` where `bit` is 1, `self` where it is 0.
    fn flip(self, bit: u32) -> Self;

    /// Puts `part`, which was transformed, and `rest`, which was not, on one scale.
    fn level(part: &mut [Self], rest: &mut [Self]);
}

impl Number for f32 {
    #[inline(always)]
    fn flip(self, bit: u32) -> Self {
        Self::from_bits(self.to_bits() ^ bit << 31)
    }

    #[inline(always)]
    fn level(part: &mut [Self], _: &mut [Self]) {
        let scale = inverse_root(part.len());
        for v in part {
            *v *= scale;
        }
    }
}

impl Number for i32 {
    #[inline(always)]
    fn flip(self, bit: u32) -> Self {
        if bit == 0 { self } else { -self }
    }

    #[inline(always)]
    fn level(part: &mut [Self], rest: &mut [Self]) {
        let gain = root_eighths(part.len());
        for v in rest {
            *v = scale_q(*v, gain);
        }
    }
}

#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline(always))]
fn flip_signs<T: Number>(x: &mut [T], signs: &[u64; 4]) {
    if cfg!(kvq_small) {
        for (i, v) in x.iter_mut().enumerate() {
            let word = signs.get(i / 64).copied().unwrap_or(0);
            let half = if i & 32 == 0 { word as u32 } else { (word >> 32) as u32 };
            *v = v.flip(half >> (i & 31) & 1);
        }
        return;
    }
    for (chunk, &word) in x.chunks_mut(64).zip(signs) {
        // By halves: a 32-bit core shifts 64 bits in ten instructions.
        for (half, word) in chunk.chunks_mut(32).zip([word as u32, (word >> 32) as u32]) {
            for (i, v) in half.iter_mut().enumerate() {
                *v = v.flip(word >> i & 1);
            }
        }
    }
}

/// Walsh-Hadamard transform of a power of two values, `sqrt(n)` times the orthonormal one.
#[inline(always)]
fn butterflies<T: Number>(x: &mut [T]) {
    let n = x.len();
    let mut stride = 1;
    // The same additions by the loop below take less flash.
    if cfg!(not(kvq_small)) {
        small_strides(x);
        stride = 8;
    }
    while stride < n {
        let mut rest = &mut *x;
        while rest.len() >= 2 * stride {
            let (block, tail) = rest.split_at_mut(2 * stride);
            let (low, high) = block.split_at_mut(stride);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
            rest = tail;
        }
        stride *= 2;
    }
}

/// Strides 1, 2 and 4, eight values at a time.
#[inline(always)]
fn small_strides<T: Number>(x: &mut [T]) {
    let (eights, rest) = x.as_chunks_mut::<8>();
    for c in eights {
        let [a, b, d, e, f, g, h, i] = *c;
        let (a, b, d, e, f, g, h, i) = (a + b, a - b, d + e, d - e, f + g, f - g, h + i, h - i);
        let (a, d, b, e, f, h, g, i) = (a + d, a - d, b + e, b - e, f + h, f - h, g + i, g - i);
        *c = [a + f, b + g, d + h, e + i, a - f, b - g, d - h, e - i];
    }
    if let [a, b, c, d] = rest {
        let (p, q, r, s) = (*a + *b, *a - *b, *c + *d, *c - *d);
        (*a, *b, *c, *d) = (p + r, q + s, p - r, q - s);
    }
}

/// `1/sqrt(n)` for a power of two.
#[inline(always)]
pub(crate) fn inverse_root(n: usize) -> f32 {
    let log2 = n.trailing_zeros();
    let even = f32::from_bits((127 - log2 / 2) << 23);
    if log2.is_multiple_of(2) { even } else { even * core::f32::consts::FRAC_1_SQRT_2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const DIMS: &[usize] = if cfg!(miri) {
        &[4, 12, 40]
    } else {
        &[4, 8, 12, 16, 24, 32, 40, 48, 64, 72, 80, 96, 112, 120, 128, 160, 192, 256]
    };

    fn vector(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32).map(|i| ((i * 7 + seed * 13) % 29) as f32 - 11.5).collect()
    }

    #[test]
    fn rotation_keeps_dot_products_and_is_undone() {
        for &dim in DIMS {
            let rotation = Rotation::new(dim);
            let (a, b) = (vector(dim, 1), vector(dim, 2));
            let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(p, q)| f64::from(p * q)).sum::<f64>();
            let (mut ra, mut rb) = (a.clone(), b.clone());
            rotation.forward(&mut ra);
            rotation.forward(&mut rb);
            let scale = (dot(&a, &a) * dot(&b, &b)).sqrt();
            assert!((dot(&a, &b) - dot(&ra, &rb)).abs() < 1e-5 * scale, "head_dim {dim}");
            rotation.inverse(&mut ra);
            for (x, y) in a.iter().zip(&ra) {
                assert!((x - y).abs() < 2e-5, "head_dim {dim}: {x} {y}");
            }
        }
    }

    #[test]
    fn a_single_spike_is_spread_over_the_vector() {
        for &dim in DIMS {
            for at in (0..dim).step_by(if cfg!(miri) { 19 } else { 1 }) {
                let mut x = std::vec![0.0; dim];
                x[at] = 1.0;
                Rotation::new(dim).forward(&mut x);
                let peak = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                // Where the two passes overlap, a spike's images may add up.
                let bound = if dim.is_power_of_two() { 1.0 } else { 8.0 };
                assert!(peak <= (bound / dim as f32).sqrt() * 1.001, "head_dim {dim}, position {at}: {peak}");
            }
        }
    }

    #[test]
    fn the_transform_is_the_hadamard_matrix() {
        for n in [4usize, 8, 16, 64, 256].into_iter().take(if cfg!(miri) { 3 } else { 5 }) {
            for column in [0, 1, n / 2, n - 1] {
                let mut x = std::vec![0.0; n];
                x[column] = 1.0;
                butterflies(&mut x);
                f32::level(&mut x, &mut []);
                for (row, v) in x.iter().enumerate() {
                    let sign = if (row & column).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                    assert!((v - sign / (n as f32).sqrt()).abs() < 1e-6, "n {n} column {column} row {row}");
                }
            }
        }
    }

    #[test]
    fn integers_are_rotated_as_floats_are_and_back() {
        for &dim in DIMS {
            let rotation = Rotation::new(dim);
            let x: Vec<i32> = vector(dim, 3).iter().map(|v| (v * 40_000.0) as i32).collect();
            let mut expected: Vec<f32> = x.iter().map(|&v| v as f32).collect();
            let mut y = x.clone();
            rotation.forward(&mut expected);
            rotation.turn(&mut y, false);
            let gain = (f64::from(rotation.gain()) / 8.0).exp2();
            for (y, expected) in y.iter().zip(&expected) {
                assert!((f64::from(*y) / gain - f64::from(*expected)).abs() < 1.0, "{dim}: {y} {expected}");
            }
            let mut back: Vec<i32> = y.iter().map(|&v| (f64::from(v) / gain).round() as i32).collect();
            rotation.turn(&mut back, true);
            for (back, x) in back.iter().zip(&x) {
                assert!((f64::from(*back) / gain - f64::from(*x)).abs() < 4.0, "{dim}: {back} {x}");
            }
        }
    }

    #[test]
    fn the_largest_integers_have_room() {
        // An overflow would panic here, where tests are built without optimisation, or show as a wrong value.
        for &dim in DIMS {
            let rotation = Rotation::new(dim);
            for pattern in (0..64).step_by(if cfg!(miri) { 21 } else { 1 }) {
                let sign = |i: usize| if (i * (pattern + 1) / 7 + i * pattern) & 1 == 0 { 1 } else { -1 };
                for inverse in [false, true] {
                    let mut y: Vec<i32> = (0..dim).map(|i| FIXED_PEAK * sign(i)).collect();
                    let mut expected: Vec<f32> = y.iter().map(|&v| v as f32).collect();
                    rotation.turn(&mut y, inverse);
                    rotation.turn(&mut expected, inverse);
                    let gain = (f64::from(rotation.gain()) / 8.0).exp2();
                    for (y, e) in y.iter().zip(&expected) {
                        let error = (f64::from(*y) / gain - f64::from(*e)).abs();
                        assert!(error < 1e-5 * f64::from(FIXED_PEAK), "{dim}: {y} {e}");
                    }
                }
            }
        }
    }
}
