//! A second prompt on a used cache: cleared, it leaves no trace of the first; not cleared, it follows it.

use super::common::snapshots::snapshot;
use super::common::{Sequence, aged, lighter, unless_miri};
use super::{append, attended, fresh, restored, worst_error};
use kvq_codec::{Backend, KvCache, KvShape, Layout, Policy, Side, WhenFull, minimum_bytes};

const SHAPE: KvShape = KvShape::new(unless_miri(2, 1), 2, unless_miri(32, 4));
const FIRST: usize = unless_miri(300, 38);
const SECOND: usize = unless_miri(190, 38);

fn policies() -> Vec<Policy> {
    let all = [
        Policy::EIGHT_BIT,
        Policy::FOUR_X,
        Policy { span_len: 16, recent_len: 0, ..Policy::SIX_X },
        aged(&[Layout::T4, Layout::T3, Layout::T2], 16, 16),
    ];
    all.into_iter().skip(unless_miri(0, 3)).map(lighter).collect()
}

#[test]
fn clear_gives_the_bytes_of_a_fresh_cache() {
    let (first, second) = (Sequence::new(SHAPE, FIRST, 8), Sequence::new(SHAPE, SECOND, 9));
    for policy in policies() {
        let mut used = fresh(SHAPE, policy, Backend::detect());
        append(&mut used, &first, 0, FIRST);
        used.trim(FIRST / 3).unwrap();
        append(&mut used, &first, FIRST / 3, FIRST / 2);
        used.clear();
        assert!(used.is_empty());
        let mut other = fresh(SHAPE, policy, Backend::detect());
        assert!(snapshot(&used) == snapshot(&other), "empty");
        // One by one, so that every length on the way is compared.
        for t in 0..SECOND {
            append(&mut used, &second, t, t + 1);
            append(&mut other, &second, t, t + 1);
            if t % unless_miri(9, 25) == 0 || t + 1 == SECOND {
                assert!(snapshot(&used) == snapshot(&other), "{policy:?}, token {t}");
                assert_eq!(attended(&used), attended(&other), "{policy:?}, token {t}");
            }
        }
    }
}

/// In a buffer of fixed length every figure of the report is that of a fresh cache, too.
#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn a_cleared_buffer_holds_as_much_as_a_fresh_one() {
    for when_full in [WhenFull::Error, WhenFull::Demote, WhenFull::Evict] {
        let policy =
            lighter(Policy { span_len: 16, recent_len: 16, ..Policy::SIX_X }).with_byte_budget(when_full);
        let bytes = minimum_bytes(SHAPE, policy).unwrap() + 20_000;
        let (mut one, mut two) = (vec![0x5a; bytes], vec![0; bytes]);
        let mut used = KvCache::new(SHAPE, policy, Backend::detect(), &mut one).unwrap();
        let mut other = KvCache::new(SHAPE, policy, Backend::detect(), &mut two).unwrap();
        let sequence = Sequence::new(SHAPE, 900, 4);
        let fill = |cache: &mut KvCache<'_>| {
            let mut outcomes = Vec::new();
            for t in 0..sequence.tokens.len() {
                let (k, v) = (sequence.slab(t, t + 1, true), sequence.slab(t, t + 1, false));
                outcomes.push(
                    (0..SHAPE.n_layers).map(|layer| cache.append(layer, 1, &k, &v)).collect::<Vec<_>>(),
                );
            }
            (outcomes, cache.memory(), snapshot(cache))
        };
        fill(&mut used);
        used.clear();
        assert!(fill(&mut used) == fill(&mut other), "{when_full:?}");
    }
}

#[test]
fn without_clear_the_second_prompt_follows_the_first() {
    let both = Sequence::new(SHAPE, FIRST + SECOND, 8);
    for policy in policies() {
        let mut in_two = fresh(SHAPE, policy, Backend::detect());
        append(&mut in_two, &both, 0, FIRST);
        append(&mut in_two, &both, FIRST, FIRST + SECOND);
        assert_eq!(in_two.len(), FIRST + SECOND);
        let mut at_once = fresh(SHAPE, policy, Backend::detect());
        append(&mut at_once, &both, 0, FIRST + SECOND);
        assert!(snapshot(&in_two) == snapshot(&at_once), "{policy:?}");
        assert_eq!(attended(&in_two), attended(&at_once), "{policy:?}");
        let error = worst_error(&both, &in_two, unless_miri(2, 1), unless_miri(3, 1));
        assert!(error < 1.0, "{policy:?}: {error}");
        assert_eq!(
            restored(&in_two, SHAPE.n_layers - 1, Side::Key, 1).len(),
            (FIRST + SECOND) * SHAPE.key_head_dim
        );
    }
}

#[test]
fn tokens_one_by_one_give_the_bytes_of_all_at_once() {
    let shape = KvShape::new(unless_miri(2, 1), unless_miri(3, 1), unless_miri(32, 4));
    let n = unless_miri(700, 24);
    let sequence = Sequence::new(shape, n, 11);
    for (_, policy) in Policy::PRESETS.into_iter().take(unless_miri(4, 2)) {
        let policy = lighter(policy);
        let mut at_once = fresh(shape, policy, Backend::detect());
        append(&mut at_once, &sequence, 0, n);
        let mut one_by_one = fresh(shape, policy, Backend::SCALAR);
        (0..n).for_each(|t| append(&mut one_by_one, &sequence, t, t + 1));
        assert!(snapshot(&at_once) == snapshot(&one_by_one), "{policy:?}");
    }
}
