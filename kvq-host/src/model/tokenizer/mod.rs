//! Text to tokens and back, whichever file the vocabulary came from.

mod gguf;
mod scored;
mod stream;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use tokenizers::Tokenizer;

pub use stream::TextStream;

/// A tokenizer with the ids that begin and end a text.
pub struct TextTokenizer {
    inner: Tokenizer,
    bos_id: Option<u32>,
    eos_ids: Vec<u32>,
    /// Whether `encode(…, true)` puts the BOS token in front, beyond what the tokenizer itself adds.
    prepend_bos: bool,
    /// Whether `encode` puts a space in front of each text, which `decode` takes away.
    space_prefix: bool,
}

/// The ids in config.json and generation_config.json: one, several or none.
#[derive(Default, Deserialize)]
struct SpecialIds {
    #[serde(default)]
    bos_token_id: Option<u32>,
    #[serde(default)]
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

impl TextTokenizer {
    /// From the bytes of a tokenizer.json, with the BOS and EOS ids that any of `configs` (the texts of
    /// config.json and generation_config.json) states.
    ///
    /// # Errors
    /// Bytes or texts that are not what they should be.
    pub fn from_json(tokenizer: &[u8], configs: &[&str]) -> Result<Self> {
        let inner = Tokenizer::from_bytes(tokenizer).map_err(|error| anyhow!("tokenizer.json: {error}"))?;
        let (mut bos_id, mut eos_ids) = (None, Vec::new());
        for config in configs {
            let ids: SpecialIds = serde_json::from_str(config).context("special ids of a configuration")?;
            bos_id = bos_id.or(ids.bos_token_id);
            eos_ids.extend(ids.eos_token_id.map(OneOrMany::into_vec).unwrap_or_default());
        }
        eos_ids.sort_unstable();
        eos_ids.dedup();
        Ok(Self { inner, bos_id, eos_ids, prepend_bos: false, space_prefix: false })
    }

    /// The tokens of a text. Special tokens written in the text are recognized; with `add_special`, those
    /// that the model wants around every text are added.
    ///
    /// # Errors
    /// A failure of the tokenizer, such as a character without a token.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special).map_err(|error| anyhow!("tokenizing: {error}"))?;
        let mut ids = encoding.get_ids().to_vec();
        if let (true, true, Some(bos)) = (add_special, self.prepend_bos, self.bos_id) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of tokens, special ones included. Ids outside the vocabulary are left out.
    ///
    /// # Errors
    /// A failure of the tokenizer's decoder.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.decode_as(ids, false)?;
        Ok(match text.strip_prefix(' ') {
            Some(rest) if self.space_prefix => rest.to_owned(),
            _ => text,
        })
    }

    fn decode_as(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|error| anyhow!("decoding tokens: {error}"))
    }

    /// A decoder for tokens that arrive one by one. Special tokens yield no text.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The token that begins a text.
    pub const fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The tokens that end a text or a turn.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The id of a token by its exact name.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The exact name of a token.
    pub fn token_name(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Adds a token that ends a text or a turn, by its name; a name that is no token changes nothing.
    #[must_use]
    pub fn with_end(mut self, token: &str) -> Self {
        if let Some(id) = self.token_id(token).filter(|id| !self.eos_ids.contains(id)) {
            self.eos_ids.push(id);
        }
        self
    }

    /// Tokens in the vocabulary without those that were added to it, such as marks of turns.
    pub fn base_vocab_size(&self) -> usize {
        self.inner.get_vocab_size(false)
    }

    /// Tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
