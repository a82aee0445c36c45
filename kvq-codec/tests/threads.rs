//! What is encoded with the help of threads is what one thread encodes.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::{Growing, Sequence, aged, lighter, unless_miri};
use kvq_codec::{
    Backend, Budget, Cache, KvCache, KvShape, Layout, Policy, Storage, Threads, WhenFull, minimum_bytes,
};
use std::cell::Cell;

type Work<'a> = &'a (dyn Fn(usize, &mut [u8]) + Sync);

/// A thread for each part.
#[derive(Default)]
struct ThreadPerPart {
    calls: Cell<usize>,
}

impl Threads for ThreadPerPart {
    type Parts = Vec<u8>;

    fn share_out(&self, n_parts: usize, part_bytes: usize, work: Work<'_>) -> Option<Vec<u8>> {
        self.calls.set(self.calls.get() + 1);
        let mut parts = vec![0xa5; n_parts * part_bytes];
        std::thread::scope(|scope| {
            for (part, bytes) in parts.chunks_exact_mut(part_bytes).enumerate() {
                scope.spawn(move || work(part, bytes));
            }
        });
        Some(parts)
    }
}

/// Parts of which some are lacking.
struct Short;

impl Threads for Short {
    type Parts = Vec<u8>;

    fn share_out(&self, n_parts: usize, part_bytes: usize, work: Work<'_>) -> Option<Vec<u8>> {
        let mut parts = vec![0; (n_parts - 1) * part_bytes];
        parts.chunks_exact_mut(part_bytes).enumerate().for_each(|(part, bytes)| work(part, bytes));
        Some(parts)
    }
}

fn snapshot<S: Storage>(cache: &Cache<S>) -> Vec<u8> {
    let mut out = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut out).unwrap();
    out
}

/// Has one cache encode alone and another with `threads`, `at_once` tokens at a time.
fn same<S: Storage>(caches: [Cache<S>; 2], (n, at_once): (usize, usize), threads: &impl Threads, what: &str) {
    let [mut alone, mut helped] = caches;
    let sequence = Sequence::new(alone.shape(), n, 3);
    for from in (0..n).step_by(at_once) {
        let to = n.min(from + at_once);
        let (keys, values) = (sequence.slab(from, to, true), sequence.slab(from, to, false));
        for layer in 0..alone.shape().n_layers {
            alone.append(layer, to - from, &keys, &values).unwrap();
            helped.append_with(layer, to - from, &keys, &values, threads).unwrap();
        }
    }
    assert!(snapshot(&alone) == snapshot(&helped), "{what}, {at_once} at once");
}

fn shapes() -> [KvShape; 4] {
    [
        KvShape::new(2, 3, 64),
        KvShape::new(1, 1, 80).with_value_head_dim(64),
        // Several heads to a block, and a last block with fewer.
        KvShape::new(1, 5, 8).with_value_head_dim(12),
        KvShape::new(1, 3, 24).with_value_head_dim(36),
    ]
}

#[test]
fn threads_change_no_byte() {
    let by_age = aged(&[Layout::Q8, Layout::T4, Layout::S3, Layout::T2], 16, 16);
    let mut n_calls = 0;
    for shape in shapes().into_iter().take(unless_miri(4, 1)) {
        for (name, policy) in
            [("8bit", Policy::EIGHT_BIT), ("4x", Policy::FOUR_X), ("6x", Policy::SIX_X), ("by age", by_age)]
                .into_iter()
                .skip(unless_miri(0, 3))
        {
            let policy = lighter(policy);
            let new = || Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
            let threads = ThreadPerPart::default();
            // Long enough for a compression to demote.
            for (n, at_once) in [(unless_miri(1300, 70), 64), (unless_miri(300, 40), 7), (300, 300)] {
                same([new(), new()], (n, at_once), &threads, &format!("{shape:?} {name}"));
                same([new(), new()], (n.min(400), at_once), &Short, &format!("{shape:?} {name}, short"));
            }
            n_calls += threads.calls.get();
        }
    }
    assert!(n_calls > 10, "threads were asked {n_calls} times");
}

#[test]
fn threads_change_no_byte_of_a_full_buffer() {
    let shape = KvShape::new(1, 2, 32);
    let policy = Policy { when_full: WhenFull::Evict, budget: Budget::Bytes, ..Policy::FOUR_X };
    let bytes = minimum_bytes(shape, policy).unwrap() * 2;
    let (mut a, mut b) = (vec![0; bytes], vec![0; bytes]);
    let cache = |memory| KvCache::new(shape, policy, Backend::detect(), memory).unwrap();
    let caches = [cache(a.as_mut_slice()), cache(b.as_mut_slice())];
    same(caches, (unless_miri(1000, 100), 50), &ThreadPerPart::default(), "evicting");
}
