//! What every build has, whatever its features: 8-bit and 4-bit scalar codes in one tier, eviction, trim, snapshots; and
//! what a build lacks, it refuses by the feature's name.

use kvq_codec::block::dequantize_into;
use kvq_codec::{
    Backend, Budget, EdgeLayers, Error, KvCache, KvShape, Layout, Policy, SnapshotInfo, Tier, WhenFull,
    capacity_tokens, minimum_bytes,
};

/// Everything behind the window in one layout.
fn one(layout: Layout, when_full: WhenFull) -> Policy {
    let tiers = [Some(Tier::first(layout)), None, None, None];
    Policy {
        span_len: 16,
        key_tiers: tiers,
        value_tiers: tiers,
        ..Policy::EIGHT_BIT.with_byte_budget(when_full)
    }
}

/// Token `t` of a head vector, made of a few waves.
fn token(t: usize, n: usize, phase: f32) -> Vec<f32> {
    (0..n).map(|i| ((t * 7 + i * 3) as f32 * 0.13 + phase).sin() + (i as f32 * 0.9).cos()).collect()
}

/// Attention in full precision over tokens `from..to` of one head of 32 or less per KV head.
fn reference(shape: KvShape, from: usize, to: usize, query: &[f32]) -> Vec<f32> {
    let d = shape.key_head_dim;
    let mut out = Vec::new();
    for head in 0..shape.n_kv_heads {
        let of = |t: usize, phase: f32| token(t, shape.n_kv_heads * d, phase)[head * d..][..d].to_vec();
        let q = &query[head * d..][..d];
        let score = |t: usize| of(t, 0.0).iter().zip(q).map(|(k, q)| k * q).sum::<f32>() / (d as f32).sqrt();
        let weights: Vec<f32> = (from..to).map(|t| score(t).exp()).collect();
        let sum: f32 = weights.iter().sum();
        let mut row = vec![0.0; d];
        for (t, w) in (from..to).zip(&weights) {
            row.iter_mut().zip(of(t, 1.0)).for_each(|(o, v)| *o += w / sum * v);
        }
        out.extend(row);
    }
    out
}

fn append(cache: &mut KvCache<'_>, t: usize) -> Result<(), Error> {
    let n = cache.shape().n_kv_heads * cache.shape().key_head_dim;
    cache.append(0, 1, &token(t, n, 0.0), &token(t, n, 1.0))
}

#[test]
#[cfg_attr(miri, ignore = "a hundred tokens and more; contract and snapshot make the same calls with few")]
fn attention_is_close_in_every_head_size_and_backend() {
    for (n_heads, head_dim) in [(1, 32), (2, 64), (5, 8), (3, 20), (9, 4), (1, 28)] {
        let shape = KvShape::new(1, n_heads, head_dim);
        for (layout, bound) in [(Layout::Q8, 0.02), (Layout::S4, 0.1)] {
            let mut outputs = Vec::new();
            for backend in Backend::available() {
                let mut memory = vec![0; 64 * 1024];
                let mut cache =
                    KvCache::new(shape, one(layout, WhenFull::Error), backend, &mut memory).unwrap();
                (0..70).for_each(|t| append(&mut cache, t).unwrap());
                let query = token(3, n_heads * head_dim, 0.5);
                let mut out = vec![0.0; n_heads * head_dim];
                cache.attend(0, 1, &query, &mut out).unwrap();
                for (got, expected) in out.iter().zip(reference(shape, 0, 70, &query)) {
                    assert!((got - expected).abs() < bound, "{layout:?} {shape:?}: {got} {expected}");
                }
                outputs.push(out);
            }
            for other in &outputs[1..] {
                assert!(other.iter().zip(&outputs[0]).all(|(a, b)| (a - b).abs() < 1e-4));
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a hundred tokens and more; contract and snapshot make the same calls with few")]
fn it_evicts_trims_and_comes_back_from_a_snapshot() {
    let shape = KvShape::new(1, 2, 32);
    let policy = one(Layout::S4, WhenFull::Evict);
    let bytes = 2 * minimum_bytes(shape, policy).unwrap();
    let (mut memory, mut other_memory) = (vec![0; bytes], vec![0; bytes]);
    let mut cache = KvCache::new(shape, policy, Backend::detect(), &mut memory).unwrap();
    let n = 3 * capacity_tokens(shape, policy, bytes).unwrap();
    (0..n).for_each(|t| append(&mut cache, t).unwrap());
    assert_eq!(cache.len(), n);
    let query = token(1, 64, 0.5);
    let attend = |cache: &KvCache<'_>| {
        let mut out = [0.0; 64];
        cache.attend(0, 1, &query, &mut out).unwrap();
        out.map(f32::to_bits)
    };
    let before = attend(&cache);
    (n..n + 5).for_each(|t| append(&mut cache, t).unwrap());
    cache.trim(n).unwrap();
    assert_eq!(attend(&cache), before);
    let mut snapshot = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut snapshot).unwrap();
    assert_eq!(SnapshotInfo::read(&snapshot).unwrap().policy, policy);
    let mut other = KvCache::new(shape, policy, Backend::SCALAR, &mut other_memory).unwrap();
    other.restore(&snapshot).unwrap();
    assert_eq!(other.len(), n);
    let mut full =
        KvCache::new(shape, one(Layout::S4, WhenFull::Error), Backend::SCALAR, &mut memory).unwrap();
    let refused = (0..n).find_map(|t| append(&mut full, t).err());
    assert!(matches!(refused, Some(Error::Full { .. })), "{refused:?}");
}

#[test]
fn what_a_build_lacks_is_refused_by_the_name_of_its_feature() {
    let needs = |layout| match layout {
        Layout::Q8 | Layout::S4 => None,
        Layout::S3 | Layout::S2 => cfg!(not(feature = "low-bits")).then_some("low-bits"),
        _ => cfg!(not(feature = "trellis")).then_some("trellis"),
    };
    let outcome = |feature: Option<&'static str>| feature.map_or(Ok(()), |name| Err(Error::Feature(name)));
    for layout in Layout::ALL {
        let expected = outcome(needs(layout));
        assert_eq!(layout.is_available(), expected.is_ok());
        let policy = one(layout, WhenFull::Evict);
        assert_eq!(policy.check(), expected, "{layout:?}");
        let codes = vec![0; layout.row_bytes(32)];
        assert_eq!(dequantize_into(layout, &codes, 0, &mut [0.0; 32]), expected, "{layout:?}");
        let mut memory = vec![0; 64 * 1024];
        let made = KvCache::new(KvShape::new(1, 1, 32), policy, Backend::detect(), &mut memory);
        assert_eq!(made.map(drop), expected);
    }
    let demote = outcome(cfg!(not(feature = "demote")).then_some("demote"));
    let plain = one(Layout::Q8, WhenFull::Demote);
    let mut tiers = plain.key_tiers;
    tiers[1] = Some(Tier::from_age(Layout::S4, 64));
    for policy in [
        Policy { key_tiers: tiers, ..plain },
        Policy { value_tiers: tiers, ..plain },
        Policy { edge_layers: EdgeLayers { first: 1, last: 0 }, ..plain },
        Policy { budget: Budget::Compression(150), ..plain },
    ] {
        assert_eq!(policy.check(), demote, "{policy:?}");
    }
    assert_eq!(Policy::EIGHT_BIT.check(), Ok(()));
}
