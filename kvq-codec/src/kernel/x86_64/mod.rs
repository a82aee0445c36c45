//! AVX2 kernels.
//!
//! What the portable code does element by element is compiled once more with AVX2 enabled (`portable`).
//! The two kernels that read packed bytes, the softmax between them (`fold`), the searches for scalar (`nearest`)
//! and trellis codes (`viterbi`), and what packing does around these (`center`, `plane`) are written by hand:
//!
//! * **columns** (`columns`): eight rows of heads of 32, 64, 128 and 256 are turned while they are packed, so that a register
//!   has four values of each of eight tokens. A segment's levels go to a few KiB of scratch, which the two kernels read
//!   from the nearest cache: with levels in registers instead, sums had to leave them, which cost more.
//! * **unpack** (`unpack`): row by row where heads are 192 wide or fewer than eight rows lie together. The levels of
//!   32 values come from a byte shuffle (the codebook is one register).
//! * **score** (`score`): `|query| × (level with the query's sign)` is an unsigned-by-signed multiply whose pairwise sums cannot
//!   saturate, since 127 · 127 · 2 < 2^15. From columns, lanes are the scores of eight tokens; of rows, four are reduced
//!   together. 8-bit rows take 16-bit queries.
//! * **accumulate** (`accumulate`): four tokens' levels lie interleaved byte by byte, so that two
//!   multiply-adds with the four 8-bit weights give one 32-bit lane per dimension. 8-bit rows take 15-bit
//!   weights and pairs of tokens. Few values at a time, so that all sums stay in registers.
//!
//! Both share each unpacked row among the queries of a tile. They serve head sizes of 32 and
//! multiples of 64, with one head per block; others take the portable code. `avx512` goes beyond AVX2.

mod accumulate;
mod avx512;
mod center;
mod columns;
mod fold;
mod load;
mod nearest;
mod plane;
mod precise;
mod rotate;
mod score;
mod unpack;
mod viterbi;

pub(crate) use avx512::Avx512;
pub(super) use center::STEP as CENTER_STEP;
pub(super) use load::prefetch;

use super::simd::is_fast;
use super::{Fold, FoldState, HeadRow, Levels, Queries, SEGMENT, Scores, Sums, Weights, scalar};
use crate::block::{Layout, Rows};
use crate::pack;
use crate::quantize::span::FixedScale;
use crate::rotate::Rotation;
use crate::shape::MAX_HEAD_DIM;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

/// The portable code, compiled for AVX2.
mod portable {
    use super::{Layout, MAX_HEAD_DIM, Queries, scalar};
    use crate::quantize::{precise, row, trellis};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn encode_row(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
        if layout.is_trellis() {
            trellis::encode_trellis(layout, &super::viterbi::Avx2Search, row, codes)
        } else if row.len().is_multiple_of(super::nearest::STEP) {
            super::nearest::encode_scalar(layout, row, codes)
        } else {
            row::encode_scalar(layout, row, codes)
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn encode_precise(x: &[f32], codes: &mut [u8]) -> i16 {
        if x.len().is_multiple_of(super::precise::STEP) {
            super::precise::encode_precise(x, codes)
        } else {
            precise::encode_precise(x, codes)
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn quantize_query(queries: &mut Queries, i: usize, query: &[f32]) -> f32 {
        queries.quantize(i, query)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn add_scaled(out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
        scalar::add_scaled(out, rescale, sums, scale);
    }
}

/// Calls a function that needs AVX2 and FMA.
macro_rules! with_avx2 {
    ($self:ident, $($call:tt)*) => {{
        let Self(()) = $self;
        // SAFETY: an `Avx2` exists only where `detect` found the features that the callee enables.
        unsafe { $($call)* }
    }};
}

impl Avx2 {
    /// The proof, where it holds.
    pub fn detect() -> Option<Self> {
        #[cfg(feature = "std")]
        let there = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
        #[cfg(not(feature = "std"))]
        let there = cfg!(all(target_feature = "avx2", target_feature = "fma"));
        there.then_some(Self(()))
    }

    pub fn encode_row(self, layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
        with_avx2!(self, portable::encode_row(layout, row, codes))
    }

    pub fn encode_precise(self, x: &[f32], codes: &mut [u8]) -> i16 {
        with_avx2!(self, portable::encode_precise(x, codes))
    }

    pub fn put_plane(self, width: u8, shift: u32, codes: &[u8], row: &mut [u8]) {
        if width < 8 && codes.len().is_multiple_of(plane::STEP) {
            with_avx2!(self, plane::put(width, shift, codes, row));
        } else {
            pack::put_plane(width, shift, codes, row);
        }
    }

    /// `sum[i] += code[i]` in fixed point, for whole [`CENTER_STEP`]s of values.
    pub fn add_fixed(self, codes: &[u8], scale: FixedScale, sum: &mut [i32]) {
        with_avx2!(self, center::add_fixed(codes, scale, sum));
    }

    /// As `quantize::span` computes a normalised residual, for whole [`CENTER_STEP`]s of values.
    pub fn residual_into(self, codes: &[u8], scale: FixedScale, center: &[i32], row: &mut [i16]) -> i32 {
        with_avx2!(self, center::residual_into(codes, scale, center, row))
    }

    pub fn rotate(self, rotation: Rotation, x: &mut [f32]) {
        with_avx2!(self, rotate::turn(rotation, x, false));
    }

    pub fn unrotate(self, rotation: Rotation, x: &mut [f32]) {
        with_avx2!(self, rotate::turn(rotation, x, true));
    }

    pub fn quantize_query(self, queries: &mut Queries, i: usize, query: &[f32]) -> f32 {
        with_avx2!(self, portable::quantize_query(queries, i, query))
    }

    pub fn scales_into(self, base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
        with_avx2!(self, unpack::scales_into(base, bytes, out));
    }

    pub fn score_keys(
        self,
        layout: Layout,
        rows: &Rows<'_>,
        head: HeadRow,
        queries: &Queries,
        levels: &mut Levels,
        scores: &mut Scores,
    ) {
        let head_dim = head.head_dim;
        if !is_fast(head, rows, if layout == Layout::Q8 { 1 } else { 4 }) {
            scalar::score_keys(layout, rows, head, queries, scores);
        } else if layout == Layout::Q8 || !columns::serves(head, rows) {
            with_avx2!(self, score::score_keys(layout, rows, head_dim, queries, levels, scores));
        } else if rows.n == 1 {
            with_avx2!(self, score::score_one(layout, rows, head_dim, queries, scores));
        } else {
            with_avx2!(self, score::score_columns(layout, rows, head_dim, queries, levels, scores));
        }
    }

    pub fn fold(self, fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
        with_avx2!(self, fold::fold(fold, state, weights))
    }

    pub fn accumulate_values(
        self,
        layout: Layout,
        rows: &Rows<'_>,
        head: HeadRow,
        (n_queries, weights): (usize, &Weights),
        levels: &mut Levels,
        sums: &mut Sums,
    ) {
        let head_dim = head.head_dim;
        let weights = (n_queries, weights);
        if !is_fast(head, rows, if layout == Layout::Q8 { 2 } else { 4 }) {
            scalar::accumulate_values(layout, rows, head, weights, sums);
        } else if layout == Layout::Q8 || !columns::serves(head, rows) {
            with_avx2!(self, accumulate::accumulate_values(layout, rows, head_dim, weights, levels, sums));
        } else {
            with_avx2!(self, accumulate::accumulate_columns(layout, rows, head_dim, weights, levels, sums));
        }
    }

    pub fn add_scaled(self, out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
        with_avx2!(self, portable::add_scaled(out, rescale, sums, scale));
    }
}
