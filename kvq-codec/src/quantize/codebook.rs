//! The scalar codebooks: Lloyd-Max levels of the unit Gaussian, scaled so that the outermost is 127.
//!
//! Rotated head vectors are close to Gaussian, so one codebook per width serves them all (J. Max,
//! "Quantizing for minimum distortion", IRE Trans. Inf. Theory 6, 1960, gives the levels). Codewords are
//! `i8`: a byte shuffle looks sixteen of them up at once and an integer dot product follows.

/// 2 bits: ±0.4528, ±1.5104.
pub(crate) const S2: [i8; 4] = [-127, -38, 38, 127];

/// 3 bits: ±0.2451, ±0.7560, ±1.3439, ±2.1520.
pub(crate) const S3: [i8; 8] = [-127, -79, -45, -14, 14, 45, 79, 127];

/// 4 bits: ±0.1284, ±0.3881, ±0.6568, ±0.9424, ±1.2562, ±1.6181, ±2.0690, ±2.7326.
pub(crate) const S4: [i8; 16] = [-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127];

/// Union codebook of 2-bit trellis codes, trained on the unit Gaussian with the code of `trellis`; the
/// outermost level is 1.8496.
pub(crate) const T2: [i8; 8] = [-127, -73, -42, -13, 13, 42, 73, 127];

/// Of 3-bit trellis codes; the outermost level is 2.4986.
pub(crate) const T3: [i8; 16] = [-127, -94, -72, -56, -42, -30, -17, -6, 6, 17, 30, 42, 56, 72, 94, 127];

/// Of 4-bit trellis codes; the outermost level is 3.1529.
pub(crate) const T4: [i8; 32] = [
    -127, -105, -90, -78, -69, -61, -53, -47, -41, -35, -29, -24, -18, -13, -8, -3, 3, 8, 13, 18, 24, 29, 35,
    41, 47, 53, 61, 69, 78, 90, 105, 127,
];

/// `log2` of the trellis codewords per standard deviation, in 1/256: 68.66, 50.83, 40.28.
pub(crate) const fn log2_sigma_trellis_q8(code_bits: usize) -> i32 {
    match code_bits {
        2 => 1562,
        3 => 1451,
        _ => 1365,
    }
}

/// `log2` of the codewords per standard deviation, in 1/256: 84.08, 59.02, 46.48.
pub(crate) const fn log2_sigma_q8(code_bits: usize) -> i32 {
    match code_bits {
        2 => 1637,
        3 => 1506,
        _ => 1418,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codebooks_are_symmetric_and_rise() {
        for book in [&S2[..], &S3, &S4, &T2, &T3, &T4] {
            assert!(book.windows(2).all(|w| w[0] < w[1]));
            assert!(book.iter().zip(book.iter().rev()).all(|(a, b)| *a == -*b));
            assert_eq!(book[book.len() - 1], 127);
        }
    }

    #[test]
    fn sigma_constants_are_the_logarithms_they_stand_for() {
        for (bits, sigma) in [(2usize, 127.0 / 1.5104), (3, 127.0 / 2.1520), (4, 127.0 / 2.7326)] {
            let expected = f64::from(sigma as f32).log2() * 256.0;
            assert!((f64::from(log2_sigma_q8(bits)) - expected).abs() < 1.0);
        }
    }
}
