//! Rotated queries as integers.

use super::TILE;
#[cfg(any(target_arch = "arm", test))]
use super::arm::QueryPairs;
use crate::math::{larger, round_to_i32};
use crate::quantize::fixed::encode_query;
use crate::shape::MAX_HEAD_DIM;

/// A unit of a 16-bit query in units of the 8-bit one.
pub(crate) const WIDE_QUERY_UNIT: f32 = 127.0 / 32_767.0;

/// Query rows that share one pass over the packed bytes.
pub(crate) struct Queries {
    /// 8-bit codes of each row, for every layout but [`Q8`](crate::Layout::Q8).
    pub rows: [[i8; MAX_HEAD_DIM]; TILE],
    /// 16-bit codes of each row, for [`Q8`](crate::Layout::Q8): 8-bit keys deserve better than 8-bit queries.
    pub wide_rows: [[i16; MAX_HEAD_DIM]; TILE],
    /// What the kernels for Arm read instead of `rows`.
    #[cfg(any(target_arch = "arm", test))]
    pub pairs: QueryPairs,
    /// Rows in use.
    pub n: usize,
}

impl Queries {
    pub const EMPTY: Self = Self {
        rows: [[0; MAX_HEAD_DIM]; TILE],
        wide_rows: [[0; MAX_HEAD_DIM]; TILE],
        #[cfg(any(target_arch = "arm", test))]
        pairs: QueryPairs::EMPTY,
        n: 0,
    };

    /// Codes of `query` as row `i`; returns the value of a unit of the 8-bit codes, 0 for a query that is
    /// zero, subnormal or not finite.
    #[inline(always)]
    pub fn quantize(&mut self, i: usize, query: &[f32]) -> f32 {
        let (Some(codes), Some(wide)) = (self.rows.get_mut(i), self.wide_rows.get_mut(i)) else { return 0.0 };
        let peak = peak(query);
        if !(peak > f32::MIN_POSITIVE * 128.0 && peak < f32::MAX) {
            return 0.0;
        }
        let (inverse, wide_inverse) = (127.0 / peak, 32_767.0 / peak);
        for ((code, wide), v) in codes.iter_mut().zip(wide).zip(query) {
            *code = round_to_i32(v * inverse) as i8;
            *wide = round_to_i32(v * wide_inverse) as i16;
        }
        #[cfg(any(target_arch = "arm", test))]
        self.pairs.set(i, codes, query.len());
        peak / 127.0
    }

    /// Codes of a rotated query of integers as row `i`: see [`encode_query`].
    pub fn set_fixed(&mut self, i: usize, query: &[i32]) -> Option<(u32, i32)> {
        let (codes, wide) = (self.rows.get_mut(i)?, self.wide_rows.get_mut(i)?);
        let unit = encode_query(query, codes, wide)?;
        #[cfg(any(target_arch = "arm", test))]
        self.pairs.set(i, codes, query.len());
        Some(unit)
    }

    /// Pairs up rows of `head_dim` codes that were written by hand.
    #[cfg(test)]
    pub fn pair_up(&mut self, head_dim: usize) {
        for (i, codes) in self.rows.iter().enumerate() {
            self.pairs.set(i, codes, head_dim);
        }
    }
}

/// Lanes that a compiler makes registers of, where there are such.
const LANES: usize = if cfg!(target_arch = "x86_64") { 8 } else { 1 };

/// The largest magnitude; what is no number is left out.
#[inline(always)]
fn peak(query: &[f32]) -> f32 {
    let mut peaks = [0.0; LANES];
    let (whole, rest) = query.as_chunks::<LANES>();
    for values in whole {
        peaks.iter_mut().zip(values).for_each(|(peak, v)| *peak = larger(*peak, v.abs()));
    }
    rest.iter().chain(&peaks).fold(0.0, |peak, v| larger(peak, v.abs()))
}
