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

use crate::crc::crc32;

/// Signs of the first pass, one bit per position; fixed, part of the format (digits of pi).
const FIRST_SIGNS: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

/// Signs of the second pass.
const SECOND_SIGNS: [u64; 4] =
    [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c, 0xc0ac_29b7_c97c_50dd, 0x3f84_d5b5_b547_0917];

/// Identifies the rotation in a snapshot: the CRC-32 of the sign words.
pub(crate) const ROTATION_ID: u32 = crc32(sign_bytes().as_flattened());

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
    #[inline(always)]
    pub(crate) fn turn(self, x: &mut [f32], inverse: bool) {
        let two = self.power < self.head_dim;
        for i in 0..1 + usize::from(two) {
            let first = !two || (i == 0) != inverse;
            let (at, signs) =
                if first { (0, &FIRST_SIGNS) } else { (x.len().wrapping_sub(self.power), &SECOND_SIGNS) };
            let part = x.get_mut(at..).and_then(|x| x.get_mut(..self.power)).unwrap_or(&mut []);
            if !inverse {
                flip_signs(part, signs);
            }
            transform(part);
            if inverse {
                flip_signs(part, signs);
            }
        }
    }
}

#[inline(always)]
fn flip_signs(x: &mut [f32], signs: &[u64; 4]) {
    for (chunk, &word) in x.chunks_mut(64).zip(signs) {
        for (i, v) in chunk.iter_mut().enumerate() {
            *v = f32::from_bits(v.to_bits() ^ (((word >> i) as u32 & 1) << 31));
        }
    }
}

/// Orthonormal Walsh-Hadamard transform of a power of two values.
#[inline(always)]
fn transform(x: &mut [f32]) {
    let n = x.len();
    small_strides(x);
    let mut stride = 8;
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
    let scale = inverse_root(n);
    for v in x {
        *v *= scale;
    }
}

/// Strides 1, 2 and 4, eight values at a time.
#[inline(always)]
fn small_strides(x: &mut [f32]) {
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
fn inverse_root(n: usize) -> f32 {
    let log2 = n.trailing_zeros();
    let even = f32::from_bits((127 - log2 / 2) << 23);
    if log2.is_multiple_of(2) { even } else { even * core::f32::consts::FRAC_1_SQRT_2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const DIMS: [usize; 18] = [4, 8, 12, 16, 24, 32, 40, 48, 64, 72, 80, 96, 112, 120, 128, 160, 192, 256];

    fn vector(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32).map(|i| ((i * 7 + seed * 13) % 29) as f32 - 11.5).collect()
    }

    #[test]
    fn rotation_keeps_dot_products_and_is_undone() {
        for dim in DIMS {
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
        for dim in DIMS {
            for at in (0..dim).step_by(if cfg!(miri) { 200 } else { 1 }) {
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
        for n in [4usize, 8, 16, 64, 256] {
            for column in [0, 1, n / 2, n - 1] {
                let mut x = std::vec![0.0; n];
                x[column] = 1.0;
                transform(&mut x);
                for (row, v) in x.iter().enumerate() {
                    let sign = if (row & column).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                    assert!((v - sign / (n as f32).sqrt()).abs() < 1e-6, "n {n} column {column} row {row}");
                }
            }
        }
    }
}
