//! The kernels with AVX-512: those of `avx2`, sixteen lanes wide.
//!
//! - **Scores**: eight key rows are held against up to three queries: 24 sums, three queries and one row fit the 32
//!   registers.
//! - **Values**: four vectors of columns per query (eight for a single query).
//! - **Softmax**: sixteen exponentials at a time, the same polynomial.

use std::arch::x86_64::*;

use super::BLOCK;
use super::avx2::{EXP_TERMS, LN_2, Lanes};

/// Proof that this machine has AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

#[inline]
#[target_feature(enable = "avx512f")]
fn load<E: Lanes>(from: &[E; 16]) -> __m512 {
    // SAFETY: this function has the feature.
    unsafe { E::load16(from) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [f32; 16], value: __m512) {
    // SAFETY: the reference covers the sixteen floats written.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store4(to: &mut [f32; 4], value: __m128) {
    // SAFETY: the reference covers the four floats written.
    unsafe { _mm_storeu_ps(to.as_mut_ptr(), value) }
}

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
        present.then_some(Self(()))
    }

    /// See [`Kernel::scores`](super::kernel::Kernel::scores).
    pub(super) fn scores<E: Lanes>(self, keys: &[E], head_dim: usize, queries: &[f32], scores: &mut [f32]) {
        match queries.len() / head_dim {
            // SAFETY: `self` proves the features.
            1 => unsafe { scores_of::<E, 1>(keys, head_dim, queries, scores) },
            // SAFETY: `self` proves the features.
            2 => unsafe { scores_of::<E, 2>(keys, head_dim, queries, scores) },
            // SAFETY: `self` proves the features.
            3 => unsafe { scores_of::<E, 3>(keys, head_dim, queries, scores) },
            n => unreachable!("{n} queries at once"),
        }
    }

    /// See [`Kernel::max`](super::kernel::Kernel::max).
    pub(super) fn max(self, scores: &[f32]) -> f32 {
        // SAFETY: `self` proves the features.
        unsafe { max_of(scores) }
    }

    /// See [`Kernel::exp_sum`](super::kernel::Kernel::exp_sum).
    pub(super) fn exp_sum(self, scores: &mut [f32], max: f32, scale: f32) -> f32 {
        // SAFETY: `self` proves the features.
        unsafe { exp_sum_of(scores, max, scale) }
    }

    /// See [`Kernel::accumulate`](super::kernel::Kernel::accumulate).
    pub(super) fn accumulate<E: Lanes>(
        self,
        values: &[E],
        head_dim: usize,
        weights: &[f32],
        out: &mut [f32],
    ) {
        match out.len() / head_dim {
            // SAFETY: `self` proves the features.
            1 => unsafe { accumulate_of::<E, 1>(values, head_dim, weights, out) },
            // SAFETY: `self` proves the features.
            2 => unsafe { accumulate_of::<E, 2>(values, head_dim, weights, out) },
            // SAFETY: `self` proves the features.
            3 => unsafe { accumulate_of::<E, 3>(values, head_dim, weights, out) },
            n => unreachable!("{n} outputs at once"),
        }
    }
}

/// The sums of four vectors, one per lane.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn sum4([a, b, c, d]: [__m512; 4]) -> __m128 {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let quarters = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xee>(ab, cd));
    let halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps::<1>(quarters));
    _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
}

/// Scores of `Q` queries with all rows of `keys`.
#[target_feature(enable = "avx512f,avx512dq")]
fn scores_of<E: Lanes, const Q: usize>(keys: &[E], head_dim: usize, queries: &[f32], scores: &mut [f32]) {
    const R: usize = 8;
    let width = head_dim / 16;
    let (keys, _) = keys.as_chunks::<16>();
    let (queries, _) = queries.as_chunks::<16>();
    let n = keys.len() / width;
    let whole = n - n % R;
    for at in (0..whole).step_by(R) {
        let sums = dots::<E, Q, R>(&keys[at * width..][..R * width], width, queries);
        for query in 0..Q {
            let to = &mut scores[query * BLOCK + at..][..R];
            for (four, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let s = &sums[query][four * 4..][..4];
                store4(to, sum4([s[0], s[1], s[2], s[3]]));
            }
        }
    }
    for at in whole..n {
        let sums = dots::<E, Q, 1>(&keys[at * width..][..width], width, queries);
        for query in 0..Q {
            scores[query * BLOCK + at] = _mm512_reduce_add_ps(sums[query][0]);
        }
    }
}

/// Unsummed dot products: sixteen partial sums for each query and row.
#[inline]
#[target_feature(enable = "avx512f")]
fn dots<E: Lanes, const Q: usize, const R: usize>(
    keys: &[[E; 16]],
    width: usize,
    queries: &[[f32; 16]],
) -> [[__m512; R]; Q] {
    let mut sums = [[_mm512_setzero_ps(); R]; Q];
    let mut rows: [&[[E; 16]]; R] = [&[]; R];
    for (row, from) in rows.iter_mut().zip(keys.chunks_exact(width)) {
        *row = &from[..width];
    }
    let mut heads: [&[[f32; 16]]; Q] = [&[]; Q];
    for (head, from) in heads.iter_mut().zip(queries.chunks_exact(width)) {
        *head = &from[..width];
    }
    for j in 0..width {
        let mut q = [_mm512_setzero_ps(); Q];
        for query in 0..Q {
            q[query] = load(&heads[query][j]);
        }
        for row in 0..R {
            let k = load(&rows[row][j]);
            for query in 0..Q {
                sums[query][row] = _mm512_fmadd_ps(k, q[query], sums[query][row]);
            }
        }
    }
    sums
}

#[target_feature(enable = "avx512f")]
fn max_of(scores: &[f32]) -> f32 {
    let (sixteens, tail) = scores.as_chunks::<16>();
    let mut max = _mm512_set1_ps(f32::NEG_INFINITY);
    for sixteen in sixteens {
        max = _mm512_max_ps(max, load(sixteen));
    }
    tail.iter().copied().fold(_mm512_reduce_max_ps(max), f32::max)
}

/// `exp(x)` for `x <= 0`: see `avx2`.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let x = _mm512_max_ps(x, _mm512_set1_ps(-87.0));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        x,
        _mm512_set1_ps(std::f32::consts::LOG2_E),
    ));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2[0]), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2[1]), r);
    let mut p = _mm512_set1_ps(EXP_TERMS[0]);
    for &term in &EXP_TERMS[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(term));
    }
    p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r), _mm512_set1_ps(1.0));
    let power = _mm512_slli_epi32::<23>(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)));
    _mm512_mul_ps(p, _mm512_castsi512_ps(power))
}

#[target_feature(enable = "avx512f")]
fn exp_sum_of(scores: &mut [f32], max: f32, scale: f32) -> f32 {
    let (max, scale) = (_mm512_set1_ps(max), _mm512_set1_ps(scale));
    let (sixteens, tail) = scores.as_chunks_mut::<16>();
    let mut sum = _mm512_setzero_ps();
    for sixteen in sixteens {
        let weights = exp(_mm512_mul_ps(_mm512_sub_ps(load(sixteen), max), scale));
        sum = _mm512_add_ps(sum, weights);
        store(sixteen, weights);
    }
    let mut total = _mm512_reduce_add_ps(sum);
    if !tail.is_empty() {
        let mut lanes = [f32::NEG_INFINITY; 16];
        lanes[..tail.len()].copy_from_slice(tail);
        let weights = exp(_mm512_mul_ps(_mm512_sub_ps(load(&lanes), max), scale));
        store(&mut lanes, weights);
        tail.copy_from_slice(&lanes[..tail.len()]);
        total += tail.iter().sum::<f32>();
    }
    total
}

/// Weighted sums of `Q` queries, in column tiles as wide as the registers allow.
#[target_feature(enable = "avx512f")]
fn accumulate_of<E: Lanes, const Q: usize>(values: &[E], head_dim: usize, weights: &[f32], out: &mut [f32]) {
    let width = head_dim / 16;
    let (values, _) = values.as_chunks::<16>();
    let (out, _) = out.as_chunks_mut::<16>();
    let mut column = 0;
    while column < width {
        column += match width - column {
            8.. if Q == 1 => sum_columns::<E, Q, 8>(values, width, column, weights, out),
            4.. => sum_columns::<E, Q, 4>(values, width, column, weights, out),
            2.. => sum_columns::<E, Q, 2>(values, width, column, weights, out),
            _ => sum_columns::<E, Q, 1>(values, width, column, weights, out),
        };
    }
}

/// Adds the weighted rows of `C` vectors of columns from `column` on; returns `C`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_columns<E: Lanes, const Q: usize, const C: usize>(
    values: &[[E; 16]],
    width: usize,
    column: usize,
    weights: &[f32],
    out: &mut [[f32; 16]],
) -> usize {
    let n = values.len() / width;
    let mut of_query: [&[f32]; Q] = [&[]; Q];
    for (to, from) in of_query.iter_mut().zip(weights.chunks_exact(BLOCK)) {
        *to = &from[..n];
    }
    let mut sums = [[_mm512_setzero_ps(); C]; Q];
    for query in 0..Q {
        for c in 0..C {
            sums[query][c] = load(&out[query * width + column + c]);
        }
    }
    for (t, row) in values.chunks_exact(width).enumerate().take(n) {
        let row = &row[column..][..C];
        let mut w = [_mm512_setzero_ps(); Q];
        for query in 0..Q {
            w[query] = _mm512_set1_ps(of_query[query][t]);
        }
        for c in 0..C {
            let v = load(&row[c]);
            for query in 0..Q {
                sums[query][c] = _mm512_fmadd_ps(v, w[query], sums[query][c]);
            }
        }
    }
    for query in 0..Q {
        for c in 0..C {
            store(&mut out[query * width + column + c], sums[query][c]);
        }
    }
    C
}
