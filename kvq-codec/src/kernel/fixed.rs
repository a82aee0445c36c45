//! What surrounds the integer kernels, in integers: queries, the running softmax, sums of values.
//!
//! Scores are logarithms to base 2 (`crate::factor`). The weight of a value is `2^(score + exponent/8)`, relative
//! to the segment's largest: 7 or 15 bits, as the kernels want them. Sums of values are collected in 32 bits in a
//! unit of their own, `2^unit` where a score of 0 weighs 1; the unit grows when they could outgrow it, so that
//! nothing is rescaled when the largest score does.

use super::{Queries, SEGMENT};
use crate::factor::{EIGHTH, Factor, LOG2_BITS, exp2_q30, scale_sum};
use crate::math::round_shift;
use crate::quantize::fixed::GUARD_BITS;
use crate::rotate::{FIXED_PEAK, Rotation};
use crate::shape::MAX_HEAD_DIM;

/// The exponent of a row of zeros.
pub(crate) const ZERO_EXPONENT: i32 = i32::MIN;

/// `log2(127)` and `log2(32,767)`, and the largest weights themselves.
const NARROW_WEIGHT: (u32, i64) = (127, 458_010);
const WIDE_WEIGHT: (u32, i64) = (32_767, 983_037);

/// `log2(e) / 127` and `log2(e) / 32,767`: scores in nats become logarithms, and the largest code the query's peak.
const NARROW_NATS: Factor = Factor { mantissa: 1_561_279_501, exponent: -7 };
const WIDE_NATS: Factor = Factor { mantissa: 1_549_129_280, exponent: -15 };

const _: () = assert!(1 << 15 << GUARD_BITS <= FIXED_PEAK, "an i16 has no room to be rotated");

/// No sum of values grows beyond this.
const LARGEST_SUM: u64 = 1 << 30;

/// What belongs to one query.
#[derive(Clone, Copy)]
pub(crate) struct FixedRow {
    /// What a unit of the 8-bit and of the 16-bit query is worth, over the root of the key head size.
    narrow: Factor,
    wide: Factor,
    /// Largest score so far.
    max: i64,
    /// Sum of `2^(score - max)` in units of 2^-30; 0 as long as nothing was visible.
    sum: u64,
    /// The unit of the sums of values, and what they cannot be beyond.
    unit: i64,
    bound: u64,
}

/// A segment's scores for one query.
pub(crate) struct FixedFold<'a> {
    pub scores: &'a [i32; SEGMENT],
    /// Score and exponent of the span's center.
    pub center: Option<(i32, i32)>,
    pub key_exponents: &'a [i32; SEGMENT],
    pub value_exponents: &'a [i32; SEGMENT],
    /// Tokens `from..to` are visible.
    pub from: usize,
    pub to: usize,
    /// Whether keys are of 8 bits, which take the 16-bit query.
    pub wide_keys: bool,
    /// Whether values are of 8 bits, which take 15-bit weights.
    pub wide_values: bool,
}

/// How a segment's sums are added to those before: `(before >> grow) + (sums · mantissa >> shift)`.
#[derive(Clone, Copy)]
pub(crate) struct FixedStep {
    grow: i32,
    mantissa: u32,
    shift: i32,
}

impl FixedStep {
    /// Nothing is added.
    pub const NONE: Self = Self { grow: 0, mantissa: 0, shift: 63 };
}

impl FixedRow {
    /// Zeros.
    pub const EMPTY: Self =
        Self { narrow: Factor::ZERO, wide: Factor::ZERO, max: 0, sum: 0, unit: 0, bound: 0 };

    /// Rotates and quantizes `query`, numbers of `fraction_bits`, as row `i` of `queries`. Where it is zero, every
    /// score will be.
    pub fn start(
        rotation: Rotation,
        query: &[i16],
        fraction_bits: i8,
        queries: &mut Queries,
        i: usize,
    ) -> Self {
        let mut x = [0i32; MAX_HEAD_DIM];
        let x = x.get_mut(..rotation.head_dim()).unwrap_or(&mut []);
        for (x, &q) in x.iter_mut().zip(query) {
            *x = i32::from(q) << GUARD_BITS;
        }
        turn(rotation, x, false);
        let Some((peak, shift)) = queries.set_fixed(i, x) else { return Self::EMPTY };
        let root = Factor::inverse_root(rotation.head_dim());
        let lifted = shift - GUARD_BITS - i32::from(fraction_bits);
        let unit = Factor::new(peak.into(), lifted).times(Factor::exp2_8(-rotation.gain())).times(root);
        Self { narrow: unit.times(NARROW_NATS), wide: unit.times(WIDE_NATS), ..Self::EMPTY }
    }

    /// Takes a segment's scores into the softmax and writes its integer weights, 0 for what is not visible.
    #[inline(never)]
    pub fn fold(&mut self, fold: &FixedFold<'_>, weights: &mut [i16; SEGMENT]) -> FixedStep {
        weights.fill(0);
        let mut logs = [0i64; SEGMENT];
        let Some(peak) = self.scores_into(fold, &mut logs) else { return FixedStep::NONE };
        self.sum = scale_sum(self.sum, exp2_q30(self.max - peak));
        for &log in fold.visible(&logs) {
            self.sum += u64::from(exp2_q30(log - peak));
        }
        self.max = peak;
        let mut heaviest = None;
        for (log, &e) in fold.visible_mut(&mut logs).zip(fold.visible(fold.value_exponents)) {
            if e == ZERO_EXPONENT {
                *log = i64::MIN / 2;
            } else {
                *log += EIGHTH * i64::from(e);
                heaviest = heaviest.max(Some(*log));
            }
        }
        let Some(heaviest) = heaviest else { return FixedStep::NONE };
        let (largest, log2_largest) = if fold.wide_values { WIDE_WEIGHT } else { NARROW_WEIGHT };
        let mut total = 0;
        for (weight, &log) in fold.visible_mut(weights).zip(fold.visible(&logs)) {
            // 16 bits of the power are enough for weights of 15.
            let w = ((exp2_q30(log - heaviest) >> 14) * largest + (1 << 15)) >> 16;
            *weight = w as i16;
            total += w;
        }
        self.step(heaviest - log2_largest, 127 * u64::from(total))
    }

    /// Scores of the visible tokens; returns the largest one so far.
    fn scores_into(&self, fold: &FixedFold<'_>, logs: &mut [i64; SEGMENT]) -> Option<i64> {
        let factor = if fold.wide_keys { self.wide } else { self.narrow };
        let center = match fold.center {
            Some((score, e)) if e != ZERO_EXPONENT => self.narrow.score(score, e),
            _ => 0,
        };
        let mut peak = (self.sum > 0).then_some(self.max);
        let scores = fold.visible(fold.scores).zip(fold.visible(fold.key_exponents));
        for (log, (&score, &e)) in fold.visible_mut(logs).zip(scores) {
            *log = center + if e == ZERO_EXPONENT { 0 } else { factor.score(score, e) };
            peak = peak.max(Some(*log));
        }
        peak
    }

    /// Makes room for sums of at most `most` in units of `2^log`.
    fn step(&mut self, log: i64, most: u64) -> FixedStep {
        let whole = log >> LOG2_BITS;
        // Below this unit, the segment's sums alone could take half of the room.
        let least = whole + 1 + i64::from(u64::BITS - most.leading_zeros()) - 29;
        let mut unit = if self.bound == 0 { least } else { self.unit.max(least) };
        let (mut grow, mut added);
        loop {
            grow = if self.bound == 0 { 0 } else { (unit - self.unit).clamp(0, 31) as i32 };
            // A factor below 2, in whole octaves; 29 of them at the most are upward.
            let down = unit - whole - 1;
            // 2 for what both shifts round up.
            added = 2 + if down >= 0 { most >> down.min(63) } else { most << (-down).min(29) };
            if (self.bound >> grow) + added < LARGEST_SUM {
                break;
            }
            unit += 1;
        }
        self.bound = (self.bound >> grow) + added;
        self.unit = unit;
        let factor = Factor::exp2(log & ((1 << LOG2_BITS) - 1));
        FixedStep { grow, mantissa: factor.mantissa, shift: (30 + unit - whole).clamp(1, 63) as i32 }
    }

    /// Adds a segment's sums of values to those before.
    #[inline(never)]
    pub fn add(out: &mut [i32], step: FixedStep, sums: &[i32; MAX_HEAD_DIM]) {
        let FixedStep { grow, mantissa, shift } = step;
        if shift > 62 {
            return out.iter_mut().for_each(|o| *o = round_shift(*o, grow.min(30)));
        }
        let half = 1i64 << (shift - 1);
        for (o, &sum) in out.iter_mut().zip(sums) {
            let added = (i64::from(sum) * i64::from(mantissa) + half) >> shift;
            *o = round_shift(*o, grow.min(30)) + added as i32;
        }
    }

    /// Divides the sums of values by the sum of weights and rotates back: numbers of `fraction_bits`.
    #[inline(never)]
    pub fn finish(&self, rotation: Rotation, fraction_bits: i8, out: &mut [i32]) {
        let peak = out.iter().fold(0, |peak, v| v.unsigned_abs().max(peak));
        let shift = 1 + FIXED_PEAK.leading_zeros() as i32 - peak.leading_zeros() as i32;
        for v in out.iter_mut() {
            *v = round_shift(*v, shift);
        }
        turn(rotation, out, true);
        let log = (self.unit << LOG2_BITS) - self.max - EIGHTH * i64::from(rotation.gain());
        let mut factor = Factor::exp2(log).times(Factor::reciprocal(self.sum));
        factor.exponent += 30 + shift + i32::from(fraction_bits);
        for v in out {
            *v = factor.apply(*v);
        }
    }
}

impl FixedFold<'_> {
    /// The visible tokens' entries.
    fn visible<'t, T>(&self, table: &'t [T; SEGMENT]) -> core::slice::Iter<'t, T> {
        table.get(self.from..self.to).unwrap_or(&[]).iter()
    }

    fn visible_mut<'t, T>(&self, table: &'t mut [T; SEGMENT]) -> core::slice::IterMut<'t, T> {
        table.get_mut(self.from..self.to).unwrap_or(&mut []).iter_mut()
    }
}

/// Both ways in one piece of code, since flash is short.
#[inline(never)]
pub(crate) fn turn(rotation: Rotation, x: &mut [i32], inverse: bool) {
    rotation.turn(x, inverse);
}
