//! Fixed-point numbers, as models for cores without an FPU have them.

use crate::error::Error;

/// The most fraction bits, and how far below 0 they may be: every number is then one that a cache takes as a float.
pub(crate) const MOST_FRACTION_BITS: i8 = 64;

/// Fixed-point numbers: each stands for `number · 2^-fraction_bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed<'a, T> {
    /// The numbers.
    pub numbers: &'a [T],
    /// Binary digits behind the point, -64 to 64: 15 for numbers from -1 to below 1 in an `i16`.
    pub fraction_bits: i8,
}

impl<'a, T> Fixed<'a, T> {
    /// `numbers` of `fraction_bits`, which the calls that take them check.
    pub const fn new(numbers: &'a [T], fraction_bits: i8) -> Self {
        Self { numbers, fraction_bits }
    }
}

/// Refuses fraction bits out of range.
pub(crate) const fn check_fraction_bits(got: i8) -> Result<i8, Error> {
    if got >= -MOST_FRACTION_BITS && got <= MOST_FRACTION_BITS {
        Ok(got)
    } else {
        Err(Error::FractionBits { got })
    }
}
