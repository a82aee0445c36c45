//! BPE of bytes in the vocabulary of an image.

use crate::{Architecture, Error, Image};

/// The most bytes of one piece of text: a word and the space in front of it.
const MAX_PIECE: usize = 64;

/// What a text of a Llama begins with.
const BEGIN: usize = 1;

/// Text to tokens and back.
///
/// With GPT-2 text is cut as GPT-2 cuts it, for ASCII; every other character counts as a letter. With Llama it is
/// cut in front of spaces, and begins with a token of its own and a space; characters of three bytes and more
/// are spelled in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'a> {
    image: Image<'a>,
}

/// A little-endian 16-bit number of a table.
fn number(table: &[u8], at: usize) -> Option<usize> {
    table.as_chunks::<2>().0.get(at).map(|b| usize::from(u16::from_le_bytes(*b)))
}

impl<'a> Tokenizer<'a> {
    /// The tokenizer of an image.
    pub const fn new(image: Image<'a>) -> Self {
        Self { image }
    }

    /// The bytes of a token; none for special tokens and for ids that are not in the vocabulary.
    pub fn token_bytes(&self, token: u32) -> &'a [u8] {
        let at = token as usize;
        let start = if at == 0 { Some(0) } else { number(self.image.token_ends, at - 1) };
        let range = start.zip(number(self.image.token_ends, at));
        range.and_then(|(start, end)| self.image.token_bytes.get(start..end)).unwrap_or(&[])
    }

    /// Writes the tokens of `text` and returns how many they are.
    ///
    /// # Errors
    /// [`Error::Buffer`] where `out` is too short or a word longer than 64 bytes, [`Error::Image`] where
    /// the vocabulary lacks a byte.
    pub fn encode_into(&self, text: &str, out: &mut [u32]) -> Result<usize, Error> {
        let is_llama = self.image.shape().architecture == Architecture::Llama;
        let (mut rest, mut n) = (text.as_bytes(), 0);
        let mut put = |tokens: &[usize]| -> Result<(), Error> {
            let got = out.len() as u32;
            let needed = (n + tokens.len()) as u32;
            let slots = out.get_mut(n..).and_then(|out| out.get_mut(..tokens.len()));
            let slots = slots.ok_or(Error::Buffer { what: "tokens", needed, got })?;
            slots.iter_mut().zip(tokens).for_each(|(slot, token)| *slot = *token as u32);
            n += tokens.len();
            Ok(())
        };
        let mut space: &[u8] = &[];
        if is_llama {
            put(&[BEGIN])?;
            space = b" ";
        }
        while !rest.is_empty() {
            let len = if is_llama { word_len(rest) } else { piece_len(rest) };
            let (piece, tail) = rest.split_at(len);
            rest = tail;
            let mut tokens = [0usize; MAX_PIECE];
            let n_tokens = self.encode_piece(space, piece, &mut tokens)?;
            put(&tokens[..n_tokens])?;
            space = &[];
        }
        Ok(n)
    }

    fn encode_piece(
        &self,
        space: &[u8],
        piece: &[u8],
        tokens: &mut [usize; MAX_PIECE],
    ) -> Result<usize, Error> {
        let mut n = space.len() + piece.len();
        if n > MAX_PIECE {
            return Err(Error::Buffer { what: "one word", needed: n as u32, got: MAX_PIECE as u32 });
        }
        for (token, byte) in tokens.iter_mut().zip(space.iter().chain(piece)) {
            // The last: a Llama has a token for each byte, and behind them pieces, some of one byte.
            let mut ids = (0..self.image.shape().n_tokens as u32).rev();
            let of_byte = ids.find(|&id| self.token_bytes(id) == [*byte]);
            *token = of_byte.ok_or(Error::Image("the vocabulary lacks a byte"))? as usize;
        }
        // The merge of lowest rank is applied first, wherever it is.
        while let Some((at, merged)) = self.best_merge(&tokens[..n]) {
            tokens[at] = merged;
            tokens.copy_within(at + 2..n, at + 1);
            n -= 1;
        }
        Ok(n)
    }

    fn best_merge(&self, tokens: &[usize]) -> Option<(usize, usize)> {
        let merges = self.image.merges.as_chunks::<6>().0;
        merges.iter().find_map(|[l0, l1, r0, r1, t0, t1]| {
            let pair = [[*l0, *l1], [*r0, *r1]].map(|b| usize::from(u16::from_le_bytes(b)));
            let at = tokens.windows(2).position(|two| two == pair)?;
            Some((at, usize::from(u16::from_le_bytes([*t0, *t1]))))
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Digit,
    Other,
}

const fn class(byte: u8) -> Class {
    match byte {
        b' ' | b'\t'..=b'\r' => Class::Space,
        b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => Class::Letter,
        b'0'..=b'9' => Class::Digit,
        _ => Class::Other,
    }
}

/// Bytes up to the next space but the first byte.
fn word_len(text: &[u8]) -> usize {
    text.iter().skip(1).position(|&byte| byte == b' ').map_or(text.len(), |at| at + 1)
}

/// Bytes of the first piece of a text that is not empty: a contraction's end, a run of letters, digits or
/// other characters with the space in front of it, or white space.
fn piece_len(text: &[u8]) -> usize {
    for end in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        if text.starts_with(end.as_bytes()) {
            return end.len();
        }
    }
    let run = |from: usize, of: Class| text[from..].iter().take_while(|&&b| class(b) == of).count();
    let space = usize::from(text[0] == b' ');
    match text.get(space).map(|&b| class(b)) {
        Some(of) if of != Class::Space => space + run(space, of),
        _ => {
            // White space keeps its last character for the word that follows.
            let n = run(0, Class::Space);
            if n > 1 && n < text.len() { n - 1 } else { n }
        }
    }
}
