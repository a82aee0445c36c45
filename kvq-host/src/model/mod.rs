//! Language models over a [`KvStore`]: the families, their weights and their tokenizers.

mod chat;
mod forward;
pub mod generate;
mod gguf_file;
pub mod gpt2;
mod hub;
mod image;
mod linear;
mod llama;
mod load;
mod math;
mod prefix;
pub mod registry;
mod rope;
mod tokenizer;
mod weights;
mod widened;

use anyhow::Result;
use candle_core::Tensor;
use kvq_codec::KvShape;

use crate::kv_store::KvStore;
pub use chat::{ChatTemplate, Message};
pub use generate::{GenerateOptions, Generation, Generator, StopReason, generate, prefill, prefill_observed};
pub(crate) use gguf_file::open as open_gguf;
pub use image::export;
pub use llama::Llama;
pub use load::{LoadedModel, ModelInfo, load, load_weights};
pub use prefix::keep_prefix;
pub use tokenizer::{TextStream, TextTokenizer};

/// Sizes of a model, whatever its family.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `gpt2`, `llama` or `gemma3`.
    pub architecture: String,
    /// Transformer layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest context the model was made for, in tokens.
    pub max_context: usize,
}

impl ModelConfig {
    /// The shape of this model's KV cache.
    pub const fn kv_shape(&self) -> KvShape {
        KvShape::new(self.n_layers, self.n_kv_heads, self.head_dim)
    }
}

/// Which positions of a forward pass need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: a prefill chunk that is not the last.
    None,
    /// The last position.
    Last,
    /// Every position.
    All,
}

/// A decoder-only language model whose keys and values live in a [`KvStore`].
pub trait LanguageModel: Send + Sync {
    /// The model's sizes.
    fn config(&self) -> &ModelConfig;

    /// Runs `tokens` at positions `store.len()..`, appending their keys and values to `store`.
    ///
    /// Returns f32 logits, shape `(rows, vocab_size)`: no row, one, or one per token.
    ///
    /// # Errors
    /// An empty `tokens`, a position past `max_context`, a token outside the vocabulary, or an error
    /// of the store.
    fn forward(&self, tokens: &[u32], store: &mut dyn KvStore, logits: Logits) -> Result<Tensor>;
}
