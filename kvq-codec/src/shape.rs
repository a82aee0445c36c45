//! The shape of a model's KV cache.

use crate::error::{Error, figure};

/// The widest head vector.
pub const MAX_HEAD_DIM: usize = 256;

/// Layers, KV heads and the widths of one key and one value head vector.
///
/// The width of a head is its own figure: it is not `hidden_size / n_heads` in every model.
///
/// # Examples
/// ```
/// use kvq_codec::KvShape;
///
/// let shape = KvShape::new(30, 3, 64); // SmolLM2-135M: layers, KV heads, head_dim
/// assert_eq!(shape.values_per_token(), 30 * 3 * (64 + 64));
/// assert_eq!(shape.fp16_bytes_per_token(), 23_040);
/// assert!(KvShape::new(30, 3, 65).check().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct KvShape {
    /// Transformer layers.
    pub n_layers: usize,
    /// Key/value heads per layer.
    pub n_kv_heads: usize,
    /// Values in one key head vector.
    pub key_head_dim: usize,
    /// Values in one value head vector.
    pub value_head_dim: usize,
}

impl KvShape {
    /// A shape whose key and value heads are equally wide.
    pub const fn new(n_layers: usize, n_kv_heads: usize, head_dim: usize) -> Self {
        Self { n_layers, n_kv_heads, key_head_dim: head_dim, value_head_dim: head_dim }
    }

    /// The same shape with value heads of another width.
    #[must_use]
    pub const fn with_value_head_dim(mut self, value_head_dim: usize) -> Self {
        self.value_head_dim = value_head_dim;
        self
    }

    /// Values (keys and values of all layers and heads) of one token.
    pub const fn values_per_token(&self) -> usize {
        let per_head = self.key_head_dim.saturating_add(self.value_head_dim);
        self.n_layers.saturating_mul(self.n_kv_heads).saturating_mul(per_head)
    }

    /// Bytes that one token takes in a dense fp16 cache: the baseline of every compression figure.
    pub const fn fp16_bytes_per_token(&self) -> usize {
        self.values_per_token().saturating_mul(2)
    }

    /// Checks the counts and head sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] with the first figure out of range: counts of 1 to 65,535, head sizes that are
    /// multiples of 4 from 4 to [`MAX_HEAD_DIM`].
    pub const fn check(&self) -> Result<(), Error> {
        const fn count(n: usize) -> bool {
            n >= 1 && n <= u16::MAX as usize
        }
        const fn dim(d: usize) -> bool {
            d >= 4 && d <= MAX_HEAD_DIM && d.is_multiple_of(4)
        }
        if !count(self.n_layers) {
            return Err(Error::Shape { field: "n_layers", got: figure(self.n_layers) });
        }
        if !count(self.n_kv_heads) {
            return Err(Error::Shape { field: "n_kv_heads", got: figure(self.n_kv_heads) });
        }
        if !dim(self.key_head_dim) {
            return Err(Error::Shape { field: "key_head_dim", got: figure(self.key_head_dim) });
        }
        if !dim(self.value_head_dim) {
            return Err(Error::Shape { field: "value_head_dim", got: figure(self.value_head_dim) });
        }
        Ok(())
    }
}
