//! Two 16-bit integers in a word: levels as a byte of a 4-bit row holds them, and queries in the same order.

use crate::kernel::TILE;
use crate::quantize::codebook::S4;
use crate::shape::MAX_HEAD_DIM;

/// The levels of both codes of a byte, that of the low bits in the low half. 1 KiB of flash.
pub(super) static S4_PAIRS: [u32; 256] = {
    let mut pairs = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = pair(S4[byte & 15] as i16, S4[byte >> 4] as i16);
        byte += 1;
    }
    pairs
};

/// `low` and `high` in one word.
#[inline(always)]
pub(super) const fn pair(low: i16, high: i16) -> u32 {
    low as u16 as u32 | (high as u16 as u32) << 16
}

/// Writes values `i` and `i + n/2` of `n` codes as pairs; returns them.
#[inline(never)]
pub(super) fn pair_up<'a>(codes: &[i8], pairs: &'a mut [u32]) -> &'a [u32] {
    let n = codes.len() / 2;
    let Some((low, high)) = codes.split_at_checked(n) else { return &[] };
    for (to, (&low, &high)) in pairs.iter_mut().zip(low.iter().zip(high)) {
        *to = pair(i16::from(low), i16::from(high));
    }
    pairs.get(..n).unwrap_or(&[])
}

/// Queries as pairs: for each row, values `i` and `i + n/2` of its 8-bit codes.
pub(crate) struct QueryPairs([[u32; MAX_HEAD_DIM / 2]; TILE]);

impl QueryPairs {
    pub const EMPTY: Self = Self([[0; MAX_HEAD_DIM / 2]; TILE]);

    /// Pairs the `n` codes of row `i`.
    pub fn set(&mut self, i: usize, codes: &[i8; MAX_HEAD_DIM], n: usize) {
        if let (Some(row), Some(codes)) = (self.0.get_mut(i), codes.get(..n)) {
            pair_up(codes, row);
        }
    }

    /// The `n` pairs of row `i`.
    pub(super) fn row(&self, i: usize, n: usize) -> &[u32] {
        self.0.get(i).and_then(|row| row.get(..n)).unwrap_or(&[])
    }
}
