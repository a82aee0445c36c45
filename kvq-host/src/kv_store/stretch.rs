//! Long forward passes over stores that settle tokens on the way.

use anyhow::{Result, ensure};

use kvq_codec::KvShape;

use super::KvStore;

/// New tokens of one layer. Shapes: `q (n_heads, n_tokens, key_head_dim)`, `k (n_kv_heads, n_tokens,
/// key_head_dim)`, `v (n_kv_heads, n_tokens, value_head_dim)`.
#[derive(Clone, Copy, Debug)]
pub struct NewTokens<'a> {
    /// How many.
    pub n_tokens: usize,
    /// Their queries.
    pub q: &'a [f32],
    /// Their keys.
    pub k: &'a [f32],
    /// Their values.
    pub v: &'a [f32],
    /// The newest positions that each query sees, its own among them; 0 for all.
    pub window_len: usize,
}

/// Appends tokens to `layer` and attends their queries, so that each query sees exactly what it would see
/// one token at a time: in stretches that end where the store packs tokens. Whatever else a layer computes
/// can go over all tokens at once, since a token's attention waits for earlier tokens of its own layer only.
/// Shape: `out (n_heads, n_tokens, value_head_dim)`.
///
/// # Errors
/// As [`KvStore::append`] and [`KvStore::attend_within`].
pub fn append_and_attend(
    store: &mut dyn KvStore,
    layer: usize,
    new: NewTokens<'_>,
    out: &mut [f32],
) -> Result<()> {
    let NewTokens { n_tokens, q, k, v, window_len } = new;
    ensure!(n_tokens > 0, "a forward pass over no token");
    let mut first = 0;
    while first < n_tokens {
        let n = store.stretch(layer).clamp(1, n_tokens - first);
        if n == n_tokens {
            store.append(layer, n, k, v)?;
            return store.attend_within(layer, n, window_len, q, out);
        }
        let KvShape { n_kv_heads, key_head_dim, value_head_dim: value_dim, .. } = store.shape();
        let part = |rows, heads| tokens_of(rows, heads, n_tokens, (first, n));
        store.append(layer, n, &part(k, n_kv_heads), &part(v, n_kv_heads))?;
        let mut attended = vec![0.0; out.len() / n_tokens * n];
        let n_heads = q.len() / (n_tokens * key_head_dim);
        store.attend_within(layer, n, window_len, &part(q, n_heads), &mut attended)?;
        for (to, from) in out.chunks_exact_mut(n_tokens * value_dim).zip(attended.chunks_exact(n * value_dim))
        {
            to[first * value_dim..][..from.len()].copy_from_slice(from);
        }
        first += n;
    }
    Ok(())
}

/// Tokens `first..first + n` of `rows`, `(heads, n_tokens, head_dim)`.
fn tokens_of(rows: &[f32], heads: usize, n_tokens: usize, (first, n): (usize, usize)) -> Vec<f32> {
    let head_dim = rows.len() / (heads * n_tokens);
    let heads = rows.chunks_exact(n_tokens * head_dim);
    heads.flat_map(|head| &head[first * head_dim..][..n * head_dim]).copied().collect()
}
