//! The text a verb reads: a file, or one of those inside this program.

use std::path::Path;

use anyhow::{Context, Result};

use super::shared::{Session, read_text};
use crate::model::registry::BUILTIN;
use crate::report::TextRecord;

/// Stories that the built-in model has not seen.
const STORIES: (&str, &str) = ("heldout-stories", include_str!("../../assets/text/heldout-stories.txt"));

/// English prose in the public domain, for every other model.
const ALICE: (&str, &str) = ("alice", include_str!("../../assets/text/alice.txt"));

/// A text in the model's tokens.
pub struct Text {
    /// Its tokens, without special ones added.
    pub tokens: Vec<u32>,
    /// What the record says about it.
    pub record: TextRecord,
}

/// Reads `path`, or the text inside this program that suits the model.
///
/// # Errors
/// A file that cannot be read as UTF-8, or a failure of the tokenizer.
pub fn read(path: Option<&Path>, session: &Session) -> Result<Text> {
    let (name, text) = match path {
        Some(path) => {
            let text = read_text(path).with_context(|| format!("--text {}", path.display()))?;
            let name = path.file_name().unwrap_or(path.as_os_str());
            (name.to_string_lossy().into_owned(), text)
        }
        None => {
            let (name, text) = if session.loaded.info.name == BUILTIN { STORIES } else { ALICE };
            (format!("{name} (inside this program)"), text.to_owned())
        }
    };
    let tokens = session.loaded.tokenizer.encode(&text, false)?;
    Ok(Text { record: TextRecord::new(&name, &text, tokens.len()), tokens })
}
