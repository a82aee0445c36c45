//! Appending token by token: with a ratio to keep, with bytes to keep, and to a dense cache.
//!
//! - `fill-P/N` empties the cache and appends N tokens under preset P: all that a sequence of that length costs,
//!   demotions included.
//! - `evict-4x` appends one span to a cache whose bytes are used up: each call packs a span, takes others down
//!   the whole ladder, and drops one.

use kvq_benches::{
    HEAD_DIM, N_KV_HEADS, Op, State, Tokens, Work, assert_close, assert_same_snapshot, held_bytes, packed_on,
    shape,
};
use kvq_codec::{Backend, Cache, KvCache, Policy, Side, WhenFull, minimum_bytes};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::DenseF16;
use kvq_host::kv_store::memory::GrowingMemory;

const TOKENS: usize = 2048;

/// Tokens per call of `evict-4x`.
const SPAN: usize = 64;

/// Bytes of `evict-4x` beyond the least that its policy can work in.
const ROOM_BYTES: usize = 128 << 10;

fn main() {
    let mut op = Op::new("append");
    let tokens = Tokens::new(TOKENS);
    for (name, policy) in [("8bit", Policy::EIGHT_BIT), ("4x", Policy::FOUR_X)] {
        fill(&mut op, name, policy, &tokens);
    }
    evict(&mut op, &tokens);
    dense(&mut op, &tokens);
    op.finish();
}

fn fill(op: &mut Op, name: &str, policy: Policy, tokens: &Tokens) {
    let mut cache = packed_on(Backend::detect(), policy, 1, tokens);
    assert_same_snapshot(name, &cache, &packed_on(Backend::SCALAR, policy, 1, tokens));
    if name == "4x" {
        assert!(demoted(&cache) > 0, "{name}: no span was demoted");
    }
    let work = Work { packed_bytes: held_bytes(&cache), fp16_bytes: fp16_bytes(TOKENS) };
    op.bench(State::Warm, &format!("fill-{name}/{TOKENS}"), work, || {
        cache.clear();
        for i in 0..TOKENS {
            let (keys, values) = tokens.get(i);
            cache.append(0, 1, keys, values).expect("memory grows");
        }
    });
}

/// Values that are no longer in the tier in which they were packed.
fn demoted(cache: &Cache<GrowingMemory>) -> usize {
    let map = cache.tier_map(0, Side::Value).expect("layer 0");
    // Entry 0 is the sinks, the last two are the first tier and the recent window.
    map[1..map.len() - 2].iter().map(|tier| tier.tokens).sum()
}

fn evict(op: &mut Op, tokens: &Tokens) {
    let policy = Policy::FOUR_X.with_byte_budget(WhenFull::Evict);
    let bytes = minimum_bytes(shape(1), policy).expect("a sound policy") + ROOM_BYTES;
    let (mut memory, mut oracle_memory) = (vec![0; bytes], vec![0; bytes]);
    let mut cache = KvCache::new(shape(1), policy, Backend::detect(), &mut memory).expect("enough memory");
    let mut oracle =
        KvCache::new(shape(1), policy, Backend::SCALAR, &mut oracle_memory).expect("enough memory");
    for i in 0..TOKENS {
        let (keys, values) = tokens.get(i);
        cache.append(0, 1, keys, values).expect("the oldest span is dropped");
        oracle.append(0, 1, keys, values).expect("the oldest span is dropped");
    }
    let held = cache.n_held(0).expect("layer 0");
    assert!(held < TOKENS, "nothing was evicted");
    assert_same_snapshot("evict-4x", &cache, &oracle);
    let packed_bytes = held_bytes(&cache) * SPAN / held;
    let mut at = 0;
    op.bench(State::Warm, "evict-4x", Work { packed_bytes, fp16_bytes: fp16_bytes(SPAN) }, || {
        for i in at..at + SPAN {
            let (keys, values) = tokens.get(i);
            cache.append(0, 1, keys, values).expect("the oldest span is dropped");
        }
        at = (at + SPAN) % TOKENS;
    });
}

fn dense(op: &mut Op, tokens: &Tokens) {
    let mut store = DenseF16::new(shape(1));
    let fill = |store: &mut DenseF16| {
        store.clear();
        for i in 0..TOKENS {
            let (keys, values) = tokens.get(i);
            store.append(0, 1, keys, values).expect("memory grows");
        }
    };
    fill(&mut store);
    store.trim(1).expect("more are held");
    let (query, mut out) = (Tokens::query(), vec![0.0; kvq_benches::N_HEADS * HEAD_DIM]);
    store.attend(0, 1, &query, &mut out).expect("one query per head");
    // One token alone: attention is its value.
    let group = kvq_benches::N_HEADS / N_KV_HEADS;
    let (_, values) = tokens.get(0);
    let expected: Vec<f32> = values.chunks_exact(HEAD_DIM).flat_map(|head| head.repeat(group)).collect();
    assert_close("fill-dense-f16", &out, &expected, 1e-3);
    let bytes = fp16_bytes(TOKENS);
    let work = Work { packed_bytes: bytes, fp16_bytes: bytes };
    op.bench(State::Warm, &format!("fill-dense-f16/{TOKENS}"), work, || fill(&mut store));
}

const fn fp16_bytes(n_tokens: usize) -> usize {
    2 * 2 * n_tokens * N_KV_HEADS * HEAD_DIM
}
