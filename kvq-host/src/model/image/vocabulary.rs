//! The tokens of an image and their merges.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

/// A BPE of bytes.
pub struct Vocabulary {
    /// The bytes of each token; none for special ones.
    pub tokens: Vec<Vec<u8>>,
    /// Left, right, result, in the order of their rank.
    pub merges: Vec<[u16; 3]>,
}

impl Vocabulary {
    /// Of a byte-level BPE's tokenizer.json.
    pub fn from_json(text: &[u8], n_tokens: usize) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            model: Bpe,
            #[serde(default)]
            added_tokens: Vec<Added>,
        }
        #[derive(Deserialize)]
        struct Bpe {
            vocab: HashMap<String, u16>,
            merges: Vec<(String, String)>,
        }
        #[derive(Deserialize)]
        struct Added {
            id: usize,
        }
        let file: File = serde_json::from_slice(text).context("tokenizer.json of a byte-level BPE")?;
        let special: Vec<usize> = file.added_tokens.iter().map(|token| token.id).collect();
        let bytes_of = byte_characters();
        let mut tokens = vec![Vec::new(); n_tokens];
        for (name, &id) in &file.model.vocab {
            let id = usize::from(id);
            ensure!(id < n_tokens, "token {id} of a vocabulary of {n_tokens}");
            if special.contains(&id) {
                continue;
            }
            let bytes = name.chars().map(|c| bytes_of.get(&c).copied());
            tokens[id] =
                bytes.collect::<Option<_>>().with_context(|| format!("token `{name}` is not byte-level"))?;
        }
        let id = |name: &str| {
            file.model.vocab.get(name).copied().ok_or_else(|| anyhow!("merge of `{name}`, which is no token"))
        };
        let merges = file.model.merges.iter();
        let merges = merges.map(|(left, right)| Ok([id(left)?, id(right)?, id(&format!("{left}{right}"))?]));
        Ok(Self { tokens, merges: merges.collect::<Result<_>>()? })
    }

    /// Writes the end of an image.
    pub fn write(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let mut end = 0;
        for token in &self.tokens {
            end += token.len();
            bytes
                .extend(u16::try_from(end).context("the tokens are longer than 65,535 bytes")?.to_le_bytes());
        }
        bytes.extend(self.tokens.iter().flatten());
        bytes.extend(self.merges.iter().flatten().flat_map(|id| id.to_le_bytes()));
        Ok(())
    }
}

/// The characters that stand for bytes in a byte-level vocabulary: printable bytes for themselves, the others
/// from U+0100 on, in order.
fn byte_characters() -> HashMap<char, u8> {
    let is_printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255u8).filter(|&b| !is_printable(b)).zip(0x100u32..);
    let others = others.filter_map(|(byte, code)| Some((char::from_u32(code)?, byte)));
    (0..=255u8).filter(|&b| is_printable(b)).map(|b| (char::from(b), b)).chain(others).collect()
}
