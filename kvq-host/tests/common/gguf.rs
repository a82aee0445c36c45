//! GGUF files of the fixtures' weights and the built-in model's tokenizer.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::Cursor;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// A fixture's folder.
pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Names of a checkpoint's tensors in a GGUF file.
pub fn gguf_name(name: &str, gemma3: bool) -> String {
    let after_attention = if gemma3 { "post_attention_norm" } else { "ffn_norm" };
    let renames = [
        ("model.", ""),
        ("layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", after_attention),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("embed_tokens", "token_embd"),
        ("lm_head", "output"),
    ];
    let name = renames.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
    if name == "norm.weight" { "output_norm.weight".into() } else { name }
}

/// A fixture as a GGUF file, with its configuration as metadata and `more` of its architecture's.
pub fn gguf(fixture: &str, architecture: &str, more: &[(&str, Value)]) -> Vec<u8> {
    gguf_with(fixture, architecture, more, &[])
}

/// As [`gguf`], with metadata of other names as well.
pub fn gguf_with(
    fixture: &str,
    architecture: &str,
    more: &[(&str, Value)],
    general: &[(&str, Value)],
) -> Vec<u8> {
    let path = folder(fixture);
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path.join("config.json")).unwrap()).unwrap();
    let gemma3 = architecture == "gemma3";
    let tensors = candle_core::safetensors::load(path.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: Vec<(String, QTensor)> = tensors
        .iter()
        .map(|(name, tensor): (&String, &Tensor)| {
            // Conversion adds what Gemma's gains lack.
            let tensor = if gemma3 && tensor.rank() == 1 { (tensor + 1.0).unwrap() } else { tensor.clone() };
            (gguf_name(name, gemma3), QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let size = |key: &str| Value::U32(config[key].as_u64().unwrap_or_else(|| panic!("{key}")) as u32);
    let mut metadata: HashMap<String, Value> = [
        ("block_count", size("num_hidden_layers")),
        ("context_length", size("max_position_embeddings")),
        ("embedding_length", size("hidden_size")),
        ("feed_forward_length", size("intermediate_size")),
        ("attention.head_count", size("num_attention_heads")),
        ("attention.head_count_kv", size("num_key_value_heads")),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("rope.freq_base", Value::F32(1e6)),
    ]
    .into_iter()
    .chain(more.iter().cloned())
    .map(|(key, value)| (format!("{architecture}.{key}"), value))
    .collect();
    metadata.insert("general.architecture".into(), Value::String(architecture.into()));
    metadata.extend(general.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    let mut metadata: Vec<(&str, &Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    metadata.sort_by_key(|(key, _)| *key);
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

/// Tokenizer metadata of `n` tokens: special ones, as many bytes of byte-level BPE as fit, and one merge. With 97, as the
/// fixtures have, capital letters can be written.
pub fn tokenizer(n: usize) -> Vec<(&'static str, Value)> {
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let bytes = (0..256).map(|b| {
        let code = if printable(b) {
            b
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap().to_string()
    });
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from);
    let mut tokens: Vec<String> = special.into_iter().chain(bytes).collect();
    (tokens.len()..n).for_each(|id| tokens.push(format!("<filler {id}>")));
    tokens.truncate(n);
    tokens[n - 1] = "HE".into();
    let kinds = (0..tokens.len()).map(|id| Value::I32(if id < 3 { 3 } else { 1 })).collect();
    vec![
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", Value::Array(tokens.into_iter().map(Value::String).collect())),
        ("tokenizer.ggml.merges", Value::Array(vec![Value::String("H E".into())])),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ]
}
