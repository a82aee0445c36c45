//! The sizes of a model, and of which architecture it is.

use crate::Error;

/// More inputs than this could overflow a 32-bit sum of products: see `Model`.
pub const MAX_INPUTS: usize = 1024;

/// The architectures that are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Layer norms, a table of positions, GELU, biases.
    Gpt2 = 0,
    /// RMS norms, rotated neighbours (base 10,000), SiLU gates, fewer KV heads than heads.
    Llama = 1,
}

/// Sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What is computed.
    pub architecture: Architecture,
    /// Tokens of the vocabulary.
    pub n_tokens: usize,
    /// Positions.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Transformer layers.
    pub n_layers: usize,
    /// Heads; each is `width / n_heads` wide.
    pub n_heads: usize,
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Width inside the feed-forward half.
    pub inner: usize,
    /// Bytes of all tokens.
    pub token_bytes: usize,
    /// Merges of the tokenizer.
    pub n_merges: usize,
}

impl Shape {
    /// The figures in the order of the header.
    pub const fn figures(&self) -> [usize; 10] {
        [
            self.architecture as usize,
            self.n_tokens,
            self.n_positions,
            self.width,
            self.n_layers,
            self.n_heads,
            self.n_kv_heads,
            self.inner,
            self.token_bytes,
            self.n_merges,
        ]
    }

    /// The shape of the model's KV cache.
    pub const fn kv_shape(&self) -> kvq_codec::KvShape {
        kvq_codec::KvShape::new(self.n_layers, self.n_kv_heads, self.head_dim())
    }

    /// Values of one head vector.
    pub const fn head_dim(&self) -> usize {
        self.width / self.n_heads
    }

    /// Keys, or values, of one token and layer.
    pub(crate) const fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim()
    }

    /// Queries, keys and values of one token and layer.
    pub(crate) const fn qkv_width(&self) -> usize {
        self.width + 2 * self.kv_width()
    }

    /// What the feed-forward half computes from its input.
    pub(crate) const fn up_width(&self) -> usize {
        match self.architecture {
            Architecture::Gpt2 => self.inner,
            Architecture::Llama => 2 * self.inner,
        }
    }

    pub(crate) fn from_figures(f: [usize; 10]) -> Result<Self, Error> {
        let architecture = match f[0] {
            0 => Architecture::Gpt2,
            1 => Architecture::Llama,
            _ => return Err(Error::Image("its architecture is unknown")),
        };
        let shape = Self {
            architecture,
            n_tokens: f[1],
            n_positions: f[2],
            width: f[3],
            n_layers: f[4],
            n_heads: f[5],
            n_kv_heads: f[6],
            inner: f[7],
            token_bytes: f[8],
            n_merges: f[9],
        };
        if f[1..8].contains(&0) || f.iter().any(|&n| n > 1 << 20) || shape.n_tokens > 1 << 16 {
            return Err(Error::Image("a size is out of range"));
        }
        if shape.width > MAX_INPUTS || shape.inner > MAX_INPUTS || !shape.width.is_multiple_of(shape.n_heads)
        {
            return Err(Error::Image("a width is more than 1024, or no multiple of the heads"));
        }
        let are_equal = shape.n_heads == shape.n_kv_heads;
        if !shape.n_heads.is_multiple_of(shape.n_kv_heads)
            || (architecture == Architecture::Gpt2 && !are_equal)
        {
            return Err(Error::Image("its heads are no multiple of its KV heads"));
        }
        Ok(shape)
    }
}
