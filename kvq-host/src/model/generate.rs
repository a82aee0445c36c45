//! Running a model over a prompt and on from it.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use candle_transformers::generation::LogitsProcessor;

use super::{LanguageModel, Logits};
use crate::kv_store::KvStore;

/// Tokens of a prompt that go through the model at a time: enough for the speed of a matrix product, few
/// enough that their activations stay small.
const PREFILL_CHUNK: usize = 256;

/// Appends `tokens` to the store, in chunks, and returns the logits of the last one, shape
/// `(1, vocab_size)`.
///
/// # Errors
/// An empty `tokens`, or an error of the model or the store.
pub fn prefill(model: &dyn LanguageModel, store: &mut dyn KvStore, tokens: &[u32]) -> Result<Tensor> {
    prefill_observed(model, store, tokens, &mut |_| ())
}

/// As [`prefill`]; `on_chunk` sees the store after each chunk.
///
/// # Errors
/// As [`prefill`].
pub fn prefill_observed(
    model: &dyn LanguageModel,
    store: &mut dyn KvStore,
    tokens: &[u32],
    on_chunk: &mut dyn FnMut(&dyn KvStore),
) -> Result<Tensor> {
    ensure!(!tokens.is_empty(), "a prompt without tokens");
    let mut rest = tokens;
    loop {
        let (chunk, after) = rest.split_at(rest.len().min(PREFILL_CHUNK));
        let wanted = if after.is_empty() { Logits::Last } else { Logits::None };
        let logits = model.forward(chunk, store, wanted)?;
        on_chunk(store);
        if after.is_empty() {
            return Ok(logits);
        }
        rest = after;
    }
}

/// How the next token is chosen, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// Sampling temperature; none or 0 takes the most likely token.
    pub temperature: Option<f64>,
    /// Sampling from the most likely tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Seed of the sampling.
    pub seed: u64,
}

impl GenerateOptions {
    /// The most likely token each time.
    pub const fn greedy(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, temperature: None, top_p: None, seed: 0 }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended the text.
    Eos,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The model was made for no more positions.
    ContextFull,
    /// The receiver of the tokens asked for no more.
    Receiver,
}

impl StopReason {
    /// A clause for people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Eos => "the model ended the text",
            Self::MaxTokens => "all tokens that were asked for",
            Self::ContextFull => "the model's longest context is reached",
            Self::Receiver => "stopped from outside",
        }
    }
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens; an end-of-text token is not among them.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub stop: StopReason,
}

/// Tokens that follow a prompt, one per step.
///
/// The last token it yields is not in the store yet: the next step puts it there.
pub struct Generator<'a> {
    model: &'a dyn LanguageModel,
    store: &'a mut dyn KvStore,
    sampler: LogitsProcessor,
    eos_ids: &'a [u32],
    logits: Tensor,
    last: Option<u32>,
    left: usize,
    stop: Option<StopReason>,
}

impl<'a> Generator<'a> {
    /// Prefills `prompt` behind what the store holds.
    ///
    /// # Errors
    /// As [`prefill`].
    pub fn new(
        model: &'a dyn LanguageModel,
        store: &'a mut dyn KvStore,
        prompt: &[u32],
        eos_ids: &'a [u32],
        options: &GenerateOptions,
    ) -> Result<Self> {
        let logits = prefill(model, store, prompt)?;
        let sampler = LogitsProcessor::new(options.seed, options.temperature, options.top_p);
        Ok(Self {
            model,
            store,
            sampler,
            eos_ids,
            logits,
            last: None,
            left: options.max_new_tokens,
            stop: None,
        })
    }

    /// Why the generation ended; none while it goes on.
    pub const fn stop(&self) -> Option<StopReason> {
        self.stop
    }

    fn step(&mut self) -> Result<Option<u32>> {
        if self.stop.is_some() {
            return Ok(None);
        }
        if self.left == 0 {
            self.stop = Some(StopReason::MaxTokens);
            return Ok(None);
        }
        if let Some(last) = self.last {
            if self.store.len() >= self.model.config().max_context {
                self.stop = Some(StopReason::ContextFull);
                return Ok(None);
            }
            self.logits = self.model.forward(&[last], self.store, Logits::Last)?;
        }
        let token = self.sampler.sample(&self.logits.squeeze(0)?).context("choosing the next token")?;
        if self.eos_ids.contains(&token) {
            self.stop = Some(StopReason::Eos);
            return Ok(None);
        }
        self.left -= 1;
        self.last = Some(token);
        Ok(Some(token))
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// Generates from a prompt and hands each token to `on_token` as it comes; `false` stops there.
///
/// # Errors
/// An error of the model, the store or `on_token`.
pub fn generate(
    model: &dyn LanguageModel,
    store: &mut dyn KvStore,
    prompt: &[u32],
    eos_ids: &[u32],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> Result<bool>,
) -> Result<Generation> {
    let mut generator = Generator::new(model, store, prompt, eos_ids, options)?;
    let mut tokens = Vec::new();
    for token in generator.by_ref() {
        let token = token?;
        tokens.push(token);
        if !on_token(token)? {
            return Ok(Generation { tokens, stop: StopReason::Receiver });
        }
    }
    let stop = generator.stop().unwrap_or(StopReason::MaxTokens);
    Ok(Generation { tokens, stop })
}
