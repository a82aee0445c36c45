//! Stretches of text that are scored.

use std::ops::Range;

use anyhow::{Result, ensure};

/// Tokens fed to a model, and the positions whose prediction of the next token is scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens, fed from position 0 on.
    pub tokens: Vec<u32>,
    /// Scored positions: the prediction at `i` is of `tokens[i + 1]`.
    pub scored: Range<usize>,
}

/// Consecutive windows of `context` tokens without overlap; each scores its `context - 1` predictions.
///
/// # Errors
/// A context under 2, or a text that is too short: the message says how many tokens it has.
pub fn plain(text: &[u32], context: usize, n_windows: usize, skip_windows: usize) -> Result<Vec<Window>> {
    ensure!(context >= 2, "a window of {context} tokens: at least 2 are needed");
    let needed = context * (skip_windows + n_windows);
    ensure!(
        text.len() >= needed,
        "the text has {} tokens: {n_windows} windows of {context} after {skip_windows} skipped need {needed}",
        text.len(),
    );
    let windows = text[..needed].chunks_exact(context).skip(skip_windows);
    Ok(windows.map(|tokens| Window { tokens: tokens.to_vec(), scored: 0..context - 1 }).collect())
}

/// Windows whose last quarter repeats, token by token, a passage of the first half.
///
/// Three quarters of each window are running text; the passage begins at 1/16 of the window, so that it
/// lies behind the sinks and 11/16 of the window before its repeat: in the oldest tier of any cache that
/// ages. Only the repeat is scored: there, a model that can look back predicts by copying.
///
/// # Errors
/// As [`plain`], with windows of at least 16 tokens.
pub fn recall(text: &[u32], context: usize, n_windows: usize, skip_windows: usize) -> Result<Vec<Window>> {
    ensure!(context >= 16, "a recall window of {context} tokens: at least 16 are needed");
    let passage_start = context / 16;
    let passage_len = context / 4;
    let running_len = context - passage_len;
    let mut windows = plain(text, running_len, n_windows, skip_windows)?;
    for window in &mut windows {
        window.tokens.extend_from_within(passage_start..passage_start + passage_len);
        window.scored = running_len..context - 1;
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_windows_follow_each_other_and_score_every_prediction() {
        let text: Vec<u32> = (0..100).collect();
        let windows = plain(&text, 30, 2, 1).unwrap();
        assert_eq!(windows.len(), 2);
        assert_eq!(windows[0].tokens, (30..60).collect::<Vec<_>>());
        assert_eq!(windows[1].tokens, (60..90).collect::<Vec<_>>());
        assert_eq!(windows[0].scored, 0..29);
        let error = plain(&text, 30, 3, 1).unwrap_err().to_string();
        assert!(error.contains("100 tokens") && error.contains("120"), "{error}");
    }

    #[test]
    fn the_repeat_lies_more_than_half_a_window_behind_its_passage() {
        let text: Vec<u32> = (0..1000).collect();
        for context in [16, 64, 250, 256] {
            let window = recall(&text, context, 1, 0).unwrap().remove(0);
            assert_eq!(window.tokens.len(), context);
            assert_eq!(window.scored.end, context - 1);
            let repeat = &window.tokens[window.scored.start..];
            let passage_start = window.tokens.iter().position(|t| *t == repeat[0]).unwrap();
            assert_eq!(repeat, &window.tokens[passage_start..passage_start + repeat.len()]);
            assert!(window.scored.start - passage_start > context / 2);
            assert!(passage_start + repeat.len() <= context / 2);
        }
    }
}
