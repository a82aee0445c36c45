//! The kernels with AVX2, FMA and F16C.
//!
//! - **Scores**: four key rows (eight for a single query) are held against up to three queries, so that
//!   every loaded row serves all queries of a GQA group and every query register four rows; twelve
//!   accumulators, three queries and one row fill the sixteen registers. Horizontal sums are made four at
//!   a time by pairwise additions.
//! - **Values**: a column tile of four vectors (eight for a single query) per query is summed over the
//!   whole block in registers.
//! - **Softmax**: eight exponentials at a time, `2^n · p(r)` with a polynomial of degree 6, relative error
//!   under 2e-7; arguments under -87 count as -87.
//!
//! This file and `avx512` hold the only unsafe code of the host but for one call in [`crate::huge_pages`]: calls into
//! functions that need the features (holding an [`Avx2`] proves them present), and the loads and stores, each over a
//! reference to exactly the elements it touches.

use std::arch::x86_64::*;

use half::f16;

use super::BLOCK;

/// Proof that this machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// ln 2 in two parts, so that a remainder keeps its digits.
pub(super) const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// Coefficients of `exp(r)` from the sixth power down to the second.
pub(super) const EXP_TERMS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// Elements that load as f32 lanes.
pub trait Lanes: Sized {
    /// The eight values as f32.
    ///
    /// # Safety
    /// The machine must have AVX and F16C.
    unsafe fn load8(from: &[Self; 8]) -> __m256;

    /// Sixteen values as f32.
    ///
    /// # Safety
    /// The machine must have AVX-512F.
    unsafe fn load16(from: &[Self; 16]) -> __m512;
}

impl Lanes for f32 {
    #[inline(always)]
    unsafe fn load8(from: &[Self; 8]) -> __m256 {
        // SAFETY: the reference covers the eight floats read; AVX is the caller's obligation.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load16(from: &[Self; 16]) -> __m512 {
        // SAFETY: the reference covers the sixteen floats read; AVX-512F is the caller's obligation.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
}

impl Lanes for f16 {
    #[inline(always)]
    unsafe fn load8(from: &[Self; 8]) -> __m256 {
        // SAFETY: the reference covers the sixteen bytes read; SSE2 is part of x86-64.
        let halves = unsafe { _mm_loadu_si128(from.as_ptr().cast()) };
        // SAFETY: F16C is the caller's obligation.
        unsafe { _mm256_cvtph_ps(halves) }
    }

    #[inline(always)]
    unsafe fn load16(from: &[Self; 16]) -> __m512 {
        // SAFETY: the reference covers the 32 bytes read; AVX-512F, which has AVX in it, is the caller's obligation.
        let halves = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(halves) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load<E: Lanes>(from: &[E; 8]) -> __m256 {
    // SAFETY: this function has the features.
    unsafe { E::load8(from) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(to: &mut [f32; 8], value: __m256) {
    // SAFETY: the reference covers the eight floats written.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store4(to: &mut [f32; 4], value: __m128) {
    // SAFETY: the reference covers the four floats written.
    unsafe { _mm_storeu_ps(to.as_mut_ptr(), value) }
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let present = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        present.then_some(Self(()))
    }

    /// See [`Kernel::scores`](super::kernel::Kernel::scores).
    pub(super) fn scores<E: Lanes>(self, keys: &[E], head_dim: usize, queries: &[f32], scores: &mut [f32]) {
        match queries.len() / head_dim {
            // SAFETY: `self` proves the features.
            1 => unsafe { scores_of::<E, 1, 8>(keys, head_dim, queries, scores) },
            // SAFETY: `self` proves the features.
            2 => unsafe { scores_of::<E, 2, 4>(keys, head_dim, queries, scores) },
            // SAFETY: `self` proves the features.
            3 => unsafe { scores_of::<E, 3, 4>(keys, head_dim, queries, scores) },
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
#[target_feature(enable = "avx2,fma,f16c")]
fn sum4(v: [__m256; 4]) -> __m128 {
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs))
}

/// Scores of `Q` queries with all rows of `keys`, `R` rows (a multiple of 4) at a time.
#[target_feature(enable = "avx2,fma,f16c")]
fn scores_of<E: Lanes, const Q: usize, const R: usize>(
    keys: &[E],
    head_dim: usize,
    queries: &[f32],
    scores: &mut [f32],
) {
    let width = head_dim / 8;
    let (keys, _) = keys.as_chunks::<8>();
    let (queries, _) = queries.as_chunks::<8>();
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
            scores[query * BLOCK + at] = _mm_cvtss_f32(sum4([sums[query][0]; 4]));
        }
    }
}

/// Unsummed dot products: eight partial sums for each query and row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<E: Lanes, const Q: usize, const R: usize>(
    keys: &[[E; 8]],
    width: usize,
    queries: &[[f32; 8]],
) -> [[__m256; R]; Q] {
    let mut sums = [[_mm256_setzero_ps(); R]; Q];
    let mut rows: [&[[E; 8]]; R] = [&[]; R];
    for (row, from) in rows.iter_mut().zip(keys.chunks_exact(width)) {
        *row = &from[..width];
    }
    let mut heads: [&[[f32; 8]]; Q] = [&[]; Q];
    for (head, from) in heads.iter_mut().zip(queries.chunks_exact(width)) {
        *head = &from[..width];
    }
    for j in 0..width {
        let mut q = [_mm256_setzero_ps(); Q];
        for query in 0..Q {
            q[query] = load(&heads[query][j]);
        }
        for row in 0..R {
            let k = load(&rows[row][j]);
            for query in 0..Q {
                sums[query][row] = _mm256_fmadd_ps(k, q[query], sums[query][row]);
            }
        }
    }
    sums
}

#[target_feature(enable = "avx2,fma,f16c")]
fn max_of(scores: &[f32]) -> f32 {
    let (eights, tail) = scores.as_chunks::<8>();
    let mut max = _mm256_set1_ps(f32::NEG_INFINITY);
    for eight in eights {
        max = _mm256_max_ps(max, load(eight));
    }
    let mut lanes = [0.0; 8];
    store(&mut lanes, max);
    lanes.iter().chain(tail).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `exp(x)` for `x <= 0`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn exp(x: __m256) -> __m256 {
    let x = _mm256_max_ps(x, _mm256_set1_ps(-87.0));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        x,
        _mm256_set1_ps(std::f32::consts::LOG2_E),
    ));
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2[0]), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2[1]), r);
    let mut p = _mm256_set1_ps(EXP_TERMS[0]);
    for &term in &EXP_TERMS[1..] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(term));
    }
    p = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r), _mm256_set1_ps(1.0));
    let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
    _mm256_mul_ps(p, _mm256_castsi256_ps(power))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn exp_sum_of(scores: &mut [f32], max: f32, scale: f32) -> f32 {
    let (max, scale) = (_mm256_set1_ps(max), _mm256_set1_ps(scale));
    let (eights, tail) = scores.as_chunks_mut::<8>();
    let mut sum = _mm256_setzero_ps();
    for eight in eights {
        let weights = exp(_mm256_mul_ps(_mm256_sub_ps(load(eight), max), scale));
        sum = _mm256_add_ps(sum, weights);
        store(eight, weights);
    }
    let mut lanes = [0.0f32; 8];
    store(&mut lanes, sum);
    let mut total = lanes.iter().sum::<f32>();
    if !tail.is_empty() {
        let mut padded = [f32::NEG_INFINITY; 8];
        padded[..tail.len()].copy_from_slice(tail);
        store(&mut lanes, exp(_mm256_mul_ps(_mm256_sub_ps(load(&padded), max), scale)));
        tail.copy_from_slice(&lanes[..tail.len()]);
        total += tail.iter().sum::<f32>();
    }
    total
}

/// Weighted sums of `Q` queries, in column tiles as wide as the registers allow.
#[target_feature(enable = "avx2,fma,f16c")]
fn accumulate_of<E: Lanes, const Q: usize>(values: &[E], head_dim: usize, weights: &[f32], out: &mut [f32]) {
    let width = head_dim / 8;
    let (values, _) = values.as_chunks::<8>();
    let (out, _) = out.as_chunks_mut::<8>();
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
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_columns<E: Lanes, const Q: usize, const C: usize>(
    values: &[[E; 8]],
    width: usize,
    column: usize,
    weights: &[f32],
    out: &mut [[f32; 8]],
) -> usize {
    let n = values.len() / width;
    let mut of_query: [&[f32]; Q] = [&[]; Q];
    for (to, from) in of_query.iter_mut().zip(weights.chunks_exact(BLOCK)) {
        *to = &from[..n];
    }
    let mut sums = [[_mm256_setzero_ps(); C]; Q];
    for query in 0..Q {
        for c in 0..C {
            sums[query][c] = load(&out[query * width + column + c]);
        }
    }
    for (t, row) in values.chunks_exact(width).enumerate().take(n) {
        let row = &row[column..][..C];
        let mut w = [_mm256_setzero_ps(); Q];
        for query in 0..Q {
            w[query] = _mm256_set1_ps(of_query[query][t]);
        }
        for c in 0..C {
            let v = load(&row[c]);
            for query in 0..Q {
                sums[query][c] = _mm256_fmadd_ps(v, w[query], sums[query][c]);
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
