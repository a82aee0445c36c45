//! A Llama model from Hugging Face's config.json and safetensors files, computed in f32.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::{Activation, Llama, LlamaConfig, Part, Parts, Sliding};
use crate::model::ModelConfig;
use crate::model::linear::Linear;
use crate::model::rope::{Pairing, Scaling};
use crate::model::weights::{Checkpoint, Source};

/// The parts of config.json that this code reads or has to refuse.
#[derive(Deserialize)]
struct FileConfig {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeField>,
    rope_local_base_freq: Option<f64>,
    #[serde(alias = "hidden_activation")]
    hidden_act: String,
    partial_rotary_factor: Option<f64>,
    sliding_window: Option<Value>,
    use_sliding_window: Option<bool>,
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    query_pre_attn_scalar: Option<f64>,
    final_logit_softcapping: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    use_bidirectional_attention: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

/// One rotation, or one for each kind of layer.
#[derive(Deserialize)]
#[serde(untagged)]
enum RopeField {
    PerKind { full_attention: RopeParameters, sliding_attention: RopeParameters },
    One(RopeParameters),
}

#[derive(Clone, Default, Deserialize)]
struct RopeParameters {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl RopeParameters {
    /// # Errors
    /// A scaling that is not computed, or one without its figures.
    fn scaling(&self) -> Result<Scaling> {
        let kind = self.rope_type.as_deref().unwrap_or("default");
        let figure = |figure: Option<f64>, name: &str| {
            figure.with_context(|| format!("rope scaling `{kind}` without {name}"))
        };
        match kind {
            "default" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear(figure(self.factor, "a factor")?)),
            "llama3" => Ok(Scaling::Llama3 {
                factor: figure(self.factor, "a factor")?,
                turns: (
                    figure(self.low_freq_factor, "low_freq_factor")?,
                    figure(self.high_freq_factor, "high_freq_factor")?,
                ),
                original_context: figure(
                    self.original_max_position_embeddings,
                    "original_max_position_embeddings",
                )?,
            }),
            other => bail!("rope scaling `{other}` is not computed: default, linear and llama3 are"),
        }
    }
}

impl FileConfig {
    fn is_gemma3(&self) -> bool {
        self.model_type == "gemma3_text"
    }

    fn config(&self) -> Result<LlamaConfig> {
        ensure!(
            matches!(self.model_type.as_str(), "llama" | "qwen2" | "qwen3" | "gemma3_text"),
            "model type `{}`: gpt2, llama, qwen2, qwen3 and gemma3_text are known",
            self.model_type
        );
        let activation = match self.hidden_act.as_str() {
            "silu" => Activation::Silu,
            "gelu_pytorch_tanh" => Activation::Gelu,
            other => bail!("activation `{other}`: silu and gelu_pytorch_tanh are computed"),
        };
        ensure!(
            self.final_logit_softcapping.is_none() && self.attn_logit_softcapping.is_none(),
            "soft caps of scores or logits are not computed"
        );
        ensure!(self.use_bidirectional_attention != Some(true), "attention to later tokens is not computed");
        let (full, local) = match &self.rope_parameters {
            Some(RopeField::PerKind { full_attention, sliding_attention }) => {
                (full_attention.clone(), sliding_attention.clone())
            }
            Some(RopeField::One(one)) => (one.clone(), RopeParameters::default()),
            None => Default::default(),
        };
        let partial = self.partial_rotary_factor.or(full.partial_rotary_factor);
        ensure!(
            partial.is_none_or(|factor| factor == 1.0),
            "rotation of a part of each head is not computed"
        );
        ensure!(local.scaling()? == Scaling::None, "rope scaling of layers with a window is not computed");
        ensure!(self.num_attention_heads > 0, "a configuration without heads");
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads);
        let query_scale = self.query_pre_attn_scalar.map_or(1.0, |scalar| (head_dim as f64 / scalar).sqrt());
        Ok(LlamaConfig {
            model: ModelConfig {
                architecture: if self.is_gemma3() { "gemma3" } else { "llama" }.into(),
                n_layers: self.num_hidden_layers,
                n_heads: self.num_attention_heads,
                n_kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
                head_dim,
                hidden_size: self.hidden_size,
                vocab_size: self.vocab_size,
                max_context: self.max_position_embeddings,
            },
            feed_forward_size: self.intermediate_size,
            rms_norm_epsilon: self.rms_norm_eps,
            rope_base: self.rope_theta.or(full.rope_theta).unwrap_or(10_000.0),
            rope_scaling: self.rope_scaling.as_ref().unwrap_or(&full).scaling()?,
            rope_dims: head_dim,
            rope_pairing: Pairing::Halves,
            sliding: self.sliding(local.rope_theta.or(self.rope_local_base_freq).unwrap_or(10_000.0))?,
            activation,
            embedding_scale: if self.is_gemma3() { (self.hidden_size as f32).sqrt() } else { 1.0 },
            query_scale: query_scale as f32,
        })
    }

    fn sliding(&self, rope_base: f64) -> Result<Option<Sliding>> {
        let window = self.sliding_window.as_ref().filter(|window| !window.is_null());
        let Some(window) = window.filter(|_| self.use_sliding_window != Some(false)) else {
            return Ok(None);
        };
        ensure!(self.is_gemma3(), "sliding-window attention is computed for Gemma 3 only");
        let window_len = window.as_u64().with_context(|| format!("sliding_window {window}"))? as usize;
        let layers = match (&self.layer_types, self.sliding_window_pattern) {
            (Some(types), _) => types.iter().map(|kind| kind == "sliding_attention").collect(),
            (None, Some(every @ 1..)) => {
                (1..=self.num_hidden_layers).map(|layer| !layer.is_multiple_of(every)).collect()
            }
            (None, _) => {
                bail!("neither layer_types nor sliding_window_pattern says which layers have the window")
            }
        };
        Ok(Some(Sliding { window_len, rope_base, layers }))
    }
}

/// The tensors of a checkpoint, by the names Hugging Face gives them.
struct Tensors<'a> {
    checkpoint: &'a mut Checkpoint,
    prefix: &'static str,
    tied: bool,
    gemma3: bool,
}

impl Tensors<'_> {
    fn name(&self, layer: usize, part: Part) -> String {
        let part = match part {
            // The name of the norm in front of the second half elsewhere.
            Part::AttentionOutNorm => "post_attention_layernorm",
            Part::FeedForwardNorm if self.gemma3 => "pre_feedforward_layernorm",
            Part::FeedForwardOutNorm => "post_feedforward_layernorm",
            Part::AttentionNorm => "input_layernorm",
            Part::Query => "self_attn.q_proj",
            Part::Key => "self_attn.k_proj",
            Part::Value => "self_attn.v_proj",
            Part::QueryNorm => "self_attn.q_norm",
            Part::KeyNorm => "self_attn.k_norm",
            Part::AttentionOut => "self_attn.o_proj",
            Part::FeedForwardNorm => "post_attention_layernorm",
            Part::Gate => "mlp.gate_proj",
            Part::Up => "mlp.up_proj",
            Part::Down => "mlp.down_proj",
        };
        format!("{}layers.{layer}.{part}", self.prefix)
    }

    /// A norm's gain, which Gemma stores less one.
    fn norm(&mut self, name: &str, width: usize) -> Result<Vec<f32>> {
        let mut gain = self.checkpoint.values(name, &[width])?;
        if self.gemma3 {
            gain.iter_mut().for_each(|gain| *gain += 1.0);
        }
        Ok(gain)
    }

    fn dense(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let values = self.checkpoint.values(name, &[outputs, inputs])?;
        Linear::dense(&Tensor::from_vec(values, (outputs, inputs), &Device::Cpu)?)
    }
}

impl Parts for Tensors<'_> {
    fn gain(&mut self, layer: usize, part: Part, width: usize) -> Result<Vec<f32>> {
        let name = self.name(layer, part);
        self.norm(&format!("{name}.weight"), width)
    }

    fn has(&self, layer: usize, part: Part) -> bool {
        (part != Part::AttentionOutNorm || self.gemma3)
            && self.checkpoint.has(&format!("{}.weight", self.name(layer, part)))
    }

    fn linear(&mut self, layer: usize, part: Part, inputs: usize, outputs: usize) -> Result<Linear> {
        let name = self.name(layer, part);
        let linear = self.dense(&format!("{name}.weight"), inputs, outputs)?;
        let bias = format!("{name}.bias");
        if self.checkpoint.has(&bias) {
            linear.with_bias(self.checkpoint.values(&bias, &[outputs])?)
        } else {
            Ok(linear)
        }
    }

    fn ends(&mut self, config: &ModelConfig) -> Result<(Linear, Vec<f32>, Option<Linear>)> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embeddings = self.dense(&format!("{}embed_tokens.weight", self.prefix), hidden, vocab)?;
        let norm = self.norm(&format!("{}norm.weight", self.prefix), hidden)?;
        let head = if self.tied { None } else { Some(self.dense("lm_head.weight", hidden, vocab)?) };
        Ok((embeddings, norm, head))
    }
}

impl Llama {
    /// A model from the text of a config.json and the tensors of a checkpoint.
    ///
    /// # Errors
    /// A variant that this code does not compute (rotary positions scaled otherwise than linearly, sliding
    /// windows outside Gemma 3, partial rotation), or a tensor that is missing or of another shape than the configuration says.
    pub(crate) fn from_checkpoint(config_json: &str, checkpoint: &mut Checkpoint) -> Result<Self> {
        let file: FileConfig = serde_json::from_str(config_json).context("config.json of a Llama model")?;
        let config = file.config()?;
        let prefix = checkpoint.prefix("model.");
        let gemma3 = file.is_gemma3();
        let tied = file.tie_word_embeddings.unwrap_or(gemma3);
        Self::build(config, &mut Tensors { checkpoint, prefix, tied, gemma3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_with(extra: &str) -> Result<LlamaConfig> {
        let text = format!(
            r#"{{"model_type": "llama", "vocab_size": 10, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "hidden_act": "silu"{extra}}}"#
        );
        // Through a map, in which the last of equal keys counts.
        let value: Value = serde_json::from_str(&text)?;
        serde_json::from_value::<FileConfig>(value)?.config()
    }

    #[test]
    fn missing_figures_take_their_defaults() {
        let config = config_with("").unwrap();
        assert_eq!((config.model.n_kv_heads, config.model.head_dim), (2, 8));
        assert_eq!(config.rope_base, 10_000.0);
        let config = config_with(r#", "head_dim": 32, "rope_parameters": {"rope_theta": 5.0}"#).unwrap();
        assert_eq!((config.model.head_dim, config.rope_dims, config.rope_base), (32, 32, 5.0));
    }

    #[test]
    fn both_forms_of_gemmas_layers_are_read() {
        let gemma = r#", "model_type": "gemma3_text", "hidden_act": "gelu_pytorch_tanh", "num_hidden_layers": 4,
            "sliding_window": 512, "rope_theta": 1e6"#;
        let older = format!(r#"{gemma}, "sliding_window_pattern": 3, "rope_local_base_freq": 5e3"#);
        let config = config_with(&older).unwrap();
        assert_eq!((config.rope_base, config.activation), (1e6, Activation::Gelu));
        let sliding = config.sliding.unwrap();
        assert_eq!((sliding.window_len, sliding.rope_base), (512, 5e3));
        assert_eq!(sliding.layers, [true, true, false, true]);
        let error = config_with(gemma).unwrap_err().to_string();
        assert!(error.contains("layer_types"), "{error}");
    }

    #[test]
    fn variants_that_would_be_computed_wrongly_are_refused() {
        for (extra, word) in [
            (r#", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}"#, "low_freq_factor"),
            (r#", "rope_scaling": {"type": "linear"}"#, "factor"),
            (r#", "final_logit_softcapping": 30.0"#, "soft caps"),
            (r#", "model_type": "gemma2""#, "gemma2"),
            (r#", "hidden_act": "relu""#, "relu"),
            (r#", "rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}"#, "yarn"),
            (r#", "sliding_window": 4096"#, "sliding"),
            (r#", "partial_rotary_factor": 0.5"#, "part"),
        ] {
            let error = config_with(extra).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(config_with(r#", "sliding_window": 4096, "use_sliding_window": false"#).is_ok());
        let stretched = config_with(r#", "rope_scaling": {"type": "linear", "factor": 2.0}"#).unwrap();
        assert_eq!(stretched.rope_scaling, Scaling::Linear(2.0));
        assert!(config_with(r#", "sliding_window": null, "rope_scaling": null"#).is_ok());
    }
}
