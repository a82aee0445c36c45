//! A Llama model from a GGUF file, computed on its quantized weights.
//!
//! candle has vector kernels for some ggml types only. Weights in the others would run in plain code at half
//! the speed or less, so they are re-encoded to Q8_0 when loaded, which is close to lossless for 4- and
//! 5-bit sources, and the model carries a note that says so.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::{Activation, Llama, LlamaConfig, Part, Parts, Sliding};
use crate::model::ModelConfig;
use crate::model::linear::Linear;
use crate::model::rope::{Pairing, Scaling};

/// Types that candle-core multiplies with vector instructions on x86-64, or that [`Linear`] keeps as f32.
const fn is_fast(dtype: GgmlDType) -> bool {
    matches!(
        dtype,
        GgmlDType::F32
            | GgmlDType::F16
            | GgmlDType::BF16
            | GgmlDType::Q4_0
            | GgmlDType::Q8_0
            | GgmlDType::Q2K
            | GgmlDType::Q3K
            | GgmlDType::Q4K
            | GgmlDType::Q5K
            | GgmlDType::Q6K
            | GgmlDType::Q8K
    )
}

/// The type most weights of a file are stored in, for people to read.
pub(crate) fn weight_format(content: &Content) -> String {
    let mut elements = BTreeMap::<String, usize>::new();
    for info in content.tensor_infos.values() {
        *elements.entry(format!("{:?}", info.ggml_dtype)).or_default() += info.shape.elem_count();
    }
    let largest = elements.into_iter().max_by_key(|(_, n)| *n);
    format!("gguf {}", largest.map_or_else(String::new, |(name, _)| name))
}

/// The tensors of a file, by the names llama.cpp gives them.
struct Tensors<'a, R> {
    content: &'a Content,
    reader: &'a mut R,
    re_encoded: BTreeMap<String, usize>,
}

impl<R: Read + Seek> Tensors<'_, R> {
    fn name(layer: usize, part: Part) -> String {
        let part = match part {
            Part::AttentionNorm => "attn_norm",
            Part::Query => "attn_q",
            Part::Key => "attn_k",
            Part::Value => "attn_v",
            Part::QueryNorm => "attn_q_norm",
            Part::KeyNorm => "attn_k_norm",
            Part::AttentionOut => "attn_output",
            Part::AttentionOutNorm => "post_attention_norm",
            Part::FeedForwardOutNorm => "post_ffw_norm",
            Part::FeedForwardNorm => "ffn_norm",
            Part::Gate => "ffn_gate",
            Part::Up => "ffn_up",
            Part::Down => "ffn_down",
        };
        format!("blk.{layer}.{part}")
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn tensor(&mut self, name: &str) -> Result<QTensor> {
        self.content.tensor(self.reader, name, &Device::Cpu).with_context(|| format!("tensor `{name}`"))
    }

    fn vector(&mut self, name: &str, width: usize) -> Result<Vec<f32>> {
        let values = self.tensor(name)?.dequantize(&Device::Cpu)?.to_vec1::<f32>()?;
        ensure!(values.len() == width, "`{name}` has {} values, the metadata asks for {width}", values.len());
        Ok(values)
    }

    fn weights(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let mut blocks = self.tensor(name)?;
        if !is_fast(blocks.dtype()) {
            *self.re_encoded.entry(format!("{:?}", blocks.dtype())).or_default() += 1;
            blocks = QTensor::quantize(&blocks.dequantize(&Device::Cpu)?, GgmlDType::Q8_0)
                .with_context(|| format!("re-encoding `{name}` to Q8_0"))?;
        }
        Linear::from_gguf(Arc::new(blocks))?.expect(name, inputs, outputs)
    }

    fn notes(&self) -> Vec<String> {
        let note = |(dtype, n): (&String, &usize)| {
            format!("{n} {dtype} tensors re-encoded to Q8_0 at load: candle has no vector kernel for {dtype}")
        };
        self.re_encoded.iter().map(note).collect()
    }
}

impl<R: Read + Seek> Parts for Tensors<'_, R> {
    fn gain(&mut self, layer: usize, part: Part, width: usize) -> Result<Vec<f32>> {
        self.vector(&format!("{}.weight", Self::name(layer, part)), width)
    }

    fn has(&self, layer: usize, part: Part) -> bool {
        self.has_tensor(&format!("{}.weight", Self::name(layer, part)))
    }

    fn linear(&mut self, layer: usize, part: Part, inputs: usize, outputs: usize) -> Result<Linear> {
        let name = Self::name(layer, part);
        let linear = self.weights(&format!("{name}.weight"), inputs, outputs)?;
        let bias = format!("{name}.bias");
        if self.has_tensor(&bias) { linear.with_bias(self.vector(&bias, outputs)?) } else { Ok(linear) }
    }

    fn ends(&mut self, config: &ModelConfig) -> Result<(Linear, Vec<f32>, Option<Linear>)> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embeddings = self.weights("token_embd.weight", hidden, vocab)?;
        let norm = self.vector("output_norm.weight", hidden)?;
        let head = match self.has_tensor("output.weight") {
            true => Some(self.weights("output.weight", hidden, vocab)?),
            false => None,
        };
        Ok((embeddings, norm, head))
    }
}

/// What each frequency of the rotary positions is divided by, in Llama 3.1 and later.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Metadata of one architecture.
struct Metadata<'a> {
    content: &'a Content,
    architecture: &'a str,
}

impl Metadata<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(&format!("{}.{key}", self.architecture))
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = match value {
            Value::U32(n) => Some(*n as usize),
            Value::I32(n) => usize::try_from(*n).ok(),
            Value::U64(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        Ok(Some(
            size.with_context(|| format!("metadata `{}.{key}` is no size: {value:?}", self.architecture))?,
        ))
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.with_context(|| format!("no metadata `{}.{key}`", self.architecture))
    }

    fn is_gemma3(&self) -> bool {
        self.architecture == "gemma3"
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|value| Ok(f64::from(value.to_f32()?))).transpose()
    }

    /// Without the frequency factors, which are a tensor.
    fn rope_scaling(&self) -> Result<Scaling> {
        match self.get("rope.scaling.type").and_then(|kind| kind.to_string().ok()).map(String::as_str) {
            None | Some("none") => Ok(Scaling::None),
            Some("linear") => {
                let factor = self.number("rope.scaling.factor")?;
                Ok(Scaling::Linear(factor.context("rope scaling `linear` without a factor")?))
            }
            Some(other) => {
                bail!("rope scaling `{other}` is not computed: none, linear and frequency factors are")
            }
        }
    }

    /// Gemma 3 gives all layers but each sixth the window; files name neither that nor, often, the base.
    fn sliding(&self) -> Result<Option<Sliding>> {
        let Some(window_len @ 1..) = self.size("attention.sliding_window")? else { return Ok(None) };
        ensure!(self.is_gemma3(), "sliding-window attention is computed for Gemma 3 only");
        let layers = (1..=self.required("block_count")?).map(|layer| !layer.is_multiple_of(6)).collect();
        let rope_base = self.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        Ok(Some(Sliding { window_len, rope_base, layers }))
    }

    fn refuse_what_is_not_computed(&self) -> Result<()> {
        if let Some(factor) = self.get("rope.scale_linear").and_then(|factor| factor.to_f32().ok()) {
            ensure!(factor == 1.0, "rope scaling by {factor} is not computed");
        }
        if self.get("attention.sliding_window_pattern").is_some() {
            bail!("a pattern of windows that the file states itself is not computed");
        }
        if self.size("expert_count")?.is_some_and(|experts| experts > 0) {
            bail!("mixtures of experts are not computed");
        }
        Ok(())
    }

    fn config(&self) -> Result<LlamaConfig> {
        self.refuse_what_is_not_computed()?;
        let (hidden_size, n_heads) =
            (self.required("embedding_length")?, self.required("attention.head_count")?);
        ensure!(n_heads > 0, "metadata of a model without heads");
        // A layer is several tensors: with fewer than one each, the number is not to be believed.
        let (n_layers, n_tensors) = (self.required("block_count")?, self.content.tensor_infos.len());
        ensure!(
            n_layers <= n_tensors,
            "metadata `{}.block_count` is {n_layers}, and the file has {n_tensors} tensors",
            self.architecture
        );
        let head_dim = self.size("attention.key_length")?.unwrap_or(hidden_size / n_heads);
        let value_dim = self.size("attention.value_length")?.unwrap_or(head_dim);
        ensure!(value_dim == head_dim, "keys of {head_dim} and values of {value_dim} are not computed");
        let table =
            self.content.tensor_infos.get("token_embd.weight").context("no tensor `token_embd.weight`")?;
        Ok(LlamaConfig {
            model: ModelConfig {
                architecture: if self.is_gemma3() { "gemma3" } else { "llama" }.into(),
                n_layers: self.required("block_count")?,
                n_heads,
                n_kv_heads: self.size("attention.head_count_kv")?.unwrap_or(n_heads),
                head_dim,
                hidden_size,
                vocab_size: table.shape.dims2().context("the embedding table")?.0,
                max_context: self.required("context_length")?,
            },
            feed_forward_size: self.required("feed_forward_length")?,
            rms_norm_epsilon: self
                .get("attention.layer_norm_rms_epsilon")
                .context("no metadata on the epsilon of the norms")?
                .to_f32()?,
            rope_base: self.number("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: self.rope_scaling()?,
            rope_dims: self.size("rope.dimension_count")?.unwrap_or(head_dim),
            // Conversion permutes the rows of Llama's queries and keys, and of no other architecture's.
            rope_pairing: if self.architecture == "llama" { Pairing::Adjacent } else { Pairing::Halves },
            sliding: self.sliding()?,
            activation: if self.is_gemma3() { Activation::Gelu } else { Activation::Silu },
            embedding_scale: if self.is_gemma3() { (hidden_size as f32).sqrt() } else { 1.0 },
            // Gemma 3 27B, which no metadata tells but its depth, scales as if its heads were hidden/heads wide.
            query_scale: match (self.is_gemma3(), self.required("block_count")?) {
                (true, 62) => (head_dim as f32 * n_heads as f32 / hidden_size as f32).sqrt(),
                _ => 1.0,
            },
        })
    }
}

impl Llama {
    /// A model from an open GGUF file, and notes on weights that are not computed as they are stored.
    ///
    /// # Errors
    /// Another architecture, a variant that this code does not compute (rotary positions scaled otherwise than
    /// linearly or by frequency factors, other windows than Gemma's, experts), or tensors that are missing or of the wrong shape.
    pub fn from_gguf(content: &Content, reader: &mut (impl Read + Seek)) -> Result<(Self, Vec<String>)> {
        let architecture =
            content.metadata.get("general.architecture").context("no metadata on the architecture")?;
        let architecture = architecture.to_string()?.as_str();
        ensure!(
            matches!(architecture, "llama" | "qwen2" | "qwen3" | "gemma3"),
            "architecture `{architecture}`: llama, qwen2, qwen3 and gemma3 are known in GGUF files"
        );
        let mut config = Metadata { content, architecture }.config()?;
        let mut tensors = Tensors { content, reader, re_encoded: BTreeMap::new() };
        if tensors.has_tensor(ROPE_FACTORS) {
            ensure!(config.rope_scaling == Scaling::None, "two rope scalings: metadata and `{ROPE_FACTORS}`");
            let factors = tensors.vector(ROPE_FACTORS, config.rope_dims / 2)?;
            config.rope_scaling = Scaling::Divisors(factors.into_iter().map(f64::from).collect());
        }
        let model = Self::build(config, &mut tensors)?;
        Ok((model, tensors.notes()))
    }
}
