//! A model in one block of bytes, little-endian, to be used where it lies.
//!
//! | part | bytes |
//! |---|---|
//! | magic `KVQIMAGE` | 8 |
//! | version, then the ten figures of [`Shape`] | 11 × 4 |
//! | FNV-1a of everything after this field | 8 |
//! | token embeddings, which are the output projection too: `Rows` of `n_tokens` | `n_tokens × (4 + width)` |
//! | GPT-2: positions, rows of `n_positions` | `n_positions × (4 + width)` |
//! | per layer: norm, queries-keys-values, attention output, norm, up, down | |
//! | last norm | |
//! | end of each token's bytes, 16 bits each | `2 × n_tokens` |
//! | bytes of the tokens | `token_bytes` |
//! | merges: left, right, result, 16 bits each, in the order of their rank | `6 × n_merges` |
//!
//! A norm is `width` gains in f32, a linear layer its rows, one per output; with GPT-2, biases in f32 follow
//! both. Rows are one f32 scale per row, then the int8 codes, row by row: value = code × scale. With Llama
//! "up" is the rows of the gate, then those of up.

use crate::{Architecture, Error, Hash, Shape};

/// The first bytes.
pub const MAGIC: [u8; 8] = *b"KVQIMAGE";

/// The version that this code reads and `kvq export` writes.
pub const VERSION: u32 = 2;

/// Bytes before what the checksum covers.
pub const HEADER_BYTES: usize = 8 + 11 * 4 + 8;

/// Bytes yet to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Error::Image("it ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn rows(&mut self, n_rows: usize, n_inputs: usize) -> Result<Rows<'a>, Error> {
        Ok(Rows { scales: self.take(4 * n_rows)?, codes: self.take(n_rows * n_inputs)?, n_inputs })
    }

    fn norm(&mut self, shape: Shape) -> Result<Norm<'a>, Error> {
        Ok(Norm { gains: self.take(4 * shape.width)?, biases: self.biases(shape, shape.width)? })
    }

    fn linear(&mut self, shape: Shape, n_inputs: usize, n_outputs: usize) -> Result<Linear<'a>, Error> {
        Ok(Linear { rows: self.rows(n_outputs, n_inputs)?, biases: self.biases(shape, n_outputs)? })
    }

    fn biases(&mut self, shape: Shape, n: usize) -> Result<&'a [u8], Error> {
        self.take(if shape.architecture == Architecture::Gpt2 { 4 * n } else { 0 })
    }
}

/// The floats in little-endian bytes.
pub(crate) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

/// Rows of int8 codes, each with a scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    scales: &'a [u8],
    codes: &'a [u8],
    n_inputs: usize,
}

impl<'a> Rows<'a> {
    /// Scale and codes of every row.
    pub fn iter(self) -> impl Iterator<Item = (f32, &'a [u8])> {
        floats(self.scales).zip(self.codes.chunks_exact(self.n_inputs.max(1)))
    }

    /// Scale and codes of one row.
    pub fn get(self, row: usize) -> Option<(f32, &'a [u8])> {
        let scale = self.scales.as_chunks::<4>().0.get(row)?;
        let codes = self.codes.get(row * self.n_inputs..)?.get(..self.n_inputs)?;
        Some((f32::from_le_bytes(*scale), codes))
    }
}

/// Gains and biases of a norm; no biases with Llama.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm<'a> {
    pub gains: &'a [u8],
    pub biases: &'a [u8],
}

/// A matrix and its biases; none with Llama.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear<'a> {
    pub rows: Rows<'a>,
    pub biases: &'a [u8],
}

/// One transformer layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer<'a> {
    pub attention_norm: Norm<'a>,
    pub qkv: Linear<'a>,
    pub attention_out: Linear<'a>,
    pub feed_forward_norm: Norm<'a>,
    pub up: Linear<'a>,
    pub down: Linear<'a>,
}

/// A checked image.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    shape: Shape,
    checksum: u64,
    layers: &'a [u8],
    pub(crate) embeddings: Rows<'a>,
    pub(crate) positions: Rows<'a>,
    pub(crate) last_norm: Norm<'a>,
    pub(crate) token_ends: &'a [u8],
    pub(crate) token_bytes: &'a [u8],
    pub(crate) merges: &'a [u8],
}

impl<'a> Image<'a> {
    /// Reads and checks an image, the checksum too.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader(bytes);
        if reader.take(8)? != MAGIC {
            return Err(Error::Image("it does not begin with KVQIMAGE"));
        }
        let header = reader.take(11 * 4)?.as_chunks::<4>().0;
        let mut figures = [0; 10];
        for (figure, bytes) in figures.iter_mut().zip(header.iter().skip(1)) {
            *figure = u32::from_le_bytes(*bytes) as usize;
        }
        if header.first() != Some(&VERSION.to_le_bytes()) {
            return Err(Error::Image("its version is another"));
        }
        let checksum = reader.take(8)?.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        if Hash::of(reader.0).value() != checksum {
            return Err(Error::Image("its checksum does not match"));
        }
        let shape = Shape::from_figures(figures)?;
        let embeddings = reader.rows(shape.n_tokens, shape.width)?;
        let has_positions = shape.architecture == Architecture::Gpt2;
        let positions = reader.rows(if has_positions { shape.n_positions } else { 0 }, shape.width)?;
        let layers = reader.0;
        for _ in 0..shape.n_layers {
            read_layer(&mut reader, shape)?;
        }
        let image = Self {
            shape,
            checksum,
            layers,
            embeddings,
            positions,
            last_norm: reader.norm(shape)?,
            token_ends: reader.take(2 * shape.n_tokens)?,
            token_bytes: reader.take(shape.token_bytes)?,
            merges: reader.take(6 * shape.n_merges)?,
        };
        if reader.0.is_empty() { Ok(image) } else { Err(Error::Image("it is longer than its sizes say")) }
    }

    /// Its sizes.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The checksum in its header.
    pub const fn checksum(&self) -> u64 {
        self.checksum
    }

    /// Its layers, in order.
    pub(crate) fn layers(&self) -> impl Iterator<Item = Layer<'a>> {
        let (mut reader, shape) = (Reader(self.layers), self.shape);
        (0..shape.n_layers).map_while(move |_| read_layer(&mut reader, shape).ok())
    }
}

fn read_layer<'a>(reader: &mut Reader<'a>, shape: Shape) -> Result<Layer<'a>, Error> {
    Ok(Layer {
        attention_norm: reader.norm(shape)?,
        qkv: reader.linear(shape, shape.width, shape.qkv_width())?,
        attention_out: reader.linear(shape, shape.width, shape.width)?,
        feed_forward_norm: reader.norm(shape)?,
        up: reader.linear(shape, shape.width, shape.up_width())?,
        down: reader.linear(shape, shape.inner, shape.width)?,
    })
}
