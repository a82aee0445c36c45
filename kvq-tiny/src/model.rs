//! One step of a GPT-2 whose weights are int8.
//!
//! The input of a matrix becomes 15-bit integers with one scale, so that each output is a sum of integer
//! products, which has one value whatever the order of additions: at most 1,024 × 16,383 × 127, which is
//! less than 2^31. Sums of floats (means, variances, residuals) run from the first value to the last.

use crate::image::{Image, Linear, Norm, Rows, floats};
use crate::{Context, Error};

/// The largest integer of an input.
const MAX_CODE: f32 = 16_383.0;

/// Added to variances.
const EPSILON: f32 = 1e-5;

/// Buffers of a step.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// At least [`Scratch::floats_needed`].
    pub floats: &'a mut [f32],
    /// At least [`Scratch::codes_needed`].
    pub codes: &'a mut [i16],
}

impl Scratch<'_> {
    /// Floats that a model of this shape needs.
    pub const fn floats_needed(shape: crate::Shape) -> usize {
        6 * shape.width + shape.inner
    }

    /// Integers that a model of this shape needs.
    pub const fn codes_needed(shape: crate::Shape) -> usize {
        if shape.width > shape.inner { shape.width } else { shape.inner }
    }
}

/// A model over an image.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    image: Image<'a>,
}

impl<'a> Model<'a> {
    /// The model of an image.
    pub const fn new(image: Image<'a>) -> Self {
        Self { image }
    }

    /// Runs one token at position `context.len()`; its keys and values are appended. What
    /// [`most_likely`](Self::most_likely) and [`logits`](Self::logits) read is left in `scratch`.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::Position`], [`Error::Buffer`], or what the context refuses.
    pub fn step(
        &self,
        token: u32,
        context: &mut impl Context,
        scratch: &mut Scratch<'_>,
    ) -> Result<(), Error> {
        let shape = self.image.shape();
        let pos = context.len();
        let Some(embedding) = self.image.embeddings.get(token as usize) else {
            return Err(Error::Token { n_tokens: shape.n_tokens as u32, got: token });
        };
        let Some(position) = self.image.positions.get(pos) else {
            return Err(Error::Position { n_positions: shape.n_positions as u32, got: pos as u32 });
        };
        let Parts { x, h, attended, qkv, inner, codes } = parts(scratch, shape)?;
        let values = row_values(embedding).zip(row_values(position));
        x.iter_mut().zip(values).for_each(|(x, (token, position))| *x = token + position);
        for (i, layer) in self.image.layers().enumerate() {
            normalize(x, layer.attention_norm, h);
            linear(h, layer.qkv, codes, qkv);
            let (queries, rest) = qkv.split_at(shape.width);
            let (keys, values) = rest.split_at(shape.width);
            context.append(i, keys, values)?;
            context.attend(i, queries, attended)?;
            linear(attended, layer.attention_out, codes, h);
            add(x, h);
            normalize(x, layer.feed_forward_norm, h);
            linear(h, layer.up, codes, inner);
            inner.iter_mut().for_each(|x| *x = gelu(*x));
            linear(inner, layer.down, codes, h);
            add(x, h);
        }
        normalize(x, self.image.last_norm, h);
        Ok(())
    }

    /// The score of every token to come next, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Buffer`].
    pub fn logits(
        &self,
        scratch: &mut Scratch<'_>,
        mut use_logit: impl FnMut(u32, f32),
    ) -> Result<(), Error> {
        let shape = self.image.shape();
        let Parts { h, codes, .. } = parts(scratch, shape)?;
        let codes = &mut codes[..shape.width];
        let scale = quantize(h, codes);
        for (id, logit) in products(codes, scale, self.image.embeddings).enumerate() {
            use_logit(id as u32, logit);
        }
        Ok(())
    }

    /// The token with the highest score; the first of equals.
    ///
    /// # Errors
    /// [`Error::Buffer`].
    pub fn most_likely(&self, scratch: &mut Scratch<'_>) -> Result<u32, Error> {
        let mut best = (0, f32::NEG_INFINITY);
        self.logits(scratch, |id, logit| {
            if logit > best.1 {
                best = (id, logit);
            }
        })?;
        Ok(best.0)
    }
}

/// A scratch that is long enough, divided.
struct Parts<'s> {
    /// Residual stream.
    x: &'s mut [f32],
    /// Input or output of a matrix; after a step, what the output projection reads.
    h: &'s mut [f32],
    attended: &'s mut [f32],
    qkv: &'s mut [f32],
    inner: &'s mut [f32],
    codes: &'s mut [i16],
}

fn parts<'s>(scratch: &'s mut Scratch<'_>, shape: crate::Shape) -> Result<Parts<'s>, Error> {
    let (n_floats, n_codes) = (Scratch::floats_needed(shape), Scratch::codes_needed(shape));
    let short = |what, needed, got| Error::Buffer { what, needed: needed as u32, got: got as u32 };
    let (got_floats, got_codes) = (scratch.floats.len(), scratch.codes.len());
    let all = scratch.floats.get_mut(..n_floats).ok_or(short("activations", n_floats, got_floats))?;
    let codes = scratch.codes.get_mut(..n_codes).ok_or(short("integer inputs", n_codes, got_codes))?;
    let (x, rest) = all.split_at_mut(shape.width);
    let (h, rest) = rest.split_at_mut(shape.width);
    let (attended, rest) = rest.split_at_mut(shape.width);
    let (qkv, inner) = rest.split_at_mut(3 * shape.width);
    Ok(Parts { x, h, attended, qkv, inner, codes })
}

fn row_values((scale, codes): (f32, &[u8])) -> impl Iterator<Item = f32> {
    codes.iter().map(move |&code| f32::from(code as i8) * scale)
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

fn normalize(x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = x.iter().fold(0.0, |sum, x| sum + x) / n;
    let variance = x.iter().fold(0.0, |sum, x| sum + (x - mean) * (x - mean)) / n;
    let factor = 1.0 / libm::sqrtf(variance + EPSILON);
    let affine = floats(norm.gains).zip(floats(norm.biases));
    for ((out, x), (gain, bias)) in out.iter_mut().zip(x).zip(affine) {
        *out = (x - mean) * factor * gain + bias;
    }
}

fn linear(x: &[f32], layer: Linear<'_>, codes: &mut [i16], out: &mut [f32]) {
    let codes = &mut codes[..x.len()];
    let scale = quantize(x, codes);
    let sums = products(codes, scale, layer.rows).zip(floats(layer.biases));
    out.iter_mut().zip(sums).for_each(|(out, (sum, bias))| *out = sum + bias);
}

/// Integers of `x`, and what one of them is worth.
fn quantize(x: &[f32], codes: &mut [i16]) -> f32 {
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
fn products<'r>(codes: &'r [i16], scale: f32, rows: Rows<'r>) -> impl Iterator<Item = f32> + 'r {
    rows.iter().map(move |(row_scale, row)| {
        let sum: i32 = codes.iter().zip(row).map(|(&x, &w)| i32::from(x) * i32::from(w as i8)).sum();
        sum as f32 * (scale * row_scale)
    })
}

/// GELU, by the hyperbolic tangent.
fn gelu(x: f32) -> f32 {
    const ROOT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + libm::tanhf(ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}
