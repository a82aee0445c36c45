//! Speed and bytes: caches side by side, in turns.
//!
//! A shared machine changes its speed by the second, so caches are compared only over the same stretch of
//! time. In each round every cache is filled from empty with the same prompt, one after the other, and
//! then all of them decode, [`SLICE_TOKENS`] tokens each in turn; who goes first changes from turn to turn.
//! Ratios are formed within a round, and the median over the rounds is reported.
//!
//! A cache is rebuilt for each round rather than trimmed: a packed cache demotes spans while it decodes, and
//! trimming does not bring their bits back.

mod cache;
mod held;
mod timed;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use candle_core::Tensor;
use kvq_codec::Backend;

pub use cache::CacheChoice;
pub use held::{Held, TierMap};
use timed::TimedStore;

use crate::eval::{argmax, median};
use crate::model::{LanguageModel, Logits, prefill, prefill_observed};

/// Tokens that a cache decodes before it is the next one's turn: long enough that the first token, which
/// finds another cache's bytes in the CPU's caches, weighs little.
pub const SLICE_TOKENS: usize = 16;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct SpeedOptions {
    /// Tokens decoded after the prompt, at least 1.
    pub new_tokens: usize,
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Kernels of the caches, packed and dense.
    pub backend: Backend,
}

/// Measurements of one cache.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Time to take in the prompt, per round.
    pub prefill: Vec<Duration>,
    /// Time to decode the new tokens, per round.
    pub decode: Vec<Duration>,
    /// What of it went to attention, all layers together.
    pub attention: Vec<Duration>,
    /// What was held after each chunk of the prompt.
    pub held: Vec<Held>,
    /// The tokens decoded in the first round: the most likely one each time.
    pub continuation: Vec<u32>,
}

impl Measured {
    /// `median(n_tokens / prefill)`, tokens per second.
    pub fn prefill_tokens_per_s(&self, n_tokens: usize) -> Option<f64> {
        rate(&self.prefill, n_tokens)
    }

    /// `median(n_tokens / decode)`, tokens per second.
    pub fn decode_tokens_per_s(&self, n_tokens: usize) -> Option<f64> {
        rate(&self.decode, n_tokens)
    }

    /// `median(attention / n_tokens)`, milliseconds.
    pub fn attention_ms_per_token(&self, n_tokens: usize) -> Option<f64> {
        let per_token = |time: &Duration| 1e3 * time.as_secs_f64() / n_tokens as f64;
        median(&self.attention.iter().map(per_token).collect::<Vec<_>>())
    }

    /// `median over rounds of other.decode / self.decode`: above 1, this cache is the faster one.
    pub fn decode_speed_vs(&self, other: &Self) -> Option<f64> {
        speed(&self.decode, &other.decode)
    }

    /// The same of the prompt.
    pub fn prefill_speed_vs(&self, other: &Self) -> Option<f64> {
        speed(&self.prefill, &other.prefill)
    }
}

fn rate(times: &[Duration], n_tokens: usize) -> Option<f64> {
    median(&times.iter().map(|time| n_tokens as f64 / time.as_secs_f64()).collect::<Vec<_>>())
}

fn speed(own: &[Duration], other: &[Duration]) -> Option<f64> {
    let ratios = own.iter().zip(other).map(|(own, other)| other.as_secs_f64() / own.as_secs_f64());
    median(&ratios.collect::<Vec<_>>())
}

/// A cache in the middle of a round.
struct Running {
    store: TimedStore,
    next: u32,
    new_tokens: Vec<u32>,
    decode: Duration,
}

/// Measures every cache on `prompt`; the results are in the order of `caches`. `on_tokens` hears how many
/// more tokens have been through a model.
///
/// # Errors
/// No room for prompt and new tokens in the model, or an error of the model or a store.
pub fn run(
    model: &dyn LanguageModel,
    prompt: &[u32],
    caches: &[CacheChoice],
    options: &SpeedOptions,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Measured>> {
    let max_context = model.config().max_context;
    ensure!(!prompt.is_empty() && options.new_tokens > 0 && options.rounds > 0, "nothing to measure");
    ensure!(
        prompt.len() + options.new_tokens <= max_context,
        "{} tokens of prompt and {} new ones do not fit into {max_context} positions",
        prompt.len(),
        options.new_tokens
    );
    let mut measured = vec![Measured::default(); caches.len()];
    // Pages of the weights and threads come into being outside the measurement.
    prefill(
        model,
        &mut *CacheChoice::DenseF32.open(model.config().kv_shape(), options.backend)?,
        &prompt[..1],
    )?;
    for round in 0..options.rounds {
        let mut running: Vec<Option<Running>> = caches.iter().map(|_| None).collect();
        for i in turn(caches.len(), round) {
            running[i] = Some(fill(model, prompt, &caches[i], options, &mut measured[i])?);
            on_tokens(prompt.len());
        }
        let mut running: Vec<Running> = running.into_iter().flatten().collect();
        for (slice, start) in (0..options.new_tokens).step_by(SLICE_TOKENS).enumerate() {
            let n = SLICE_TOKENS.min(options.new_tokens - start);
            for i in turn(caches.len(), round + slice) {
                decode(model, &mut running[i], n)?;
                on_tokens(n);
            }
        }
        for (measured, running) in measured.iter_mut().zip(running) {
            measured.decode.push(running.decode);
            measured.attention.push(running.store.attention);
            if round == 0 {
                measured.continuation = running.new_tokens;
            }
        }
    }
    Ok(measured)
}

/// Indices of `n` caches, beginning with another one each turn.
fn turn(n: usize, first: usize) -> impl Iterator<Item = usize> {
    (0..n).map(move |i| (i + first) % n)
}

fn fill(
    model: &dyn LanguageModel,
    prompt: &[u32],
    cache: &CacheChoice,
    options: &SpeedOptions,
    measured: &mut Measured,
) -> Result<Running> {
    let mut store = TimedStore::new(cache.open(model.config().kv_shape(), options.backend)?);
    let begun = Instant::now();
    let mut held = Vec::new();
    let logits = prefill_observed(model, &mut store, prompt, &mut |store| held.push(Held::of(store)))?;
    measured.prefill.push(begun.elapsed());
    measured.held = held;
    store.attention = Duration::ZERO;
    Ok(Running { store, next: most_likely(&logits)?, new_tokens: Vec::new(), decode: Duration::ZERO })
}

fn decode(model: &dyn LanguageModel, running: &mut Running, n_tokens: usize) -> Result<()> {
    let begun = Instant::now();
    for _ in 0..n_tokens {
        running.new_tokens.push(running.next);
        let logits = model.forward(&[running.next], &mut running.store, Logits::Last)?;
        running.next = most_likely(&logits)?;
    }
    running.decode += begun.elapsed();
    Ok(())
}

fn most_likely(logits: &Tensor) -> Result<u32> {
    Ok(argmax(&logits.flatten_all()?.to_vec1::<f32>()?) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_formed_within_a_round() {
        let times =
            |ms: [u64; 3]| Measured { decode: ms.map(Duration::from_millis).to_vec(), ..Measured::default() };
        let (own, other) = (times([10, 40, 20]), times([20, 40, 10]));
        assert_eq!(own.decode_speed_vs(&other), Some(1.0));
        assert_eq!(times([10, 40, 20]).decode_speed_vs(&times([15, 80, 30])), Some(1.5));
        assert_eq!(own.decode_tokens_per_s(2), Some(100.0));
        assert_eq!(own.prefill_tokens_per_s(2), None);
        let attention = Measured { attention: own.decode.clone(), ..Measured::default() };
        assert_eq!(attention.attention_ms_per_token(4), Some(5.0));
    }

    #[test]
    fn everyone_goes_first_once() {
        let firsts: Vec<usize> = (0..3).map(|round| turn(3, round).next().unwrap()).collect();
        assert_eq!(firsts, [0, 1, 2]);
        assert_eq!(turn(3, 2).collect::<Vec<_>>(), [2, 0, 1]);
    }
}
