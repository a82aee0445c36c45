//! Beams: a reorder, a crop and a reset reach every tier, and branches do not share a byte.

use super::common::snapshots::snapshot;
use super::common::{Growing, Random, Sequence, aged, lighter, unless_miri};
use super::{append, attended, fresh, restored};
use kvq_codec::{Backend, Cache, KvShape, Layout, Policy, Side};

const SHAPE: KvShape = KvShape::new(2, unless_miri(2, 1), unless_miri(32, 4));
const AT: usize = unless_miri(200, 130);

fn policies() -> Vec<Policy> {
    let all = [
        Policy::FOUR_X,
        Policy { span_len: 16, recent_len: 0, ..Policy::SIX_X },
        aged(&[Layout::Q8, Layout::T4, Layout::T3, Layout::T2], 16, 16),
    ];
    all.into_iter().skip(unless_miri(0, 2)).map(lighter).collect()
}

/// A policy and a length at which sinks, every tier and the recent window hold tokens.
fn all_tiers() -> Policy {
    lighter(aged(&[Layout::Q8, Layout::T4, Layout::T3, Layout::T2], 16, 16))
}

fn holds_all_tiers(cache: &Cache<Growing>) {
    for side in [Side::Key, Side::Value] {
        let map = cache.tier_map(SHAPE.n_layers - 1, side).unwrap();
        assert!(map.iter().all(|tier| tier.tokens > 0), "{map:?}");
    }
}

/// Everything that can be read of a cache.
fn state(cache: &Cache<Growing>) -> (Vec<u8>, Vec<u32>, Vec<u32>) {
    let sides = [Side::Key, Side::Value].into_iter();
    let rows = sides.flat_map(|side| restored(cache, SHAPE.n_layers - 1, side, 0)).map(f32::to_bits);
    (snapshot(cache), attended(cache), rows.collect())
}

/// Beam search: branches of one prompt, from which each step keeps some, possibly several times.
#[test]
fn a_reorder_moves_whole_sequences() {
    let prompt = Sequence::new(SHAPE, AT, 3);
    let mut beams: Vec<Cache<Growing>> =
        (0..4).map(|_| fresh(SHAPE, all_tiers(), Backend::detect())).collect();
    append(&mut beams[0], &prompt, 0, AT);
    holds_all_tiers(&beams[0]);
    let (root, others) = beams.split_first_mut().unwrap();
    others.iter_mut().for_each(|beam| root.fork_into(beam).unwrap());
    // What each beam has read: a plain cache is filled with that in the end.
    let mut texts = vec![prompt.tokens; 4];
    let mut random = Random::new(9);
    for order in [[2, 0, 0, 3], [1, 1, 1, 1], [3, 2, 1, 0], [0, 3, 3, 2]] {
        for (beam, text) in beams.iter_mut().zip(&mut texts) {
            let mut own = Sequence::new(SHAPE, 0, 3);
            (0..unless_miri(23, 9)).for_each(|_| own.push(&mut random));
            append(beam, &own, 0, own.tokens.len());
            text.extend(own.tokens);
        }
        let before: Vec<_> = beams.iter().map(state).collect();
        assert!(before[0] != before[1] && before[1] != before[2] && before[2] != before[3]);
        let mut kept: Vec<Cache<Growing>> =
            (0..4).map(|_| fresh(SHAPE, all_tiers(), Backend::detect())).collect();
        for (to, from) in order.into_iter().enumerate() {
            beams[from].fork_into(&mut kept[to]).unwrap();
        }
        beams = kept;
        texts = order.map(|from| texts[from].clone()).into();
        for (beam, from) in beams.iter().zip(order) {
            holds_all_tiers(beam);
            assert!(state(beam) == before[from], "from {from}");
        }
    }
    for (beam, text) in beams.iter().zip(texts) {
        let mut own = Sequence::new(SHAPE, 0, 3);
        own.tokens = text;
        let mut plain = fresh(SHAPE, all_tiers(), Backend::detect());
        append(&mut plain, &own, 0, own.tokens.len());
        assert!(snapshot(beam) == snapshot(&plain));
    }
}

/// A crop to any length, the ends of all tiers among them, keeps each row that it keeps as it was.
#[test]
fn a_crop_reaches_every_tier() {
    let prompt = Sequence::new(SHAPE, AT, 3);
    let dim = SHAPE.key_head_dim;
    let mut whole = fresh(SHAPE, all_tiers(), Backend::detect());
    append(&mut whole, &prompt, 0, AT);
    holds_all_tiers(&whole);
    let rows = [Side::Key, Side::Value].map(|side| restored(&whole, 1, side, 0));
    let map = whole.tier_map(1, Side::Key).unwrap();
    let ends = map.iter().scan(0, |end, tier| {
        *end += tier.tokens;
        Some(*end)
    });
    for end in ends.collect::<Vec<_>>() {
        for to in [end - 1, end, (end + 1).min(AT)] {
            let mut cropped = fresh(SHAPE, all_tiers(), Backend::detect());
            whole.fork_into(&mut cropped).unwrap();
            cropped.trim(to).unwrap();
            assert_eq!((cropped.len(), cropped.n_held(1)), (to, Ok(to)));
            for (side, rows) in [Side::Key, Side::Value].into_iter().zip(&rows) {
                assert_eq!(restored(&cropped, 1, side, 0), rows[..to * dim], "{side:?} to {to}");
                let held: usize = cropped.tier_map(1, side).unwrap().iter().map(|tier| tier.tokens).sum();
                assert_eq!(held, to);
            }
        }
    }
}

#[test]
fn a_reset_leaves_nothing_in_any_tier() {
    let prompt = Sequence::new(SHAPE, AT, 3);
    let mut cache = fresh(SHAPE, all_tiers(), Backend::detect());
    append(&mut cache, &prompt, 0, AT);
    holds_all_tiers(&cache);
    cache.clear();
    for layer in 0..SHAPE.n_layers {
        for side in [Side::Key, Side::Value] {
            assert!(cache.tier_map(layer, side).unwrap().iter().all(|tier| tier.tokens == 0));
        }
        assert_eq!(cache.n_held(layer), Ok(0));
    }
    let memory = cache.memory();
    let held =
        [memory.code_bytes, memory.scale_bytes, memory.center_bytes, memory.recent_bytes, memory.sink_bytes];
    assert_eq!(held, [0; 5], "{memory:?}");
}

#[test]
fn a_fork_leaves_its_parent_alone() {
    let sequence = Sequence::new(SHAPE, 400, 11);
    for policy in policies() {
        let mut parent = fresh(SHAPE, policy, Backend::detect());
        append(&mut parent, &sequence, 0, AT);
        let mut child = fresh(SHAPE, policy, Backend::detect());
        parent.fork_into(&mut child).unwrap();
        let before = state(&parent);
        append(&mut child, &sequence, 250, 250 + AT / 2);
        child.trim(AT * 3 / 4).unwrap();
        append(&mut child, &sequence, 220, 220 + AT / 2);
        assert!(state(&parent) == before);
        child.clear();
        assert!(state(&parent) == before);
        // And the other way round: the child keeps what the parent gives up.
        parent.fork_into(&mut child).unwrap();
        parent.clear();
        append(&mut parent, &sequence, 150, 150 + AT);
        assert!(state(&child) == before);
        // Brought back to where they parted, both go on alike.
        parent.restore(&before.0).unwrap();
        append(&mut parent, &sequence, AT, AT + AT / 2);
        append(&mut child, &sequence, AT, AT + AT / 2);
        assert!(state(&parent) == state(&child));
    }
}
