//! Needle: a fact at some depth of a text, asked for at its end.
//!
//! ```text
//! text … | a fact with a number of four digits | … text | the fact up to its number → the number?
//! ```
//!
//! A trial succeeds if the most likely tokens, one after the other, are those of the number: a model that can
//! look back copies it, one whose old tokens are damaged does not.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use kvq_codec::Backend;

use super::argmax;
use crate::measure::CacheChoice;
use crate::model::{LanguageModel, Logits, TextTokenizer, prefill};

/// Depths of the fact, percent of the text before it.
pub const DEPTHS_PCT: [usize; 5] = [5, 25, 50, 75, 95];

/// What the facts are about; a number follows each.
const SUBJECTS: [&str; 4] = ["merchant", "gardener", "sailor", "teacher"];

/// One prompt and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Depth of the fact, percent.
    pub depth_pct: usize,
    /// The prompt, up to the answer.
    pub prompt: Vec<u32>,
    /// The answer.
    pub answer: Vec<u32>,
}

/// Prompts of `context` tokens, answer included, `n_trials` for each depth, over different stretches of text.
///
/// # Errors
/// A context too short for the fact and its question, a text too short, or a tokenizer that joins the number
/// to what is before it.
pub fn trials(
    tokenizer: &TextTokenizer,
    text: &[u32],
    context: usize,
    n_trials: usize,
) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for depth_pct in DEPTHS_PCT {
        for i in 0..n_trials {
            let (question, answer) = fact(tokenizer, i)?;
            let around = 2 * (question.len() + answer.len());
            ensure!(
                context > around + 16,
                "a context of {context} tokens: at least {} are needed",
                around + 17
            );
            let filler = context - around;
            let start = i * filler;
            ensure!(
                text.len() >= start + filler,
                "the text has {} tokens: {n_trials} trials of {filler} need {}",
                text.len(),
                n_trials * filler
            );
            let (before, after) = text[start..start + filler].split_at(filler * depth_pct / 100);
            let prompt = [before, &question, &answer, after, &question].concat();
            trials.push(Trial { depth_pct, prompt, answer });
        }
    }
    Ok(trials)
}

/// The fact number `i`: what stands before its number, and the number.
fn fact(tokenizer: &TextTokenizer, i: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    let subject = SUBJECTS[i % SUBJECTS.len()];
    let number = 1000 + (i * 2_654_435 + 4817) % 9000;
    let before = format!("\nThe secret number of the {subject} is");
    let question = tokenizer.encode(&before, false)?;
    let whole = tokenizer.encode(&format!("{before} {number}."), false)?;
    ensure!(whole.starts_with(&question), "the tokenizer joins a number to the word before it");
    let end = tokenizer.encode(".", false)?;
    let answer = whole[question.len()..].strip_suffix(&end[..]).unwrap_or(&whole[question.len()..]);
    Ok((question, answer.to_vec()))
}

/// Trials that succeed per depth, in the order of [`DEPTHS_PCT`], for one cache.
///
/// # Errors
/// An error of the model or the store.
pub fn retrieved(
    model: &dyn LanguageModel,
    trials: &[Trial],
    cache: &CacheChoice,
    backend: Backend,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<[usize; DEPTHS_PCT.len()]> {
    let mut retrieved = [0; DEPTHS_PCT.len()];
    for trial in trials {
        let mut store = cache.open(model.config().kv_shape(), backend)?;
        let mut logits = prefill(model, &mut *store, &trial.prompt)?;
        let mut is_right = true;
        for (i, expected) in trial.answer.iter().enumerate() {
            is_right &= most_likely(&logits)? == *expected;
            if !is_right || i + 1 == trial.answer.len() {
                break;
            }
            logits = model.forward(&[*expected], &mut *store, Logits::Last)?;
        }
        let depth = DEPTHS_PCT.iter().position(|depth| *depth == trial.depth_pct);
        if let (Some(depth), true) = (depth, is_right) {
            retrieved[depth] += 1;
        }
        on_tokens(trial.prompt.len());
    }
    Ok(retrieved)
}

fn most_likely(logits: &Tensor) -> Result<u32> {
    Ok(argmax(&logits.flatten_all()?.to_vec1::<f32>()?) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    #[test]
    fn a_fact_lies_at_its_depth_and_is_asked_for_at_the_end() {
        let loaded = model::load("builtin", 0).unwrap();
        let text = vec![7u32; 3000];
        let trials = trials(&loaded.tokenizer, &text, 600, 2).unwrap();
        assert_eq!(trials.len(), 2 * DEPTHS_PCT.len());
        for trial in &trials {
            assert_eq!(trial.prompt.len() + trial.answer.len(), 600);
            let first = trial.prompt.iter().position(|token| *token != 7).unwrap();
            let filler = trial.prompt.iter().filter(|token| **token == 7).count();
            assert!(first.abs_diff(filler * trial.depth_pct / 100) < 8, "{first} of {filler}");
            let decoded = loaded.tokenizer.decode(&trial.prompt[first..]).unwrap();
            let answer = loaded.tokenizer.decode(&trial.answer).unwrap();
            assert!(decoded.contains(&format!("is{answer}")) && decoded.ends_with("is"), "{decoded}");
            assert_eq!(answer.trim().len(), 4, "{answer}");
        }
        assert_ne!(trials[0].answer, trials[1].answer);
        assert!(super::trials(&loaded.tokenizer, &text, 40, 1).is_err());
        assert!(super::trials(&loaded.tokenizer, &text, 600, 9).is_err());
    }
}
