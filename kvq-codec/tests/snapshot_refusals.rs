//! What does not fit is refused by name, and the cache is then as it was.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::snapshots::{append, filled, message_names, patched, refused, snapshot};
use common::{aged, lighter, unless_miri};
use kvq_codec::{
    Backend, Budget, Cache, EdgeLayers, Error, KvCache, KvShape, Layout, Policy, SnapshotInfo, WhenFull,
    minimum_bytes,
};

const SHAPE: KvShape = KvShape::new(2, 1, unless_miri(32, 8)).with_value_head_dim(unless_miri(36, 12));

fn policy() -> Policy {
    lighter(Policy { when_full: WhenFull::Evict, ..aged(&[Layout::Q8, Layout::T3, Layout::S2], 16, 0) })
}

#[test]
fn a_short_buffer_is_refused_and_not_touched() {
    let cache = filled(SHAPE, policy(), unless_miri(60, 5));
    let needed = cache.snapshot_bytes();
    for len in [0, 1, 100, needed - 1] {
        let mut out = vec![0x5a; len];
        let error = cache.snapshot_into(&mut out).unwrap_err();
        assert_eq!(error, Error::SnapshotBuffer { needed: needed as u64, got: len as u64 });
        message_names(error, "Cache::snapshot_bytes");
        assert!(out.iter().all(|&b| b == 0x5a));
    }
    let mut long = vec![0x5a; needed + 3];
    assert_eq!(cache.snapshot_into(&mut long), Ok(needed));
    assert_eq!(long[needed..], [0x5a; 3]);
}

#[test]
fn another_version_is_refused_before_anything_else_is_read() {
    let bytes = snapshot(&filled(SHAPE, policy(), unless_miri(30, 5)));
    let mut cache = filled(SHAPE, policy(), unless_miri(40, 5));
    let mut newer = bytes.clone();
    newer[8] = 2;
    let error = refused(&mut cache, &newer);
    assert_eq!(error, Error::SnapshotVersion { needed: 1, got: 2 });
    assert_eq!(SnapshotInfo::read(&newer), Err(error));
    message_names(error, "Cache::snapshot_into");
}

#[test]
fn another_shape_or_policy_is_named_by_its_first_field() {
    let own = policy();
    let mut cache = filled(SHAPE, own, unless_miri(40, 6));
    let compressed = Policy { budget: Budget::Compression(400), when_full: WhenFull::Demote, ..own };
    let mut tiers = own.key_tiers;
    tiers[1] = Some(kvq_codec::Tier::from_age(Layout::T3, 33));
    let mut ladder = own.ladder;
    ladder[0] = Some(kvq_codec::Step { side: kvq_codec::Side::Value, to: 1 });
    for (field, shape, policy) in [
        ("n_layers", KvShape { n_layers: 3, ..SHAPE }, own),
        ("n_kv_heads", KvShape { n_kv_heads: 2, ..SHAPE }, own),
        ("key_head_dim", KvShape { key_head_dim: SHAPE.key_head_dim + 4, ..SHAPE }, own),
        ("value_head_dim", KvShape { value_head_dim: SHAPE.value_head_dim - 4, ..SHAPE }, own),
        ("n_sink", SHAPE, Policy { n_sink: 5, ..own }),
        ("recent_len", SHAPE, Policy { recent_len: 2, ..own }),
        ("span_len", SHAPE, Policy { span_len: 32, ..own }),
        ("when_full", SHAPE, Policy { when_full: WhenFull::Error, ..own }),
        ("window_len", SHAPE, Policy { window_len: 9, ..own }),
        ("key_tiers", SHAPE, Policy { key_tiers: tiers, ..own }),
        ("value_tiers", SHAPE, Policy { value_tiers: tiers, ..own }),
        ("ladder", SHAPE, Policy { ladder, ..own }),
        ("edge_layers", SHAPE, Policy { edge_layers: EdgeLayers { first: 0, last: 1 }, ..own }),
        ("when_full", SHAPE, compressed),
    ] {
        let mut other = filled(shape, policy, unless_miri(20, 5));
        let error = refused(&mut cache, &snapshot(&other));
        assert!(matches!(error, Error::Mismatch { field: f, .. } if f == field), "{field}: {error}");
        message_names(error, "SnapshotInfo::read");
        let before = snapshot(&other);
        assert_eq!(cache.fork_into(&mut other), Err(error), "{field}");
        assert!(snapshot(&other) == before);
    }
    let mut one = filled(SHAPE, compressed, 1);
    let more = Policy { budget: Budget::Compression(500), ..compressed };
    let error = refused(&mut one, &snapshot(&filled(SHAPE, more, 1)));
    assert_eq!(error, Error::Mismatch { field: "compression", needed: 400, got: 500 });
    // Another rotation, and bits that stand for nothing yet.
    let bytes = snapshot(&filled(SHAPE, own, unless_miri(30, 5)));
    for (field, at) in [("rotation", 12), ("key_tiers", 62), ("reserved", 139)] {
        let bytes = patched(&bytes, at, &[0x7f]);
        let error = refused(&mut cache, &bytes);
        assert!(matches!(error, Error::Mismatch { field: f, .. } if f == field), "{field}: {error}");
        assert!(SnapshotInfo::read(&bytes).is_err());
    }
}

#[test]
fn headers_that_no_cache_wrote_are_refused_by_the_reader() {
    let bytes = snapshot(&filled(SHAPE, policy(), unless_miri(30, 5)));
    let read = |at: usize, with: &[u8]| SnapshotInfo::read(&patched(&bytes, at, with)).unwrap_err();
    assert!(matches!(read(28, &[0; 4]), Error::Shape { field: "n_layers", got: 0 }));
    assert!(matches!(read(36, &[0xff; 4]), Error::Shape { field: "key_head_dim", got: u32::MAX }));
    assert!(matches!(read(48, &[48, 0]), Error::Policy(_)));
    for (field, at) in
        [("when_full", 50), ("budget", 51), ("key_tiers", 60), ("value_tiers", 92), ("ladder", 124)]
    {
        let error = read(at, &[77]);
        assert!(matches!(error, Error::SnapshotContent { field: f, got: 77, .. } if f == field), "{error}");
        message_names(error, "Cache::snapshot_into");
    }
    assert!(matches!(read(10, &[0; 2]), Error::SnapshotContent { field: "header_bytes", .. }));
}

#[test]
fn a_buffer_without_room_says_how_long_it_must_be() {
    let policies = Policy::PRESETS.map(|p| p.1.with_byte_budget(WhenFull::Demote));
    let own = [policy(), lighter(aged(&[Layout::T4, Layout::S3], 16, 16))];
    for policy in policies.into_iter().chain(own).skip(unless_miri(0, 5)) {
        for &shape in unless_miri(&[SHAPE, KvShape::new(3, 5, 8)][..], &[KvShape::new(1, 1, 4)]) {
            let mut parent = filled(shape, policy, unless_miri(260, 70));
            let bytes = snapshot(&parent);
            let mut small = vec![0; minimum_bytes(shape, policy).unwrap()];
            let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut small).unwrap();
            append(&mut cache, 9, 10);
            let error = refused(&mut cache, &bytes);
            let Error::Room { needed, got } = error else { panic!("{error}") };
            assert_eq!(got, cache.storage_bytes() as u64);
            message_names(error, "Cache::new");
            let before = snapshot(&cache);
            assert_eq!(parent.fork_into(&mut cache), Err(error));
            assert!(snapshot(&cache) == before);
            let mut enough = vec![0; needed as usize];
            let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut enough).unwrap();
            cache.restore(&bytes).unwrap();
            parent.fork_into(&mut cache).unwrap();
            assert!(snapshot(&cache) == bytes);
            // It is not much more than needed: one span's bytes and records less per layer are too few.
            let less = needed as usize - needed as usize / 8;
            let mut little = vec![0; less];
            let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut little).unwrap();
            assert!(matches!(refused(&mut cache, &bytes), Error::Room { needed: n, .. } if n == needed));
            parent.clear();
            parent.fork_into(&mut cache).unwrap();
            assert!(cache.is_empty());
        }
    }
}

#[test]
fn storage_that_cannot_grow_leaves_the_cache_as_it_was() {
    const MOST: usize = unless_miri(14_000, 3_000);
    let storage = common::Limited { bytes: Vec::new(), most: MOST };
    let parent = filled(SHAPE, policy(), unless_miri(200, 50));
    let mut cache = Cache::new(SHAPE, policy(), Backend::detect(), storage).unwrap();
    append(&mut cache, 9, unless_miri(60, 5));
    let error = refused(&mut cache, &snapshot(&parent));
    assert!(matches!(error, Error::Grow { needed, got } if needed > got && needed > MOST as u32), "{error}");
    let before = snapshot(&cache);
    assert_eq!(parent.fork_into(&mut cache), Err(error));
    assert!(snapshot(&cache) == before);
}
