//! The Llama family: RMS norm before each half of a block, rotary positions, grouped-query attention and
//! a gated feed-forward half.
//!
//! The block is written once; [`gguf`] and [`checkpoint`] fill it from quantized and full-precision
//! weights. Models that add a bias to queries, keys and values (Qwen2) or normalize each query and key head
//! (Qwen3) differ in optional parts only. So does Gemma 3: norms behind each half as well, GELU, scaled
//! embeddings, and layers that see a window of positions and rotate by a base of their own.

mod checkpoint;
mod gguf;

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::linear::Linear;
use super::rope::{Pairing, Rope, Scaling};
use super::{LanguageModel, Logits, ModelConfig, forward, math};
use crate::kv_store::{KvStore, NewTokens, append_and_attend};

pub(crate) use gguf::weight_format;

/// Sizes and constants of a model of this family.
#[derive(Clone, Debug)]
struct LlamaConfig {
    model: ModelConfig,
    /// Width inside the feed-forward half.
    feed_forward_size: usize,
    rms_norm_epsilon: f32,
    rope_base: f64,
    rope_scaling: Scaling,
    /// Values of each head that are rotated.
    rope_dims: usize,
    rope_pairing: Pairing,
    sliding: Option<Sliding>,
    activation: Activation,
    embedding_scale: f32,
    /// What queries are multiplied by before stores scale scores with `1/sqrt(head_dim)`.
    query_scale: f32,
}

/// Layers that see the newest positions only.
#[derive(Clone, Debug)]
struct Sliding {
    window_len: usize,
    rope_base: f64,
    /// Which layers they are, one entry per layer.
    layers: Vec<bool>,
}

/// The gate of the feed-forward half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activation {
    Silu,
    /// The approximation with tanh.
    Gelu,
}

impl LlamaConfig {
    /// # Errors
    /// Sizes that do not fit together.
    fn check(&self) -> Result<()> {
        let ModelConfig {
            n_layers, n_heads, n_kv_heads, head_dim, hidden_size, vocab_size, max_context, ..
        } = self.model;
        ensure!(
            [n_layers, n_heads, n_kv_heads, head_dim, hidden_size, vocab_size, max_context]
                .iter()
                .all(|&n| n > 0),
            "a configuration with a zero in it: {:?}",
            self.model
        );
        ensure!(n_heads.is_multiple_of(n_kv_heads), "{n_heads} query heads over {n_kv_heads} KV heads");
        ensure!(
            self.rope_dims.is_multiple_of(2) && self.rope_dims <= head_dim,
            "rotation of {} of {head_dim} values",
            self.rope_dims
        );
        self.rope_scaling.check(self.rope_dims)?;
        if let Some(sliding) = &self.sliding {
            ensure!(
                sliding.layers.len() == n_layers && sliding.window_len > 0,
                "windows of {} positions in {} of {n_layers} layers",
                sliding.window_len,
                sliding.layers.len()
            );
        }
        Ok(())
    }
}

struct Block {
    attention_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    /// Gains of a norm over each query head and each key head.
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    attention_out: Linear,
    attention_out_norm: Option<Vec<f32>>,
    feed_forward_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
    feed_forward_out_norm: Option<Vec<f32>>,
}

/// A model of the Llama family.
pub struct Llama {
    config: LlamaConfig,
    rope: Rope,
    /// The rotation of layers with a window.
    sliding_rope: Option<Rope>,
    embeddings: Linear,
    blocks: Vec<Block>,
    final_norm: Vec<f32>,
    /// The output projection, where it is not the embedding table.
    head: Option<Linear>,
}

/// One part of a block, named in neither source's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    AttentionOut,
    AttentionOutNorm,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
    FeedForwardOutNorm,
}

/// Where the parts come from.
trait Parts {
    /// A norm's gain.
    fn gain(&mut self, layer: usize, part: Part, width: usize) -> Result<Vec<f32>>;

    /// Whether the model has this part.
    fn has(&self, layer: usize, part: Part) -> bool;

    /// A linear layer with its bias, if it has one.
    fn linear(&mut self, layer: usize, part: Part, inputs: usize, outputs: usize) -> Result<Linear>;

    /// The embedding table, the last norm and the output projection if it is separate.
    fn ends(&mut self, config: &ModelConfig) -> Result<(Linear, Vec<f32>, Option<Linear>)>;
}

impl Llama {
    fn build(config: LlamaConfig, parts: &mut impl Parts) -> Result<Self> {
        config.check()?;
        let ModelConfig { n_layers, n_heads, n_kv_heads, head_dim, hidden_size: hidden, .. } = config.model;
        let (q_size, kv_size, inner) = (n_heads * head_dim, n_kv_heads * head_dim, config.feed_forward_size);
        let blocks = (0..n_layers).map(|layer| {
            let mut gain_if_any = |part: Part| {
                if parts.has(layer, part) { parts.gain(layer, part, hidden).map(Some) } else { Ok(None) }
            };
            let attention_out_norm = gain_if_any(Part::AttentionOutNorm)?;
            let feed_forward_out_norm = gain_if_any(Part::FeedForwardOutNorm)?;
            let head_norms = if parts.has(layer, Part::QueryNorm) {
                let query = parts.gain(layer, Part::QueryNorm, head_dim)?;
                Some((query, parts.gain(layer, Part::KeyNorm, head_dim)?))
            } else {
                None
            };
            Ok(Block {
                attention_norm: parts.gain(layer, Part::AttentionNorm, hidden)?,
                query: parts.linear(layer, Part::Query, hidden, q_size)?,
                key: parts.linear(layer, Part::Key, hidden, kv_size)?,
                value: parts.linear(layer, Part::Value, hidden, kv_size)?,
                head_norms,
                attention_out: parts.linear(layer, Part::AttentionOut, q_size, hidden)?,
                attention_out_norm,
                feed_forward_norm: parts.gain(layer, Part::FeedForwardNorm, hidden)?,
                gate: parts.linear(layer, Part::Gate, hidden, inner)?,
                up: parts.linear(layer, Part::Up, hidden, inner)?,
                down: parts.linear(layer, Part::Down, inner, hidden)?,
                feed_forward_out_norm,
            })
        });
        let blocks = blocks.collect::<Result<_>>()?;
        let (embeddings, final_norm, head) = parts.ends(&config.model)?;
        let rope = |base: f64| Rope::new(config.rope_pairing, config.rope_dims, base);
        let sliding_rope = config.sliding.as_ref().map(|sliding| rope(sliding.rope_base));
        let rope = rope(config.rope_base).scaled(&config.rope_scaling);
        Ok(Self { config, rope, sliding_rope, embeddings, blocks, final_norm, head })
    }
}

impl LanguageModel for Llama {
    fn config(&self) -> &ModelConfig {
        &self.config.model
    }

    fn forward(&self, tokens: &[u32], store: &mut dyn KvStore, logits: Logits) -> Result<Tensor> {
        let config = &self.config.model;
        let pos = forward::check(config, tokens, store)?;
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = *config;
        let epsilon = self.config.rms_norm_epsilon;
        let n = tokens.len();
        let angles = self.rope.angles(pos, n);
        let sliding_angles = self.sliding_rope.as_ref().map(|rope| rope.angles(pos, n));
        let mut x = self.embeddings.rows(tokens)?;
        math::scale(&mut x, self.config.embedding_scale);
        let mut attended = vec![0.0; n_heads * n * head_dim];
        for (layer, block) in self.blocks.iter().enumerate() {
            let (window_len, angles) = match (&self.config.sliding, &sliding_angles) {
                (Some(sliding), Some(angles)) if sliding.layers[layer] => (sliding.window_len, angles),
                _ => (0, &angles),
            };
            let normed = math::rms_norm(&x, &block.attention_norm, epsilon);
            let heads = |linear: &Linear, count: usize| -> Result<Vec<f32>> {
                let rows = linear.forward(&normed)?;
                Ok(math::split_heads(&rows, count * head_dim, 0, count, head_dim))
            };
            let mut q = heads(&block.query, n_heads)?;
            let mut k = heads(&block.key, n_kv_heads)?;
            let v = heads(&block.value, n_kv_heads)?;
            if let Some((query_gain, key_gain)) = &block.head_norms {
                math::rms_norm_in_place(&mut q, query_gain, epsilon);
                math::rms_norm_in_place(&mut k, key_gain, epsilon);
            }
            angles.apply(&mut q, head_dim);
            angles.apply(&mut k, head_dim);
            math::scale(&mut q, self.config.query_scale);
            let new = NewTokens { n_tokens: n, q: &q, k: &k, v: &v, window_len };
            append_and_attend(store, layer, new, &mut attended)?;
            let mut out = block.attention_out.forward(&math::merge_heads(&attended, n, head_dim))?;
            if let Some(gain) = &block.attention_out_norm {
                math::rms_norm_in_place(&mut out, gain, epsilon);
            }
            math::add(&mut x, &out);
            let normed = math::rms_norm(&x, &block.feed_forward_norm, epsilon);
            let mut inner = block.gate.forward(&normed)?;
            let up = block.up.forward(&normed)?;
            match self.config.activation {
                Activation::Silu => math::silu_times(&mut inner, &up),
                Activation::Gelu => math::gelu_times(&mut inner, &up),
            }
            let mut out = block.down.forward(&inner)?;
            if let Some(gain) = &block.feed_forward_out_norm {
                math::rms_norm_in_place(&mut out, gain, epsilon);
            }
            math::add(&mut x, &out);
        }
        let head = self.head.as_ref().unwrap_or(&self.embeddings);
        let norm = |rows: &[f32]| math::rms_norm(rows, &self.final_norm, epsilon);
        forward::logits(&x, config, logits, norm, head)
    }
}
