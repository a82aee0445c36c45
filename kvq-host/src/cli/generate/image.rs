//! `generate --image`: what the firmware does, here.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use kvq_codec::{Backend, capacity_tokens};
use kvq_tiny::demo::{self, Event};
use kvq_tiny::{Image, Sampler, Scratch, Tokenizer};

use crate::cli::shared::usage;

/// Continues the prompt with the image's model and the firmware's cache; prints the text, then the tokens
/// and the hashes of the cache's bytes.
pub fn run(path: &Path, prompt: Option<&str>, new_tokens: usize, sampler: Sampler) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("--image {}", path.display()))?;
    let image = Image::parse(&bytes).with_context(|| format!("--image {}", path.display()))?;
    let shape = image.shape();
    let prompt = prompt.unwrap_or(demo::PROMPT);
    let n_prompt = Tokenizer::new(image).encode_into(prompt, &mut [0; demo::MAX_PROMPT])?;
    let room = capacity_tokens(shape.kv_shape(), demo::POLICY, demo::CACHE_BYTES)?.min(shape.n_positions);
    // The last token that comes out is not appended.
    let most = (room + 1).saturating_sub(n_prompt);
    usage!(
        (1..=most).contains(&new_tokens),
        "--new-tokens {new_tokens}: the firmware's cache of {} bytes holds {room} tokens; allowed are 1 to {most}",
        demo::CACHE_BYTES
    );
    let (mut cache, mut floats, mut codes) = (
        vec![0; demo::CACHE_BYTES],
        vec![0.0; Scratch::floats_needed(shape)],
        vec![0; Scratch::codes_needed(shape)],
    );
    let buffers =
        demo::Buffers { cache: &mut cache, scratch: Scratch { floats: &mut floats, codes: &mut codes } };
    let (mut text, mut tokens, mut hashes) = (prompt.as_bytes().to_vec(), Vec::new(), Vec::new());
    let observe = |event: Event<'_>| match event {
        Event::Token(token, bytes) => {
            tokens.push(token);
            text.extend_from_slice(bytes);
        }
        Event::Hash(len, hash) => hashes.push((len, hash)),
    };
    let mut held = String::new();
    let request = demo::Request { prompt, n_new: new_tokens, sampler };
    demo::generate(image, Backend::SCALAR, request, buffers, observe, |cache| {
        held = format!(
            "cache: {} of {} bytes in use for {} tokens; fp16 would take {}",
            cache.storage_bytes() - cache.memory().unused_bytes,
            cache.storage_bytes(),
            cache.len(),
            cache.len() * cache.shape().fp16_bytes_per_token()
        );
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n\ntokens: {tokens:?}", String::from_utf8_lossy(&text))?;
    for (len, hash) in hashes {
        writeln!(out, "after {len} tokens: cache {hash:016x}")?;
    }
    writeln!(out, "{held}")?;
    Ok(())
}
