//! Reuse of what a store has read already.

use anyhow::{Result, ensure};

use crate::kv_store::KvStore;

/// Trims a store that holds the first tokens of `held` to what `prompt` begins with as well, and returns how
/// many tokens of the prompt it then holds: only the rest is to be prefilled. At least one token always is,
/// because the logits come from it. `store` is empty where nothing can be reused.
///
/// What stays is not touched. So a dense store goes on exactly as if it had read the prompt alone, and a packed
/// one does where it has packed nothing since it was as long as what is kept. Otherwise tokens that it has
/// packed stay packed, where a fresh store would still hold them precisely for a while.
///
/// # Errors
/// A `prompt` without tokens.
pub fn keep_prefix(store: &mut dyn KvStore, held: &[u32], prompt: &[u32]) -> Result<usize> {
    ensure!(!prompt.is_empty(), "a prompt without tokens");
    let common = held.iter().zip(prompt).take(store.len()).take_while(|(a, b)| a == b).count();
    let keep = common.min(prompt.len() - 1);
    if store.trim(keep).is_err() {
        // Tokens before the cut were evicted, and cannot be taken as read.
        store.clear();
        return Ok(0);
    }
    Ok(keep)
}
