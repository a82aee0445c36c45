//! GPT-2: learned positions, layer norm before each half of a block, one projection to queries, keys and
//! values, GELU, and a head that is the embedding table.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::linear::Linear;
use super::weights::{Checkpoint, RandomSource, Source};
use super::{LanguageModel, Logits, ModelConfig, forward, math};
use crate::kv_store::{KvStore, NewTokens, append_and_attend};

/// Sizes of a GPT-2 model, as Hugging Face's config.json names them.
#[derive(Clone, Debug, Deserialize)]
pub struct Gpt2Config {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest context, in tokens.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Transformer layers.
    pub n_layer: usize,
    /// Heads; each is `n_embd / n_head` wide.
    pub n_head: usize,
    /// Width inside the feed-forward half; four times `n_embd` if not given.
    #[serde(default)]
    pub n_inner: Option<usize>,
    /// Added to variances.
    #[serde(default = "default_epsilon")]
    pub layer_norm_epsilon: f32,
    #[serde(default = "default_activation")]
    activation_function: String,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default = "default_true")]
    scale_attn_weights: bool,
}

fn default_epsilon() -> f32 {
    1e-5
}

fn default_activation() -> String {
    "gelu_new".into()
}

fn default_true() -> bool {
    true
}

impl Gpt2Config {
    /// The shape of `distilgpt2`: 6 layers, 12 heads of 64, 50,257 tokens, 1,024 positions.
    pub fn distilgpt2() -> Self {
        Self {
            vocab_size: 50_257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 6,
            n_head: 12,
            n_inner: None,
            layer_norm_epsilon: default_epsilon(),
            activation_function: default_activation(),
            scale_attn_by_inverse_layer_idx: false,
            scale_attn_weights: true,
        }
    }

    /// Reads a config.json.
    ///
    /// # Errors
    /// Text that is not one, sizes that do not fit together, or a variant that this code does not compute.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: Self = serde_json::from_str(text).context("config.json of a GPT-2 model")?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.n_layer > 0 && self.n_head > 0 && self.vocab_size > 0 && self.n_positions > 0,
            "a GPT-2 configuration with a zero in it"
        );
        ensure!(self.n_embd.is_multiple_of(self.n_head), "n_embd {} over {} heads", self.n_embd, self.n_head);
        ensure!(
            matches!(self.activation_function.as_str(), "gelu_new" | "gelu_pytorch_tanh"),
            "activation `{}`: only gelu_new is computed",
            self.activation_function
        );
        ensure!(
            self.scale_attn_weights && !self.scale_attn_by_inverse_layer_idx,
            "attention scaled otherwise than by 1/sqrt(head_dim) is not computed"
        );
        Ok(())
    }

    fn model_config(&self) -> ModelConfig {
        ModelConfig {
            architecture: "gpt2".into(),
            n_layers: self.n_layer,
            n_heads: self.n_head,
            n_kv_heads: self.n_head,
            head_dim: self.n_embd / self.n_head,
            hidden_size: self.n_embd,
            vocab_size: self.vocab_size,
            max_context: self.n_positions,
        }
    }
}

/// Gain and bias of a layer norm.
struct Norm {
    gain: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        math::layer_norm(x, &self.gain, &self.bias, self.epsilon)
    }
}

struct Block {
    attention_norm: Norm,
    /// Queries, keys and values: `3 · hidden_size` outputs.
    qkv: Linear,
    attention_out: Linear,
    feed_forward_norm: Norm,
    up: Linear,
    down: Linear,
}

/// A GPT-2 model computed in f32.
pub struct Gpt2 {
    config: ModelConfig,
    embeddings: Linear,
    /// `(max_context, hidden_size)`
    positions: Vec<f32>,
    blocks: Vec<Block>,
    final_norm: Norm,
    /// The output projection, where it is not the embedding table.
    head: Option<Linear>,
}

/// Reads parts of a model, each by its name and sizes.
struct Parts<'a, S> {
    source: &'a mut S,
    prefix: &'static str,
    epsilon: f32,
}

impl<S: Source> Parts<'_, S> {
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.source.values(&format!("{}{name}", self.prefix), shape)
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Norm> {
        let gain = self.values(&format!("{name}.weight"), &[width])?;
        let bias = self.values(&format!("{name}.bias"), &[width])?;
        Ok(Norm { gain, bias, epsilon: self.epsilon })
    }

    /// A `Conv1D`: its weights are stored `(inputs, outputs)`.
    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let values = self.values(&format!("{name}.weight"), &[inputs, outputs])?;
        let weights = Tensor::from_vec(values, (inputs, outputs), &Device::Cpu)?.t()?;
        Linear::dense(&weights)?.with_bias(self.values(&format!("{name}.bias"), &[outputs])?)
    }
}

impl Gpt2 {
    /// A model with the weights of a checkpoint in Hugging Face's layout.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than the configuration says.
    pub(crate) fn from_checkpoint(config: &Gpt2Config, checkpoint: &mut Checkpoint) -> Result<Self> {
        let prefix = checkpoint.prefix("transformer.");
        Self::build(config, checkpoint, prefix)
    }

    /// A model with random weights, for measuring speed; its text means nothing.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn random(config: &Gpt2Config, seed: u64) -> Result<Self> {
        Self::build(config, &mut RandomSource::new(seed), "")
    }

    fn build<S: Source>(config: &Gpt2Config, source: &mut S, prefix: &'static str) -> Result<Self> {
        config.check()?;
        let (hidden, inner) = (config.n_embd, config.n_inner.unwrap_or(4 * config.n_embd));
        let head = if source.has("lm_head.weight") {
            let values = source.values("lm_head.weight", &[config.vocab_size, hidden])?;
            Some(Linear::dense(&Tensor::from_vec(values, (config.vocab_size, hidden), &Device::Cpu)?)?)
        } else {
            None
        };
        let mut parts = Parts { source, prefix, epsilon: config.layer_norm_epsilon };
        let table = parts.values("wte.weight", &[config.vocab_size, hidden])?;
        let embeddings = Linear::dense(&Tensor::from_vec(table, (config.vocab_size, hidden), &Device::Cpu)?)?;
        let positions = parts.values("wpe.weight", &[config.n_positions, hidden])?;
        let blocks = (0..config.n_layer).map(|layer| {
            let name = |part: &str| format!("h.{layer}.{part}");
            Ok(Block {
                attention_norm: parts.norm(&name("ln_1"), hidden)?,
                qkv: parts.linear(&name("attn.c_attn"), hidden, 3 * hidden)?,
                attention_out: parts.linear(&name("attn.c_proj"), hidden, hidden)?,
                feed_forward_norm: parts.norm(&name("ln_2"), hidden)?,
                up: parts.linear(&name("mlp.c_fc"), hidden, inner)?,
                down: parts.linear(&name("mlp.c_proj"), inner, hidden)?,
            })
        });
        let blocks = blocks.collect::<Result<_>>()?;
        let final_norm = parts.norm("ln_f", hidden)?;
        Ok(Self { config: config.model_config(), embeddings, positions, blocks, final_norm, head })
    }
}

impl LanguageModel for Gpt2 {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn forward(&self, tokens: &[u32], store: &mut dyn KvStore, logits: Logits) -> Result<Tensor> {
        let pos = forward::check(&self.config, tokens, store)?;
        let ModelConfig { n_heads, head_dim, hidden_size, .. } = self.config;
        let n = tokens.len();
        let mut x = self.embeddings.rows(tokens)?;
        math::add(&mut x, &self.positions[pos * hidden_size..]);
        let mut attended = vec![0.0; n * hidden_size];
        for (layer, block) in self.blocks.iter().enumerate() {
            let qkv = block.qkv.forward(&block.attention_norm.apply(&x))?;
            let [q, k, v] = [0, 1, 2]
                .map(|part| math::split_heads(&qkv, 3 * hidden_size, part * hidden_size, n_heads, head_dim));
            let new = NewTokens { n_tokens: n, q: &q, k: &k, v: &v, window_len: 0 };
            append_and_attend(store, layer, new, &mut attended)?;
            math::add(&mut x, &block.attention_out.forward(&math::merge_heads(&attended, n, head_dim))?);
            let mut inner = block.up.forward(&block.feed_forward_norm.apply(&x))?;
            math::gelu_new(&mut inner);
            math::add(&mut x, &block.down.forward(&inner)?);
        }
        let head = self.head.as_ref().unwrap_or(&self.embeddings);
        forward::logits(&x, &self.config, logits, |rows| self.final_norm.apply(rows), head)
    }
}
