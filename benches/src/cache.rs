//! Packed caches in memory that grows.

use kvq_codec::{Backend, Budget, Cache, EdgeLayers, Layout, Policy, Storage, Tier, WhenFull};
use kvq_host::kv_store::memory::GrowingMemory;

use crate::data::{Tokens, shape};

/// One layout for all keys and one for all values, in spans of 64, without sinks: what is measured is the layout.
pub fn uniform(keys: Layout, values: Layout) -> Policy {
    Policy {
        n_sink: 0,
        recent_len: 0,
        span_len: 64,
        key_tiers: [Some(Tier::first(keys)), None, None, None],
        value_tiers: [Some(Tier::first(values)), None, None, None],
        ladder: [None; 6],
        edge_layers: EdgeLayers::NONE,
        budget: Budget::Bytes,
        when_full: WhenFull::Demote,
        window_len: 0,
    }
}

/// A cache of `n_layers` that holds `tokens` in each, appended one at a time as a decode does.
pub fn packed(policy: Policy, n_layers: usize, tokens: &Tokens) -> Cache<GrowingMemory> {
    packed_on(Backend::detect(), policy, n_layers, tokens)
}

/// As [`packed`], on the given kernels.
pub fn packed_on(backend: Backend, policy: Policy, n_layers: usize, tokens: &Tokens) -> Cache<GrowingMemory> {
    let mut cache =
        Cache::new(shape(n_layers), policy, backend, GrowingMemory::default()).expect("a sound policy");
    for i in 0..tokens.len() {
        let (keys, values) = tokens.get(i);
        for layer in 0..n_layers {
            cache.append(layer, 1, keys, values).expect("memory grows");
        }
    }
    cache
}

/// What `cache` holds, on the portable kernels: the oracle of attention.
pub fn restored(cache: &Cache<GrowingMemory>) -> Cache<GrowingMemory> {
    let mut snapshot = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut snapshot).expect("a buffer of that length");
    let mut oracle = Cache::new(cache.shape(), *cache.policy(), Backend::SCALAR, GrowingMemory::default())
        .expect("the policy was accepted before");
    oracle.restore(&snapshot).expect("a snapshot just taken");
    oracle
}

/// The bytes that attention reads: all that is held but tables, free units and scratch.
pub fn held_bytes<S: Storage>(cache: &Cache<S>) -> usize {
    let report = cache.memory();
    report.code_bytes + report.scale_bytes + report.center_bytes + report.recent_bytes + report.sink_bytes
}
