//! Element-wise parts of a transformer on plain slices.
//!
//! Everything here works on rows, `(n, width)`; only matrix products go through candle. The exponential is
//! written so that compilers vectorize it, because it is the one costly function of the activations.

/// `exp(x)` with a relative error under 2e-7 in the range of normal floats; saturates outside it.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding and subtracting 1.5 · 2^23 rounds to an integer; the low bits of the sum are that integer.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the remainder keeps its digits.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (p * (r * r) + r + 1.0) * power
}

/// Adds `from` to `to`.
pub(crate) fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Multiplies every value by `factor`; 1 costs nothing.
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Adds one row to every row of `rows (n, bias.len())`.
pub(crate) fn add_bias(rows: &mut [f32], bias: &[f32]) {
    rows.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
}

/// Sum of `f(x)` over a row, in eight lanes.
fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (eights, tail) = row.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for eight in eights {
        for lane in 0..8 {
            lanes[lane] += f(eight[lane]);
        }
    }
    lanes.iter().sum::<f32>() + tail.iter().map(|&x| f(x)).sum::<f32>()
}

/// Layer normalization of each row. Shapes: `x (n, gain.len())`, `bias` as `gain`.
pub(crate) fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let width = gain.len();
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        let mean = sum_of(row, |x| x) / width as f32;
        let variance = sum_of(row, |x| (x - mean) * (x - mean)) / width as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        out.extend(row.iter().zip(gain).zip(bias).map(|((x, gain), bias)| (x - mean) * factor * gain + bias));
    }
    out
}

/// Root-mean-square normalization of each row. Shapes: `x (n, gain.len())`.
pub(crate) fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = x.to_vec();
    rms_norm_in_place(&mut out, gain, epsilon);
    out
}

/// The same, in place.
pub(crate) fn rms_norm_in_place(x: &mut [f32], gain: &[f32], epsilon: f32) {
    for row in x.chunks_exact_mut(gain.len()) {
        let mean_square = sum_of(row, |x| x * x) / gain.len() as f32;
        let factor = 1.0 / (mean_square + epsilon).sqrt();
        row.iter_mut().zip(gain).for_each(|(x, gain)| *x *= factor * gain);
    }
}

/// GELU with the tanh approximation (`gelu_new`): `x · sigmoid(2 √(2/π) (x + 0.044715 x³))`.
pub(crate) fn gelu_new(x: &mut [f32]) {
    /// 2 √(2/π)
    const FACTOR: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    for x in x {
        let inner = FACTOR * (*x + 0.044_715 * *x * *x * *x);
        *x /= 1.0 + exp(-inner);
    }
}

/// SwiGLU: `gate · sigmoid(gate) · up`, into `gate`.
pub(crate) fn silu_times(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// GeGLU: `gelu(gate) · up`, into `gate`.
pub(crate) fn gelu_times(gate: &mut [f32], up: &[f32]) {
    gelu_new(gate);
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
}

/// Takes `count` heads from column `first` on out of rows: `(n, stride)` to `(count, n, head_dim)`.
pub(crate) fn split_heads(
    rows: &[f32],
    stride: usize,
    first: usize,
    count: usize,
    head_dim: usize,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() / stride * count * head_dim);
    for head in 0..count {
        let column = first + head * head_dim;
        rows.chunks_exact(stride).for_each(|row| out.extend_from_slice(&row[column..][..head_dim]));
    }
    out
}

/// `(n_heads, n, head_dim)` to `(n, n_heads * head_dim)`.
pub(crate) fn merge_heads(heads: &[f32], n: usize, head_dim: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(heads.len());
    for token in 0..n {
        for head in heads.chunks_exact(n * head_dim) {
            out.extend_from_slice(&head[token * head_dim..][..head_dim]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_over_its_range() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let want = (x as f64).exp();
            assert!(((exp(x) as f64 - want) / want).abs() < 3e-7, "{x}");
        }
        assert!(exp(-1e9) < 1e-37 && exp(1e9).is_finite());
    }

    #[test]
    fn activations_match_their_definitions() {
        for i in -400..400 {
            let x = i as f32 * 0.05;
            let mut gelu = [x];
            gelu_new(&mut gelu);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x as f64 + 0.044715 * (x as f64).powi(3));
            assert!((gelu[0] as f64 - 0.5 * x as f64 * (1.0 + inner.tanh())).abs() < 2e-6, "{x}");
            let mut silu = [x];
            silu_times(&mut silu, &[2.0]);
            assert!((silu[0] as f64 - 2.0 * x as f64 / (1.0 + (-x as f64).exp())).abs() < 4e-6, "{x}");
        }
    }

    #[test]
    fn heads_split_and_merge_back() {
        // Two tokens, three heads of two, and two more columns in front.
        let rows: Vec<f32> = (0..16).map(|x| x as f32).collect();
        let heads = split_heads(&rows, 8, 2, 3, 2);
        assert_eq!(heads, [2.0, 3.0, 10.0, 11.0, 4.0, 5.0, 12.0, 13.0, 6.0, 7.0, 14.0, 15.0]);
        assert_eq!(merge_heads(&heads, 2, 2), [2., 3., 4., 5., 6., 7., 10., 11., 12., 13., 14., 15.]);
    }
}
