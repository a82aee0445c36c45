//! Every documented error happens, says which call helps, and leaves the cache as it was.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::{Sequence, aged, lighter, unless_miri};
use kvq_codec::{
    Backend, Budget, Error, KvCache, KvShape, Layout, Policy, Side, Step, Tier, WhenFull, capacity_tokens,
    minimum_bytes,
};

const SHAPE: KvShape = KvShape::new(2, 2, unless_miri(32, 4));
/// Keys, values or queries of one token.
const ROW: usize = SHAPE.n_kv_heads * SHAPE.key_head_dim;
const POLICY: Policy = Policy {
    span_len: 16,
    recent_len: 16,
    // Under Miri a first tier that searches for no scale, and one under pressure.
    key_tiers: unless_miri(Policy::FOUR_X.key_tiers, [QUICK[0], None, None, None]),
    value_tiers: unless_miri(Policy::FOUR_X.value_tiers, [QUICK[0], QUICK[1], None, None]),
    ladder: unless_miri(
        Policy::FOUR_X.ladder,
        [Some(Step { side: Side::Value, to: 1 }), None, None, None, None, None],
    ),
    ..Policy::FOUR_X
}
.with_byte_budget(WhenFull::Demote);
const QUICK: [Option<Tier>; 2] = [Some(Tier::first(Layout::Q8)), Some(Tier::under_pressure(Layout::S2))];

fn buffer() -> Vec<u8> {
    vec![0; 48 * 1024]
}

fn message_names(error: Error, call: &str) {
    let text = error.to_string();
    assert!(text.contains(call), "'{text}' does not name {call}");
}

#[test]
fn shapes_out_of_range_are_refused() {
    for shape in [
        KvShape::new(0, 1, 64),
        KvShape::new(1, 0, 64),
        KvShape::new(1, 1, 0),
        KvShape::new(1, 1, 63),
        KvShape::new(1, 1, 260),
        KvShape::new(1, 1, 64).with_value_head_dim(2),
        KvShape::new(1, 70_000, 64),
    ] {
        let error = KvCache::new(shape, POLICY, Backend::SCALAR, &mut buffer()).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{shape:?}: {error}");
        message_names(error, "KvShape::check");
    }
}

#[test]
fn contradictory_policies_are_refused_with_the_reason() {
    let first = Some(Tier::first(Layout::S3));
    let cases = [
        (Policy { span_len: 48, ..POLICY }, "span_len"),
        (Policy { recent_len: 1, ..POLICY }, "recent_len"),
        (Policy { n_sink: 5000, ..POLICY }, "n_sink"),
        (Policy { key_tiers: [None; 4], ..POLICY }, "at least one tier"),
        (
            Policy { key_tiers: [first, Some(Tier::from_age(Layout::S4, 64)), None, None], ..POLICY },
            "fewer bits",
        ),
        (Policy { value_tiers: [first, None, first, None], ..POLICY }, "gap"),
        (Policy { value_tiers: [Some(Tier::from_age(Layout::S4, 9)), None, None, None], ..POLICY }, "age 0"),
        (
            Policy {
                ladder: [Some(Step { side: Side::Key, to: 2 }), None, None, None, None, None],
                ..POLICY
            },
            "ladder",
        ),
        (Policy { budget: Budget::Compression(99), ..POLICY }, "compression"),
        (Policy { budget: Budget::Compression(400), when_full: WhenFull::Evict, ..POLICY }, "evict"),
        (
            Policy { budget: Budget::Compression(400), when_full: WhenFull::Error, ..POLICY },
            "when_full = demote",
        ),
    ];
    for (policy, reason) in cases {
        let error = KvCache::new(SHAPE, policy, Backend::SCALAR, &mut buffer()).unwrap_err();
        assert!(matches!(error, Error::Policy(_)), "{reason}: {error}");
        message_names(error, "Policy::check");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn the_minimum_is_enough_and_a_byte_less_is_not() {
    for (_, policy) in Policy::PRESETS {
        let needed = minimum_bytes(SHAPE, policy).unwrap();
        let mut memory = vec![0; needed];
        assert!(KvCache::new(SHAPE, policy, Backend::SCALAR, &mut memory).is_ok());
        let error = KvCache::new(SHAPE, policy, Backend::SCALAR, &mut memory[1..]).unwrap_err();
        assert_eq!(error, Error::BufferTooSmall { needed: needed as u32, got: needed as u32 - 1 });
        message_names(error, "minimum_bytes");
        assert!(matches!(capacity_tokens(SHAPE, policy, needed - 1), Err(Error::BufferTooSmall { .. })));
    }
}

#[test]
fn wrong_arguments_are_named_and_change_nothing() {
    let sequence = Sequence::new(SHAPE, 40, 1);
    let (k, v) = (sequence.slab(0, 40, true), sequence.slab(0, 40, false));
    let values_of = |n_tokens: usize| (n_tokens * ROW) as u32;
    let mut memory = buffer();
    let mut cache = KvCache::new(SHAPE, POLICY, Backend::SCALAR, &mut memory).unwrap();
    for layer in 0..2 {
        cache.append(layer, 40, &k, &v).unwrap();
    }
    let (q, mut before) = (vec![0.3; ROW], vec![0.0; ROW]);
    cache.attend(0, 1, &q, &mut before).unwrap();

    let error = cache.append(2, 40, &k, &v).unwrap_err();
    assert_eq!(error, Error::Layer { n_layers: 2, got: 2 });
    message_names(error, "Cache::shape");
    let error = cache.append(0, 39, &k, &v).unwrap_err();
    assert_eq!(error, Error::Length { argument: "keys", needed: values_of(39), got: values_of(40) });
    message_names(error, "KvShape");
    let error = cache.append(0, 40, &k, &v[1..]).unwrap_err();
    assert_eq!(error, Error::Length { argument: "values", needed: values_of(40), got: values_of(40) - 1 });

    for (bad, side, head, pos) in [
        (f32::NAN, Side::Key, 1u32, 47u32),
        (f32::INFINITY, Side::Value, 0, 40),
        (-1e31, Side::Key, 0, 79),
        (f32::NEG_INFINITY, Side::Value, 1, 79),
    ] {
        let (mut k, mut v) = (k.clone(), v.clone());
        let at = (head as usize * 40 + pos as usize - 40) * SHAPE.key_head_dim + 3;
        match side {
            Side::Key => k[at] = bad,
            Side::Value => v[at] = bad,
        }
        assert_eq!(cache.append(0, 40, &k, &v).unwrap_err(), Error::NotFinite { side, head, pos });
    }

    let mut out = vec![0.0; ROW];
    assert!(matches!(cache.attend(9, 1, &q, &mut out), Err(Error::Layer { .. })));
    let error = cache.attend(0, 1, &q[1..], &mut out).unwrap_err();
    assert_eq!(error, Error::QueryHeads { multiple_of: ROW as u32, got: ROW as u32 - 1 });
    message_names(error, "Cache::shape");
    assert!(matches!(cache.attend(0, 1, &[], &mut out), Err(Error::QueryHeads { .. })));
    assert!(matches!(cache.attend(0, 1, &q, &mut out[1..]), Err(Error::Length { argument: "out", .. })));
    let (many_q, mut many_out) = (vec![0.3; ROW * 41], vec![0.0; ROW * 41]);
    let error = cache.attend(0, 41, &many_q, &mut many_out).unwrap_err();
    assert_eq!(error, Error::PastEnd { len: 40, got: 41 });
    message_names(error, "Cache::len");
    assert_eq!(cache.trim(41).unwrap_err(), Error::PastEnd { len: 40, got: 41 });

    assert_eq!(cache.len(), 40);
    cache.attend(0, 1, &q, &mut out).unwrap();
    assert_eq!(before, out);
}

#[test]
fn a_full_cache_says_so_and_goes_on_working() {
    let sequence = Sequence::new(SHAPE, 1, 2);
    let (k, v) = (sequence.slab(0, 1, true), sequence.slab(0, 1, false));
    let bytes = minimum_bytes(SHAPE, POLICY).unwrap() + unless_miri(9000, 0);
    let mut memory = vec![0; bytes];
    let mut cache = KvCache::new(SHAPE, POLICY, Backend::SCALAR, &mut memory).unwrap();
    let capacity = capacity_tokens(SHAPE, POLICY, bytes).unwrap();
    // Under Miri all but the last two at once.
    let at_once = unless_miri(0, capacity - 2);
    let rows = vec![0.3; at_once * ROW];
    (0..2).for_each(|layer| cache.append(layer, at_once, &rows, &rows).unwrap());
    for t in at_once..capacity {
        for layer in 0..2 {
            cache.append(layer, 1, &k, &v).unwrap_or_else(|e| panic!("token {t} of {capacity}: {e}"));
        }
    }
    let error = cache.append(0, 1, &k, &v).unwrap_err();
    assert_eq!(error, Error::Full { needed: capacity as u32 + 1, capacity: capacity as u32 });
    message_names(error, "capacity_tokens");
    let mut out = vec![0.0; ROW];
    cache.attend(1, 1, &[0.1; ROW], &mut out).unwrap();
    cache.trim(10).unwrap();
    assert!(cache.append(0, 1, &k, &v).is_ok());
}

#[test]
fn without_demotion_the_tiers_under_pressure_are_not_used() {
    let policy = Policy { when_full: WhenFull::Error, ..POLICY };
    let bytes = unless_miri(40_000, 4_000);
    let fewer = capacity_tokens(SHAPE, policy, bytes).unwrap();
    let more = capacity_tokens(SHAPE, POLICY, bytes).unwrap();
    assert!(more > fewer + unless_miri(80, 10), "{more} {fewer}");
    let mut memory = vec![0; bytes];
    let mut cache = KvCache::new(SHAPE, policy, Backend::SCALAR, &mut memory).unwrap();
    let sequence = Sequence::new(SHAPE, fewer, 3);
    for layer in 0..2 {
        cache.append(layer, fewer, &sequence.slab(0, fewer, true), &sequence.slab(0, fewer, false)).unwrap();
        let map = cache.tier_map(layer, Side::Value).unwrap();
        assert!(map.iter().all(|t| t.tokens == 0 || matches!(t.layout, Layout::Q8 | Layout::S4)), "{map:?}");
    }
}

#[test]
fn storage_that_cannot_grow_when_it_should_is_an_error() {
    let storage = common::Limited { bytes: Vec::new(), most: unless_miri(20_000, 3_000) };
    let mut cache =
        kvq_codec::Cache::new(SHAPE, lighter(aged(&[Layout::S4], 16, 16)), Backend::SCALAR, storage).unwrap();
    let step = unless_miri(1, 20);
    let sequence = Sequence::new(SHAPE, step, 2);
    let (k, v) = (sequence.slab(0, step, true), sequence.slab(0, step, false));
    let error = (0..1000).find_map(|_| cache.append(0, step, &k, &v).err()).unwrap();
    assert!(matches!(error, Error::Grow { .. }), "{error}");
    message_names(error, "Cache::append");
    let len = cache.len();
    assert_eq!(cache.append(0, step, &k, &v).unwrap_err(), error);
    assert_eq!(cache.len(), len);
}
