//! Quality: each cache against the dense f32 cache of the same weights, on real text.
//!
//! Teacher-forced: the text itself is fed, and at every scored position the distributions over the next
//! token are compared. The figures come from the real stores. All caches run in lockstep, in chunks no
//! longer than any of them allows, so that each query sees what it would see when generating, and only one
//! chunk's logits are in memory at a time.

mod divergence;
mod summary;
mod window;

use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use kvq_codec::Backend;
use rayon::prelude::*;

pub use divergence::{Divergence, Reference, argmax};
pub use summary::{Estimate, Quality, WindowScore, median, percentile};
pub use window::{Window, plain, recall};

use crate::kv_store::{KvBytes, KvStore};
use crate::measure::CacheChoice;
use crate::model::{LanguageModel, Logits};

/// The longest chunk: with 50,000 tokens in the vocabulary its logits take 50 MB per cache. No shorter than
/// what a packed cache takes before it packs its first span: odd remainders would be short chunks, for which
/// a model with quantized weights may compute with coarser activations.
const MAX_CHUNK_TOKENS: usize = 256;

/// What the windows said about one cache.
#[derive(Clone, Debug, Default)]
pub struct Scored {
    /// One score per window.
    pub windows: Vec<WindowScore>,
    /// Bytes held at the end of the last window.
    pub bytes: KvBytes,
    /// Tokens held there.
    pub tokens_held: usize,
}

/// Scores every cache on every window; the results are in the order of `caches`. `on_tokens` hears how many
/// more tokens have been through a model.
///
/// # Errors
/// A window longer than the model's context, or an error of the model or a store.
pub fn run(
    model: &dyn LanguageModel,
    windows: &[Window],
    caches: &[CacheChoice],
    backend: Backend,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Scored>> {
    let shape = model.config().kv_shape();
    let mut scored = vec![Scored::default(); caches.len()];
    for window in windows {
        let mut reference = CacheChoice::DenseF32.open(shape, backend)?;
        let mut stores = Vec::new();
        for cache in caches {
            // The reference needs no second run; its place holds nothing.
            let is_reference = *cache == CacheChoice::DenseF32;
            stores.push(if is_reference { None } else { Some(cache.open(shape, backend)?) });
        }
        let scores = score_window(model, window, &mut *reference, &mut stores, on_tokens)?;
        for ((scored, score), store) in scored.iter_mut().zip(scores).zip(&stores) {
            let store = store.as_ref().unwrap_or(&reference);
            scored.windows.push(score);
            scored.bytes = store.memory();
            scored.tokens_held = store.len();
        }
    }
    Ok(scored)
}

/// Feeds one window to the reference and to all stores, chunk by chunk.
fn score_window(
    model: &dyn LanguageModel,
    window: &Window,
    reference: &mut dyn KvStore,
    stores: &mut [Option<Box<dyn KvStore>>],
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<WindowScore>> {
    let mut scores = vec![WindowScore::default(); stores.len()];
    let mut pos = 0;
    while pos < window.tokens.len() {
        let room =
            stores.iter().flatten().map(|store| store.max_chunk()).fold(reference.max_chunk(), usize::min);
        let n = room.clamp(1, MAX_CHUNK_TOKENS).min(window.tokens.len() - pos);
        let chunk = &window.tokens[pos..pos + n];
        // Scored positions of this chunk, counted from its first token.
        let first = window.scored.start.max(pos) - pos;
        let end = window.scored.end.min(pos + n).saturating_sub(pos);
        let wanted = if first < end { Logits::All } else { Logits::None };
        let expected = logits_of(model, chunk, reference, wanted)?;
        on_tokens(n);
        let targets = &window.tokens[pos + 1..];
        for (store, score) in stores.iter_mut().zip(&mut scores) {
            let found = match store {
                Some(store) => {
                    let found = logits_of(model, chunk, &mut **store, wanted)?;
                    on_tokens(n);
                    Some(found)
                }
                None => None,
            };
            let found = found.as_ref().unwrap_or(&expected);
            score_rows(&expected, found, first..end, targets, model.config().vocab_size, score);
        }
        pos += n;
    }
    Ok(scores)
}

/// Compares the logits of `rows`, in order; `targets[i]` is the token that row `i` should predict.
fn score_rows(
    expected: &[f32],
    found: &[f32],
    rows: Range<usize>,
    targets: &[u32],
    vocab_size: usize,
    score: &mut WindowScore,
) {
    let positions: Vec<(f64, Divergence)> = rows
        .into_par_iter()
        .map(|i| {
            let row = i * vocab_size..(i + 1) * vocab_size;
            let reference = Reference::new(&expected[row.clone()]);
            (reference.nll(targets[i]), reference.compare(&found[row], targets[i]))
        })
        .collect();
    for (reference_nll, position) in positions {
        score.push(reference_nll, position);
    }
}

fn logits_of(
    model: &dyn LanguageModel,
    chunk: &[u32],
    store: &mut dyn KvStore,
    wanted: Logits,
) -> Result<Vec<f32>> {
    let logits: Tensor = model.forward(chunk, store, wanted)?;
    let values = logits.flatten_all()?.to_vec1::<f32>()?;
    let rows = if wanted == Logits::All { chunk.len() } else { 0 };
    ensure!(values.len() == rows * model.config().vocab_size, "the model returned {} logits", values.len());
    Ok(values)
}
