//! Text of tokens that arrive one by one.

use anyhow::Result;

use super::TextTokenizer;

/// Turns tokens into text as they come, and holds back what is not yet complete UTF-8.
///
/// A character may be spread over several tokens, and a decoder may treat the first token of a sequence
/// differently; so each step decodes a few tokens twice, without and with the new ones, and emits the
/// difference.
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    /// The tokens last emitted, then those held back.
    ids: Vec<u32>,
    emitted: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a TextTokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), emitted: 0 }
    }

    /// Takes a token and returns the text that it completes; empty if a character is still incomplete.
    ///
    /// # Errors
    /// A failure of the tokenizer's decoder.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.pending()?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.emitted);
        self.emitted = self.ids.len();
        Ok(text)
    }

    /// Ends the stream and returns what was held back, with U+FFFD for bytes that are no character.
    ///
    /// # Errors
    /// A failure of the tokenizer's decoder.
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    fn pending(&self) -> Result<String> {
        let before = self.tokenizer.decode_as(&self.ids[..self.emitted], true)?;
        let mut text = self.tokenizer.decode_as(&self.ids, true)?;
        let common = text.chars().zip(before.chars()).take_while(|(a, b)| a == b);
        let start = common.map(|(c, _)| c.len_utf8()).sum();
        Ok(text.split_off(start))
    }
}
