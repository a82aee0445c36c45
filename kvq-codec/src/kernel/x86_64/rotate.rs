//! The rotation of a power of two values, all of them in registers: the operations of `crate::rotate`.
//!
//! A butterfly within a register is an addition: of the values with those that they meet, the second of each pair
//! negated. That rounds as a subtraction does.

use core::arch::x86_64::*;

use super::load::{load_eight_floats, store_floats};
use crate::rotate::{FIRST_SIGNS, Rotation, inverse_root};

/// Rotates `x`, or rotates it back.
#[target_feature(enable = "avx2,fma")]
pub(super) fn turn(rotation: Rotation, x: &mut [f32], inverse: bool) {
    if !x.len().is_power_of_two() {
        return rotation.turn(x, inverse);
    }
    match x.as_chunks_mut::<8>().0 {
        [] => rotation.turn(x, inverse),
        eights => match eights.len() {
            1 => turn_all::<1>(eights, inverse),
            2 => turn_all::<2>(eights, inverse),
            4 => turn_all::<4>(eights, inverse),
            8 => turn_all::<8>(eights, inverse),
            16 => turn_all::<16>(eights, inverse),
            _ => turn_all::<32>(eights, inverse),
        },
    }
}

#[target_feature(enable = "avx2,fma")]
fn turn_all<const V: usize>(eights: &mut [[f32; 8]], inverse: bool) {
    let Some(eights) = eights.first_chunk_mut::<V>() else { return };
    let mut x = [_mm256_setzero_ps(); V];
    for (x, eight) in x.iter_mut().zip(&*eights) {
        *x = load_eight_floats(eight);
    }
    if !inverse {
        flip_signs(&mut x);
    }
    for x in &mut x {
        *x = _mm256_add_ps(_mm256_permute_ps(*x, 0b10_11_00_01), negate(*x, 0b1010_1010));
        *x = _mm256_add_ps(_mm256_permute_ps(*x, 0b01_00_11_10), negate(*x, 0b1100_1100));
        *x = _mm256_add_ps(_mm256_permute2f128_ps(*x, *x, 1), negate(*x, 0b1111_0000));
    }
    let mut stride = 1;
    while stride < V {
        for block in x.chunks_exact_mut(2 * stride) {
            let (low, high) = block.split_at_mut(stride);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (_mm256_add_ps(*a, *b), _mm256_sub_ps(*a, *b));
            }
        }
        stride *= 2;
    }
    let scale = _mm256_set1_ps(inverse_root(8 * V));
    for x in &mut x {
        *x = _mm256_mul_ps(*x, scale);
    }
    if inverse {
        flip_signs(&mut x);
    }
    for (x, eight) in x.into_iter().zip(eights) {
        store_floats(eight, x);
    }
}

/// Negates the values whose bit is set among the signs of the first pass, the only one here.
#[inline]
#[target_feature(enable = "avx2")]
fn flip_signs(x: &mut [__m256]) {
    for (x, &word) in x.chunks_mut(8).zip(&FIRST_SIGNS) {
        for (x, byte) in x.iter_mut().zip(word.to_le_bytes()) {
            *x = negate(*x, byte);
        }
    }
}

/// The values, those negated whose bit is set.
#[inline]
#[target_feature(enable = "avx2")]
fn negate(x: __m256, lanes: u8) -> __m256 {
    let to_sign = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    let signs = _mm256_sllv_epi32(_mm256_set1_epi32(lanes.into()), to_sign);
    let signs = _mm256_and_si256(signs, _mm256_set1_epi32(i32::MIN));
    _mm256_xor_ps(x, _mm256_castsi256_ps(signs))
}
