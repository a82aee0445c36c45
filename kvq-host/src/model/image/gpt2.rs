//! An image of a GPT-2.

use anyhow::{Context, Result, ensure};
use kvq_tiny::{Architecture, MAX_INPUTS, Shape};
use serde::Deserialize;

use super::vocabulary::Vocabulary;
use super::{assemble, put_floats, put_rows};
use crate::model::gpt2::Gpt2Config;
use crate::model::weights::{Checkpoint, Source};

/// The image of a checkpoint in Hugging Face's layout.
pub fn write(config: &str, tokenizer: &[u8], checkpoint: &mut Checkpoint) -> Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: String,
    }
    let kind: Kind = serde_json::from_str(config).context("config.json")?;
    ensure!(
        kind.model_type == "gpt2",
        "model type `{}`: images hold the GPT-2 architecture",
        kind.model_type
    );
    let config = Gpt2Config::from_json(config)?;
    ensure!(!checkpoint.has("lm_head.weight"), "its output projection is not its embedding table");
    ensure!(
        config.layer_norm_epsilon == 1e-5,
        "layer_norm_epsilon is {}, images have 1e-5",
        config.layer_norm_epsilon
    );
    let (width, inner) = (config.n_embd, config.n_inner.unwrap_or(4 * config.n_embd));
    ensure!(width.max(inner) <= MAX_INPUTS, "width {width} or {inner} is more than {MAX_INPUTS}");
    let vocabulary = Vocabulary::from_json(tokenizer, config.vocab_size)?;
    let shape = Shape {
        architecture: Architecture::Gpt2,
        n_tokens: config.vocab_size,
        n_positions: config.n_positions,
        width,
        n_layers: config.n_layer,
        n_heads: config.n_head,
        n_kv_heads: config.n_head,
        inner,
        token_bytes: vocabulary.tokens.iter().map(Vec::len).sum(),
        n_merges: vocabulary.merges.len(),
    };
    let prefix = checkpoint.prefix("transformer.");
    let mut body = Body { bytes: Vec::new(), checkpoint, prefix };
    body.table("wte.weight", config.vocab_size, width)?;
    body.table("wpe.weight", config.n_positions, width)?;
    for layer in 0..config.n_layer {
        let name = |part: &str| format!("h.{layer}.{part}");
        body.norm(&name("ln_1"), width)?;
        body.linear(&name("attn.c_attn"), width, 3 * width)?;
        body.linear(&name("attn.c_proj"), width, width)?;
        body.norm(&name("ln_2"), width)?;
        body.linear(&name("mlp.c_fc"), width, inner)?;
        body.linear(&name("mlp.c_proj"), inner, width)?;
    }
    body.norm("ln_f", width)?;
    assemble(&shape, body.bytes, &vocabulary)
}

/// Everything behind the header.
struct Body<'a> {
    bytes: Vec<u8>,
    checkpoint: &'a mut Checkpoint,
    prefix: &'static str,
}

impl Body<'_> {
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.checkpoint.values(&format!("{}{name}", self.prefix), shape)
    }

    fn floats(&mut self, name: &str, n: usize) -> Result<()> {
        let values = self.values(name, &[n])?;
        put_floats(&mut self.bytes, &values);
        Ok(())
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<()> {
        self.floats(&format!("{name}.weight"), width)?;
        self.floats(&format!("{name}.bias"), width)
    }

    fn table(&mut self, name: &str, n_rows: usize, width: usize) -> Result<()> {
        let values = self.values(name, &[n_rows, width])?;
        put_rows(&mut self.bytes, values.chunks_exact(width).map(<[f32]>::to_vec).collect());
        Ok(())
    }

    /// A `Conv1D`, whose weights are stored `(inputs, outputs)`: each output's become a row.
    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<()> {
        let values = self.values(&format!("{name}.weight"), &[inputs, outputs])?;
        let row = |output| (0..inputs).map(|input| values[input * outputs + output]).collect();
        put_rows(&mut self.bytes, (0..outputs).map(row).collect());
        self.floats(&format!("{name}.bias"), outputs)
    }
}
