//! Head vectors as a caller has them, floats or fixed point, to the 8-bit rows with which everything else begins.

use super::side_plan::SidePlan;
use crate::bytes::{get_i16, put, put_i16, slice, slice_mut};
use crate::fixed::Fixed;
use crate::kernel::Backend;
use crate::kernel::fixed::turn;
use crate::quantize::fixed::{GUARD_BITS, encode_fixed};
use crate::quantize::precise::ZERO;
use crate::quantize::row::MAX_ROW;
use crate::rotate::Rotation;

/// Where the vectors of a block's heads begin among a caller's numbers, and how they are rotated.
pub(super) struct Heads {
    pub first: usize,
    pub step: usize,
    pub rotation: Rotation,
}

impl Heads {
    /// Those of one token in one block, among `(heads, n_tokens, head_dim)`.
    pub const fn new(plan: &SidePlan, block: usize, (token, n_tokens): (usize, usize)) -> Self {
        let first = (block * plan.heads_per_block * n_tokens + token) * plan.head_dim;
        Self { first, step: n_tokens * plan.head_dim, rotation: Rotation::new(plan.head_dim) }
    }

    /// Copies the vectors into `row`, one behind the other, and rotates each.
    #[inline(always)]
    fn rotate_into<T, N>(
        &self,
        numbers: &[T],
        row: &mut [N],
        copy: impl Fn(&[T], &mut [N]),
        rotate: impl Fn(Rotation, &mut [N]),
    ) {
        let head_dim = self.rotation.head_dim();
        let mut at = self.first;
        for vector in row.chunks_exact_mut(head_dim.max(1)) {
            if let Some(source) = numbers.get(at..).and_then(|x| x.get(..head_dim)) {
                copy(source, vector);
            }
            rotate(self.rotation, vector);
            at += self.step;
        }
    }
}

/// One side's head vectors in a caller's numbers, floats or not. `dyn`, so that all but the first 8-bit row is
/// compiled once, and a firmware that brings no floats links none.
pub(super) trait Vectors {
    /// Rotates a block's vectors and writes their 8-bit codes; returns the exponent.
    fn encode(&self, backend: Backend, heads: &Heads, codes: &mut [u8]) -> i16;
}

impl Vectors for &[f32] {
    fn encode(&self, backend: Backend, heads: &Heads, codes: &mut [u8]) -> i16 {
        let mut row = [0.0f32; MAX_ROW];
        let row = row.get_mut(..codes.len()).unwrap_or(&mut []);
        let copy = |from: &[f32], to: &mut [f32]| {
            if from.len() == to.len() {
                to.copy_from_slice(from);
            }
        };
        heads.rotate_into(self, row, copy, |rotation, vector| backend.rotate(rotation, vector));
        backend.encode_precise(row, codes)
    }
}

impl<T: Copy + Into<i16>> Vectors for Fixed<'_, T> {
    fn encode(&self, _: Backend, heads: &Heads, codes: &mut [u8]) -> i16 {
        let mut row = [0i32; MAX_ROW];
        let row = row.get_mut(..codes.len()).unwrap_or(&mut []);
        let lift = |from: &[T], to: &mut [i32]| {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = i32::from(from.into()) << GUARD_BITS;
            }
        };
        heads.rotate_into(self.numbers, row, lift, |rotation, vector| turn(rotation, vector, false));
        let e = encode_fixed(row, codes);
        let unit = 8 * (GUARD_BITS + i32::from(self.fraction_bits)) + heads.rotation.gain();
        if e == ZERO { ZERO } else { (i32::from(e) - unit) as i16 }
    }
}

/// One side's 8-bit rows, encoded before by several threads.
///
/// Each part has those of one block: the exponents of all tokens, then their codes.
pub(super) struct EncodedRows<'a> {
    pub plan: &'a SidePlan,
    pub n_tokens: usize,
    pub parts: &'a [u8],
    pub part_bytes: usize,
}

impl EncodedRows<'_> {
    /// Bytes of the part of a block with `n_values` values.
    pub const fn part_bytes(n_tokens: usize, n_values: usize) -> usize {
        n_tokens.saturating_mul(2 + n_values)
    }

    /// Encodes the rows of a block into a part.
    pub fn fill_part(
        x: &[f32],
        (backend, plan, block): (Backend, &SidePlan, usize),
        n_tokens: usize,
        part: &mut [u8],
    ) {
        let n_values = plan.block_values(block);
        for token in 0..n_tokens {
            let codes = slice_mut(part, 2 * n_tokens + token * n_values, n_values);
            let exponent = x.encode(backend, &Heads::new(plan, block, (token, n_tokens)), codes);
            put_i16(part, 2 * token, exponent);
        }
    }
}

impl Vectors for EncodedRows<'_> {
    fn encode(&self, _: Backend, heads: &Heads, codes: &mut [u8]) -> i16 {
        let row = heads.first / self.plan.head_dim.max(1);
        let (head, token) = (row / self.n_tokens.max(1), row % self.n_tokens.max(1));
        let part =
            slice(self.parts, head / self.plan.heads_per_block.max(1) * self.part_bytes, self.part_bytes);
        put(codes, 0, slice(part, 2 * self.n_tokens + token * codes.len(), codes.len()));
        get_i16(part, 2 * token)
    }
}
