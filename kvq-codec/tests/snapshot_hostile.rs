//! Snapshots that were cut off, changed or made up: each is refused and the cache is then as it was, or harmless.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

mod common;

use common::snapshots::{filled, message_names, patched, refused, seal, snapshot};
use common::{Sequence, aged, lighter, unless_miri};
use std::sync::OnceLock;

use kvq_codec::{Error, KvShape, Layout, Policy, SNAPSHOT_HEADER_BYTES, WhenFull};

const KEY_DIM: usize = unless_miri(32, 8);
/// Rows of single bits end in half a byte.
const VALUE_DIM: usize = unless_miri(36, 4);
const SHAPE: KvShape = KvShape::new(unless_miri(2, 1), 1, KEY_DIM).with_value_head_dim(VALUE_DIM);

fn policy() -> Policy {
    lighter(Policy { when_full: WhenFull::Evict, ..aged(&[Layout::Q8, Layout::T3, Layout::S2], 16, 0) })
}

/// A snapshot with spans in every tier.
fn written() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| snapshot(&filled(SHAPE, policy(), 90))).clone()
}

#[test]
fn every_truncation_and_every_continuation_is_refused() {
    let bytes = written();
    let mut cache = filled(SHAPE, policy(), unless_miri(40, 5));
    assert_eq!(refused(&mut cache, &[]), Error::NotSnapshot);
    message_names(Error::NotSnapshot, "Cache::snapshot_into");
    for len in (1..bytes.len()).step_by(unless_miri(1, 397)) {
        let error = cache.restore(&bytes[..len]).unwrap_err();
        let needed = if len < SNAPSHOT_HEADER_BYTES { SNAPSHOT_HEADER_BYTES } else { bytes.len() };
        assert_eq!(error, Error::SnapshotLength { needed: needed as u64, got: len as u64 });
    }
    let mut long = bytes.clone();
    long.push(0);
    let error = refused(&mut cache, &long);
    assert!(matches!(error, Error::SnapshotLength { .. }), "{error}");
    message_names(error, "SnapshotInfo::snapshot_bytes");
    cache.restore(&bytes).unwrap();
}

#[test]
fn every_changed_byte_is_refused() {
    let bytes = written();
    let mut cache = filled(SHAPE, policy(), unless_miri(40, 5));
    let before = snapshot(&cache);
    let mut checksums = 0;
    let step = unless_miri(1, 311);
    for at in (0..bytes.len()).step_by(step) {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            let error = cache.restore(&bytes).unwrap_err();
            checksums += usize::from(matches!(error, Error::SnapshotChecksum { .. }));
            if at == 0 {
                assert_eq!(error, Error::NotSnapshot);
            }
        }
    }
    assert!(checksums > 2 * bytes.len() / step);
    assert!(snapshot(&cache) == before);
    let mut changed = bytes;
    changed[500] ^= 1;
    message_names(refused(&mut cache, &changed), "Cache::snapshot_into");
}

#[test]
fn counters_out_of_range_are_refused_behind_a_right_checksum() {
    let bytes = written();
    let mut cache = filled(SHAPE, policy(), unless_miri(40, 5));
    let layer = SNAPSHOT_HEADER_BYTES;
    // len, sinks, recent tokens, evicted tokens, spans of layer 0.
    for (field, at) in [("len", 0), ("sinks", 4), ("recent tokens", 8), ("evicted tokens", 12), ("", 16)] {
        let values = [u32::MAX, 1 << 31, i32::MAX as u32, 1 << 20, 0x8000_0007, 91, 17, 5];
        for value in values.into_iter().step_by(unless_miri(1, 6)) {
            if bytes[layer + at..layer + at + 4] == value.to_le_bytes() {
                continue;
            }
            let error = refused(&mut cache, &patched(&bytes, layer + at, &value.to_le_bytes()));
            let named = matches!(error, Error::SnapshotContent { field: f, .. } if f == field);
            let other = matches!(error, Error::SnapshotContent { .. } | Error::SnapshotLength { .. });
            assert!(
                named || (other && value < 1 << 31) || (other && field.is_empty()),
                "{field} {value}: {error}"
            );
        }
    }
    // The length of the whole.
    for total in [0, 1, 143, 147, bytes.len() as u64 - 1, 1 << 32, 1 << 63, u64::MAX] {
        let error = refused(&mut cache, &patched(&bytes, 16, &total.to_le_bytes()));
        assert_eq!(error, Error::SnapshotLength { needed: total, got: bytes.len() as u64 });
    }
    let error = refused(&mut cache, &patched(&bytes, 24, &91u32.to_le_bytes()));
    assert_eq!(error, Error::SnapshotContent { field: "len", needed: 91, got: 90 });
    // A payload that ends early or late, with everything else in order.
    for cut in [1, 20, bytes.len() - 200] {
        let mut short = bytes[..bytes.len() - cut].to_vec();
        let total = short.len() as u64;
        short[16..24].copy_from_slice(&total.to_le_bytes());
        let error = refused(&mut cache, &seal(short));
        assert!(matches!(error, Error::SnapshotLength { needed, .. } if needed > total), "{error}");
    }
    let mut long = bytes.clone();
    long.extend([0; 9]);
    let total = long.len() as u64;
    long[16..24].copy_from_slice(&total.to_le_bytes());
    let error = refused(&mut cache, &seal(long));
    assert_eq!(error, Error::SnapshotLength { needed: bytes.len() as u64, got: total });
}

#[test]
fn spans_and_numbers_out_of_range_are_refused_behind_a_right_checksum() {
    let bytes = written();
    let mut cache = filled(SHAPE, policy(), unless_miri(40, 5));
    let (n_blocks, sinks) = (2, 4);
    let sink_exponents = SNAPSHOT_HEADER_BYTES + 20;
    let sink_rows = sink_exponents + sinks * n_blocks * 2;
    let span = sink_rows + sinks * (KEY_DIM + VALUE_DIM);
    let content = |error: Error, name: &str| {
        assert!(matches!(error, Error::SnapshotContent { field, .. } if field == name), "{name}: {error}");
    };
    content(refused(&mut cache, &patched(&bytes, sink_exponents, &2048i16.to_le_bytes())), "exponent");
    content(refused(&mut cache, &patched(&bytes, sink_exponents, &(-2049i16).to_le_bytes())), "exponent");
    content(refused(&mut cache, &patched(&bytes, sink_rows + 9, &[0x80])), "8-bit code");
    for count in [0u16, 17, u16::MAX] {
        let error = refused(&mut cache, &patched(&bytes, span, &count.to_le_bytes()));
        content(error, "tokens of a span");
    }
    content(refused(&mut cache, &patched(&bytes, span, &[15, 0])), "sum of tokens");
    for tier in [3, 4, 255] {
        content(refused(&mut cache, &patched(&bytes, span + 2, &[tier])), "tier");
        content(refused(&mut cache, &patched(&bytes, span + 3, &[tier])), "tier");
    }
    assert_eq!(bytes[span + 2..span + 4], [2, 2], "the oldest span is in the last tier");
    content(refused(&mut cache, &patched(&bytes, span + 4, &i16::MAX.to_le_bytes())), "exponent");
    content(refused(&mut cache, &patched(&bytes, span + 8, &i16::MAX.to_le_bytes())), "exponent");
    // The third span is in tier 1: its value rows of single bits end in half a byte.
    let scales = 16 * n_blocks;
    let head = 4 + 2 * n_blocks + 2 + KEY_DIM / 2 + scales;
    let next = span + head + 16 * (KEY_DIM + VALUE_DIM) / 4;
    let third = if bytes[next + 2] == 2 { next + head + 16 * (KEY_DIM + VALUE_DIM) / 4 } else { next };
    assert_eq!(bytes[third + 2..third + 4], [1, 1]);
    let value_bits = third + head + 16 * (KEY_DIM / 4 + KEY_DIM / 8) + 16 * (VALUE_DIM / 4);
    content(refused(&mut cache, &patched(&bytes, value_bits + VALUE_DIM / 8, &[0xf0])), "last byte of a row");
    // Evicted tokens, where the policy drops none.
    let demoting = Policy { when_full: WhenFull::Demote, ..policy() };
    let mut cache = filled(SHAPE, demoting, 8);
    let mut bytes = snapshot(&cache);
    let layer = SNAPSHOT_HEADER_BYTES;
    bytes[24..28].copy_from_slice(&18u32.to_le_bytes());
    bytes[layer..layer + 4].copy_from_slice(&18u32.to_le_bytes());
    content(refused(&mut cache, &patched(&bytes, layer + 12, &10u32.to_le_bytes())), "evicted tokens");
    // Tokens behind sinks that are not all there.
    let mut bytes = snapshot(&filled(SHAPE, demoting, 3));
    bytes[24..28].copy_from_slice(&4u32.to_le_bytes());
    bytes[layer..layer + 4].copy_from_slice(&4u32.to_le_bytes());
    let evicting = Policy { when_full: WhenFull::Evict, ..demoting };
    bytes[50] = 2;
    let mut cache = filled(SHAPE, evicting, 8);
    content(refused(&mut cache, &patched(&bytes, layer + 12, &1u32.to_le_bytes())), "sinks");
}

#[test]
fn whatever_passes_the_checks_can_be_used() {
    // Every byte of the payload takes hostile values behind right checksums: refused, or harmless.
    let bytes = snapshot(&filled(SHAPE, policy(), unless_miri(75, 54)));
    const MORE: usize = unless_miri(17, 2);
    let sequence = Sequence::new(SHAPE, MORE, 77);
    let (q, mut out) = (vec![0.7; KEY_DIM], vec![0.0; VALUE_DIM]);
    let (mut passed, mut refused) = (0, 0);
    let mut cache = filled(SHAPE, policy(), unless_miri(40, 5));
    let step = unless_miri(1, 601);
    for at in (SNAPSHOT_HEADER_BYTES..bytes.len() - 4).step_by(step) {
        // The largest and the least numbers of 1, 2 and 4 bytes, three at each place in turn.
        let all = [&[0xff][..], &[0x7f], &[0x00], &[0xff, 0x07], &[0x00, 0xf8], &[0xff; 4]];
        for with in all.into_iter().skip(at % 2).step_by(2) {
            if at + with.len() > bytes.len() - 4 {
                continue;
            }
            if cache.restore(&patched(&bytes, at, with)).is_err() {
                refused += 1;
                continue;
            }
            passed += 1;
            for layer in 0..SHAPE.n_layers {
                cache.attend(layer, 1, &q, &mut out).unwrap();
                let (k, v) = (sequence.slab(0, MORE, true), sequence.slab(0, MORE, false));
                cache.append(layer, MORE, &k, &v).unwrap();
                cache.attend(layer, 1, &q, &mut out).unwrap();
            }
            cache.trim(cache.len() - 50).unwrap();
            cache.trim(3).unwrap();
        }
    }
    assert!(passed > 1000 / step && refused > 100 / step, "{passed} {refused}");
}
