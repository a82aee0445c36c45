//! What broke other systems does not break this one: a module per kind of public report, named after it.
//!
//! The kinds that the codec answers are here: numbers at the edges of floats, head sizes, grouped queries, a second
//! prompt, beams, sinks, conversions, rollback and windows. What is met around a model and in files is in
//! `kvq-host/tests/field_cases`: ragged batches, state files, tensors, reported bytes, equal runs, policy values, bad
//! input and long contexts.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

#[path = "../common/mod.rs"]
mod common;

mod beams;
mod encoded_once;
mod extreme_values;
mod grouped_queries;
mod head_sizes;
mod rollback;
mod second_prompt;
mod sinks;
mod sliding_windows;

use common::{Growing, Random, Sequence, reference, relative_error};
use kvq_codec::{Backend, Cache, KvShape, Policy, Side, Storage};

/// An empty cache in memory that grows.
fn fresh(shape: KvShape, policy: Policy, backend: Backend) -> Cache<Growing> {
    Cache::new(shape, policy, backend, Growing::default())
        .unwrap_or_else(|error| panic!("{error}: {shape:?}"))
}

/// Appends tokens `from..to` of a sequence to every layer.
fn append<S: Storage>(cache: &mut Cache<S>, sequence: &Sequence, from: usize, to: usize) {
    for layer in 0..cache.shape().n_layers {
        let (keys, values) = (sequence.slab(from, to, true), sequence.slab(from, to, false));
        cache.append(layer, to - from, &keys, &values).unwrap();
    }
}

/// A cache that read a whole sequence in one call per layer.
fn filled(sequence: &Sequence, policy: Policy, backend: Backend) -> Cache<Growing> {
    let mut cache = fresh(sequence.shape, policy, backend);
    append(&mut cache, sequence, 0, sequence.tokens.len());
    cache
}

/// Queries `(n_heads, n_tokens, key_head_dim)`.
fn queries(shape: KvShape, n_heads: usize, n_tokens: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n_heads * n_tokens * shape.key_head_dim).map(|_| random.gaussian()).collect()
}

/// Attention of the newest token in every layer, two query heads per KV head, as bits.
fn attended<S: Storage>(cache: &Cache<S>) -> Vec<u32> {
    let shape = cache.shape();
    let q = queries(shape, 2 * shape.n_kv_heads, 1, 5);
    let mut out = vec![f32::NAN; 2 * shape.n_kv_heads * shape.value_head_dim];
    let mut all = Vec::new();
    for layer in 0..shape.n_layers {
        cache.attend(layer, 1, &q, &mut out).unwrap();
        all.extend(out.iter().map(|x| x.to_bits()));
    }
    all
}

/// Keys or values of one head as floats, `(n_held, head_dim)`.
fn restored<S: Storage>(cache: &Cache<S>, layer: usize, side: Side, head: usize) -> Vec<f32> {
    let shape = cache.shape();
    let dim = if side == Side::Key { shape.key_head_dim } else { shape.value_head_dim };
    let mut out = vec![f32::NAN; cache.n_held(layer).unwrap() * dim];
    cache.dequantize_into(layer, side, head, &mut out).unwrap();
    out
}

/// The largest relative error of attention in the last layer over all query rows, against plain floats.
fn worst_error<S: Storage>(sequence: &Sequence, cache: &Cache<S>, group: usize, n_tokens: usize) -> f64 {
    let shape = sequence.shape;
    let n_heads = group * shape.n_kv_heads;
    let q = queries(shape, n_heads, n_tokens, 99);
    let mut out = vec![f32::NAN; n_heads * n_tokens * shape.value_head_dim];
    cache.attend(shape.n_layers - 1, n_tokens, &q, &mut out).unwrap();
    let rows = q.chunks_exact(shape.key_head_dim).zip(out.chunks_exact(shape.value_head_dim));
    rows.enumerate().fold(0.0f64, |worst, (row, (query, got))| {
        let (head, back) = (row / n_tokens, n_tokens - 1 - row % n_tokens);
        let expected = reference(sequence, head / group, query, 0..sequence.tokens.len() - back);
        worst.max(relative_error(got, &expected))
    })
}
