//! How often each token is encoded: counted where it happens, in tests alone.
//!
//! Looking at bytes would not do: a span that was encoded again to the same bytes costs as much. The behaviour that can
//! be seen from outside is tested in `tests/field_cases/encoded_once.rs`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::vec::Vec;

use super::KvCache;
use super::layer::SpanHead;
use super::plan::COMPRESSION_FROM_TOKENS;
use crate::block::Layout;
use crate::error::Side;
use crate::kernel::Backend;
use crate::policy::{Budget, EdgeLayers, Policy, Step, Tier, WhenFull};
use crate::shape::KvShape;

/// Position, 8 bits for good or a side and a layout, and block.
type Key = (usize, Option<(u8, Layout)>, usize);

std::thread_local! {
    static COUNTS: RefCell<Vec<Key>> = const { RefCell::new(Vec::new()) };
}

/// A token was rotated and encoded at 8 bits.
pub(super) fn note_token(pos: usize) {
    COUNTS.with_borrow_mut(|counts| counts.push((pos, None, 0)));
}

/// One block of all tokens of a span was encoded.
pub(super) fn note_span(record: &[u8], span_len: usize, side: Side, layout: Layout, block: usize) {
    let start = SpanHead::read(record).start;
    COUNTS.with_borrow_mut(|counts| {
        counts.extend((start..start + span_len).map(|pos| (pos, Some((side as u8, layout)), block)));
    });
}

/// The most often that any token was encoded in one tier, and encodings in tiers per token and side on average.
fn count(policy: Policy, bytes: usize, n: usize, at_once: usize) -> (usize, f64) {
    COUNTS.with_borrow_mut(Vec::clear);
    let row: Vec<f32> = (0..at_once * 32).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut memory = std::vec![0; bytes];
    let mut cache = KvCache::new(KvShape::new(1, 2, 16), policy, Backend::detect(), &mut memory).unwrap();
    (0..n / at_once).for_each(|_| cache.append(0, at_once, &row, &row).unwrap());
    let mut times: HashMap<Key, usize> = HashMap::new();
    COUNTS.with_borrow(|counts| counts.iter().for_each(|key| *times.entry(*key).or_default() += 1));
    assert_eq!(times.keys().filter(|key| key.1.is_none()).count(), n, "each token comes once");
    let packed = times.keys().filter(|key| key.1.is_some()).count();
    (times.values().copied().max().unwrap_or(0), packed as f64 / (2 * n) as f64)
}

fn tiers(ages: [u32; 4]) -> Policy {
    let layouts = [Layout::Q8, Layout::S4, Layout::S3, Layout::S2];
    let tiers = [0, 1, 2, 3].map(|i| Some(Tier { layout: layouts[i], from_age: ages[i] }));
    let steps = [
        (Side::Value, 1),
        (Side::Key, 1),
        (Side::Value, 2),
        (Side::Key, 2),
        (Side::Value, 3),
        (Side::Key, 3),
    ];
    Policy {
        n_sink: 4,
        recent_len: 16,
        span_len: 16,
        key_tiers: tiers,
        value_tiers: tiers,
        ladder: steps.map(|(side, to)| Some(Step { side, to })),
        edge_layers: EdgeLayers::NONE,
        budget: Budget::Bytes,
        when_full: WhenFull::Demote,
        window_len: 0,
    }
}

#[test]
#[cfg_attr(
    not(all(feature = "demote", feature = "low-bits")),
    ignore = "needs tiers of 3 and 2 bits: the features `demote` and `low-bits`"
)]
#[cfg_attr(miri, ignore = "needs hundreds of tokens, and reaches no unsafe code that others do not")]
fn no_token_is_encoded_twice_within_a_tier() {
    let never = Tier::UNDER_PRESSURE;
    let by_age = tiers([0, 32, 64, 96]);
    let under_pressure = tiers([0, never, never, never]);
    let compressed = Policy { budget: Budget::Compression(500), ..under_pressure };
    let n = COMPRESSION_FROM_TOKENS + 400;
    let plenty = n * KvShape::new(1, 2, 16).fp16_bytes_per_token();
    for at_once in [1, 7] {
        for (what, policy, bytes, enough) in [
            ("by age", by_age, plenty, 2.5),
            ("under pressure", under_pressure, 40 * n, 1.0),
            ("until it is full", Policy { when_full: WhenFull::Evict, ..under_pressure }, 24_000, 1.0),
            ("for a compression", compressed, plenty, 0.5),
        ] {
            let (most, packed) = count(policy, bytes, n / 7 * 7, at_once);
            assert_eq!(most, 1, "{what}, {at_once} at once");
            // Otherwise nothing was converted, and the test has shown nothing.
            assert!(packed >= enough, "{what}: {packed} encodings per token and side");
        }
    }
}
