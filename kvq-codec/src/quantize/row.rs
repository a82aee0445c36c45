//! A row of 16-bit integers to codes of a scalar codebook and a scale.
//!
//! The scale is `2^(f/8)` per codeword unit. Its first guess makes the row's energy that of the codebook's
//! Gaussian; the search then encodes the row at each candidate around it and keeps the one with the least
//! squared error. Steps of 2^(1/8) cost nothing against a finer grid, because the codes are chosen for the
//! scale that is stored.

use super::codebook;
use crate::block::Layout;
use crate::math::{log2_q8, mantissa};
use crate::shape::MAX_HEAD_DIM;

/// The most values in a row: one head of [`MAX_HEAD_DIM`], or several narrow heads.
pub(crate) const MAX_ROW: usize = MAX_HEAD_DIM;

/// Candidate scales on either side of the first guess.
const SEARCH: i32 = 2;

/// Candidate scales.
pub(crate) const CANDIDATES: usize = 2 * SEARCH as usize + 1;

/// The scale below which the fixed-point quotient would overflow: 16 units.
pub(crate) const MIN_SCALE: i32 = 33;

/// `2^(k/4)` in units of 2^-12 for `k` in -4..=4: squared errors at scales `k` eighths of an octave apart
/// compare as these.
const SQUARED_STEPS_Q12: [u64; 9] = [2048, 2435, 2896, 3444, 4096, 4871, 5793, 6889, 8192];

/// The weight of a squared error in units of scale `f`, `k` eighths of an octave above the guess.
#[inline(always)]
pub(crate) fn squared_scale_q12(k: i32) -> u64 {
    SQUARED_STEPS_Q12.get((k + 4) as usize).copied().unwrap_or(u64::from(u32::MAX))
}

/// Sum of squares.
#[inline(always)]
pub(crate) fn row_energy(row: &[i16]) -> u64 {
    row.iter().map(|&r| u64::from((i32::from(r) * i32::from(r)) as u32)).sum()
}

/// Encodes `row` (its largest magnitude in 2^14..2^15 for full precision) into one code per value.
///
/// Returns `f` such that value ≈ codeword × 2^(f/8), or `None` for a row of zeros (all codes 0).
#[cfg(any(not(target_arch = "arm"), test))]
#[inline(always)]
pub(crate) fn encode_scalar(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    match layout {
        Layout::S2 => encode::<3>(&codebook::S2, 2, row, codes),
        Layout::S3 => encode::<7>(&codebook::S3, 3, row, codes),
        _ => encode::<15>(&codebook::S4, 4, row, codes),
    }
}

/// [`encode_scalar`] for cores without vectors: the same codes and scale, each code found by one load.
#[cfg(any(target_arch = "arm", test))]
pub(crate) fn encode_scalar_by_table(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    let bins = match layout {
        Layout::S2 => Bins::S2,
        Layout::S3 => Bins::S3,
        _ => Bins::S4,
    };
    search(layout.code_bits(), &OneByOne(|y| bins.nearest(y)), row, codes)
}

/// `N` is the number of thresholds, one less than the codewords.
#[cfg(any(not(target_arch = "arm"), test))]
#[inline(always)]
fn encode<const N: usize>(codewords: &[i8], code_bits: usize, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    // Midpoints and codewords in sixteenths of a codeword unit.
    let mut thresholds = [0i16; N];
    for ((t, low), high) in thresholds.iter_mut().zip(codewords).zip(codewords.iter().skip(1)) {
        *t = 8 * (i16::from(*low) + i16::from(*high));
    }
    search(code_bits, &OneByOne(|y| nearest(&thresholds, codewords, y)), row, codes)
}

/// What the search of the scale asks of a row.
pub(crate) trait Nearest {
    /// The squared errors of the row at each scale, in squared sixteenths of a codeword unit.
    fn errors(&self, row: &[i16], inverses: &[i16; CANDIDATES]) -> [u64; CANDIDATES];

    /// The nearest codes.
    fn encode(&self, row: &[i16], inverse: i16, codes: &mut [u8]);
}

/// Value by value: the function gives code and codeword of a value in sixteenths of a codeword unit.
pub(crate) struct OneByOne<F>(F);

impl<F: Fn(i16) -> (u8, i16)> Nearest for OneByOne<F> {
    #[inline(always)]
    fn errors(&self, row: &[i16], inverses: &[i16; CANDIDATES]) -> [u64; CANDIDATES] {
        let mut errors = [0u64; CANDIDATES];
        for (error, &inverse) in errors.iter_mut().zip(inverses) {
            for &r in row {
                let y = quotient(r, inverse);
                let (_, level) = self.0(y);
                let e = i32::from(y) - 16 * i32::from(level);
                *error += u64::from((e * e) as u32);
            }
        }
        errors
    }

    #[inline(always)]
    fn encode(&self, row: &[i16], inverse: i16, codes: &mut [u8]) {
        for (code, &r) in codes.iter_mut().zip(row) {
            *code = self.0(quotient(r, inverse)).0;
        }
    }
}

/// Searches the scale.
#[inline(always)]
pub(crate) fn search(code_bits: usize, nearest: &impl Nearest, row: &[i16], codes: &mut [u8]) -> Option<i32> {
    let energy = row_energy(row);
    if energy == 0 {
        codes.fill(0);
        return None;
    }
    // 8 log2(sigma / sigma_codebook), where sigma² = energy / n.
    let log_sigma = (log2_q8(energy) - log2_q8(row.len() as u64)) / 2 - codebook::log2_sigma_q8(code_bits);
    let guess = (8 * log_sigma + 128) >> 8;
    let first = (guess - SEARCH).max(MIN_SCALE);

    let mut inverses = [0; CANDIDATES];
    for (inverse, f) in inverses.iter_mut().zip(first..) {
        *inverse = inverse_scale(f);
    }
    let mut best = (u64::MAX, first, 0);
    for ((error, f), &inverse) in nearest.errors(row, &inverses).into_iter().zip(first..).zip(&inverses) {
        let weighted = error * squared_scale_q12(f - first - SEARCH);
        if weighted < best.0 {
            best = (weighted, f, inverse);
        }
    }
    nearest.encode(row, best.2, codes);
    Some(best.1)
}

/// `16 / 2^(f/8)` in units of 2^-15, rounded; fits `i16` from [`MIN_SCALE`] on.
#[cfg_attr(kvq_small, inline(never))]
#[cfg_attr(not(kvq_small), inline(always))]
pub(crate) fn inverse_scale(f: i32) -> i16 {
    let e = 8 * 19 - f;
    let shift = (30 - (e >> 3)) as u32;
    mantissa(e).wrapping_add(1u32.wrapping_shl(shift - 1)).checked_shr(shift).unwrap_or(0) as i16
}

/// The row's value in sixteenths of a codeword unit.
#[inline(always)]
pub(crate) fn quotient(r: i16, inverse: i16) -> i16 {
    scale_down(r.into(), inverse) as i16
}

/// `r · inverse / 2^15`, rounded; in two steps, which compilers know as one instruction for vectors of 16 bits.
#[inline(always)]
pub(crate) fn scale_down(r: i32, inverse: i16) -> i32 {
    (((r * i32::from(inverse)) >> 14) + 1) >> 1
}

/// The code and codeword nearest to `y`; a tie goes to the lower one.
#[cfg(any(not(target_arch = "arm"), test))]
#[inline(always)]
fn nearest<const N: usize>(thresholds: &[i16; N], codewords: &[i8], y: i16) -> (u8, i16) {
    let mut code = 0u8;
    let mut level = i16::from(codewords.first().copied().unwrap_or(0));
    for ((&t, low), high) in thresholds.iter().zip(codewords).zip(codewords.iter().skip(1)) {
        // Branch-free so that a loop over a row vectorises: the level is a sum of the steps taken.
        let above = i16::from(y > t);
        code += above as u8;
        level += above * (i16::from(*high) - i16::from(*low));
    }
    (code, level)
}

/// The code of every value, by eighths: thresholds are whole multiples of eight sixteenths, so `y` is above one
/// exactly where `(y - 1) >> 3` has reached an eighth of it, which is within ±254.
#[cfg(any(target_arch = "arm", test))]
struct Bins {
    codes: [u8; 512],
    codewords: [i8; 16],
}

#[cfg(any(target_arch = "arm", test))]
impl Bins {
    const S2: &Self = &Self::new(&codebook::S2);
    const S3: &Self = &Self::new(&codebook::S3);
    const S4: &Self = &Self::new(&codebook::S4);

    const fn new(book: &[i8]) -> Self {
        let (mut codes, mut codewords) = ([0; 512], [0; 16]);
        let mut i = 0;
        while i < book.len() {
            codewords[i] = book[i];
            i += 1;
        }
        let mut bin = 0;
        while bin < 512 {
            let mut code = 0;
            while code + 1 < book.len() && bin as i32 - 256 >= book[code] as i32 + book[code + 1] as i32 {
                code += 1;
            }
            codes[bin] = code as u8;
            bin += 1;
        }
        Self { codes, codewords }
    }

    /// As the function of this name.
    #[inline(always)]
    fn nearest(&self, y: i16) -> (u8, i16) {
        let bin = ((i32::from(y) - 1) >> 3).clamp(-256, 255) + 256;
        let code = self.codes[(bin & 511) as usize];
        (code, i16::from(self.codewords[usize::from(code & 15)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn inverse_scales_are_those_of_any_product() {
        for f in MIN_SCALE..1000 {
            assert_eq!(i32::from(inverse_scale(f)), crate::math::scale_q(1, 8 * 19 - f), "{f}");
        }
    }

    #[test]
    fn a_table_gives_the_code_that_counting_gives_for_every_value() {
        for y in (i16::MIN..=i16::MAX).step_by(if cfg!(miri) { 769 } else { 1 }) {
            assert_eq!(Bins::S2.nearest(y), by_counting::<3>(&codebook::S2, y), "S2 {y}");
            assert_eq!(Bins::S3.nearest(y), by_counting::<7>(&codebook::S3, y), "S3 {y}");
            assert_eq!(Bins::S4.nearest(y), by_counting::<15>(&codebook::S4, y), "S4 {y}");
        }
    }

    fn by_counting<const N: usize>(book: &[i8], y: i16) -> (u8, i16) {
        let thresholds =
            core::array::from_fn::<_, N, _>(|i| 8 * (i16::from(book[i]) + i16::from(book[i + 1])));
        nearest(&thresholds, book, y)
    }

    #[test]
    fn rows_are_encoded_alike_by_table() {
        for layout in [Layout::S2, Layout::S3, Layout::S4] {
            for (seed, scale) in [(1, 1.0), (2, 900.0), (3, 8000.0), (4, 32_767.0)] {
                for n in [4, 32, 100, 256].into_iter().take(if cfg!(miri) { 1 } else { 4 }) {
                    let row: Vec<i16> = gaussian(n, seed).iter().map(|x| (x * scale) as i16).collect();
                    let (mut expected, mut got) = (std::vec![9; n], std::vec![9; n]);
                    let f = encode_scalar(layout, &row, &mut expected);
                    assert_eq!(encode_scalar_by_table(layout, &row, &mut got), f, "{layout:?} {n}");
                    assert_eq!(expected, got, "{layout:?} {n}");
                }
            }
        }
    }

    /// Deterministic, roughly Gaussian integers (sum of uniform ones).
    fn gaussian(n: usize, seed: u64) -> Vec<f64> {
        let mut s = seed | 1;
        let mut uniform = || {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect()
    }

    fn snr_db(layout: Layout, n: usize) -> f64 {
        let (mut signal, mut noise) = (0.0, 0.0);
        for seed in 1..if cfg!(miri) { 2 } else { 400 } {
            let x = gaussian(n, seed * 7919);
            let peak = x.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let row: Vec<i16> = x.iter().map(|v| (v / peak * 32_000.0).round() as i16).collect();
            let mut codes = std::vec![0; n];
            let f = crate::Backend::SCALAR.encode_row(layout, &row, &mut codes).unwrap();
            let scale = (f64::from(f) / 8.0).exp2();
            let mut levels = std::vec![0i8; n];
            if layout.is_trellis() {
                crate::quantize::trellis::for_each_level(
                    layout.codewords(),
                    layout.code_bits(),
                    &codes,
                    |i, l| levels[i] = l,
                );
            } else {
                levels.iter_mut().zip(&codes).for_each(|(l, &c)| *l = layout.codewords()[usize::from(c)]);
            }
            for (&r, &level) in row.iter().zip(&levels) {
                let value = f64::from(level) * scale;
                signal += f64::from(r).powi(2);
                noise += (f64::from(r) - value).powi(2);
            }
        }
        10.0 * (signal / noise).log10()
    }

    #[test]
    fn gaussian_rows_reach_the_codebooks_signal_to_noise_ratio() {
        // Lloyd-Max on an endless Gaussian source: 9.30, 14.62 and 20.22 dB; a scale per row gains some.
        // Trellis codes: 1.3 to 1.6 dB more.
        let floors = [
            (Layout::S2, 9.4),
            (Layout::S3, 14.8),
            (Layout::S4, 20.3),
            (Layout::T2, 10.8),
            (Layout::T3, 16.4),
            (Layout::T4, 22.2),
        ];
        for (layout, floor) in floors.into_iter().filter(|(layout, _)| layout.is_available()) {
            // One row, under Miri, may fall short of what many reach.
            let floor = if cfg!(miri) { floor - 2.0 } else { floor };
            let got = snr_db(layout, if cfg!(miri) { 16 } else { 64 });
            std::println!("{layout:?}: {got:.2} dB");
            assert!(got > floor, "{layout:?}: {got:.2} dB");
        }
    }

    #[test]
    fn zeros_and_single_spikes_are_encoded() {
        let mut codes = [9u8; 64];
        assert_eq!(encode_scalar(Layout::S4, &[0; 64], &mut codes), None);
        assert_eq!(codes, [0; 64]);
        for layout in [Layout::S2, Layout::S3, Layout::S4] {
            let n = if cfg!(miri) { 24 } else { 256 };
            let (mut row, mut codes) = ([0i16; 256], [0u8; 256]);
            row[17] = 32_767;
            let f = encode_scalar(layout, &row[..n], &mut codes[..n]).unwrap();
            let scale = (f64::from(f) / 8.0).exp2();
            let level = layout.codewords()[usize::from(codes[17])];
            assert!(level > 0 && f64::from(level) * scale > 2_000.0, "{layout:?}");
        }
    }
}
