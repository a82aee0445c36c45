//! AVX2 kernels.
//!
//! What the portable code does element by element is compiled once more with AVX2 enabled (`portable`).
//! The two kernels that read packed bytes, the softmax between them (`fold`) and the search for trellis codes
//! (`viterbi`) are written by hand:
//!
//! * **score** (`score`): the levels of 32 values come from a byte shuffle (the codebook is one register);
//!   `|level| × (query with the level's sign)` is an unsigned-by-signed multiply whose pairwise sums cannot
//!   saturate, since 127 · 127 · 2 < 2^15. Eight rows are reduced together, so that the horizontal sums
//!   cost three adds per row and query.
//! * **accumulate** (`accumulate`): four tokens' levels are interleaved byte by byte, so that two
//!   multiply-adds with the four 7-bit weights give one 32-bit lane per dimension. 8-bit rows take 15-bit
//!   weights and pairs of tokens.
//!
//! Both share each unpacked row among the queries of a tile. They serve head sizes of 32 and
//! multiples of 64, with one head per block; others take the portable code.

mod accumulate;
mod fold;
mod load;
mod score;
mod unpack;
mod viterbi;

use super::{Fold, FoldState, HeadRow, Queries, SEGMENT, Scores, Sums, TILE, Weights, scalar};
use crate::block::{Layout, Run};
use crate::rotate::Rotation;
use crate::shape::MAX_HEAD_DIM;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

/// The portable code, compiled for AVX2.
mod portable {
    use super::{Layout, MAX_HEAD_DIM, Rotation, scalar};
    use crate::quantize::{precise, row, trellis};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn encode_row(layout: Layout, row: &[i16], codes: &mut [u8]) -> Option<i32> {
        if layout.is_trellis() {
            trellis::encode_trellis(layout, &super::viterbi::Avx2Search, row, codes)
        } else {
            row::encode_scalar(layout, row, codes)
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn encode_precise(x: &[f32], codes: &mut [u8]) -> i16 {
        precise::encode_precise(x, codes)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn rotate(rotation: Rotation, x: &mut [f32]) {
        rotation.forward(x);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn unrotate(rotation: Rotation, x: &mut [f32]) {
        rotation.inverse(x);
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

    pub fn rotate(self, rotation: Rotation, x: &mut [f32]) {
        with_avx2!(self, portable::rotate(rotation, x));
    }

    pub fn unrotate(self, rotation: Rotation, x: &mut [f32]) {
        with_avx2!(self, portable::unrotate(rotation, x));
    }

    pub fn scales_into(self, base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
        with_avx2!(self, unpack::scales_into(base, bytes, out));
    }

    pub fn score_keys(
        self,
        layout: Layout,
        runs: &[Run<'_>],
        head: HeadRow,
        queries: &Queries,
        scores: &mut Scores,
    ) {
        if !is_fast(head) {
            return scalar::score_keys(layout, runs, head, queries, scores);
        }
        with_avx2!(self, score::score_keys(layout, runs, head.head_dim, queries, scores));
    }

    pub fn fold(self, fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
        with_avx2!(self, fold::fold(fold, state, weights))
    }

    pub fn accumulate_values(
        self,
        layout: Layout,
        runs: &[Run<'_>],
        head: HeadRow,
        n_queries: usize,
        weights: &Weights,
        sums: &mut Sums,
    ) {
        if !is_fast(head) {
            return scalar::accumulate_values(layout, runs, head, n_queries, weights, sums);
        }
        with_avx2!(
            self,
            accumulate::accumulate_values(layout, runs, head.head_dim, n_queries, weights, sums)
        );
    }

    pub fn add_scaled(self, out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
        with_avx2!(self, portable::add_scaled(out, rescale, sums, scale));
    }
}

/// Whether the hand-written kernels serve this head.
fn is_fast(head: HeadRow) -> bool {
    head.offset == 0
        && head.block_values == head.head_dim
        && matches!(head.head_dim, 32 | 64 | 128 | 192 | 256)
}

/// Calls `$function::<LAYOUT, D, N>` for the constants that fit the arguments.
macro_rules! specialise {
    ($function:ident, $layout:expr, $head_dim:expr, $n:expr, $args:tt) => {
        match $layout {
            Layout::Q8 => specialise!(@dim $function, { Layout::Q8.tag() }, $head_dim, $n, $args),
            Layout::S4 => specialise!(@dim $function, { Layout::S4.tag() }, $head_dim, $n, $args),
            Layout::S3 => specialise!(@dim $function, { Layout::S3.tag() }, $head_dim, $n, $args),
            Layout::S2 => specialise!(@dim $function, { Layout::S2.tag() }, $head_dim, $n, $args),
            Layout::T4 => specialise!(@dim $function, { Layout::T4.tag() }, $head_dim, $n, $args),
            Layout::T3 => specialise!(@dim $function, { Layout::T3.tag() }, $head_dim, $n, $args),
            Layout::T2 => specialise!(@dim $function, { Layout::T2.tag() }, $head_dim, $n, $args),
        }
    };
    (@dim $function:ident, $layout:tt, $head_dim:expr, $n:expr, $args:tt) => {
        match $head_dim {
            32 => specialise!(@n $function, $layout, 32, $n, $args),
            64 => specialise!(@n $function, $layout, 64, $n, $args),
            128 => specialise!(@n $function, $layout, 128, $n, $args),
            192 => specialise!(@n $function, $layout, 192, $n, $args),
            _ => specialise!(@n $function, $layout, 256, $n, $args),
        }
    };
    (@n $function:ident, $layout:tt, $dim:tt, $n:expr, $args:tt) => {
        match $n {
            1 => $function::<$layout, $dim, 1> $args,
            2 => $function::<$layout, $dim, 2> $args,
            3 => $function::<$layout, $dim, 3> $args,
            _ => $function::<$layout, $dim, { super::TILE }> $args,
        }
    };
}
use specialise;
