//! One sequence of tokens, the cache that holds it, and the file it may come from and go to.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cli::shared::Session;
use crate::kv_store::KvStore;
use crate::measure::CacheChoice;
use crate::model::{GenerateOptions, Generator, Message, StopReason, keep_prefix};
use crate::report::{Run, peak_rss_bytes};
use crate::state::{Origin, State};

/// A sequence that goes on as it is told.
pub struct Sequence<'a> {
    session: &'a Session,
    cache: &'a CacheChoice,
    store: Box<dyn KvStore>,
    /// Every token so far; the store holds the first ones.
    tokens: Vec<u32>,
    /// The turns of a conversation so far.
    pub messages: Vec<Message>,
}

/// What one generation gave.
pub struct Answer {
    /// Its figures, with new tokens and text.
    pub run: Run,
    /// Why it ended.
    pub stop: StopReason,
    /// Tokens of the prompt, and how many of them the cache held already.
    pub prompt_tokens: usize,
    pub reused_tokens: usize,
}

impl<'a> Sequence<'a> {
    /// An empty sequence, or the one in the state file `load`.
    ///
    /// # Errors
    /// A policy that the codec refuses, or a state that cannot be read or belongs elsewhere.
    pub fn open(session: &'a Session, cache: &'a CacheChoice, load: Option<&Path>) -> Result<Self> {
        let (model, backend) = (session.model(), session.backend);
        let (Some(path), Some(policy)) = (load, cache.policy()) else {
            let store = cache.open(model.config().kv_shape(), backend)?;
            return Ok(Self { session, cache, store, tokens: Vec::new(), messages: Vec::new() });
        };
        let state = State::read(path).with_context(|| format!("--load-state {}", path.display()))?;
        let store = state
            .open(model, &session.loaded.info, policy, backend)
            .with_context(|| format!("--load-state {}", path.display()))?;
        let store = Box::new(store);
        Ok(Self { session, cache, store, tokens: state.tokens, messages: state.origin.messages })
    }

    /// Every token so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Takes the sequence to what follows `prompt`, and hands the new text on as it comes. What the cache holds
    /// of the prompt is not computed again.
    ///
    /// # Errors
    /// A failure of the model, the cache or `on_text`.
    pub fn generate(
        &mut self,
        prompt: Vec<u32>,
        options: &GenerateOptions,
        mut on_text: impl FnMut(&str) -> Result<()>,
    ) -> Result<Answer> {
        let (model, tokenizer) = (self.session.model(), &self.session.loaded.tokenizer);
        let begun = Instant::now();
        let (prompt_tokens, reused_tokens) =
            (prompt.len(), keep_prefix(&mut *self.store, &self.tokens, &prompt)?);
        let rest = &prompt[reused_tokens..];
        let mut generator = Generator::new(model, &mut *self.store, rest, tokenizer.eos_ids(), options)?;
        let prefill = begun.elapsed();
        let mut stream = tokenizer.stream();
        let (mut new_tokens, mut new_text) = (Vec::new(), String::new());
        let mut show = |piece: &str| -> Result<()> {
            new_text.push_str(piece);
            if piece.is_empty() { Ok(()) } else { on_text(piece) }
        };
        let begun = Instant::now();
        while let Some(token) = generator.next().transpose()? {
            new_tokens.push(token);
            show(&stream.push(token)?)?;
        }
        let decode = begun.elapsed();
        show(&stream.finish()?)?;
        let stop = generator.stop().unwrap_or(StopReason::MaxTokens);
        self.tokens = prompt;
        self.tokens.extend_from_slice(&new_tokens);
        let store = &*self.store;
        let per_token = model.config().kv_shape().fp16_bytes_per_token();
        let mut run = Run::new(self.cache, store.memory(), store.len(), per_token);
        run.prefill_tokens_per_s = Some((prompt_tokens - reused_tokens) as f64 / prefill.as_secs_f64());
        // The first new token comes from the prompt's logits: it took no step.
        let steps = store.len() - prompt_tokens;
        run.decode_tokens_per_s = (steps > 0).then(|| steps as f64 / decode.as_secs_f64());
        run.peak_rss_bytes = peak_rss_bytes();
        run.new_token_ids = Some(new_tokens);
        run.new_text = Some(new_text);
        Ok(Answer { run, stop, prompt_tokens, reused_tokens })
    }

    /// Writes the sequence to a state file, whole or not at all.
    ///
    /// # Errors
    /// A dense cache, or a file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (Some(policy), Some(store)) = (self.cache.policy(), self.store.packed()) else {
            anyhow::bail!("--save-state: a dense cache has no snapshot");
        };
        let origin = Origin::new(&self.session.loaded.info, policy, self.messages.clone());
        State::new(origin, self.tokens.clone(), store)?.write(path).context("--save-state")
    }
}
