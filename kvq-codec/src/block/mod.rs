//! What the bytes of a block mean: its layouts, and how a row of codes is read.
//!
//! A block is one head vector of one token (or, where heads are narrower than 32, the vectors of several
//! heads): a scale, and `code_bits` per value. The codes are split into *planes*, each of a width in bits
//! that divides a byte, because planes of one, two, four and eight bits can be unpacked with shifts and
//! masks alone. A plane of a whole span takes `width` storage units, one unit being one bit of every value
//! of a span, so that a span can be demoted without moving any other.

mod rows;

pub(crate) use rows::{PlanePlace, Planes, Rows};

use crate::error::{Error, figure};
use crate::math::exp2_8;
use crate::pack;
use crate::quantize::{codebook, trellis};
use crate::shape::MAX_HEAD_DIM;

/// How the codes of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Layout {
    /// 8-bit linear codes: sinks, the recent window, and the `8bit` tier.
    Q8 = 0,
    /// 4-bit scalar codes of a Gaussian codebook.
    S4 = 1,
    /// 3-bit scalar codes: a plane of two bits and a plane of one.
    S3 = 2,
    /// 2-bit scalar codes.
    S2 = 3,
    /// 4-bit trellis codes: planes of the upper bits (two and one), and one of trellis bits.
    T4 = 4,
    /// 3-bit trellis codes: a plane of two upper bits, and one of trellis bits.
    T3 = 5,
    /// 2-bit trellis codes: a plane of upper bits, and one of trellis bits.
    T2 = 6,
}

/// The most planes that a layout of this build has; other kernels than those for Arm take three for granted.
pub(crate) const MAX_PLANES: usize =
    if cfg!(all(target_arch = "arm", not(any(feature = "trellis", feature = "low-bits")))) { 1 } else { 3 };

impl Layout {
    /// Every layout, in the order of their stored numbers.
    pub const ALL: [Self; 7] = [Self::Q8, Self::S4, Self::S3, Self::S2, Self::T4, Self::T3, Self::T2];

    /// Nominal bits of a code; what is really stored per value is more (scale, center, tables).
    pub const fn code_bits(self) -> usize {
        match self {
            Self::Q8 => 8,
            Self::S4 | Self::T4 => 4,
            Self::S3 | Self::T3 => 3,
            Self::S2 | Self::T2 => 2,
        }
    }

    /// Whether codes are those of `quantize::trellis`.
    pub const fn is_trellis(self) -> bool {
        matches!(self, Self::T4 | Self::T3 | Self::T2)
    }

    /// Whether this build has the layout: [`Q8`](Self::Q8) and [`S4`](Self::S4) always, the others by the features
    /// `trellis` and `low-bits`.
    pub const fn is_available(self) -> bool {
        self.missing_feature().is_none()
    }

    /// The feature that would bring the layout.
    pub(crate) const fn missing_feature(self) -> Option<&'static str> {
        match self {
            Self::S3 | Self::S2 if cfg!(not(feature = "low-bits")) => Some("low-bits"),
            Self::T4 | Self::T3 | Self::T2 if cfg!(not(feature = "trellis")) => Some("trellis"),
            _ => None,
        }
    }

    /// The layout itself. One that this build does not have, and that no cache can hold, reads as [`S4`](Self::S4):
    /// so the compiler knows that nothing needs its code.
    #[inline(always)]
    pub(crate) const fn available(self) -> Self {
        if self.is_available() { self } else { Self::S4 }
    }

    /// Widths in bits of the planes, lowest bits of the code first; they add up to `code_bits`.
    pub const fn planes(self) -> &'static [u8] {
        match self {
            Self::Q8 => &[8],
            Self::S4 => &[4],
            Self::S3 | Self::T3 => &[2, 1],
            Self::S2 => &[2],
            Self::T4 => &[2, 1, 1],
            Self::T2 => &[1, 1],
        }
    }

    /// The layout whose stored number is `tag`.
    pub const fn from_tag(tag: u8) -> Option<Self> {
        let mut i = 0;
        while i < Self::ALL.len() {
            if Self::ALL[i] as u8 == tag {
                return Some(Self::ALL[i]);
            }
            i += 1;
        }
        None
    }

    /// The number stored for this layout.
    pub const fn tag(self) -> u8 {
        self as u8
    }

    /// The name used in policy files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::S4 => "s4",
            Self::S3 => "s3",
            Self::S2 => "s2",
            Self::T4 => "t4",
            Self::T3 => "t3",
            Self::T2 => "t2",
        }
    }

    /// Whether keys in this layout are stored as residuals of a span's center.
    pub const fn is_centered(self) -> bool {
        !matches!(self, Self::Q8)
    }

    /// The codewords, ascending: value = codeword × scale. Empty for [`Layout::Q8`], whose codes are values.
    pub const fn codewords(self) -> &'static [i8] {
        match self {
            Self::Q8 => &[],
            Self::S4 => &codebook::S4,
            Self::S3 => &codebook::S3,
            Self::S2 => &codebook::S2,
            Self::T4 => &codebook::T4,
            Self::T3 => &codebook::T3,
            Self::T2 => &codebook::T2,
        }
    }

    /// Bytes of the codes of one block of `n_values` values.
    pub const fn row_bytes(self, n_values: usize) -> usize {
        let (mut planes, mut total) = (self.planes(), 0);
        while let [width, rest @ ..] = planes {
            total += pack::plane_row_bytes(*width, n_values);
            planes = rest;
        }
        total
    }
}

/// Writes the values of one block to `out`: levels times `2^(exponent/8)`, still rotated and without a center.
///
/// `codes` are the block's rows of every plane, one behind the other, [`Layout::row_bytes`] in all; they may be any
/// bytes.
///
/// # Errors
/// [`Error::Length`] where `codes` has another length, or `out` more values than a block; [`Error::Feature`] where
/// this build lacks the layout.
///
/// # Examples
/// ```
/// use kvq_codec::block::{Layout, dequantize_into};
///
/// let mut values = [0.0; 4];
/// // Code i of four is in byte i mod 2, at bit 4 · (i div 2); exponent 8 doubles the levels.
/// dequantize_into(Layout::S4, &[0xf0, 0x88], 8, &mut values)?;
/// assert_eq!(values, [-254.0, 12.0, 254.0, 12.0]);
/// # Ok::<(), kvq_codec::Error>(())
/// ```
pub fn dequantize_into(layout: Layout, codes: &[u8], exponent: i16, out: &mut [f32]) -> Result<(), Error> {
    if let Some(feature) = layout.missing_feature() {
        return Err(Error::Feature(feature));
    }
    let n_values = out.len();
    if n_values > MAX_HEAD_DIM {
        return Err(Error::Length { argument: "out", needed: figure(MAX_HEAD_DIM), got: figure(n_values) });
    }
    let needed = layout.row_bytes(n_values);
    if codes.len() != needed {
        return Err(Error::Length { argument: "codes", needed: figure(needed), got: figure(codes.len()) });
    }
    let scale = exp2_8(i32::from(exponent));
    if layout == Layout::S4 {
        dequantize_nibbles(codes, scale, out);
        return Ok(());
    }
    let mut levels = [0i8; MAX_HEAD_DIM];
    let levels = levels.get_mut(..n_values).unwrap_or(&mut []);
    let mut run = Run { planes: [&[]; MAX_PLANES], n: 1 };
    let mut rest = codes;
    for (&width, plane) in layout.planes().iter().zip(&mut run.planes) {
        let Some((row, tail)) = rest.split_at_checked(pack::plane_row_bytes(width, n_values)) else { break };
        (*plane, rest) = (row, tail);
    }
    levels_into(layout, &run, 0, levels);
    for (value, &level) in out.iter_mut().zip(&*levels) {
        *value = f32::from(level) * scale;
    }
    Ok(())
}

/// Values of 4-bit codes from a table of all that there are: eight from a word.
fn dequantize_nibbles(codes: &[u8], scale: f32, out: &mut [f32]) {
    let table = codebook::S4.map(|level| f32::from(level) * scale);
    let Some((low, high)) = out.split_at_mut_checked(codes.len()) else { return };
    // One code more is low where the number of values is odd.
    if let (Some(last), Some(&byte)) = (low.last_mut(), codes.last()) {
        *last = table[usize::from(byte & 15)];
    }
    let n = high.len();
    let (codes, low) = (codes.get(..n).unwrap_or(&[]), low.get_mut(..n).unwrap_or(&mut []));
    let ((fours, rest), (low, low_rest)) = (codes.as_chunks::<4>(), low.as_chunks_mut::<4>());
    let (high, high_rest) = high.as_chunks_mut::<4>();
    for ((bytes, low), high) in fours.iter().zip(low).zip(high) {
        let word = u32::from_le_bytes(*bytes);
        for (i, (low, high)) in low.iter_mut().zip(high).enumerate() {
            *low = table[(word >> (8 * i) & 15) as usize];
            *high = table[(word >> (8 * i + 4) & 15) as usize];
        }
    }
    for ((&byte, low), high) in rest.iter().zip(low_rest).zip(high_rest) {
        *low = table[usize::from(byte & 15)];
        *high = table[usize::from(byte >> 4)];
    }
}

/// The rows of some tokens of one block in every plane of a layout: `planes[p]` holds `n` rows of
/// `plane_row_bytes(width[p], n_values)` bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run<'a> {
    /// Rows per plane; the ones that a layout does not have are empty.
    pub planes: [&'a [u8]; MAX_PLANES],
    /// Tokens.
    pub n: usize,
}

/// Writes the levels of row `token` of `run` into `out`: the integers that, times the scale, are the values.
pub(crate) fn levels_into(layout: Layout, run: &Run<'_>, token: usize, out: &mut [i8]) {
    let layout = layout.available();
    out.fill(0);
    let n_values = out.len();
    let mut shift = 0;
    for (&width, rows) in layout.planes().iter().zip(run.planes) {
        let row_bytes = pack::plane_row_bytes(width, n_values);
        let row = crate::bytes::slice(rows, token.wrapping_mul(row_bytes), row_bytes);
        pack::or_plane(width, shift, row, out);
        shift += u32::from(width);
    }
    let codewords = layout.codewords();
    if layout.is_trellis() {
        let mut codes = [0u8; MAX_HEAD_DIM];
        for (code, &bits) in codes.iter_mut().zip(&*out) {
            *code = bits as u8;
        }
        let codes = codes.get(..n_values).unwrap_or(&[]);
        trellis::for_each_level(codewords, layout.code_bits(), codes, |i, level| {
            if let Some(out) = out.get_mut(i) {
                *out = level;
            }
        });
    } else if !codewords.is_empty() {
        for level in out.iter_mut() {
            *level = codewords.get(usize::from(*level as u8)).copied().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    #[test]
    fn values_are_levels_times_the_scale_in_every_layout() {
        for layout in Layout::ALL.into_iter().filter(|layout| layout.is_available()) {
            for n in [1, 2, 3, 5, 8, 31, 32, 64, 255, 256].into_iter().take(if cfg!(miri) { 6 } else { 10 }) {
                let codes: Vec<u8> = (0..layout.row_bytes(n)).map(|i| (i * 89 + 7 * n) as u8).collect();
                let mut run = Run { planes: [&[]; MAX_PLANES], n: 1 };
                let mut rest = &codes[..];
                for (&width, plane) in layout.planes().iter().zip(&mut run.planes) {
                    (*plane, rest) = rest.split_at(pack::plane_row_bytes(width, n));
                }
                let mut levels = vec![0; n];
                levels_into(layout, &run, 0, &mut levels);
                let mut values = vec![f32::NAN; n];
                dequantize_into(layout, &codes, -13, &mut values).unwrap();
                for (value, level) in values.iter().zip(levels) {
                    assert_eq!(*value, f32::from(level) * exp2_8(-13), "{layout:?} {n}");
                }
            }
        }
    }
}
