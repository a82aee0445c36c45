//! Which kernels a dense store runs, and the element types they read.

use bytemuck::Pod;
use half::f16;
use half::slice::HalfFloatSliceExt;
use kvq_codec::KvShape;

#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2, Lanes};
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::scalar;

/// What the vector kernels ask of an element; on this architecture there are none.
#[cfg(not(target_arch = "x86_64"))]
pub trait Lanes {}
#[cfg(not(target_arch = "x86_64"))]
impl<T> Lanes for T {}

/// Which kernels to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The fastest that this machine and these head widths allow.
    #[default]
    Auto,
    /// No more than AVX2.
    Avx2,
    /// Plain code, which defines what is right.
    Scalar,
}

impl From<kvq_codec::Backend> for Backend {
    /// The kernels that are to be compared with those of a packed cache: of the same instructions.
    fn from(packed: kvq_codec::Backend) -> Self {
        match packed.name() {
            "scalar" => Self::Scalar,
            "avx2" => Self::Avx2,
            _ => Self::Auto,
        }
    }
}

/// A number as a dense store keeps it.
pub trait Element: Lanes + Pod + Send + Sync + 'static {
    /// The value.
    fn to_f32(self) -> f32;

    /// Writes `rows`, rounded to this type, to as many elements.
    fn store(to: &mut [Self], rows: &[f32]);
}

impl Element for f32 {
    fn to_f32(self) -> f32 {
        self
    }

    fn store(to: &mut [Self], rows: &[f32]) {
        to.copy_from_slice(rows);
    }
}

impl Element for f16 {
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    fn store(to: &mut [Self], rows: &[f32]) {
        to.convert_from_f32_slice(rows);
    }
}

/// The kernels of one store. A variant can only be made where it can run.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Kernel {
    /// The kernels for `shape`: the vector ones want head widths that are multiples of 8, or of 16.
    pub(super) fn choose(backend: Backend, shape: &KvShape) -> Self {
        #[cfg(target_arch = "x86_64")]
        if backend != Backend::Scalar {
            let whole = |lanes| {
                shape.key_head_dim.is_multiple_of(lanes) && shape.value_head_dim.is_multiple_of(lanes)
            };
            if backend == Backend::Auto
                && whole(16)
                && let Some(avx512) = Avx512::detect()
            {
                return Self::Avx512(avx512);
            }
            if whole(8)
                && let Some(avx2) = Avx2::detect()
            {
                return Self::Avx2(avx2);
            }
        }
        let _ = (backend, shape);
        Self::Scalar
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
        }
    }

    /// Dot products of up to three queries with the same key rows. Shapes: `keys (n, head_dim)`,
    /// `queries (n_queries, head_dim)`, `scores (n_queries, BLOCK)` of which the first `n` are written.
    pub(super) fn scores<E: Element>(self, keys: &[E], head_dim: usize, queries: &[f32], scores: &mut [f32]) {
        match self {
            Self::Scalar => scalar::scores(keys, head_dim, queries, scores),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) => avx2.scores(keys, head_dim, queries, scores),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(avx512) => avx512.scores(keys, head_dim, queries, scores),
        }
    }

    /// The largest score; negative infinity if there is none.
    pub(super) fn max(self, scores: &[f32]) -> f32 {
        match self {
            Self::Scalar => scalar::max(scores),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) => avx2.max(scores),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(avx512) => avx512.max(scores),
        }
    }

    /// Replaces each score by `exp((score - max) * scale)` and returns their sum.
    pub(super) fn exp_sum(self, scores: &mut [f32], max: f32, scale: f32) -> f32 {
        match self {
            Self::Scalar => scalar::exp_sum(scores, max, scale),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) => avx2.exp_sum(scores, max, scale),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(avx512) => avx512.exp_sum(scores, max, scale),
        }
    }

    /// Adds weighted value rows to up to three outputs. Shapes: `values (n, head_dim)`,
    /// `weights (n_queries, BLOCK)` of which the first `n` are read, `out (n_queries, head_dim)`.
    pub(super) fn accumulate<E: Element>(
        self,
        values: &[E],
        head_dim: usize,
        weights: &[f32],
        out: &mut [f32],
    ) {
        match self {
            Self::Scalar => scalar::accumulate(values, head_dim, weights, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) => avx2.accumulate(values, head_dim, weights, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(avx512) => avx512.accumulate(values, head_dim, weights, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_kernels_use_the_instructions_of_the_packed_ones() {
        for packed in kvq_codec::Backend::available() {
            let dense = Kernel::choose(packed.into(), &KvShape::new(1, 1, 64));
            // There are none for NEON.
            let expected = if packed.name() == "neon" { "scalar" } else { packed.name() };
            assert_eq!(dense.name(), expected);
        }
    }
}
