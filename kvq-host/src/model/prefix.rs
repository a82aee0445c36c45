//! Reuse of what a store has read already.

use anyhow::{Result, ensure};

use crate::kv_store::KvStore;

/// Trims a store that holds the first tokens of `held` to what `prompt` begins with as well, and returns how
/// many tokens of the prompt it then holds: only the rest is to be prefilled. At least one token always is,
/// because the logits come from it. `store` is empty where nothing can be reused.
///
/// What follows is what a fresh store gives: a packed store gives up the tokens as well that a fresh one would still hold
/// at 8 bits and it has packed since, at most a recent window and a span of them; where it has demoted older tokens
/// since, all but the sinks ([`KvStore::trim_as_fresh`]).
///
/// # Errors
/// A `prompt` without tokens.
pub fn keep_prefix(store: &mut dyn KvStore, held: &[u32], prompt: &[u32]) -> Result<usize> {
    ensure!(!prompt.is_empty(), "a prompt without tokens");
    let common = held.iter().zip(prompt).take(store.len()).take_while(|(a, b)| a == b).count();
    let keep = common.min(prompt.len() - 1);
    // Tokens before the cut may have been evicted, and cannot be taken as read then.
    Ok(store.trim_as_fresh(keep).unwrap_or_else(|_| {
        store.clear();
        0
    }))
}
