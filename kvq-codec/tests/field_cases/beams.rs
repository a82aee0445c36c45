//! Beams: a reorder, a crop and a reset reach every tier, and branches do not share a byte.

use super::common::snapshots::snapshot;
use super::common::{Growing, Random, Sequence, every_tier, unless_miri};
use super::{append, attended, fresh, restored};
use kvq_codec::{Backend, Cache, KvShape, Policy, Side};

const SHAPE: KvShape = KvShape::new(unless_miri(2, 1), unless_miri(2, 1), unless_miri(32, 4));
const LAST: usize = SHAPE.n_layers - 1;
const AT: usize = unless_miri(200, 42);
/// How far other text lies from what was appended.
const SHIFT: usize = unless_miri(50, 5);

fn policies() -> Vec<Policy> {
    let presets = [Policy::FOUR_X, Policy { span_len: 16, recent_len: 0, ..Policy::SIX_X }];
    presets.into_iter().skip(unless_miri(0, 2)).chain([every_tier()]).collect()
}

/// Sinks, every tier of the policy and the recent window hold tokens.
fn holds_all_tiers(cache: &Cache<Growing>) {
    let n_tiers = every_tier().key_tiers.iter().flatten().count();
    for side in [Side::Key, Side::Value] {
        let map = cache.tier_map(LAST, side).unwrap();
        assert_eq!(map.iter().filter(|tier| tier.tokens > 0).count(), n_tiers + 2, "{map:?}");
    }
}

/// Everything that can be read of a cache.
fn state(cache: &Cache<Growing>) -> (Vec<u8>, Vec<u32>, Vec<u32>) {
    let sides = [Side::Key, Side::Value].into_iter();
    let rows = sides.flat_map(|side| restored(cache, LAST, side, 0)).map(f32::to_bits);
    (snapshot(cache), attended(cache), rows.collect())
}

/// Beam search: branches of one prompt, from which each step keeps some, possibly several times.
#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn a_reorder_moves_whole_sequences() {
    let prompt = Sequence::new(SHAPE, AT, 3);
    let mut beams: Vec<Cache<Growing>> =
        (0..4).map(|_| fresh(SHAPE, every_tier(), Backend::detect())).collect();
    append(&mut beams[0], &prompt, 0, AT);
    holds_all_tiers(&beams[0]);
    let (root, others) = beams.split_first_mut().unwrap();
    others.iter_mut().for_each(|beam| root.fork_into(beam).unwrap());
    // What each beam has read: a plain cache is filled with that in the end.
    let mut texts = vec![prompt.tokens; 4];
    let mut random = Random::new(9);
    let orders = [[2, 0, 0, 3], [1, 1, 1, 1], [3, 2, 1, 0], [0, 3, 3, 2]];
    for order in orders {
        for (beam, text) in beams.iter_mut().zip(&mut texts) {
            let mut own = Sequence::new(SHAPE, 0, 3);
            (0..23).for_each(|_| own.push(&mut random));
            append(beam, &own, 0, own.tokens.len());
            text.extend(own.tokens);
        }
        let before: Vec<_> = beams.iter().map(state).collect();
        assert!(before[0] != before[1] && before[1] != before[2] && before[2] != before[3]);
        let mut kept: Vec<Cache<Growing>> =
            (0..4).map(|_| fresh(SHAPE, every_tier(), Backend::detect())).collect();
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
        let mut plain = fresh(SHAPE, every_tier(), Backend::detect());
        append(&mut plain, &own, 0, own.tokens.len());
        assert!(snapshot(beam) == snapshot(&plain));
    }
}

/// A crop to any length, the ends of all tiers among them, keeps each row that it keeps as it was.
#[test]
fn a_crop_reaches_every_tier() {
    let prompt = Sequence::new(SHAPE, AT, 3);
    let dim = SHAPE.key_head_dim;
    let mut whole = fresh(SHAPE, every_tier(), Backend::detect());
    append(&mut whole, &prompt, 0, AT);
    holds_all_tiers(&whole);
    let rows = [Side::Key, Side::Value].map(|side| restored(&whole, LAST, side, 0));
    let map = whole.tier_map(LAST, Side::Key).unwrap();
    let ends = map.iter().scan(0, |end, tier| {
        *end += tier.tokens;
        Some(*end)
    });
    let mut ends: Vec<usize> = ends.collect();
    ends.dedup();
    for end in ends {
        for to in [end - 1, end, (end + 1).min(AT)].into_iter().take(unless_miri(3, 1)) {
            let mut cropped = fresh(SHAPE, every_tier(), Backend::detect());
            whole.fork_into(&mut cropped).unwrap();
            cropped.trim(to).unwrap();
            assert_eq!((cropped.len(), cropped.n_held(LAST)), (to, Ok(to)));
            for (side, rows) in [Side::Key, Side::Value].into_iter().zip(&rows) {
                assert_eq!(restored(&cropped, LAST, side, 0), rows[..to * dim], "{side:?} to {to}");
                let held: usize = cropped.tier_map(LAST, side).unwrap().iter().map(|tier| tier.tokens).sum();
                assert_eq!(held, to);
            }
        }
    }
}

#[test]
fn a_reset_leaves_nothing_in_any_tier() {
    let prompt = Sequence::new(SHAPE, AT, 3);
    let mut cache = fresh(SHAPE, every_tier(), Backend::detect());
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
    let sequence = Sequence::new(SHAPE, unless_miri(400, 70), 11);
    for policy in policies() {
        let mut parent = fresh(SHAPE, policy, Backend::detect());
        append(&mut parent, &sequence, 0, AT);
        let mut child = fresh(SHAPE, policy, Backend::detect());
        parent.fork_into(&mut child).unwrap();
        let before = state(&parent);
        append(&mut child, &sequence, AT + SHIFT, AT * 3 / 2 + SHIFT);
        child.trim(AT * 3 / 4).unwrap();
        append(&mut child, &sequence, AT + SHIFT / 2, AT * 3 / 2 + SHIFT / 2);
        assert!(state(&parent) == before);
        child.clear();
        assert!(state(&parent) == before);
        // And the other way round: the child keeps what the parent gives up.
        parent.fork_into(&mut child).unwrap();
        parent.clear();
        append(&mut parent, &sequence, SHIFT, SHIFT + AT);
        assert!(state(&child) == before);
        // Brought back to where they parted, both go on alike.
        parent.restore(&before.0).unwrap();
        append(&mut parent, &sequence, AT, AT + AT / 2);
        append(&mut child, &sequence, AT, AT + AT / 2);
        assert!(state(&parent) == state(&child));
    }
}
