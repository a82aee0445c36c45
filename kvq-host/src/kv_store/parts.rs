//! The parts of one layer's attention and packing, shared out over threads.
//!
//! They go to candle's pool, in which rows are multiplied by quantized weights: its threads spin a while for more work
//! before they sleep, so that what follows begins within microseconds. Other threads would have to be woken for each
//! layer of a decode step, and would share the CPUs with those that spin; in a prefill, rayon's threads would go to sleep
//! between the stretches of a layer, and where they wait for each other at the end of a few parts.

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

/// Bytes of encoded rows from which more threads than one encode them: ten microseconds of work and more.
const PARALLEL_BYTES: usize = 8192;

/// Whether `pairs` of a query of `n_tokens` new tokens and a token are work for more threads than one, and there are any.
pub(super) fn pay(pairs: usize, n_tokens: usize) -> bool {
    barrier_pool().n_workers() > 0 && pairs >= PARALLEL_PAIRS[usize::from(n_tokens >= PREFILL_TOKENS)]
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
        if n_parts * part_bytes < PARALLEL_BYTES || barrier_pool().n_workers() == 0 {
            return None;
        }
        let mut parts = vec![0; n_parts * part_bytes];
        for_each(parts.chunks_exact_mut(part_bytes), work);
        Some(parts)
    }
}
