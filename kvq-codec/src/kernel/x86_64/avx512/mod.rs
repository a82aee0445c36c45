//! AVX-512 kernels, with VNNI, VBMI and GFNI.
//!
//! They take the place of those for AVX2 in attention on heads of 64, 128 and 256. Packing stays with AVX2, which is as
//! fast: it waits for one result after another more than for arithmetic.
//!
//! * **Four multiply-adds in one** (`VPDPBUSD`): a byte without sign times one with it, four products summed to 32 bits
//!   without saturation. Value sums have their 8-bit weights on the side without sign. Scores take levels plus 128
//!   there, and what that adds, 128 times the sum of the query, goes off again at the end.
//! * **Sixteen tokens in a register** (`score`, `turn`): rows become columns of four bytes first, whose products with four
//!   codes of a query add up to sixteen scores without a sum across a register. 4-bit rows of heads of 64 are turned while
//!   they are packed.
//! * **Indices by nibbles** (`bits`): where codes of heads of 64 are stored by the bit, `GF2P8AFFINEQB` turns a row's plane of
//!   one bit, a matrix of eight by eight, so that the bits of a label come to lie beside those of a plane of two; the two make
//!   nibbles, of which one rotation takes sixteen values of four tokens apart. `VPERMB` looks at six bits of an index, so a
//!   codebook that is repeated four times needs no mask over the four that count.
//! * **A segment in four registers** (`fold`): the softmax in the order of operations of `kernel::fold`, with the same
//!   bits.

mod accumulate;
mod bits;
mod fold;
mod load;
mod scale;
mod score;
mod turn;
mod unpack;

use core::ops::Deref;

use super::Avx2;
use crate::block::{Layout, Rows};
use crate::kernel::simd::is_fast;
use crate::kernel::{Fold, FoldState, HeadRow, Levels, Queries, SEGMENT, Scores, Sums, Weights};
use crate::shape::MAX_HEAD_DIM;

/// Proof that the CPU has AVX-512 with VNNI, VBMI and GFNI, and what AVX2 kernels need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(Avx2);

/// Calls a function that needs AVX-512.
macro_rules! with_avx512 {
    ($self:ident, $($call:tt)*) => {{
        let Self(_) = $self;
        // SAFETY: an `Avx512` exists only where `detect` found the features that the callee enables.
        unsafe { $($call)* }
    }};
}

/// The kernels for everything that is not here.
impl Deref for Avx512 {
    type Target = Avx2;

    fn deref(&self) -> &Avx2 {
        &self.0
    }
}

impl Avx512 {
    /// The proof, where it holds.
    pub fn detect() -> Option<Self> {
        #[cfg(feature = "std")]
        let there = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512vnni")
            && std::is_x86_feature_detected!("avx512vbmi")
            && std::is_x86_feature_detected!("gfni");
        #[cfg(not(feature = "std"))]
        let there = cfg!(all(
            target_feature = "avx512f",
            target_feature = "avx512bw",
            target_feature = "avx512vl",
            target_feature = "avx512vnni",
            target_feature = "avx512vbmi",
            target_feature = "gfni"
        ));
        Avx2::detect().filter(|_| there).map(Self)
    }

    pub fn scales_into(self, base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
        with_avx512!(self, scale::scales_into(base, bytes, out));
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
        let coarse = layout != Layout::Q8 && rows.n > 1;
        if coarse && levels.are_shared() && serves(rows, head, 4) {
            with_avx512!(self, score::score_shared(layout, rows, head.head_dim, queries, levels, scores));
        } else if layout == Layout::S4 && head.head_dim == 64 && rows.n > 1 && is_fast(head, rows, 16) {
            with_avx512!(self, score::score_s4(rows, queries, scores));
        } else if coarse && layout != Layout::S4 && head.head_dim == 64 && is_fast(head, rows, 16) {
            with_avx512!(self, score::score_bits(layout, rows, queries, scores));
        } else if !serves(rows, head, 4) {
            self.0.score_keys(layout, rows, head, queries, levels, scores);
        } else if layout == Layout::Q8 {
            with_avx512!(self, score::score_precise(rows, head.head_dim, queries, scores));
        } else if rows.n == 1 {
            with_avx512!(self, score::score_one(layout, rows, head.head_dim, queries, scores));
        } else {
            with_avx512!(self, score::score_rows(layout, rows, head.head_dim, queries, scores));
        }
    }

    pub fn fold_rows<const N: usize>(
        self,
        folds: &[Fold<'_>; N],
        states: &mut [&mut FoldState; N],
        weights: &mut [[i16; SEGMENT]; N],
    ) -> [(f32, f32); N] {
        with_avx512!(self, fold::fold(folds, states, weights))
    }

    pub fn accumulate_values(
        self,
        layout: Layout,
        rows: &Rows<'_>,
        head: HeadRow,
        weights: (usize, &Weights),
        levels: &mut Levels,
        sums: &mut Sums,
    ) {
        let tokens = match (layout, head.head_dim) {
            (Layout::Q8, _) => 2,
            (_, 64) => 8,
            _ => 4,
        };
        if !serves(rows, head, tokens) {
            self.0.accumulate_values(layout, rows, head, weights, levels, sums);
        } else if layout == Layout::Q8 {
            with_avx512!(self, accumulate::accumulate_precise(rows, head.head_dim, weights, sums));
        } else if levels.are_shared() {
            with_avx512!(
                self,
                accumulate::accumulate_shared(layout, rows, head.head_dim, weights, levels, sums)
            );
        } else {
            with_avx512!(self, accumulate::accumulate_rows(layout, rows, head.head_dim, weights, sums));
        }
    }

    pub fn add_scaled(self, out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
        if out.len().is_multiple_of(16) {
            with_avx512!(self, scale::add_scaled(out, rescale, sums, scale));
        } else {
            self.0.add_scaled(out, rescale, sums, scale);
        }
    }
}

/// Whether a row is a number of whole registers, as everything here has it, and runs have multiples of `tokens`.
fn serves(rows: &Rows<'_>, head: HeadRow, tokens: usize) -> bool {
    matches!(head.head_dim, 64 | 128 | 256) && is_fast(head, rows, tokens)
}

/// Calls `$function::<LAYOUT, D>`.
macro_rules! by_layout {
    ($function:ident, $layout:expr, $head_dim:expr, $args:tt) => {
        match $layout {
            Layout::Q8 => {}
            Layout::S4 => by_layout!(@dim $function, { Layout::S4.tag() }, $head_dim, $args),
            Layout::S3 => by_layout!(@dim $function, { Layout::S3.tag() }, $head_dim, $args),
            Layout::S2 => by_layout!(@dim $function, { Layout::S2.tag() }, $head_dim, $args),
            Layout::T4 => by_layout!(@dim $function, { Layout::T4.tag() }, $head_dim, $args),
            Layout::T3 => by_layout!(@dim $function, { Layout::T3.tag() }, $head_dim, $args),
            Layout::T2 => by_layout!(@dim $function, { Layout::T2.tag() }, $head_dim, $args),
        }
    };
    (@dim $function:ident, $layout:tt, $head_dim:expr, $args:tt) => {
        match $head_dim {
            64 => $function::<$layout, 64> $args,
            128 => $function::<$layout, 128> $args,
            _ => $function::<$layout, 256> $args,
        }
    };
}
use by_layout;
