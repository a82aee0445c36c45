//! A Llama model from Hugging Face's config.json and safetensors files, computed in f32.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::{Llama, LlamaConfig, Part, Parts};
use crate::model::ModelConfig;
use crate::model::linear::Linear;
use crate::model::rope::Pairing;
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
    rope_parameters: Option<RopeParameters>,
    hidden_act: String,
    partial_rotary_factor: Option<f64>,
    sliding_window: Option<Value>,
    use_sliding_window: Option<bool>,
    #[serde(default)]
    tie_word_embeddings: bool,
}

#[derive(Deserialize)]
struct RopeParameters {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

impl FileConfig {
    fn config(&self) -> Result<LlamaConfig> {
        ensure!(
            matches!(self.model_type.as_str(), "llama" | "qwen2" | "qwen3"),
            "model type `{}`: gpt2, llama, qwen2 and qwen3 are known",
            self.model_type
        );
        ensure!(self.hidden_act == "silu", "activation `{}`: only silu is computed", self.hidden_act);
        for rope in [&self.rope_scaling, &self.rope_parameters].into_iter().flatten() {
            let kind = rope.rope_type.as_deref().unwrap_or("default");
            ensure!(
                kind == "default",
                "rope scaling `{kind}` is not computed: only plain rotary positions are"
            );
        }
        let windowed = self.sliding_window.as_ref().is_some_and(|window| !window.is_null());
        if windowed && self.use_sliding_window != Some(false) {
            bail!("sliding-window attention is not computed by the dense stores");
        }
        let parameters = self.rope_parameters.as_ref();
        let partial = self.partial_rotary_factor.or(parameters.and_then(|p| p.partial_rotary_factor));
        ensure!(
            partial.is_none_or(|factor| factor == 1.0),
            "rotation of a part of each head is not computed"
        );
        ensure!(self.num_attention_heads > 0, "a configuration without heads");
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads);
        Ok(LlamaConfig {
            model: ModelConfig {
                architecture: "llama".into(),
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
            rope_base: self.rope_theta.or(parameters.and_then(|p| p.rope_theta)).unwrap_or(10_000.0),
            rope_dims: head_dim,
            rope_pairing: Pairing::Halves,
        })
    }
}

/// The tensors of a checkpoint, by the names Hugging Face gives them.
struct Tensors<'a> {
    checkpoint: &'a mut Checkpoint,
    prefix: &'static str,
    tied: bool,
}

impl Tensors<'_> {
    fn name(&self, layer: usize, part: Part) -> String {
        let part = match part {
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

    fn dense(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let values = self.checkpoint.values(name, &[outputs, inputs])?;
        Linear::dense(&Tensor::from_vec(values, (outputs, inputs), &Device::Cpu)?)
    }
}

impl Parts for Tensors<'_> {
    fn gain(&mut self, layer: usize, part: Part, width: usize) -> Result<Vec<f32>> {
        let name = self.name(layer, part);
        self.checkpoint.values(&format!("{name}.weight"), &[width])
    }

    fn has(&self, layer: usize, part: Part) -> bool {
        self.checkpoint.has(&format!("{}.weight", self.name(layer, part)))
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
        let norm = self.checkpoint.values(&format!("{}norm.weight", self.prefix), &[hidden])?;
        let head = if self.tied { None } else { Some(self.dense("lm_head.weight", hidden, vocab)?) };
        Ok((embeddings, norm, head))
    }
}

impl Llama {
    /// A model from the text of a config.json and the tensors of a checkpoint.
    ///
    /// # Errors
    /// A variant that this code does not compute (scaled rotary positions, sliding windows, partial
    /// rotation), or a tensor that is missing or of another shape than the configuration says.
    pub(crate) fn from_checkpoint(config_json: &str, checkpoint: &mut Checkpoint) -> Result<Self> {
        let file: FileConfig = serde_json::from_str(config_json).context("config.json of a Llama model")?;
        let config = file.config()?;
        let prefix = checkpoint.prefix("model.");
        Self::build(config, &mut Tensors { checkpoint, prefix, tied: file.tie_word_embeddings })
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
        serde_json::from_str::<FileConfig>(&text)?.config()
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
    fn variants_that_would_be_computed_wrongly_are_refused() {
        for (extra, word) in [
            (r#", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}"#, "llama3"),
            (r#", "rope_scaling": {"type": "linear", "factor": 2.0}"#, "linear"),
            (r#", "rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}"#, "yarn"),
            (r#", "sliding_window": 4096"#, "sliding"),
            (r#", "partial_rotary_factor": 0.5"#, "part"),
        ] {
            let error = config_with(extra).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(config_with(r#", "sliding_window": 4096, "use_sliding_window": false"#).is_ok());
        assert!(config_with(r#", "sliding_window": null, "rope_scaling": null"#).is_ok());
    }
}
