//! What the checks of documents need of Markdown: the files, and which of their text is code.

use std::path::PathBuf;

use anyhow::Result;

use crate::tool::{capture, command, root};

/// The Markdown files of the repository, committed or about to be, relative to its root.
pub fn files() -> Result<Vec<PathBuf>> {
    let mut git = command("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "*.md"]);
    let list = capture(&mut git, "install git")?;
    Ok(list.lines().map(PathBuf::from).filter(|file| root().join(file).exists()).collect())
}

/// A line and the language of the fenced block that it is in; fences themselves are left out.
pub struct Line<'a> {
    pub text: &'a str,
    pub fence: Option<&'a str>,
}

/// The lines of `text`, fences told apart.
pub fn lines(text: &str) -> Vec<Line<'_>> {
    let mut fence = None;
    let mut lines = Vec::new();
    for text in text.lines() {
        match (text.trim_start().strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language.trim()),
            (Some(_), Some(_)) => fence = None,
            (None, fence) => lines.push(Line { text, fence }),
        }
    }
    lines
}

/// Text outside fenced blocks in pieces: prose, and what stands between backticks.
pub fn pieces(text: &str) -> (String, Vec<String>) {
    let plain: Vec<&str> =
        lines(text).into_iter().filter(|line| line.fence.is_none()).map(|line| line.text).collect();
    let plain = plain.join("\n");
    let (mut prose, mut code, mut rest) = (String::new(), Vec::new(), plain.as_str());
    while let Some(at) = rest.find('`') {
        let ticks = rest[at..].len() - rest[at..].trim_start_matches('`').len();
        let (before, after) = (&rest[..at], &rest[at + ticks..]);
        prose.push_str(before);
        match after.find(&rest[at..at + ticks]) {
            Some(end) => {
                code.push(after[..end].to_owned());
                rest = &after[end + ticks..];
            }
            None => rest = after,
        }
    }
    prose.push_str(rest);
    (prose, code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_from_prose() {
        let (prose, code) = pieces("a `b](c)` d ``e`f``\n```sh\nnot [this](here)\n```\n[g](h)\n");
        assert_eq!(prose, "a  d \n[g](h)");
        assert_eq!(code, ["b](c)", "e`f"]);
    }

    #[test]
    fn lines_of_a_block_know_its_language() {
        let text = "one\n```sh\ntwo\n```\nthree";
        let found: Vec<_> = lines(text).iter().map(|line| (line.text, line.fence)).collect();
        assert_eq!(found, [("one", None), ("two", Some("sh")), ("three", None)]);
    }
}
