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
    if store.stretch(layer) >= n_tokens {
        store.append(layer, n_tokens, k, v)?;
        return store.attend_within(layer, n_tokens, window_len, q, out);
    }
    let KvShape { n_kv_heads, key_head_dim, value_head_dim: value_dim, .. } = store.shape();
    let n_heads = q.len() / (n_tokens * key_head_dim);
    let [mut part_q, mut part_k, mut part_v, mut attended] = [const { Vec::new() }; 4];
    let mut first = 0;
    while first < n_tokens {
        let n = store.stretch(layer).clamp(1, n_tokens - first);
        for (rows, heads, part) in
            [(q, n_heads, &mut part_q), (k, n_kv_heads, &mut part_k), (v, n_kv_heads, &mut part_v)]
        {
            tokens_into(rows, heads, n_tokens, (first, n), part);
        }
        attended.resize(n_heads * n * value_dim, 0.0);
        store.append(layer, n, &part_k, &part_v)?;
        store.attend_within(layer, n, window_len, &part_q, &mut attended)?;
        for (to, from) in out.chunks_exact_mut(n_tokens * value_dim).zip(attended.chunks_exact(n * value_dim))
        {
            to[first * value_dim..][..from.len()].copy_from_slice(from);
        }
        first += n;
    }
    Ok(())
}

/// Makes `part` tokens `first..first + n` of `rows`, `(heads, n_tokens, head_dim)`.
fn tokens_into(rows: &[f32], heads: usize, n_tokens: usize, (first, n): (usize, usize), part: &mut Vec<f32>) {
    let head_dim = rows.len() / (heads * n_tokens);
    part.clear();
    part.reserve(heads * n * head_dim);
    for head in rows.chunks_exact(n_tokens * head_dim) {
        part.extend_from_slice(&head[first * head_dim..][..n * head_dim]);
    }
}
