//! Stock candle on a GGUF file: milliseconds per token and cache bytes at one depth, or perplexity, as one line of JSON.
//!
//! What is measured is `quantized_llama` of candle-transformers as it is published: it holds keys and values in f32,
//! concatenates the new ones to a copy of the old at each token, and repeats both for every query head. Tokens come from
//! kvq's tokenizer, so that the prompt is the one that `kvq bench` reads; nothing else here is kvq's. Threads are candle's
//! own, from `RAYON_NUM_THREADS` and `CANDLE_NUM_THREADS`.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};
use clap::Parser;
use kvq_host::model::TextTokenizer;
use serde_json::json;

/// Tokens of the prompt that go through the model at a time: its mask knows what came before, and the scores of all of
/// a long prompt at once would take gigabytes.
const PREFILL_CHUNK: usize = 512;

/// Stock candle's quantized_llama: milliseconds per token, cache bytes and perplexity.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// GGUF file of the Llama family.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Text that begins with the prompt.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 512)]
    depth: usize,
    /// Tokens decoded behind it, the most likely one each time.
    #[arg(long, value_name = "N", default_value_t = 32)]
    new_tokens: usize,
    /// Score the first N tokens of the text, token by token, and measure nothing else.
    #[arg(long, value_name = "N", conflicts_with_all = ["depth", "new_tokens"])]
    perplexity: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut file = File::open(&args.model).with_context(|| format!("--model {}", args.model.display()))?;
    let content = Content::read(&mut file)?;
    let text =
        std::fs::read_to_string(&args.text).with_context(|| format!("--text {}", args.text.display()))?;
    let tokens = TextTokenizer::from_gguf(&content)?.encode(&text, false)?;
    let bytes_per_token = cache_bytes_per_token(&content)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;

    let n_prompt = args.perplexity.unwrap_or(args.depth);
    let n_new = if args.perplexity.is_some() { 0 } else { args.new_tokens };
    ensure!(n_prompt + n_new <= MAX_SEQ_LEN, "candle's quantized_llama has {MAX_SEQ_LEN} positions");
    ensure!(n_prompt <= tokens.len(), "the text has {} tokens; {n_prompt} are asked for", tokens.len());
    let mut line = match args.perplexity {
        Some(n) => json!({ "perplexity": perplexity(&mut model, &tokens[..n])? }),
        None => {
            let (ms_per_token, new_token_ids) = decode(&mut model, &tokens[..n_prompt], n_new)?;
            let cache_bytes = bytes_per_token * n_prompt;
            json!({ "ms_per_token": ms_per_token, "new_token_ids": new_token_ids, "cache_bytes": cache_bytes })
        }
    };
    line["threads"] = candle_core::utils::get_num_threads().into();
    // candle chooses most of its kernels for quantized weights when it is compiled.
    line["compiled_for_avx2"] = cfg!(target_feature = "avx2").into();
    println!("{line}");
    Ok(())
}

/// Bytes of the keys and values of a token, from their shape `(1, n_kv_heads, n_tokens, head_dim)` and f32: candle keeps
/// the tensors to itself. While it concatenates, a layer's are there twice, which does not count here.
fn cache_bytes_per_token(content: &Content) -> Result<usize> {
    let number = |key: &str| -> Result<usize> {
        let value =
            content.metadata.get(key).with_context(|| format!("no metadata `{key}` in the GGUF file"))?;
        Ok(value.to_u32()? as usize)
    };
    let head_dim = number("llama.embedding_length")? / number("llama.attention.head_count")?;
    let n_values = number("llama.block_count")? * number("llama.attention.head_count_kv")? * head_dim;
    Ok(2 * n_values * size_of::<f32>())
}

/// Logits after the last of `tokens`, which stand at `pos` and on, shape `(vocab_size)`.
fn forward(model: &mut ModelWeights, tokens: &[u32], pos: usize) -> Result<Vec<f32>> {
    let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
    Ok(model.forward(&input, pos)?.flatten_all()?.to_vec1()?)
}

/// Milliseconds per token of `n_new` tokens decoded behind the prompt, and those tokens. The mean, as in `kvq bench`.
fn decode(model: &mut ModelWeights, prompt: &[u32], n_new: usize) -> Result<(f64, Vec<u32>)> {
    ensure!(!prompt.is_empty() && n_new > 0, "nothing to measure");
    // Pages of the weights and threads come into being outside the measurement.
    forward(model, &prompt[..1], 0)?;
    model.clear_kv_cache();
    let mut logits = Vec::new();
    for (i, chunk) in prompt.chunks(PREFILL_CHUNK).enumerate() {
        logits = forward(model, chunk, i * PREFILL_CHUNK)?;
    }
    let (mut next, mut new_tokens) = (most_likely(&logits), Vec::with_capacity(n_new));
    let begun = Instant::now();
    for pos in prompt.len()..prompt.len() + n_new {
        new_tokens.push(next);
        next = most_likely(&forward(model, &[next], pos)?);
    }
    Ok((1e3 * begun.elapsed().as_secs_f64() / n_new as f64, new_tokens))
}

fn most_likely(logits: &[f32]) -> u32 {
    let best = (0u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token)
}

/// `exp` of the mean negative log-likelihood of each token but the first.
fn perplexity(model: &mut ModelWeights, tokens: &[u32]) -> Result<f64> {
    ensure!(tokens.len() > 1, "a perplexity needs two tokens");
    let mut loss = 0.0;
    for (pos, pair) in tokens.windows(2).enumerate() {
        let logits = forward(model, &pair[..1], pos)?;
        let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
        loss += sum.ln() + top - f64::from(logits[pair[1] as usize]);
    }
    Ok((loss / (tokens.len() - 1) as f64).exp())
}
