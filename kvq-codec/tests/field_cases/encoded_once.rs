//! What is settled stays: a token's stored numbers change when it enters a tier, and at no other time.
//!
//! That no token is *encoded* twice within a tier, even to the same bytes, is counted inside the codec:
//! `kvq-codec/src/cache/encodings.rs`.

use std::collections::HashMap;

use super::common::{Growing, Sequence, aged};
use super::{append, fresh, restored};
use kvq_codec::{Backend, Cache, KvCache, KvShape, Layout, Policy, Side, Storage, WhenFull, minimum_bytes};

const SHAPE: KvShape = KvShape::new(1, 1, 32);

/// For each position that is held, on one side: where it is stored (0 the sinks, 1 to 4 the tiers from the last to the
/// first, 5 the recent window) and its row as bits.
fn stored<S: Storage>(cache: &Cache<S>, side: Side) -> Vec<(usize, usize, Vec<u32>)> {
    let rows = restored(cache, 0, side, 0);
    let mut rows = rows.chunks_exact(SHAPE.key_head_dim);
    let map = cache.tier_map(0, side).unwrap();
    let n_evicted = cache.len() - cache.n_held(0).unwrap();
    let mut all = Vec::new();
    for (place, tier) in map.iter().enumerate() {
        for row in rows.by_ref().take(tier.tokens) {
            let pos = all.len() + if place > 0 { n_evicted } else { 0 };
            all.push((pos, place, row.iter().map(|x| x.to_bits()).collect()));
        }
    }
    all
}

fn check<S: Storage>(mut cache: Cache<S>, n: usize, what: &str) {
    let sequence = Sequence::new(SHAPE, n, 31);
    let mut before: HashMap<(bool, usize), (usize, Vec<u32>)> = HashMap::new();
    let (mut moved, mut kept) = (0, 0);
    for t in 0..n {
        append(&mut cache, &sequence, t, t + 1);
        for side in [Side::Key, Side::Value] {
            for (pos, place, row) in stored(&cache, side) {
                match before.insert((side == Side::Key, pos), (place, row.clone())) {
                    None => assert_eq!(pos, t, "{what}: {pos} came late"),
                    Some((old_place, old_row)) if old_place == place => {
                        assert!(old_row == row, "{what}: {side:?} {pos} changed within {place} at token {t}");
                        kept += 1;
                    }
                    Some((old_place, _)) => {
                        assert!(
                            place < old_place && old_place > 0,
                            "{what}: {pos} from {old_place} to {place}"
                        );
                        moved += 1;
                    }
                }
            }
        }
    }
    assert!(moved > n && kept > 10 * n, "{what}: {moved} moved, {kept} kept");
}

#[test]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn rows_change_when_a_token_enters_a_tier_and_at_no_other_time() {
    let n = 420;
    let by_age = aged(&[Layout::Q8, Layout::T4, Layout::T3, Layout::T2], 16, 16);
    check(fresh(SHAPE, by_age, Backend::detect()), n, "by age");
    let preset = Policy { span_len: 16, recent_len: 16, ..Policy::SIX_X };
    for when_full in [WhenFull::Demote, WhenFull::Evict] {
        let policy = preset.with_byte_budget(when_full);
        let room = if when_full == WhenFull::Demote { 18_000 } else { 6_000 };
        let mut memory = vec![0; minimum_bytes(SHAPE, policy).unwrap() + room];
        check(
            KvCache::new(SHAPE, policy, Backend::detect(), &mut memory).unwrap(),
            n,
            &format!("{when_full:?}"),
        );
    }
    let growing: Cache<Growing> = fresh(SHAPE, preset, Backend::detect());
    check(growing, n, "growing");
}
