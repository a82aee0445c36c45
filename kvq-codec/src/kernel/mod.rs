//! The kernels behind a choice of backend.
//!
//! `scalar` says what is right. Every other backend returns the same integers for the same integers, and
//! floats that agree to the bound in `docs/NUMERICS.md`. Holding a [`Backend`] is the proof that its
//! instructions exist on this machine, so its methods are safe.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(any(target_arch = "arm", test))]
mod arm;
pub(crate) mod fixed;
mod fold;
mod levels;
mod query;
mod scalar;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use fold::{Fold, FoldState};
pub(crate) use levels::Levels;
pub(crate) use query::{Queries, WIDE_QUERY_UNIT};

use crate::block::{Layout, Rows};
use crate::pack;
use crate::quantize::span::FixedScale;
use crate::rotate::Rotation;
use crate::shape::MAX_HEAD_DIM;

/// Query rows that share one pass over the packed bytes.
pub(crate) const TILE: usize = if cfg!(target_pointer_width = "64") { 4 } else { 1 };

/// Tokens scored and summed at a time.
pub(crate) const SEGMENT: usize = 64;

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
    #[cfg(any(target_arch = "arm", test))]
    Arm,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86_64::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86_64::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(aarch64::Neon),
}

#[cfg(all(kvq_force_neon, not(target_arch = "aarch64")))]
compile_error!("kvq_force_neon needs an aarch64 target");

#[cfg(all(kvq_force_avx2, not(target_arch = "x86_64")))]
compile_error!("kvq_force_avx2 needs an x86_64 target");

/// Which kernels a cache runs on.
///
/// # Examples
/// ```
/// use kvq_codec::Backend;
///
/// assert_eq!(Backend::SCALAR.name(), "scalar");
/// assert!(Backend::available().any(|backend| backend == Backend::detect()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend(Kind);

/// Whether the portable kernels of attention are linked.
#[cfg(target_arch = "arm")]
const HAS_SCALAR: bool = cfg!(any(feature = "trellis", feature = "low-bits", kvq_force_scalar));

/// Calls the chosen backend's function of the same name.
macro_rules! dispatch {
    ($self:ident, $function:ident($($argument:expr),*)) => {
        match $self.0 {
            Kind::Scalar => scalar::$function($($argument),*),
            #[cfg(any(target_arch = "arm", test))]
            Kind::Arm => scalar::$function($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.$function($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(avx512) => avx512.$function($($argument),*),
            // The portable code: on this architecture it is compiled for NEON.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => scalar::$function($($argument),*),
        }
    };
}

impl Backend {
    /// Whether any backend of this architecture asks for bytes before they are needed.
    pub(crate) const PREFETCHES: bool = cfg!(target_arch = "x86_64");

    /// Portable code: the definition of what every other backend returns.
    ///
    /// On 32-bit Arm without the features `trellis` and `low-bits`, where no layout needs it, it attends with the
    /// kernels of [`Backend::arm`], so that flash need not hold both; `--cfg kvq_force_scalar` keeps it.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest backend of this machine.
    ///
    /// With the `std` feature the CPU is asked at run time; without it, the compilation target decides.
    /// `--cfg kvq_force_scalar` makes it [`Backend::SCALAR`], `--cfg kvq_force_avx2` [`Backend::avx2`] and
    /// `--cfg kvq_force_neon` [`Backend::neon`].
    #[must_use]
    pub fn detect() -> Self {
        if cfg!(kvq_force_scalar) {
            return Self::SCALAR;
        }
        if cfg!(kvq_force_avx2) {
            return Self::avx2().unwrap_or(Self::SCALAR);
        }
        if cfg!(kvq_force_neon) {
            return Self::neon().unwrap_or(Self::SCALAR);
        }
        Self::avx512().or(Self::avx2()).or(Self::neon()).or(Self::arm()).unwrap_or(Self::SCALAR)
    }

    /// Kernels for 32-bit Arm, where that is the compilation target. They use the DSP instructions of Armv7E-M
    /// cores, and of Armv8-M cores that `-C target-cpu` names and that have them.
    #[must_use]
    pub const fn arm() -> Option<Self> {
        #[cfg(target_arch = "arm")]
        return Some(Self(Kind::Arm));
        #[cfg(not(target_arch = "arm"))]
        None
    }

    /// AVX2 with FMA, where the CPU has them.
    #[must_use]
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return x86_64::Avx2::detect().map(|avx2| Self(Kind::Avx2(avx2)));
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// AVX-512 with VNNI, VBMI and GFNI, where the CPU has them.
    #[must_use]
    pub fn avx512() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return x86_64::Avx512::detect().map(|avx512| Self(Kind::Avx512(avx512)));
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// NEON, where the compilation target has it: that is decided without asking the CPU.
    #[must_use]
    pub const fn neon() -> Option<Self> {
        #[cfg(target_arch = "aarch64")]
        if let Some(neon) = aarch64::Neon::detect() {
            return Some(Self(Kind::Neon(neon)));
        }
        None
    }

    /// Every backend of this machine, [`Backend::SCALAR`] first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Some(Self::SCALAR), Self::avx2(), Self::avx512(), Self::neon(), Self::arm()].into_iter().flatten()
    }

    /// The name used in flags and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(any(target_arch = "arm", test))]
            Kind::Arm => {
                if arm::HAS_DSP {
                    "arm-dsp"
                } else {
                    "arm"
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "neon",
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

    /// Writes a plane's row from the bits `shift..shift + width` of `codes`: see `crate::pack`.
    #[inline]
    pub(crate) fn put_plane(self, width: u8, shift: u32, codes: &[u8], row: &mut [u8]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.put_plane(width, shift, codes, row),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(avx512) => avx512.put_plane(width, shift, codes, row),
            _ => pack::put_plane(width, shift, codes, row),
        }
    }

    /// Adds a row of 8-bit codes in fixed point to a sum, where the backend has a kernel for that; `false` where not.
    #[inline]
    pub(crate) fn add_fixed(self, codes: &[u8], scale: FixedScale, sum: &mut [i32]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if codes.len().is_multiple_of(x86_64::CENTER_STEP) {
            match self.0 {
                Kind::Avx2(avx2) => avx2.add_fixed(codes, scale, sum),
                Kind::Avx512(avx512) => avx512.add_fixed(codes, scale, sum),
                _ => return false,
            }
            return true;
        }
        let _ = (codes, scale, sum);
        false
    }

    /// What a row of 8-bit codes leaves beyond a center, normalised, and the shift, where the backend has a kernel for
    /// that: see `quantize::span`.
    #[inline]
    pub(crate) fn residual_into(
        self,
        codes: &[u8],
        scale: FixedScale,
        center: &[i32],
        row: &mut [i16],
    ) -> Option<i32> {
        #[cfg(target_arch = "x86_64")]
        if codes.len().is_multiple_of(x86_64::CENTER_STEP) {
            return match self.0 {
                Kind::Avx2(avx2) => Some(avx2.residual_into(codes, scale, center, row)),
                Kind::Avx512(avx512) => Some(avx512.residual_into(codes, scale, center, row)),
                _ => None,
            };
        }
        let _ = (codes, scale, center, row);
        None
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

    /// See [`Queries::quantize`].
    #[inline]
    pub(crate) fn quantize_query(self, queries: &mut Queries, i: usize, query: &[f32]) -> f32 {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.quantize_query(queries, i, query),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(avx512) => avx512.quantize_query(queries, i, query),
            _ => queries.quantize(i, query),
        }
    }

    /// Scales of the blocks whose span has `base`: `out[t] = 2^((base - bytes[t])/8)`, 0 for rows of zeros.
    #[inline]
    pub(crate) fn scales_into(self, base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
        dispatch!(self, scales_into(base, bytes, out));
    }

    /// Has the rows fetched into the nearest cache, where the backend can ask for it.
    #[inline]
    pub(crate) fn prefetch(self, rows: &Rows<'_>) {
        #[cfg(target_arch = "x86_64")]
        if self != Self::SCALAR {
            rows.for_each_unit(x86_64::prefetch);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = rows;
    }

    /// As [`prefetch`](Self::prefetch), for bytes in one place.
    #[inline]
    pub(crate) fn prefetch_bytes(self, bytes: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        if self != Self::SCALAR {
            x86_64::prefetch(bytes);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = bytes;
    }

    /// Integer dot products: `scores[q][t] = Σ level(t) · query(q)` over one head, for every token `t`.
    ///
    /// What lies behind the last token in `scores` is unspecified afterwards.
    #[inline]
    pub(crate) fn score_keys(
        self,
        layout: Layout,
        rows: &Rows<'_>,
        head: HeadRow,
        queries: &Queries,
        levels: &mut Levels,
        scores: &mut Scores,
    ) {
        match self.0 {
            #[cfg(target_arch = "arm")]
            Kind::Scalar if !HAS_SCALAR => arm::score_keys(layout, rows, head, queries, scores),
            Kind::Scalar => {
                let _ = levels;
                scalar::score_keys(layout, rows, head, queries, scores);
            }
            #[cfg(any(target_arch = "arm", test))]
            Kind::Arm => arm::score_keys(layout, rows, head, queries, scores),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.score_keys(layout, rows, head, queries, levels, scores),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(avx512) => avx512.score_keys(layout, rows, head, queries, levels, scores),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(neon) => neon.score_keys(layout, rows, head, queries, levels, scores),
        }
    }

    /// Scores to softmax weights as integers, folded into the running maximum and sum of each of `N` queries over one
    /// segment: see [`Fold`].
    #[inline]
    pub(crate) fn fold<const N: usize>(
        self,
        folds: &[Fold<'_>; N],
        mut states: [&mut FoldState; N],
        weights: &mut [[i16; SEGMENT]; N],
    ) -> [(f32, f32); N] {
        #[cfg(target_arch = "x86_64")]
        if let Kind::Avx512(avx512) = self.0 {
            return avx512.fold_rows(folds, &mut states, weights);
        }
        let mut steps = [(1.0, 0.0); N];
        for (((step, fold), state), weights) in steps.iter_mut().zip(folds).zip(&mut states).zip(weights) {
            *step = dispatch!(self, fold(fold, state, weights));
        }
        steps
    }

    /// Integer sums: `sums[q][d] = Σ weight(q, t) · level(t, d)` over one head.
    ///
    /// What lies behind the head's values in `sums` is unspecified afterwards.
    ///
    /// Weights are at most 255, and those of tokens `2i` and `2i + 1` at most 256 together, so that 16 bits hold the sum
    /// of their products; for [`Layout::Q8`] each is at most 32,767. Up to the next whole eight of tokens they are 0.
    #[inline]
    pub(crate) fn accumulate_values(
        self,
        layout: Layout,
        rows: &Rows<'_>,
        head: HeadRow,
        (n_queries, weights): (usize, &Weights),
        levels: &mut Levels,
        sums: &mut Sums,
    ) {
        match self.0 {
            #[cfg(target_arch = "arm")]
            Kind::Scalar if !HAS_SCALAR => {
                arm::accumulate_values(layout, rows, head, (n_queries, weights), sums)
            }
            Kind::Scalar => {
                let _ = levels;
                scalar::accumulate_values(layout, rows, head, (n_queries, weights), sums);
            }
            #[cfg(any(target_arch = "arm", test))]
            Kind::Arm => arm::accumulate_values(layout, rows, head, (n_queries, weights), sums),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => {
                avx2.accumulate_values(layout, rows, head, (n_queries, weights), levels, sums);
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(avx512) => {
                avx512.accumulate_values(layout, rows, head, (n_queries, weights), levels, sums);
            }
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(neon) => {
                neon.accumulate_values(layout, rows, head, (n_queries, weights), levels, sums);
            }
        }
    }

    /// `out[d] = out[d] · rescale + sums[d] · scale`.
    #[inline]
    pub(crate) fn add_scaled(self, out: &mut [f32], rescale: f32, sums: &[i32; MAX_HEAD_DIM], scale: f32) {
        dispatch!(self, add_scaled(out, rescale, sums, scale));
    }
}
