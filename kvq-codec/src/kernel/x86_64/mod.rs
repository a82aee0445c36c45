//! AVX2 kernels.

use super::{Fold, FoldState, HeadRow, Queries, SEGMENT, Scores, Sums, Weights, scalar};
use crate::block::{Layout, Run};
use crate::rotate::Rotation;
use crate::shape::MAX_HEAD_DIM;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

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
        scalar::encode_row(layout, row, codes)
    }

    pub fn encode_precise(self, x: &[f32], codes: &mut [u8]) -> i16 {
        scalar::encode_precise(x, codes)
    }

    pub fn rotate(self, rotation: Rotation, x: &mut [f32]) {
        scalar::rotate(rotation, x);
    }

    pub fn unrotate(self, rotation: Rotation, x: &mut [f32]) {
        scalar::unrotate(rotation, x);
    }

    pub fn scales_into(self, base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
        scalar::scales_into(base, bytes, out);
    }

    pub fn score_keys(
        self,
        layout: Layout,
        run: &Run<'_>,
        head: HeadRow,
        queries: &Queries,
        first: usize,
        scores: &mut Scores,
    ) {
        scalar::score_keys(layout, run, head, queries, first, scores);
    }

    pub fn fold(self, fold: &Fold<'_>, state: &mut FoldState, weights: &mut [i16; SEGMENT]) -> (f32, f32) {
        scalar::fold(fold, state, weights)
    }

    pub fn accumulate_values(
        self,
        layout: Layout,
        run: &Run<'_>,
        head: HeadRow,
        n_queries: usize,
        weights: &Weights,
        first: usize,
        sums: &mut Sums,
    ) {
        scalar::accumulate_values(layout, run, head, n_queries, weights, first, sums);
    }

    pub fn add_scaled(self, out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
        scalar::add_scaled(out, rescale, sums, scale);
    }
}
