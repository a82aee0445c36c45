//! Reported bytes are the allocator's, and in memory reserved at the system those of pages that were touched, for every
//! kind of cache at every length; and the cache is smaller than fp16's from 1,024 tokens on. Below that the record says
//! that the recent window is a large part of it.

use candle_core::utils::barrier_pool;
use candle_core::{Device, Tensor};
use kvq_codec::{Backend, KvShape, Policy};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::candle::CompressedDynamicCache;
use kvq_host::kv_store::dense::{DenseF16, DenseF32};
use kvq_host::kv_store::fixed::FixedStore;
use kvq_host::kv_store::memory::RESERVED_BYTES;
use kvq_host::kv_store::packed::PackedStore;
use stats_alloc::Region;

use super::program::record;
use super::{ALLOCATOR, alone};

/// SmolLM2-135M with a third of its layers, which the time of the test asks for.
const SHAPE: KvShape = KvShape::new(10, 3, 64);

/// Bytes that were allocated since and are still held, and all that were allocated.
fn held(region: &Region<'_, std::alloc::System>) -> (usize, usize) {
    let change = region.change();
    (change.bytes_allocated - change.bytes_deallocated, change.bytes_allocated)
}

/// Bytes of a page: pages are touched whole.
const PAGE_BYTES: usize = 4096;

/// Bytes in memory of the addresses that a cache has reserved: Linux lists them in pieces, those in huge pages first.
fn touched() -> usize {
    if !cfg!(target_os = "linux") {
        return 0;
    }
    // Addresses, bytes in memory, and whether they were reserved without a claim on memory.
    let mut pieces: Vec<(usize, usize, usize, bool)> = Vec::new();
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let mut words = line.split_whitespace();
        let word = words.next().unwrap();
        match (word.split_once('-'), word) {
            (Some((start, end)), _) => {
                let address = |hex| usize::from_str_radix(hex, 16).unwrap();
                pieces.push((address(start), address(end), 0, false));
            }
            (_, "Rss:") => {
                pieces.last_mut().unwrap().2 = words.next().unwrap().parse::<usize>().unwrap() * 1024;
            }
            (_, "VmFlags:") => pieces.last_mut().unwrap().3 = words.any(|flag| flag == "nr"),
            _ => {}
        }
    }
    let Some(last) = pieces.iter().rposition(|(start, end, ..)| end - start > RESERVED_BYTES / 2) else {
        return 0;
    };
    let (mut sum, mut first) = (0, pieces[last].1);
    for (start, end, bytes, reserved) in pieces[..=last].iter().rev() {
        if pieces[last].1 - first < RESERVED_BYTES {
            assert!(*reserved && *end == first, "{pieces:x?}");
            (sum, first) = (sum + bytes, *start);
        }
    }
    sum
}

/// Checks that the store reports what is held: `allocated`, and what it has touched of reserved addresses.
fn check(what: std::fmt::Arguments<'_>, allocated: usize, store: &dyn KvStore) {
    let (memory, touched) = (store.memory(), touched());
    if touched == 0 {
        assert_eq!(memory.total(), allocated, "{what}: {memory:?}");
        return;
    }
    // The last page is begun; pages of an unused tail may not be touched yet.
    let reserved = memory.total() - allocated;
    assert!(
        touched < reserved + PAGE_BYTES && reserved <= touched + memory.unused_bytes,
        "{what}: {allocated} allocated and {touched} touched: {memory:?}"
    );
}

/// Fills the store token by token; the system must agree at each length, and `peak` sees the most bytes that can have
/// been held at once during an append (all that it allocated counts, and nothing that it gave back).
fn fill(
    what: &str,
    region: &Region<'_, std::alloc::System>,
    store: &mut dyn KvStore,
    n: usize,
    mut peak: impl FnMut(usize, usize),
) {
    // On the stack: what the test allocates would be counted.
    let row: [f32; SHAPE.n_kv_heads * SHAPE.key_head_dim] = std::array::from_fn(|i| (i as f32 * 0.7).sin());
    check(format_args!("{what}, empty"), held(region).0, store);
    for t in 0..n {
        let touched_before = touched();
        let (before, allocated) = held(region);
        for layer in 0..SHAPE.n_layers {
            store.append(layer, 1, &row, &row).unwrap();
        }
        let (after, all) = held(region);
        check(format_args!("{what}, token {t}"), after, store);
        peak(t + 1, before + all - allocated + touched_before.max(touched()));
    }
    store.trim(n / 2).unwrap();
    check(format_args!("{what}, trimmed"), held(region).0, store);
    store.clear();
    check(format_args!("{what}, cleared"), held(region).0, store);
}

#[test]
#[ignore = "the child process of another test"]
fn count_every_byte() {
    const N: usize = 1400;
    // The threads that multiply and pack belong to the process, not to a cache.
    let _ = barrier_pool();
    // They, and the harness on a thread of its own, still book that they start, in memory that would be counted.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let fp16 = SHAPE.fp16_bytes_per_token();
    for (name, policy) in Policy::PRESETS {
        let region = Region::new(ALLOCATOR);
        let mut store = Box::new(PackedStore::new(SHAPE, policy, Backend::detect()).unwrap());
        let mut worst = 0.0f64;
        fill(name, &region, &mut *store, N, |tokens, peak| {
            if tokens >= 1024 {
                worst = worst.max(peak as f64 / (tokens * fp16) as f64);
            }
        });
        println!("{name}: at most {worst:.3} of fp16 at once from 1,024 tokens on");
        assert!(worst < 1.0, "{name}: {worst}");
        drop(store);
        assert_eq!((held(&region).0, touched()), (0, 0), "{name}: all is given back");
    }
    let region = Region::new(ALLOCATOR);
    let mut store = Box::new(DenseF32::new(SHAPE));
    fill("dense f32", &region, &mut *store, 300, |_, _| ());
    drop(store);
    let region = Region::new(ALLOCATOR);
    let mut store = Box::new(DenseF16::new(SHAPE));
    fill("dense f16", &region, &mut *store, 300, |_, _| ());
    drop(store);
    // A budget is allocated at the start, and nothing after it.
    let region = Region::new(ALLOCATOR);
    let policy = Policy::FOUR_X.with_byte_budget(kvq_codec::WhenFull::Demote);
    let mut store = Box::new(FixedStore::within(SHAPE, policy, Backend::detect(), 1 << 20).unwrap());
    let at_first = held(&region).0;
    fill("fixed", &region, &mut *store, 300, |_, _| ());
    assert_eq!((held(&region).0, at_first), (1 << 20, 1 << 20));
    drop(store);
    // The cache for candle's tensors: its sequences, however many they are.
    for batch in [1usize, 2, 3, 5] {
        let values: Vec<f32> = (0..batch * 2 * 90 * 64).map(|i| (i as f32 * 0.3).cos()).collect();
        let k = Tensor::from_vec(values, (batch, 2, 90, 64), &Device::Cpu).unwrap();
        let mut cache = CompressedDynamicCache::new(2, Policy::FOUR_X).unwrap();
        // What candle allocates on the way is given back by then.
        cache.append_ragged(&k, &k, &[]).unwrap();
        cache.reset();
        let region = Region::new(ALLOCATOR);
        for _ in 0..3 {
            cache.append_ragged(&k, &k, &[]).unwrap();
            assert_eq!(cache.memory().total(), held(&region).0, "{batch} sequences");
        }
        cache.reset();
        assert_eq!((cache.memory().total(), held(&region).0), (0, 0), "{batch} sequences, reset");
    }
}

#[test]
fn reported_bytes_are_the_allocators_and_below_fp16_from_1024_tokens_on() {
    alone("reported_bytes::count_every_byte");
}

/// A record of a short context does not promise what holds for long ones.
#[test]
fn short_contexts_say_that_the_recent_window_is_most_of_them() {
    let bench = |context: &str| {
        record(&["bench", "--context", context, "--new-tokens", "1", "--rounds", "1", "--policy", "4x"])
    };
    let short = bench("96");
    let notes = short["notes"].to_string();
    assert!(notes.contains("96 are fewer") && notes.contains("8-bit window"), "{notes}");
    let run = &short["runs"][2];
    let of = |key: &str| run[key].as_u64().unwrap();
    assert!(of("recent_bytes") + of("sink_bytes") > of("code_bytes"), "{run}");
    assert!(run["compression_vs_fp16"].as_f64().unwrap() < 4.0, "{run}");
}
