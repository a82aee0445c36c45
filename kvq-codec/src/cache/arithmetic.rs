//! What attention does around its integer kernels, in one of two arithmetics: floats, or integers alone.

use crate::kernel::fixed::{FixedFold, FixedRow, FixedStep, ZERO_EXPONENT};
use crate::kernel::{Backend, Fold, FoldState, Queries, SEGMENT, WIDE_QUERY_UNIT};
use crate::math::{exp2_8, inverse_sqrt};
use crate::quantize::precise::ZERO;
use crate::quantize::span::block_exponent;
use crate::rotate::Rotation;
use crate::shape::MAX_HEAD_DIM;

/// The steps that differ.
pub(super) trait Arithmetic: Copy {
    /// A number of a query.
    type Query: Copy;
    /// A number of the output, in which values are summed.
    type Out: Copy + Default;
    /// The scale of a row.
    type Scale: Copy;
    /// What belongs to one query: the scale of its codes, its running softmax.
    type Row;
    /// How a segment's sums are added to those before.
    type Step: Copy;

    /// The scale of a row of zeros.
    const NO_SCALE: Self::Scale;
    /// Nothing but zeros, which take no room in flash.
    const NO_ROW: Self::Row;
    /// Nothing is added.
    const NO_STEP: Self::Step;

    /// The scale of an exponent that may stand for zeros.
    fn scale(exponent: i16) -> Self::Scale;

    /// Scales of the blocks whose span has `base`.
    fn scales_into(backend: Backend, base: i16, bytes: &[u8], out: &mut [Self::Scale; SEGMENT]);

    /// Rotates and quantizes a query as row `i` of `queries`.
    fn start(
        self,
        backend: Backend,
        rotation: Rotation,
        query: &[Self::Query],
        queries: &mut Queries,
        i: usize,
    ) -> Self::Row;

    /// Scores to integer weights, for `N` rows over one segment.
    fn fold<const N: usize>(
        backend: Backend,
        scored: &[Scored<'_, Self::Scale>; N],
        rows: [&mut Self::Row; N],
        weights: &mut [[i16; SEGMENT]; N],
    ) -> [Self::Step; N];

    /// Adds a segment's sums of values.
    fn add(backend: Backend, out: &mut [Self::Out], step: Self::Step, sums: &[i32; MAX_HEAD_DIM]);

    /// Divides by the sum of weights and rotates back.
    fn finish(self, backend: Backend, rotation: Rotation, row: &Self::Row, out: &mut [Self::Out]);
}

/// A segment's integer scores for one query, and what they are worth.
pub(super) struct Scored<'a, S> {
    /// Tokens.
    pub n: usize,
    pub scores: &'a [i32; SEGMENT],
    /// Score and scale of the span's center.
    pub center: Option<(i32, S)>,
    pub key_scales: &'a [S; SEGMENT],
    pub value_scales: &'a [S; SEGMENT],
    /// Tokens `from..to` are visible.
    pub from: usize,
    pub to: usize,
    /// Whether keys and values are of 8 bits: such keys take the 16-bit query, such values 15-bit weights, where
    /// coarser ones are well served by 8 bits each (docs/NUMERICS.md).
    pub wide_keys: bool,
    pub wide_values: bool,
}

/// Floats, on the kernels of the backend.
#[derive(Clone, Copy)]
pub(super) struct Float;

/// The scale of an 8-bit query over the root of the key head size, and the softmax.
pub(super) struct FloatRow {
    factor: f32,
    pub state: FoldState,
}

impl Arithmetic for Float {
    type Query = f32;
    type Out = f32;
    type Scale = f32;
    type Row = FloatRow;
    /// The factor for what was summed before, and the value of a unit of weight.
    type Step = (f32, f32);

    const NO_SCALE: f32 = 0.0;
    const NO_ROW: FloatRow = FloatRow { factor: 0.0, state: FoldState { max: 0.0, sum: 0.0 } };
    const NO_STEP: (f32, f32) = (1.0, 0.0);

    #[inline]
    fn scale(exponent: i16) -> f32 {
        if exponent == ZERO { 0.0 } else { exp2_8(i32::from(exponent)) }
    }

    #[inline]
    fn scales_into(backend: Backend, base: i16, bytes: &[u8], out: &mut [f32; SEGMENT]) {
        backend.scales_into(base, bytes, out);
    }

    fn start(
        self,
        backend: Backend,
        rotation: Rotation,
        query: &[f32],
        queries: &mut Queries,
        i: usize,
    ) -> FloatRow {
        let mut x = [0.0f32; MAX_HEAD_DIM];
        let x = x.get_mut(..rotation.head_dim()).unwrap_or(&mut []);
        for (to, from) in x.iter_mut().zip(query) {
            *to = *from;
        }
        backend.rotate(rotation, x);
        let factor = backend.quantize_query(queries, i, x) * inverse_sqrt(rotation.head_dim() as f32);
        FloatRow { factor, state: FoldState::EMPTY }
    }

    #[inline]
    fn fold<const N: usize>(
        backend: Backend,
        scored: &[Scored<'_, f32>; N],
        rows: [&mut FloatRow; N],
        weights: &mut [[i16; SEGMENT]; N],
    ) -> [(f32, f32); N] {
        let folds = core::array::from_fn(|i| scored[i].fold(rows[i].factor));
        backend.fold(&folds, rows.map(|row| &mut row.state), weights)
    }

    #[inline]
    fn add(backend: Backend, out: &mut [f32], (rescale, scale): (f32, f32), sums: &[i32; MAX_HEAD_DIM]) {
        backend.add_scaled(out, rescale, sums, scale);
    }

    fn finish(self, backend: Backend, rotation: Rotation, row: &FloatRow, out: &mut [f32]) {
        finish(backend, rotation, row.state.sum, out);
    }
}

/// Divides sums of values by the sum of their weights and rotates back.
pub(super) fn finish(backend: Backend, rotation: Rotation, weights: f32, out: &mut [f32]) {
    let inverse = if weights > 0.0 { 1.0 / weights } else { 0.0 };
    out.iter_mut().for_each(|v| *v *= inverse);
    backend.unrotate(rotation, out);
}

impl<'a> Scored<'a, f32> {
    /// For a query whose codes have this unit, over the root of the key head size.
    #[inline]
    fn fold(&self, factor: f32) -> Fold<'a> {
        let query_unit = if self.wide_keys { WIDE_QUERY_UNIT } else { 1.0 };
        Fold {
            n: self.n,
            scores: self.scores,
            key_scales: self.key_scales,
            value_scales: self.value_scales,
            factor: factor * query_unit,
            bias: self.center.map_or(0.0, |(score, scale)| score as f32 * scale * factor),
            from: self.from,
            to: self.to,
            max_weight: if self.wide_values { 32_767.0 } else { 255.0 },
        }
    }
}

/// Integers alone: fixed-point queries and output. Scales stay exponents, in eighths of an octave.
#[derive(Clone, Copy)]
pub(super) struct Integer {
    pub query_fraction_bits: i8,
    pub out_fraction_bits: i8,
}

impl Arithmetic for Integer {
    type Query = i16;
    type Out = i32;
    type Scale = i32;
    type Row = FixedRow;
    type Step = FixedStep;

    const NO_SCALE: i32 = ZERO_EXPONENT;
    const NO_ROW: FixedRow = FixedRow::EMPTY;
    const NO_STEP: FixedStep = FixedStep::NONE;

    #[inline]
    fn scale(exponent: i16) -> i32 {
        if exponent == ZERO { ZERO_EXPONENT } else { i32::from(exponent) }
    }

    #[inline(never)]
    fn scales_into(_: Backend, base: i16, bytes: &[u8], out: &mut [i32; SEGMENT]) {
        for (scale, &byte) in out.iter_mut().zip(bytes) {
            *scale = block_exponent(base, byte).unwrap_or(ZERO_EXPONENT);
        }
    }

    fn start(
        self,
        _: Backend,
        rotation: Rotation,
        query: &[i16],
        queries: &mut Queries,
        i: usize,
    ) -> FixedRow {
        FixedRow::start(rotation, query, self.query_fraction_bits, queries, i)
    }

    #[inline]
    fn fold<const N: usize>(
        _: Backend,
        scored: &[Scored<'_, i32>; N],
        rows: [&mut FixedRow; N],
        weights: &mut [[i16; SEGMENT]; N],
    ) -> [FixedStep; N] {
        let mut steps = [Self::NO_STEP; N];
        for (((step, scored), row), weights) in steps.iter_mut().zip(scored).zip(rows).zip(weights) {
            let fold = FixedFold {
                scores: scored.scores,
                center: scored.center,
                key_exponents: scored.key_scales,
                value_exponents: scored.value_scales,
                from: scored.from,
                to: scored.to,
                wide_keys: scored.wide_keys,
                wide_values: scored.wide_values,
            };
            *step = row.fold(&fold, weights);
        }
        steps
    }

    #[inline]
    fn add(_: Backend, out: &mut [i32], step: FixedStep, sums: &[i32; MAX_HEAD_DIM]) {
        FixedRow::add(out, step, sums);
    }

    fn finish(self, _: Backend, rotation: Rotation, row: &FixedRow, out: &mut [i32]) {
        row.finish(rotation, self.out_fraction_bits, out);
    }
}
