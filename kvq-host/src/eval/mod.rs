//! Quality: each cache against the dense f32 cache of the same weights, on real text.
//!
//! Teacher-forced: the text itself is fed, and at every scored position the distributions over the next
//! token are compared. The figures come from the real stores: each query sees what it would see when
//! generating, whatever other caches are in the run. All caches advance together, so that only a few hundred
//! tokens' logits are in memory at a time.

mod divergence;
pub mod needle;
mod reader;
mod summary;
mod window;

use std::ops::Range;

use anyhow::Result;
use kvq_codec::Backend;
use rayon::prelude::*;

pub use divergence::{Divergence, Reference, argmax};
pub use summary::{Estimate, Quality, WindowScore, median, percentile};
pub use window::{Window, plain, recall};

use crate::measure::{CacheChoice, Held};
use crate::model::LanguageModel;
use reader::{Reader, Rows};

/// Tokens that go through the model before the caches are compared: many enough that quantized weights are
/// multiplied in full precision, few enough that their logits stay small.
const STEP_TOKENS: usize = 128;

/// What the windows said about one cache.
#[derive(Clone, Debug, Default)]
pub struct Scored {
    /// One score per window.
    pub windows: Vec<WindowScore>,
    /// What was held after each chunk of the last window.
    pub held: Vec<Held>,
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
        let mut reference = Reader::new(CacheChoice::DenseF32.open(shape, backend)?);
        let mut readers = Vec::new();
        for cache in caches {
            // The reference needs no second run; its place holds nothing.
            let needs_reader = !matches!(cache, CacheChoice::DenseF32);
            readers.push(needs_reader.then(|| cache.open(shape, backend).map(Reader::new)).transpose()?);
        }
        let scores = score_window(model, window, &mut reference, &mut readers, on_tokens)?;
        for ((scored, score), reader) in scored.iter_mut().zip(scores).zip(&readers) {
            scored.windows.push(score);
            scored.held.clone_from(&reader.as_ref().unwrap_or(&reference).held);
        }
    }
    Ok(scored)
}

/// Feeds one window to the reference and to all other caches, step by step.
fn score_window(
    model: &dyn LanguageModel,
    window: &Window,
    reference: &mut Reader,
    readers: &mut [Option<Reader>],
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<WindowScore>> {
    let mut scores = vec![WindowScore::default(); readers.len()];
    let mut pos = 0;
    while pos < window.tokens.len() {
        let goal = (pos + STEP_TOKENS).min(window.tokens.len());
        let scored = window.scored.start.max(pos)..window.scored.end.min(goal);
        reference.read_to(goal, model, window, on_tokens)?;
        for (reader, score) in readers.iter_mut().zip(&mut scores) {
            if let Some(reader) = reader {
                reader.read_to(goal, model, window, on_tokens)?;
            }
            let found = reader.as_ref().unwrap_or(reference);
            score_rows(&reference.rows, &found.rows, scored.clone(), &window.tokens, score);
        }
        for reader in readers.iter_mut().flatten() {
            reader.rows.forget_before(goal);
        }
        reference.rows.forget_before(goal);
        pos = goal;
    }
    Ok(scores)
}

/// Compares two caches at the positions `scored`.
fn score_rows(reference: &Rows, found: &Rows, scored: Range<usize>, tokens: &[u32], score: &mut WindowScore) {
    let positions: Vec<(f64, Divergence)> = scored
        .into_par_iter()
        .map(|pos| {
            let (expected, target) = (Reference::new(reference.row(pos)), tokens[pos + 1]);
            (expected.nll(target), expected.compare(found.row(pos), target))
        })
        .collect();
    for (reference_nll, position) in positions {
        score.push(reference_nll, position);
    }
}
