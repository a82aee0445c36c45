//! The kernels behind a choice of backend.
//!
//! `scalar` says what is right. Every other backend returns the same integers for the same integers, and
//! floats that agree to the bound in `docs/NUMERICS.md`. Holding a [`Backend`] is the proof that its
//! instructions exist on this machine, so its methods are safe.

mod fold;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use fold::{Fold, FoldState};

use crate::block::{Layout, Run};
use crate::rotate::Rotation;
use crate::shape::MAX_HEAD_DIM;

/// Query rows that share one pass over the packed bytes.
pub(crate) const TILE: usize = if cfg!(target_pointer_width = "64") { 4 } else { 1 };

/// Tokens scored and summed at a time.
pub(crate) const SEGMENT: usize = 64;

/// Rotated queries as 8-bit integers.
pub(crate) struct Queries {
    /// Codes of each row.
    pub rows: [[i8; MAX_HEAD_DIM]; TILE],
    /// Rows in use.
    pub n: usize,
}

/// Integer scores of a segment, one row per query.
pub(crate) type Scores = [[i32; SEGMENT]; TILE];

/// Integer weights of a segment's values.
pub(crate) type Weights = [[i16; SEGMENT]; TILE];

/// Integer sums of weighted value levels.
pub(crate) type Sums = [[i32; MAX_HEAD_DIM]; TILE];

/// Where a head's values lie within a block's row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadRow {
    /// Values in the block.
    pub block_values: usize,
    /// First value of the head.
    pub offset: usize,
    /// Values of the head.
    pub head_dim: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86_64::Avx2),
}

/// Which kernels a cache runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend(Kind);

/// Calls the chosen backend's function of the same name.
macro_rules! dispatch {
    ($self:ident, $function:ident($($argument:expr),*)) => {
        match $self.0 {
            Kind::Scalar => scalar::$function($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.$function($($argument),*),
        }
    };
}

impl Backend {
    /// Portable code: the definition of what every other backend returns.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest backend of this machine.
    ///
    /// With the `std` feature the CPU is asked at run time; without it, the compilation target decides.
    /// `--cfg kvq_force_scalar` makes it [`Backend::SCALAR`].
    #[must_use]
    pub fn detect() -> Self {
        if cfg!(kvq_force_scalar) {
            return Self::SCALAR;
        }
        Self::avx2().unwrap_or(Self::SCALAR)
    }

    /// AVX2 with FMA, where the CPU has them.
    #[must_use]
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return x86_64::Avx2::detect().map(|avx2| Self(Kind::Avx2(avx2)));
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Every backend of this machine, [`Backend::SCALAR`] first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Some(Self::SCALAR), Self::avx2()].into_iter().flatten()
    }

    /// The name used in flags and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
        }
    }

    /// Encodes a row of integers: see `quantize::row`.
    #[inline]
    pub(crate) fn encode_row(self, layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
        dispatch!(self, encode_row(layout, row, codes))
    }

    /// Rotates `x` and writes its 8-bit codes; returns their exponent: see `quantize::precise`.
    #[inline]
    pub(crate) fn encode_precise(self, x: &[f32], codes: &mut [u8]) -> i16 {
        dispatch!(self, encode_precise(x, codes))
    }

    /// Rotates a head vector.
    #[inline]
    pub(crate) fn rotate(self, rotation: Rotation, x: &mut [f32]) {
        dispatch!(self, rotate(rotation, x));
    }

    /// Undoes [`rotate`](Self::rotate).
    #[inline]
    pub(crate) fn unrotate(self, rotation: Rotation, x: &mut [f32]) {
        dispatch!(self, unrotate(rotation, x));
    }

    /// Scales of the blocks whose span has `base`: `out[t] = 2^((base - bytes[t])/8)`, 0 for rows of zeros.
    #[inline]
    pub(crate) fn scales_into(self, base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
        dispatch!(self, scales_into(base, bytes, out));
    }

    /// Integer dot products: `scores[q][first + t] = Σ level(t) · query(q)` over one head.
    #[inline]
    pub(crate) fn score_keys(
        self,
        layout: Layout,
        run: &Run<'_>,
        head: HeadRow,
        queries: &Queries,
        first: usize,
        scores: &mut Scores,
    ) {
        dispatch!(self, score_keys(layout, run, head, queries, first, scores));
    }

    /// Scores to softmax weights as integers, folded into the running maximum and sum: see [`Fold`].
    #[inline]
    pub(crate) fn fold(self, fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
        dispatch!(self, fold(fold, state, weights))
    }

    /// Integer sums: `sums[q][d] += Σ weight(q, first + t) · level(t, d)` over one head.
    ///
    /// Weights are at most 127 except for [`Layout::Q8`], where they are at most 32,767.
    #[inline]
    pub(crate) fn accumulate_values(
        self,
        layout: Layout,
        run: &Run<'_>,
        head: HeadRow,
        n_queries: usize,
        weights: &Weights,
        first: usize,
        sums: &mut Sums,
    ) {
        dispatch!(self, accumulate_values(layout, run, head, n_queries, weights, first, sums));
    }

    /// `out[d] = out[d] · rescale + sums[d] · scale`.
    #[inline]
    pub(crate) fn add_scaled(self, out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
        dispatch!(self, add_scaled(out, rescale, sums, scale));
    }
}
