//! One step of a GPT-2 or of a Llama whose weights are int8.

use crate::math::{add, gate, gelu, linear, normalize, products, quantize, rotate, row_values};
use crate::{Architecture, Context, Error, Image};

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
        3 * shape.width + shape.qkv_width() + shape.up_width()
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
        if pos >= shape.n_positions {
            return Err(Error::Position { n_positions: shape.n_positions as u32, got: pos as u32 });
        }
        let is_gpt2 = shape.architecture == Architecture::Gpt2;
        let Parts { x, h, attended, qkv, inner, codes } = parts(scratch, shape)?;
        x.iter_mut().zip(row_values(embedding)).for_each(|(x, value)| *x = value);
        if let Some(position) = self.image.positions.get(pos) {
            x.iter_mut().zip(row_values(position)).for_each(|(x, value)| *x += value);
        }
        for (i, layer) in self.image.layers().enumerate() {
            normalize(x, layer.attention_norm, is_gpt2, h);
            linear(h, layer.qkv, codes, qkv);
            if !is_gpt2 {
                rotate(&mut qkv[..shape.width + shape.kv_width()], shape.head_dim(), pos);
            }
            let (queries, rest) = qkv.split_at(shape.width);
            let (keys, values) = rest.split_at(shape.kv_width());
            context.append(i, keys, values)?;
            context.attend(i, queries, attended)?;
            linear(attended, layer.attention_out, codes, h);
            add(x, h);
            normalize(x, layer.feed_forward_norm, is_gpt2, h);
            linear(h, layer.up, codes, inner);
            let (inner, up) = inner.split_at_mut(shape.inner);
            if is_gpt2 {
                inner.iter_mut().for_each(|x| *x = gelu(*x));
            } else {
                gate(inner, up);
            }
            linear(inner, layer.down, codes, h);
            add(x, h);
        }
        normalize(x, self.image.last_norm, is_gpt2, h);
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
    let (qkv, inner) = rest.split_at_mut(shape.qkv_width());
    Ok(Parts { x, h, attended, qkv, inner, codes })
}
