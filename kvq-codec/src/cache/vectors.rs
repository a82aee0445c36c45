//! Head vectors as a caller has them, floats or fixed point, to the 8-bit rows with which everything else begins.

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
