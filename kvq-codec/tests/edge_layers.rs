//! Layers at the ends of a model that keep their first tiers.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::snapshots::{filled, patched, refused, snapshot};
use common::{Growing, Sequence, lighter, unless_miri};
use kvq_codec::{
    Backend, COMPRESSION_FROM_TOKENS, Cache, EdgeLayers, Error, KvCache, KvShape, Policy, Side, SnapshotInfo,
    Storage, TierUse, WhenFull, capacity_tokens, minimum_bytes,
};

const SHAPE: KvShape = KvShape::new(unless_miri(5, 3), unless_miri(2, 1), unless_miri(32, 4));

/// Layer 0 and the last two, or one under Miri.
const EDGES: EdgeLayers = EdgeLayers { first: 1, last: unless_miri(2, 1) };

fn policy(when_full: WhenFull) -> Policy {
    let policy = Policy { span_len: 16, recent_len: 16, edge_layers: EDGES, ..lighter(Policy::SIX_X) };
    policy.with_byte_budget(when_full)
}

/// Appends token `pos` to every layer.
fn append<S: Storage>(cache: &mut Cache<S>, sequence: &Sequence, pos: usize) -> Result<(), Error> {
    append_some(cache, sequence, pos, 1)
}

/// Appends tokens from `pos` on to every layer.
fn append_some<S: Storage>(
    cache: &mut Cache<S>,
    sequence: &Sequence,
    pos: usize,
    n: usize,
) -> Result<(), Error> {
    let (keys, values) = (sequence.slab(pos, pos + n, true), sequence.slab(pos, pos + n, false));
    (0..cache.shape().n_layers).try_for_each(|layer| cache.append(layer, n, &keys, &values))
}

/// Tokens of a layer in other tiers than the first.
fn demoted<S: Storage>(cache: &Cache<S>, layer: usize) -> usize {
    let below = |side| -> usize {
        let map: [TierUse; 6] = cache.tier_map(layer, side).unwrap();
        map[1..4].iter().map(|tier| tier.tokens).sum()
    };
    below(Side::Key) + below(Side::Value)
}

fn is_edge(layer: usize) -> bool {
    !(1..SHAPE.n_layers - usize::from(EDGES.last)).contains(&layer)
}

#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn a_buffer_holds_its_capacity_in_every_layer_and_edges_stay_precise() {
    let bytes = minimum_bytes(SHAPE, policy(WhenFull::Demote)).unwrap() + 40_000;
    let capacity = capacity_tokens(SHAPE, policy(WhenFull::Demote), bytes).unwrap();
    let mut memory = vec![0; bytes];
    let mut cache = KvCache::new(SHAPE, policy(WhenFull::Demote), Backend::detect(), &mut memory).unwrap();
    let sequence = Sequence::new(SHAPE, capacity + 1, 5);
    for pos in 0..capacity {
        append(&mut cache, &sequence, pos).unwrap_or_else(|error| panic!("{error} at {pos} of {capacity}"));
    }
    for layer in 0..SHAPE.n_layers {
        assert_eq!(demoted(&cache, layer) == 0, is_edge(layer), "layer {layer}");
    }
    // The first layer refuses what another one has no room for.
    let error = append(&mut cache, &sequence, capacity).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(cache.len(), capacity);
    let plain = Policy { edge_layers: EdgeLayers::NONE, ..policy(WhenFull::Demote) };
    assert!(capacity_tokens(SHAPE, plain, bytes).unwrap() > capacity, "more bits at the edges cost tokens");
}

#[test]
#[cfg_attr(miri, ignore = "needs the 1,024 tokens from which a compression holds")]
fn a_compression_holds_with_fewer_bits_in_the_middle() {
    let preset = Policy { edge_layers: EdgeLayers { first: 1, last: 0 }, ..Policy::FOUR_X };
    let shape = KvShape::new(6, 1, 64);
    let n = COMPRESSION_FROM_TOKENS + 500;
    let sequence = Sequence::new(shape, n, 6);
    let mut cache = Cache::new(shape, preset, Backend::detect(), Growing::default()).unwrap();
    let mut plain = Cache::new(
        shape,
        Policy { edge_layers: EdgeLayers::NONE, ..preset },
        Backend::detect(),
        Growing::default(),
    )
    .unwrap();
    for pos in 0..n {
        append(&mut cache, &sequence, pos).unwrap();
        append(&mut plain, &sequence, pos).unwrap();
        let fp16 = (pos + 1) * shape.fp16_bytes_per_token();
        let held = cache.memory().total();
        assert!(pos + 1 < COMPRESSION_FROM_TOKENS || 4 * held <= fp16, "{held} of {fp16} at {pos}");
    }
    assert_eq!(demoted(&cache, 0), 0);
    assert!(demoted(&plain, 0) > 0);
    assert!(demoted(&cache, 1) > demoted(&plain, 1));
}

#[test]
fn eviction_runs_on_in_the_least_bytes() {
    let policy = policy(WhenFull::Evict);
    let mut memory = vec![0; minimum_bytes(SHAPE, policy).unwrap()];
    let mut cache = KvCache::new(SHAPE, policy, Backend::detect(), &mut memory).unwrap();
    let (n, at_once) = unless_miri((400, 1), (60, 20));
    let sequence = Sequence::new(SHAPE, n, 7);
    for pos in (0..n).step_by(at_once) {
        append_some(&mut cache, &sequence, pos, at_once).unwrap();
    }
    assert_eq!(cache.len(), n);
    assert!(cache.n_held(0).unwrap() < n, "nothing was evicted");
    assert!((0..SHAPE.n_layers).filter(|&layer| is_edge(layer)).all(|layer| demoted(&cache, layer) == 0));
}

#[test]
fn all_layers_may_be_edges() {
    let policy = Policy { edge_layers: EdgeLayers { first: 255, last: 255 }, ..policy(WhenFull::Demote) };
    let bytes = minimum_bytes(SHAPE, policy).unwrap() + unless_miri(20_000, 0);
    let capacity = capacity_tokens(SHAPE, policy, bytes).unwrap();
    let mut memory = vec![0; bytes];
    let mut cache = KvCache::new(SHAPE, policy, Backend::detect(), &mut memory).unwrap();
    let sequence = Sequence::new(SHAPE, capacity, 8);
    (0..capacity).for_each(|pos| append(&mut cache, &sequence, pos).unwrap());
    assert!((0..SHAPE.n_layers).all(|layer| demoted(&cache, layer) == 0));
}

#[test]
fn snapshots_tell_the_edges_and_hold_no_other_tiers_there() {
    let aged = unless_miri(
        common::aged(&[kvq_codec::Layout::S4, kvq_codec::Layout::S2], 16, 0),
        common::every_tier(),
    );
    let aged = Policy { edge_layers: EDGES, ..aged };
    let plain = Policy { edge_layers: EdgeLayers::NONE, ..aged };
    let n = unless_miri(150, 40);
    let cache = filled(SHAPE, aged, n);
    assert!((0..SHAPE.n_layers).all(|layer| (demoted(&cache, layer) == 0) == is_edge(layer)));
    let bytes = snapshot(&cache);
    assert_eq!(SnapshotInfo::read(&bytes).unwrap().policy, aged);
    let mut same = Cache::new(SHAPE, aged, Backend::detect(), Growing::default()).unwrap();
    same.restore(&bytes).unwrap();
    assert!(snapshot(&same) == bytes);
    let mut other = filled(SHAPE, plain, n);
    let error = refused(&mut other, &bytes);
    assert!(matches!(error, Error::Mismatch { field: "edge_layers", .. }), "{error}");
    // All layers are demoted here: a header that says otherwise is not believed.
    let forged = patched(&snapshot(&other), 54, &[EDGES.first, EDGES.last]);
    let error = refused(&mut same, &forged);
    assert!(matches!(error, Error::SnapshotContent { field: "tier", .. }), "{error}");
    // A buffer with just enough room takes the snapshot; in a smaller one nothing changes.
    let mut memory = vec![0; minimum_bytes(SHAPE, aged).unwrap()];
    let mut small = KvCache::new(SHAPE, aged, Backend::detect(), &mut memory).unwrap();
    let Error::Room { needed, .. } = refused(&mut small, &bytes) else { panic!("no room expected") };
    let mut memory = vec![0; needed as usize];
    let mut fits = KvCache::new(SHAPE, aged, Backend::detect(), &mut memory).unwrap();
    fits.restore(&bytes).unwrap();
    let sequence = Sequence::new(SHAPE, 1, 9);
    append(&mut fits, &sequence, 0).unwrap();
}
