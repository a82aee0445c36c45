//! One cache on its way through a window.

use anyhow::{Result, ensure};

use super::Window;
use crate::kv_store::KvStore;
use crate::measure::Held;
use crate::model::{LanguageModel, Logits};

/// A cache that reads a window, and the logits that wait for their comparison.
pub(super) struct Reader {
    /// The cache.
    pub store: Box<dyn KvStore>,
    /// What was read and not yet forgotten.
    pub rows: Rows,
    /// What the cache held after each step.
    pub held: Vec<Held>,
}

/// Logits of consecutive positions.
#[derive(Default)]
pub(super) struct Rows {
    /// Position of the first row of `logits`.
    first: usize,
    /// `(positions, vocab_size)`
    logits: Vec<f32>,
    vocab_size: usize,
}

impl Reader {
    /// Before the first token.
    pub fn new(store: Box<dyn KvStore>) -> Self {
        Self { store, rows: Rows::default(), held: Vec::new() }
    }

    /// Reads on until the positions before `goal` have been seen.
    ///
    /// # Errors
    /// An error of the model or the store.
    pub fn read_to(
        &mut self,
        goal: usize,
        model: &dyn LanguageModel,
        window: &Window,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<()> {
        self.rows.vocab_size = model.config().vocab_size;
        let pos = self.store.len();
        let n = goal - pos;
        let is_scored = window.scored.start < goal;
        let wanted = if is_scored { Logits::All } else { Logits::None };
        let logits = model.forward(&window.tokens[pos..goal], &mut *self.store, wanted)?;
        if is_scored {
            let rows = logits.flatten_all()?.to_vec1::<f32>()?;
            ensure!(rows.len() == n * self.rows.vocab_size, "{} logits for {n} tokens", rows.len());
            self.rows.push(pos, rows);
        }
        self.held.push(Held::of(&*self.store));
        on_tokens(n);
        Ok(())
    }
}

impl Rows {
    /// Adds the rows of a chunk that begins at `pos`, which follows the last one here.
    fn push(&mut self, pos: usize, rows: Vec<f32>) {
        if self.logits.is_empty() {
            self.first = pos;
            self.logits = rows;
        } else {
            self.logits.extend(rows);
        }
    }

    /// The logits at a position that was read and not forgotten.
    pub fn row(&self, pos: usize) -> &[f32] {
        &self.logits[(pos - self.first) * self.vocab_size..][..self.vocab_size]
    }

    /// Forgets the rows of the positions before `pos`.
    pub fn forget_before(&mut self, pos: usize) {
        let rows = pos.saturating_sub(self.first).min(self.logits.len() / self.vocab_size.max(1));
        self.logits.drain(..rows * self.vocab_size);
        self.first += rows;
    }
}
