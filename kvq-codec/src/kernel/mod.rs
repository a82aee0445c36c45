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
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use fold::{Fold, FoldState};
pub(crate) use levels::Levels;
pub(crate) use query::{Queries, WIDE_QUERY_UNIT};

use crate::block::{Layout, Rows};
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

    /// AVX-512 with VNNI and VBMI, where the CPU has them.
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

    /// Adds a row of 8-bit codes in fixed point to a sum, where the backend has a kernel for that; `false` where not.
    #[inline]
    pub(crate) fn add_fixed(self, codes: &[u8], scale: FixedScale, sum: &mut [i32]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let Kind::Avx512(avx512) = self.0 {
            return avx512.add_fixed(codes, scale, sum);
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
        if let Kind::Avx512(avx512) = self.0 {
            return avx512.residual_into(codes, scale, center, row);
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

    /// Scores to softmax weights as integers, folded into the running maximum and sum: see [`Fold`].
    #[inline]
    pub(crate) fn fold(
        self,
        fold: &Fold<'_>,
        state: &mut FoldState,
        weights: &mut [i16; SEGMENT],
    ) -> (f32, f32) {
        dispatch!(self, fold(fold, state, weights))
    }

    /// Integer sums: `sums[q][d] = Σ weight(q, t) · level(t, d)` over one head.
    ///
    /// What lies behind the head's values in `sums` is unspecified afterwards.
    ///
    /// Weights are at most 127 except for [`Layout::Q8`], where they are at most 32,767; up to the next whole
    /// eight of tokens they are 0.
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

#[cfg(test)]
mod tests {
    //! Every backend against the portable code: equal integers, equal codes, floats within a bound.

    use super::*;
    use crate::block::{MAX_PLANES, PlanePlace};
    use crate::pack::plane_row_bytes;
    use std::vec::Vec;

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 >> 16
        }
    }

    /// `all`, or some under Miri, which takes a thousand times as long.
    fn few<'a, T>(all: &'a [T], some: &'a [T]) -> &'a [T] {
        if cfg!(miri) { some } else { all }
    }

    /// The kernels for Arm say themselves what its instructions compute, so that they run here, too.
    fn others() -> impl Iterator<Item = Backend> {
        Backend::available().filter(|b| *b != Backend::SCALAR).chain([Backend(Kind::Arm)])
    }

    fn for_each_case(mut case: impl FnMut(Backend, Layout, Rows<'_>, HeadRow, usize, &mut Random)) {
        let mut random = Random(0x1234_5678_9abc_def1);
        for backend in others() {
            for layout in Layout::ALL.into_iter().filter(|layout| layout.is_available()) {
                for &head_dim in few(&[8usize, 32, 64, 80, 96, 128, 192, 256], &[32]) {
                    let heads = if head_dim < 32 { 32 / head_dim } else { 1 };
                    let block_values = heads * head_dim;
                    for &n in few(&[1usize, 2, 3, 7, 8, 16, 31, 64], &[11]) {
                        for &tokens_log2 in few(&[0u32, 3, 6], &[3]) {
                            let head = HeadRow { block_values, offset: (heads - 1) * head_dim, head_dim };
                            let (units, ids, planes) = random_units(layout, head, tokens_log2, &mut random);
                            let unit_bytes = units.len() / (ids.len() / 4);
                            let rows = Rows::in_units(&units, unit_bytes, &ids, planes, n);
                            for n_queries in (1..=TILE).step_by(if cfg!(miri) { 3 } else { 1 }) {
                                case(backend, layout, rows, head, n_queries, &mut random);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Units of random codes for up to 64 tokens, in descending order.
    fn random_units(
        layout: Layout,
        head: HeadRow,
        tokens_log2: u32,
        random: &mut Random,
    ) -> (Vec<u8>, Vec<u8>, ([PlanePlace; MAX_PLANES], usize)) {
        let units_of_plane = 64 >> tokens_log2;
        let mut planes = [PlanePlace::default(); MAX_PLANES];
        for (p, (&width, place)) in layout.planes().iter().zip(&mut planes).enumerate() {
            let row_bytes = plane_row_bytes(width, head.block_values);
            *place = PlanePlace {
                offset: 5,
                row_bytes: row_bytes as u16,
                first_unit: (p * units_of_plane) as u8,
                tokens_log2: tokens_log2 as u8,
            };
        }
        let n_planes = layout.planes().len();
        let n_units = (n_planes * units_of_plane) as u32;
        let unit_bytes = 5 + (usize::from(planes[0].row_bytes) << tokens_log2);
        // Codes of 8 bits are never -128.
        let code = |random: &mut Random| ((random.next() % 255) as u8).max(1) ^ 0x80;
        let units = (0..n_units as usize * unit_bytes).map(|_| code(random)).collect();
        let ids = (0..n_units).rev().flat_map(u32::to_le_bytes).collect();
        (units, ids, (planes, n_planes))
    }

    #[test]
    fn the_fastest_backend_is_detected_unless_another_is_forced() {
        let neon = Backend::neon().is_some();
        assert_eq!(neon, cfg!(all(target_arch = "aarch64", target_endian = "little")));
        let forced = if cfg!(kvq_force_avx2) { Backend::avx2() } else { None };
        let forced = if cfg!(kvq_force_scalar) { Some(Backend::SCALAR) } else { forced };
        assert_eq!(forced.or(Backend::available().last()), Some(Backend::detect()));
    }

    #[test]
    fn scores_are_the_same_integers() {
        for_each_case(|backend, layout, rows, head, n, random| {
            let mut queries = Queries { n, ..Queries::EMPTY };
            queries.rows.iter_mut().flatten().for_each(|c| *c = ((random.next() % 255) as i8).max(-127));
            let wide = queries.wide_rows.iter_mut().flatten();
            wide.for_each(|c| *c = (random.next() as i16).max(-32_767));
            queries.pair_up(head.head_dim);
            let (mut expected, mut got) = ([[7; SEGMENT]; TILE], [[7; SEGMENT]; TILE]);
            let mut levels = Levels::new();
            Backend::SCALAR.score_keys(layout, &rows, head, &queries, &mut levels, &mut expected);
            backend.score_keys(layout, &rows, head, &queries, &mut levels, &mut got);
            for (expected, got) in expected.iter().zip(&got) {
                let n = rows.n;
                assert_eq!(expected[..n], got[..n], "{} {layout:?} {head:?} n {n}", backend.name());
            }
        });
    }

    #[test]
    fn value_sums_are_the_same_integers() {
        for_each_case(|backend, layout, rows, head, n, random| {
            let bound = if layout == Layout::Q8 { 32_768 } else { 128 };
            let mut weights = [[0i16; SEGMENT]; TILE];
            for weight in weights.iter_mut().flat_map(|w| w.iter_mut().take(rows.n)) {
                *weight = (random.next() % bound) as i16;
            }
            let (mut expected, mut got) = ([[7; MAX_HEAD_DIM]; TILE], [[7; MAX_HEAD_DIM]; TILE]);
            let (weights, mut levels) = ((n, &weights), Levels::new());
            Backend::SCALAR.accumulate_values(layout, &rows, head, weights, &mut levels, &mut expected);
            backend.accumulate_values(layout, &rows, head, weights, &mut levels, &mut got);
            for (expected, got) in expected.iter().zip(&got) {
                let d = head.head_dim;
                assert_eq!(expected[..d], got[..d], "{} {layout:?} {head:?} n {}", backend.name(), rows.n);
            }
        });
    }

    #[test]
    fn rows_are_encoded_and_rotated_to_the_same_bits() {
        let mut random = Random(99);
        for backend in others() {
            for &n in few(&[32usize, 40, 64, 80, 96, 128, 256], &[40]) {
                for _ in 0..if cfg!(miri) { 1 } else { 200 } {
                    let row: Vec<i16> =
                        (0..n).map(|_| (random.next() % 60_000) as i32 - 30_000).map(|v| v as i16).collect();
                    // Levels in units of 2^8, as rows that are encoded again have them; few values; the extremes.
                    let levels = row.iter().map(|r| (r % 16) << 8).collect();
                    let spike = (0..n).map(|i| if i == n / 3 { row[0] } else { 0 }).collect();
                    let extremes = row.iter().map(|r| if r % 2 == 0 { i16::MIN } else { i16::MAX }).collect();
                    let rows = [row.clone(), levels, spike, extremes];
                    for row in rows.into_iter().take(if cfg!(miri) { 1 } else { 4 }) {
                        for layout in Layout::ALL.into_iter().skip(1).filter(|layout| layout.is_available()) {
                            let (mut a, mut b) = ([0; 256], [0; 256]);
                            let fa = Backend::SCALAR.encode_row(layout, &row, &mut a[..n]);
                            let fb = backend.encode_row(layout, &row, &mut b[..n]);
                            assert_eq!((fa, a), (fb, b), "{} {layout:?} {row:?}", backend.name());
                        }
                    }
                    let mut x: Vec<f32> = row.iter().map(|&r| f32::from(r) * 1.7e-3).collect();
                    let mut y = x.clone();
                    Backend::SCALAR.rotate(Rotation::new(n), &mut x);
                    backend.rotate(Rotation::new(n), &mut y);
                    assert_eq!(x, y);
                    let (mut a, mut b) = ([0; 256], [0; 256]);
                    assert_eq!(
                        Backend::SCALAR.encode_precise(&x, &mut a[..n]),
                        backend.encode_precise(&y, &mut b[..n])
                    );
                    assert_eq!(a, b);
                    Backend::SCALAR.unrotate(Rotation::new(n), &mut x);
                    backend.unrotate(Rotation::new(n), &mut y);
                    assert_eq!(x, y);
                }
            }
        }
    }

    #[test]
    fn scales_and_folds_agree() {
        let mut random = Random(5);
        for backend in others() {
            for base in [-1100i16, -900, -20, 0, 300, 1100] {
                let bytes: Vec<u8> =
                    (0..SEGMENT).map(|i| if i == 3 { 255 } else { random.next() as u8 }).collect();
                let (mut a, mut b) = ([0.0; SEGMENT], [0.0; SEGMENT]);
                Backend::SCALAR.scales_into(base, &bytes, &mut a);
                backend.scales_into(base, &bytes, &mut b);
                assert_eq!(a, b, "base {base}");
            }
            let mut scores = [0; SEGMENT];
            scores.iter_mut().for_each(|s| *s = (random.next() % 20_000) as i32 - 10_000);
            let mut scales = [0.0; SEGMENT];
            scales.iter_mut().for_each(|s| *s = (random.next() % 1000) as f32 * 1e-3);
            let fold = Fold {
                n: 61,
                scores: &scores,
                key_scales: &scales,
                value_scales: &scales,
                factor: 1e-3,
                bias: 0.3,
                from: 3,
                to: 60,
                max_weight: 127.0,
            };
            let (mut sa, mut sb) = (FoldState { max: -3.0, sum: 2.0 }, FoldState { max: -3.0, sum: 2.0 });
            let (mut wa, mut wb) = ([0; SEGMENT], [0; SEGMENT]);
            let ra = Backend::SCALAR.fold(&fold, &mut sa, &mut wa);
            let rb = backend.fold(&fold, &mut sb, &mut wb);
            assert!((ra.0 - rb.0).abs() < 1e-5 && (ra.1 - rb.1).abs() < 1e-5);
            assert!((sa.sum / sb.sum - 1.0).abs() < 1e-5 && (sa.max - sb.max).abs() < 1e-5);
            assert!(wa.iter().zip(&wb).all(|(a, b)| (a - b).abs() <= 1));
            assert!(wa[..3].iter().chain(&wa[60..]).all(|w| *w == 0));
            assert!(wa[3..60].contains(&127));
        }
    }
}
