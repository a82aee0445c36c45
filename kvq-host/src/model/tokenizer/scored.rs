//! A tokenizer of scored pieces (`llama` in GGUF files: SentencePiece's BPE) from metadata.
//!
//! Files give each piece a score and no merges. Of all neighbours whose concatenation is a piece, the pair
//! with the best score merges first; so the merges are every way to cut a piece into two others, ordered by
//! the piece's score. Spaces are written as `▁`, and what no piece spells goes by bytes, `<0x00>` to `<0xFF>`.

use std::collections::HashMap;

use anyhow::{Result, anyhow, ensure};
use candle_core::quantized::gguf_file::Content;
use tokenizers::Tokenizer;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};

/// What stands for a space in pieces.
pub(super) const SPACE: &str = "▁";

/// Builds the tokenizer without its control tokens; with `space_prefix` texts are read as if a space stood in
/// front of them.
///
/// # Errors
/// Metadata that is missing, or scores that are not one per token.
pub(super) fn tokenizer(content: &Content, tokens: &[&str], space_prefix: bool) -> Result<Tokenizer> {
    let scores = super::gguf::values(content, "tokenizer.ggml.scores")?;
    let scores = scores.iter().map(|score| Ok(score.to_f32()?)).collect::<Result<Vec<f32>>>()?;
    ensure!(scores.len() == tokens.len(), "{} scores for {} tokens", scores.len(), tokens.len());
    let ids: HashMap<&str, u32> = tokens.iter().copied().zip(0u32..).collect();
    let vocab: Vocab = tokens.iter().zip(0u32..).map(|(token, id)| ((*token).to_owned(), id)).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges(&ids, tokens, &scores))
        .byte_fallback(true)
        .fuse_unk(true)
        .unk_token("<unk>".into())
        .build()
        .map_err(|error| anyhow!("vocabulary of the GGUF file: {error}"))?;
    let mut inner = Tokenizer::new(bpe);
    let replace =
        |from: &str, to: &str| Replace::new(from, to).map_err(|error| anyhow!("replacing spaces: {error}"));
    let mut normalizers: Vec<NormalizerWrapper> = vec![replace(" ", SPACE)?.into()];
    if space_prefix {
        normalizers.insert(0, Prepend::new(SPACE.into()).into());
    }
    inner
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .map_err(|error| anyhow!("normalizer: {error}"))?;
    let decoders: Vec<DecoderWrapper> =
        vec![replace(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

/// Every pair of pieces that makes a piece, the best first.
fn merges(ids: &HashMap<&str, u32>, tokens: &[&str], scores: &[f32]) -> Vec<(String, String)> {
    let mut found: Vec<(f32, &str, &str)> = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                found.push((score, left, right));
            }
        }
    }
    // Among the ways to one piece the longest left part comes first, as in conversions of such models.
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.len().cmp(&a.1.len())));
    found.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}
