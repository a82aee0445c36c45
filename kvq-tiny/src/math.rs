//! The arithmetic of a step.
//!
//! The input of a matrix becomes 15-bit integers with one scale, so that each output is a sum of integer
//! products, which has one value whatever the order of additions: at most 1,024 × 16,383 × 127, which is
//! less than 2^31. Sums of floats (means, variances, residuals) run from the first value to the last.

use core::iter::repeat;

use crate::image::{Linear, Norm, Rows, floats};

/// The largest integer of an input.
const MAX_CODE: f32 = 16_383.0;

/// Added to variances.
const EPSILON: f32 = 1e-5;

/// The values of a row.
pub fn row_values((scale, codes): (f32, &[u8])) -> impl Iterator<Item = f32> {
    codes.iter().map(move |&code| f32::from(code as i8) * scale)
}

/// Adds value by value.
pub fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// A layer norm; an RMS norm unless the mean is to be taken off.
pub fn normalize(x: &[f32], norm: Norm<'_>, takes_mean_off: bool, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = if takes_mean_off { x.iter().fold(0.0, |sum, x| sum + x) / n } else { 0.0 };
    let variance = x.iter().fold(0.0, |sum, x| sum + (x - mean) * (x - mean)) / n;
    let factor = 1.0 / libm::sqrtf(variance + EPSILON);
    let affine = floats(norm.gains).zip(floats(norm.biases).chain(repeat(0.0)));
    for ((out, x), (gain, bias)) in out.iter_mut().zip(x).zip(affine) {
        *out = (x - mean) * factor * gain + bias;
    }
}

/// A matrix and its biases.
pub fn linear(x: &[f32], layer: Linear<'_>, codes: &mut [i16], out: &mut [f32]) {
    let codes = &mut codes[..x.len()];
    let scale = quantize(x, codes);
    let sums = products(codes, scale, layer.rows).zip(floats(layer.biases).chain(repeat(0.0)));
    out.iter_mut().zip(sums).for_each(|(out, (sum, bias))| *out = sum + bias);
}

/// Integers of `x`, and what one of them is worth.
pub fn quantize(x: &[f32], codes: &mut [i16]) -> f32 {
    let peak = x.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
    if peak < f32::MIN_POSITIVE * MAX_CODE {
        codes.fill(0);
        return 0.0;
    }
    let inverse = MAX_CODE / peak;
    for (code, x) in codes.iter_mut().zip(x) {
        // Adding 1.5 · 2^23 leaves the nearest integer in the low bits.
        *code = (x * inverse + 12_582_912.0).to_bits() as i16;
    }
    peak / MAX_CODE
}

/// The product of each row with the integers.
pub fn products<'r>(codes: &'r [i16], scale: f32, rows: Rows<'r>) -> impl Iterator<Item = f32> + 'r {
    rows.iter().map(move |(row_scale, row)| {
        let sum: i32 = codes.iter().zip(row).map(|(&x, &w)| i32::from(x) * i32::from(w as i8)).sum();
        sum as f32 * (scale * row_scale)
    })
}

/// GELU, by the hyperbolic tangent.
pub fn gelu(x: f32) -> f32 {
    const ROOT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + libm::tanhf(ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// `SiLU(gate) × up`, written over the gate.
pub fn gate(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = *gate / (1.0 + libm::expf(-*gate)) * up);
}

/// Rotates the pairs of neighbours of each head by angles that grow with the position.
pub fn rotate(heads: &mut [f32], head_dim: usize, pos: usize) {
    const BASE: f32 = 10_000.0;
    for at in (0..head_dim).step_by(2) {
        let angle = pos as f32 * libm::powf(BASE, -(at as f32 / head_dim as f32));
        let (sin, cos) = (libm::sinf(angle), libm::cosf(angle));
        for head in heads.chunks_exact_mut(head_dim) {
            if let Some([a, b]) = head.get_mut(at..at + 2) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}
