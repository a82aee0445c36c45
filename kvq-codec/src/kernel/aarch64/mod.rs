//! NEON kernels.
//!
//! NEON is part of the base architecture, so the compiler uses it for the portable code as well: encoding,
//! rotation and the softmax are that code. The two kernels that read packed bytes are written by hand:
//!
//! * **unpack** (`unpack`): the levels of 16 values come from a table lookup, with the codebook in one
//!   register, or in two for the 32 levels of T4. A segment's levels go to scratch that the query rows of all
//!   tiles read.
//! * **score** (`score`): products of two times eight levels share 16-bit lanes, where they fit since
//!   127 · 127 · 2 < 2^15, and are added to 32-bit ones pairwise. 8-bit rows take 16-bit queries.
//! * **accumulate** (`accumulate`): two tokens' levels lie interleaved byte by byte, so that the same pairwise
//!   addition sums over tokens, four of them per instruction. 8-bit rows take 15-bit weights.
//!
//! Nothing beyond the base architecture is used: the instructions of later versions for dot products of bytes
//! are not stable in `core::arch`.

mod accumulate;
mod load;
mod score;
mod unpack;

use super::simd::is_fast;
use super::{HeadRow, Levels, Queries, Scores, Sums, Weights, scalar};
use crate::block::{Layout, Rows};

/// Proof that the CPU has NEON, and little-endian lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neon(());

impl Neon {
    /// The proof, where it holds: the target says so, since only targets without floats lack NEON.
    pub const fn detect() -> Option<Self> {
        if cfg!(all(target_feature = "neon", target_endian = "little")) { Some(Self(())) } else { None }
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
        if !is_fast(head, rows, 1) {
            return scalar::score_keys(layout, rows, head, queries, scores);
        }
        // SAFETY: a `Neon` exists only where the target has the feature that the callee enables.
        unsafe { score::score_keys(layout, rows, head.head_dim, queries, levels, scores) }
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
        if !is_fast(head, rows, if layout == Layout::Q8 { 1 } else { 4 }) {
            return scalar::accumulate_values(layout, rows, head, weights, sums);
        }
        // SAFETY: a `Neon` exists only where the target has the feature that the callee enables.
        unsafe { accumulate::accumulate_values(layout, rows, head.head_dim, weights, levels, sums) }
    }
}
