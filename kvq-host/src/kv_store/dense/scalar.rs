//! The kernels in plain code: the definition that the vector kernels are tested against.

use super::BLOCK;
use super::kernel::Element;

/// Partial sums of a dot product. Eight independent ones let a compiler vectorize it.
const LANES: usize = 8;

fn dot<E: Element>(row: &[E], query: &[f32]) -> f32 {
    let (rows, row_tail) = row.as_chunks::<LANES>();
    let (queries, query_tail) = query.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (row, query) in rows.iter().zip(queries) {
        for lane in 0..LANES {
            sums[lane] += row[lane].to_f32() * query[lane];
        }
    }
    let tail: f32 = row_tail.iter().zip(query_tail).map(|(x, q)| x.to_f32() * q).sum();
    sums.iter().sum::<f32>() + tail
}

pub(super) fn scores<E: Element>(keys: &[E], head_dim: usize, queries: &[f32], scores: &mut [f32]) {
    for (query, scores) in queries.chunks_exact(head_dim).zip(scores.chunks_exact_mut(BLOCK)) {
        for (row, score) in keys.chunks_exact(head_dim).zip(scores) {
            *score = dot(row, query);
        }
    }
}

pub(super) fn max(scores: &[f32]) -> f32 {
    scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

pub(super) fn exp_sum(scores: &mut [f32], max: f32, scale: f32) -> f32 {
    let mut sum = 0.0;
    for score in scores {
        *score = ((*score - max) * scale).exp();
        sum += *score;
    }
    sum
}

pub(super) fn accumulate<E: Element>(values: &[E], head_dim: usize, weights: &[f32], out: &mut [f32]) {
    for (out, weights) in out.chunks_exact_mut(head_dim).zip(weights.chunks_exact(BLOCK)) {
        for (row, &weight) in values.chunks_exact(head_dim).zip(weights) {
            for (sum, value) in out.iter_mut().zip(row) {
                *sum += weight * value.to_f32();
            }
        }
    }
}
