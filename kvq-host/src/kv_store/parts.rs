//! The parts of one layer's attention, shared out over the threads that compute the products around it.
//!
//! A few rows are multiplied by quantized weights in a pool of candle's own, whose threads spin a while for more before
//! they sleep: parts that are given to the same pool begin within microseconds, where other threads would have to be
//! woken for each layer, and would share the CPUs with those that spin. Many rows are multiplied in f32, by rayon's threads.

use std::sync::{Mutex, PoisonError};

use candle_core::utils::barrier_pool;
use rayon::prelude::*;

/// From this many new tokens on, parts are for rayon, and each query head is a part of its own.
///
/// A KV head's query heads share its rows as long as few tokens are new. Where many are, each of them has enough rows to
/// share by itself, and more parts keep more threads busy to the end.
pub(super) const PREFILL_TOKENS: usize = 16;

/// Pairs of a query and a token from which more threads than one attend, for a few new tokens and for many: some
/// microseconds of work, and what waking rayon's threads takes.
const PARALLEL_PAIRS: [usize; 2] = [1024, 16_384];

/// Whether `pairs` of a query of `n_tokens` new tokens and a token are work for more threads than one, and there are any.
pub(super) fn pay(pairs: usize, n_tokens: usize) -> bool {
    let many = n_tokens >= PREFILL_TOKENS;
    let n_threads = if many { rayon::current_num_threads() } else { barrier_pool().n_workers() + 1 };
    n_threads > 1 && pairs >= PARALLEL_PAIRS[usize::from(many)]
}

/// Calls `attend(part, queries, outputs)` for each of `n_parts` equal parts of `q` and `out`.
pub(super) fn for_each(
    (n_parts, n_tokens): (usize, usize),
    q: &[f32],
    out: &mut [f32],
    attend: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) {
    let (q_len, out_len) = (q.len() / n_parts, out.len() / n_parts);
    if n_tokens >= PREFILL_TOKENS {
        let parts = q.par_chunks_exact(q_len).zip(out.par_chunks_exact_mut(out_len)).enumerate();
        return parts.with_max_len(1).for_each(|(part, (q, out))| attend(part, q, out));
    }
    // Each part is taken once; the lock is how that is told to the compiler.
    let parts: Vec<_> = q.chunks_exact(q_len).zip(out.chunks_exact_mut(out_len)).map(Mutex::new).collect();
    barrier_pool().execute_chunked(parts.len(), |range| {
        for part in range {
            let (q, out) = &mut *parts[part].lock().unwrap_or_else(PoisonError::into_inner);
            attend(part, q, out);
        }
    });
}
