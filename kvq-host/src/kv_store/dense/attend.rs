//! Causal attention over dense rows, in tiles, with an online softmax.
//!
//! Work is cut into units that own contiguous queries and outputs: one KV head with all query heads of
//! its group while few tokens are new (the group shares each row), or one query head when many are
//! (neighbouring tokens share each row, and more units balance better over threads). Inside a unit, a tile of
//! queries walks over the keys and values in blocks of [`BLOCK`] tokens, three queries per kernel call.
//! For each query the running maximum `m` and sum `l` of the softmax are kept; when a block raises `m`,
//! what was summed so far is scaled by `exp(m_old - m_new)`.

use std::array::from_fn;
use std::ops::Range;

use kvq_codec::KvShape;

use super::kernel::{Element, Kernel};
use super::{BLOCK, Places};
use crate::kv_store::parts::{self, PREFILL_TOKENS, Split};

/// Queries per kernel call: with four rows each, their twelve sums fill the vector registers.
const QUERIES: usize = 3;

/// Queries that walk over the blocks together, so that a block is read from memory once for all of them.
const TILE_QUERIES: usize = 16 * QUERIES;

/// One layer's rows and the sizes of one call.
pub(super) struct Heads<'a, E> {
    pub(super) memory: &'a [E],
    pub(super) places: Places,
    pub(super) layer: usize,
    /// Tokens held, the new ones included.
    pub(super) len: usize,
    pub(super) n_heads: usize,
    /// New tokens: the queries of each head.
    pub(super) n_tokens: usize,
    /// Newest positions that a query sees; 0 for all.
    pub(super) window_len: usize,
}

/// Attention of all heads. Shapes: `q (n_heads, n_tokens, key_head_dim)`,
/// `out (n_heads, n_tokens, value_head_dim)`.
pub(super) fn attend<E: Element>(kernel: Kernel, heads: &Heads<E>, q: &[f32], out: &mut [f32]) {
    let KvShape { n_kv_heads, key_head_dim, value_head_dim, .. } = heads.places.shape;
    let group = heads.n_heads / n_kv_heads;
    let heads_per_unit = if heads.n_tokens < PREFILL_TOKENS { group } else { 1 };
    let units_per_kv_head = group / heads_per_unit;
    let rows = heads_per_unit * heads.n_tokens;
    if heads_per_unit == group {
        let seen = parts::seen(heads.len, heads.n_tokens, heads.window_len);
        let positions = parts::of_tokens(seen, (0, BLOCK), 0);
        if positions.len() > 1 {
            return attend_token_parts(kernel, heads, &Split::new(&positions, n_kv_heads), q, out);
        }
    }
    let (q_unit, out_unit) = (rows * key_head_dim, rows * value_head_dim);
    let run = |unit: usize, q: &[f32], out: &mut [f32]| {
        let head = unit / units_per_kv_head;
        attend_unit(kernel, heads, (head, &(0..heads.len)), q, out, |_, running, row| {
            let normalize = 1.0 / running.sum;
            row.iter_mut().for_each(|value| *value *= normalize);
        });
    };
    let n_units = heads.n_heads / heads_per_unit;
    if n_units > 1 && parts::pay(heads.n_heads * heads.n_tokens * heads.len, heads.n_tokens) {
        parts::attend(n_units, q, out, run);
    } else {
        let units = q.chunks_exact(q_unit).zip(out.chunks_exact_mut(out_unit)).enumerate();
        units.for_each(|(unit, (q, out))| run(unit, q, out));
    }
}

/// The softmax of one query so far: its maximum and its sum relative to it.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

/// Values of a query row besides its sums in a part: its maximum and its sum of weights.
const STATE: usize = 2;

/// Attention of a few new tokens in parts of the positions, which are joined.
fn attend_token_parts<E: Element>(
    kernel: Kernel,
    heads: &Heads<E>,
    split: &Split<'_>,
    q: &[f32],
    out: &mut [f32],
) {
    let KvShape { n_kv_heads, key_head_dim, value_head_dim, .. } = heads.places.shape;
    let rows = heads.n_heads / n_kv_heads * heads.n_tokens;
    let (sums_len, part_len) = (rows * value_head_dim, rows * (value_head_dim + STATE));
    let attend = |kv_heads: Range<usize>, positions: &[Range<usize>], q: &[f32], sums: &mut [f32]| {
        let queries = || kv_heads.clone().zip(q.chunks_exact(rows * key_head_dim));
        let units =
            positions.iter().flat_map(|positions| queries().map(move |(head, q)| (head, positions, q)));
        for ((head, positions, q), part) in units.zip(sums.chunks_exact_mut(part_len)) {
            let (sums, states) = part.split_at_mut(sums_len);
            attend_unit(kernel, heads, (head, positions), q, sums, |row, running, _| {
                states[row * STATE..][..STATE].copy_from_slice(&[running.max, running.sum]);
            });
        }
    };
    let scale = 1.0 / (key_head_dim as f32).sqrt();
    let join = |sums: &[f32], out: &mut [f32]| {
        let n_heads = out.len() / sums_len;
        for (i, out) in out.chunks_exact_mut(value_head_dim).enumerate() {
            let (head, row) = (i / rows, i % rows);
            let of_row = || {
                sums.chunks_exact(part_len).skip(head).step_by(n_heads).map(|part| {
                    let (sums, states) = part.split_at(sums_len);
                    (
                        &sums[row * value_head_dim..][..value_head_dim],
                        states[row * STATE],
                        states[row * STATE + 1],
                    )
                })
            };
            let max = of_row().fold(f32::NEG_INFINITY, |max, (_, of_part, _)| max.max(of_part));
            let mut total = 0.0;
            out.fill(0.0);
            for (sums, of_part, sum) in of_row().filter(|(.., sum)| *sum > 0.0) {
                let shrink = ((of_part - max) * scale).exp();
                total += sum * shrink;
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum * shrink);
            }
            out.iter_mut().for_each(|value| *value /= total);
        }
    };
    parts::attend_split(split, part_len, (q, out), attend, join);
}

/// Attention of one unit over the rows of its KV head at some positions; `finish` gets each row's place, softmax and sums.
/// Shapes: `q (rows, key_head_dim)`, `out (rows, value_head_dim)`, where row `r` is the query of new token `r % n_tokens`.
fn attend_unit<E: Element>(
    kernel: Kernel,
    heads: &Heads<E>,
    (head, positions): (usize, &Range<usize>),
    q: &[f32],
    out: &mut [f32],
    mut finish: impl FnMut(usize, Running, &mut [f32]),
) {
    let KvShape { key_head_dim, value_head_dim, .. } = heads.places.shape;
    let scale = 1.0 / (key_head_dim as f32).sqrt();
    let before = heads.len - heads.n_tokens;
    // Tokens that query `row` sees.
    let visible = |row: usize| (before + row % heads.n_tokens + 1).min(positions.end);
    // And the first of them.
    let from = |row: usize| match heads.window_len {
        0 => positions.start,
        window => (before + row % heads.n_tokens + 1).saturating_sub(window).max(positions.start),
    };
    let mut scores = [0.0f32; QUERIES * BLOCK];
    out.fill(0.0);
    let tiles = q.chunks(TILE_QUERIES * key_head_dim).zip(out.chunks_mut(TILE_QUERIES * value_head_dim));
    for (tile, (q, out)) in tiles.enumerate() {
        let n_rows = q.len() / key_head_dim;
        let first = tile * TILE_QUERIES;
        let mut running = [Running { max: f32::NEG_INFINITY, sum: 0.0 }; TILE_QUERIES];
        let last_visible = (first..first + n_rows).map(visible).max().unwrap_or(0);
        let first_visible = (first..first + n_rows).map(from).min().unwrap_or(0);
        for start in (first_visible / BLOCK * BLOCK..last_visible).step_by(BLOCK) {
            let triples = q.chunks(QUERIES * key_head_dim).zip(out.chunks_mut(QUERIES * value_head_dim));
            for ((triple, (q, out)), running) in triples.enumerate().zip(running.chunks_mut(QUERIES)) {
                let row = first + triple * QUERIES;
                let n_queries = q.len() / key_head_dim;
                let seen: [usize; QUERIES] = from_fn(|query| {
                    if query < n_queries { visible(row + query).saturating_sub(start).min(BLOCK) } else { 0 }
                });
                let n = seen.into_iter().max().unwrap_or(0);
                if n == 0 {
                    continue;
                }
                let place = (heads.layer, head, start / BLOCK);
                kernel.scores(&heads.memory[heads.places.keys(place, 0..n)], key_head_dim, q, &mut scores);
                for query in 0..n_queries {
                    let scores = &mut scores[query * BLOCK..][..n];
                    let out = &mut out[query * value_head_dim..][..value_head_dim];
                    let hidden = from(row + query).saturating_sub(start).min(seen[query]);
                    weigh(kernel, scores, hidden..seen[query], scale, &mut running[query], out);
                }
                kernel.accumulate(
                    &heads.memory[heads.places.values(place, 0..n)],
                    value_head_dim,
                    &scores,
                    out,
                );
            }
        }
        for (row, (out, running)) in out.chunks_exact_mut(value_head_dim).zip(running).enumerate() {
            finish(first + row, running, out);
        }
    }
}

/// Turns the scores of one query into weights: those outside `seen` to zero, the others to exponentials
/// relative to the running maximum, which `out` follows when this block raises it.
fn weigh(
    kernel: Kernel,
    scores: &mut [f32],
    seen: Range<usize>,
    scale: f32,
    running: &mut Running,
    out: &mut [f32],
) {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let seen = &mut scores[seen];
    if seen.is_empty() {
        return;
    }
    let max = kernel.max(seen);
    if max > running.max {
        let shrink = ((running.max - max) * scale).exp();
        running.sum *= shrink;
        out.iter_mut().for_each(|value| *value *= shrink);
        running.max = max;
    }
    running.sum += kernel.exp_sum(seen, running.max, scale);
}
