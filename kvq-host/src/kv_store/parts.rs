//! The parts of one layer's attention and packing, shared out over threads.
//!
//! They go to candle's pool, in which rows are multiplied by quantized weights: its threads spin a while for more work
//! before they sleep, so that what follows begins within microseconds. Other threads would have to be woken for each
//! layer of a decode step, and would share the CPUs with those that spin; in a prefill, rayon's threads would go to sleep
//! between the stretches of a layer, and where they wait for each other at the end of a few parts.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::utils::barrier_pool;
use kvq_codec::Threads;

/// From this many new tokens on, each query head is a part of its own.
///
/// A KV head's query heads share its rows as long as few tokens are new. Where many are, each of them has enough rows to
/// share by itself, and more parts keep more threads busy to the end.
pub(super) const PREFILL_TOKENS: usize = 16;

/// Pairs of a query and a token from which more threads than one attend, for a few new tokens and for many: some
/// microseconds of work, and what waking threads takes that have not multiplied just now.
const PARALLEL_PAIRS: [usize; 2] = [1024, 16_384];

/// Tokens in a part of those that a few new ones attend over: dozens of microseconds of work.
const PART_TOKENS: usize = 1024;

/// Parts of them at the most: with one or more for each KV head, there are enough for many threads.
const MAX_TOKEN_PARTS: usize = 8;

/// Bytes of encoded rows from which more threads than one encode them: ten microseconds of work and more.
const PARALLEL_BYTES: usize = 8192;

/// Sums of parts that fit the stack: those of a few new tokens in two parts, for a small model. To have kilobytes allocated
/// in each layer takes as long as to attend over dozens of tokens.
const FEW_SUMS: usize = 2048;

/// Whether `pairs` of a query of `n_tokens` new tokens and a token are work for more threads than one, and there are any.
pub(super) fn pay(pairs: usize, n_tokens: usize) -> bool {
    n_threads() > 1 && pairs >= PARALLEL_PAIRS[usize::from(n_tokens >= PREFILL_TOKENS)]
}

/// Calls `attend(part, queries, outputs)` for each of `n_parts` equal parts of `q` and `out`.
pub(super) fn attend(
    n_parts: usize,
    q: &[f32],
    out: &mut [f32],
    attend: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) {
    let (q_len, out_len) = (q.len() / n_parts, out.len() / n_parts);
    let parts = q.chunks_exact(q_len).zip(out.chunks_exact_mut(out_len));
    for_each(parts, |part, (q, out)| attend(part, q, out));
}

/// Threads that parts are shared out over.
fn n_threads() -> usize {
    barrier_pool().n_workers() + 1
}

/// The positions that any of the newest `n_tokens` of `len` sees, in a window or, where that is 0, without.
pub(super) fn seen(len: usize, n_tokens: usize, window_len: usize) -> Range<usize> {
    let first =
        if window_len == 0 { 0 } else { (len + 1).saturating_sub(n_tokens.saturating_add(window_len)) };
    first..len
}

/// Positions that a few new tokens see, in parts that begin at a multiple of `step` beyond `first`, all but the first
/// part: as many whatever the number of threads, so that results do not depend on it. Older parts are the longer ones,
/// since newer tokens take more bytes; the newest part counts as `extra` tokens longer than it is.
pub(super) fn of_tokens(
    seen: Range<usize>,
    (first, step): (usize, usize),
    extra: usize,
) -> Vec<Range<usize>> {
    let n_parts = (seen.len() / PART_TOKENS).clamp(1, MAX_TOKEN_PARTS);
    let start = |part: usize| match seen.start + (seen.len() + extra) * part / n_parts {
        at if part == 0 => at,
        _ if part == n_parts => seen.end,
        at => at.checked_sub(first).map_or(at, |beyond| first + beyond.next_multiple_of(step)),
    };
    (0..n_parts).map(|part| start(part)..start(part + 1)).collect()
}

/// A few new tokens' attention in parts of the positions that they see.
pub(super) struct Split<'a> {
    /// Of each part.
    pub positions: &'a [Range<usize>],
    pub n_kv_heads: usize,
    /// Threads that there shall be work for.
    pub n_threads: usize,
}

impl<'a> Split<'a> {
    /// For all threads.
    pub fn new(positions: &'a [Range<usize>], n_kv_heads: usize) -> Self {
        Self { positions, n_kv_heads, n_threads: n_threads() }
    }
}

/// Calls `attend(kv_heads, positions, queries, sums)` for groups of KV heads and of parts, then `join(sums, outputs)` for
/// each group of heads.
///
/// Sums have `part_len` values for each part and KV head: shape `(parts, kv_heads)` in a group.
pub(super) fn attend_split(
    split: &Split<'_>,
    part_len: usize,
    (q, out): (&[f32], &mut [f32]),
    attend: impl Fn(Range<usize>, &[Range<usize>], &[f32], &mut [f32]) + Sync,
    join: impl Fn(&[f32], &mut [f32]),
) {
    let &Split { positions, n_kv_heads, n_threads } = split;
    // A thread that attends over several parts for several heads has less to begin anew.
    let parts_each = positions.len().div_ceil(n_threads);
    let heads_each = n_kv_heads.div_ceil(n_threads.div_ceil(positions.len()));
    let (q_len, out_len) = (heads_each * q.len() / n_kv_heads, heads_each * out.len() / n_kv_heads);
    let group_len = positions.len() * heads_each * part_len;
    let (mut few, mut many) = ([0.0; FEW_SUMS], Vec::new());
    let sums = match positions.len() * n_kv_heads * part_len {
        n @ ..=FEW_SUMS => &mut few[..n],
        n => {
            many.resize(n, 0.0);
            &mut many[..]
        }
    };
    let groups = sums.chunks_mut(group_len).zip(q.chunks(q_len)).enumerate();
    let work = groups.flat_map(|(group, (sums, q))| {
        let kv_heads = group * heads_each..n_kv_heads.min((group + 1) * heads_each);
        sums.chunks_mut(parts_each * kv_heads.len() * part_len)
            .zip(positions.chunks(parts_each))
            .map(move |(sums, positions)| (kv_heads.clone(), positions, q, sums))
    });
    for_each(work, |_, (kv_heads, positions, q, sums)| attend(kv_heads, positions, q, sums));
    sums.chunks(group_len).zip(out.chunks_mut(out_len)).for_each(|(sums, out)| join(sums, out));
}

/// Calls `work` once for each part.
fn for_each<P: Send>(parts: impl Iterator<Item = P>, work: impl Fn(usize, P) + Sync) {
    // Each part is taken once; the lock is how that is told to the compiler.
    let parts: Vec<_> = parts.map(|part| Mutex::new(Some(part))).collect();
    barrier_pool().execute_chunked(parts.len(), |range| {
        for i in range {
            if let Some(part) = parts[i].lock().unwrap_or_else(PoisonError::into_inner).take() {
                work(i, part);
            }
        }
    });
}

/// The pool's threads, for the codec.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolThreads;

impl Threads for PoolThreads {
    type Parts = Vec<u8>;

    fn share_out(
        &self,
        n_parts: usize,
        part_bytes: usize,
        work: &(dyn Fn(usize, &mut [u8]) + Sync),
    ) -> Option<Vec<u8>> {
        if n_parts * part_bytes < PARALLEL_BYTES || n_threads() == 1 {
            return None;
        }
        let mut parts = vec![0; n_parts * part_bytes];
        for_each(parts.chunks_exact_mut(part_bytes), work);
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_tokens_follow_one_another_from_span_to_span() {
        for (n_tokens, extra) in [(100, 0), (2048, 0), (2048, 128), (2050, 128), (5000, 128), (100_000, 128)]
        {
            let parts = of_tokens(0..n_tokens, (4, 64), extra);
            assert_eq!(parts.len(), (n_tokens / PART_TOKENS).clamp(1, MAX_TOKEN_PARTS), "{n_tokens} tokens");
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, n_tokens));
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end, pair[1].start, "{n_tokens} tokens");
                assert_eq!((pair[1].start - 4) % 64, 0, "{n_tokens} tokens");
                assert!(!pair[1].is_empty(), "{parts:?}");
            }
        }
        // The newest part is shorter by a span for each two of them that it counts as more.
        assert_eq!(of_tokens(0..2100, (4, 64), 0)[1].len(), of_tokens(0..2100, (4, 64), 128)[1].len() + 64);
    }
}
