//! Every error happens, and says what was needed, what was got, and what puts it right.
//!
//! Here and not in `tests/`, because only the crate itself can list every variant of an error that may grow.

use super::*;
use crate::{
    Backend, Cache, Fixed, KvCache, KvShape, Layout, Policy, SnapshotInfo, Step, Storage, Tier, WhenFull,
    capacity_tokens, minimum_bytes, snapshot_bytes_max,
};
use std::collections::BTreeSet;
use std::string::{String, ToString};
use std::sync::OnceLock;
use std::vec::Vec;
use std::{format, vec};

/// Names of the variants; one that is missing here does not compile.
macro_rules! variants {
    ($($variant:ident),* $(,)?) => {
        const VARIANTS: &[&str] = &[$(stringify!($variant)),*];

        fn name(error: &Error) -> &'static str {
            match error {
                $(Error::$variant { .. } => stringify!($variant)),*
            }
        }
    };
}

variants!(
    Shape,
    Policy,
    Feature,
    BufferTooSmall,
    Length,
    Layer,
    KvHead,
    QueryHeads,
    NotFinite,
    FractionBits,
    Full,
    Grow,
    PastEnd,
    Evicted,
    SnapshotBuffer,
    NotSnapshot,
    SnapshotVersion,
    SnapshotLength,
    SnapshotChecksum,
    SnapshotContent,
    Mismatch,
    Room,
);

const SHAPE: KvShape = KvShape::new(2, 2, 4);
/// First tiers of keys and values: under Miri those that search for no scale.
const FIRST: [Layout; 2] = if cfg!(miri) { [Layout::Q8; 2] } else { [Layout::S2, Layout::S3] };
const POLICY: Policy = Policy {
    span_len: 16,
    recent_len: 0,
    key_tiers: [Some(Tier::first(FIRST[0])), None, None, None],
    value_tiers: [Some(Tier::first(FIRST[1])), Some(Tier::under_pressure(Layout::S2)), None, None],
    ladder: [Some(Step { side: Side::Value, to: 1 }), None, None, None, None, None],
    ..Policy::FOUR_X
}
.with_byte_budget(WhenFull::Demote);
const EVICTING: Policy = Policy { when_full: WhenFull::Evict, ..POLICY };

/// More tokens than any buffer here holds.
const MANY: usize = if cfg!(miri) { 200 } else { 1000 };

/// Values of one token's keys, values or queries.
const ROW: usize = 8;

/// Memory that never grows beyond what it was made with.
struct Stuck(Vec<u8>);

impl Storage for Stuck {
    const GROWS: bool = true;

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn grow(&mut self, _len: usize) -> bool {
        false
    }
}

fn buffer(policy: Policy) -> Vec<u8> {
    vec![0; minimum_bytes(SHAPE, policy).unwrap()]
}

fn append<S: Storage>(cache: &mut Cache<S>, n_tokens: usize) -> Result<(), Error> {
    // One by one, or all at once under Miri, where each call takes a tenth of a second.
    let at_once = if cfg!(miri) { n_tokens } else { 1 };
    let (keys, values) = (vec![0.5; at_once * ROW], vec![0.25; at_once * ROW]);
    for _ in 0..n_tokens / at_once {
        for layer in 0..SHAPE.n_layers {
            cache.append(layer, at_once, &keys, &values)?;
        }
    }
    Ok(())
}

fn snapshot(policy: Policy, n_tokens: usize) -> Vec<u8> {
    let mut memory = vec![0; 4 * buffer(policy).len()];
    let mut cache = KvCache::new(SHAPE, policy, Backend::SCALAR, &mut memory).unwrap();
    append(&mut cache, n_tokens).unwrap();
    let mut bytes = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut bytes).unwrap();
    bytes
}

/// The changed bytes with both checksums right.
fn patched(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    for end in [crate::SNAPSHOT_HEADER_BYTES, bytes.len()] {
        let crc = crate::crc::crc32(&bytes[..end - 4]);
        bytes[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

type Produced = (Error, &'static [&'static str]);

/// Errors as the public calls return them, each with the calls or fields that its message must name.
fn produced() -> &'static [Produced] {
    static ALL: OnceLock<Vec<Produced>> = OnceLock::new();
    ALL.get_or_init(produce)
}

fn produce() -> Vec<Produced> {
    let mut memory = buffer(POLICY);
    let mut cache = KvCache::new(SHAPE, POLICY, Backend::SCALAR, &mut memory).unwrap();
    append(&mut cache, 3).unwrap();
    let (mut out, mut evicting_memory, mut small) = ([0.0; ROW], buffer(EVICTING), buffer(POLICY));
    let mut all: Vec<Produced> = Vec::new();
    let mut expect = |outcome: Result<(), Error>, names: &'static [&'static str]| {
        all.push((outcome.unwrap_err(), names));
    };

    for shape in [KvShape::new(0, 1, 8), KvShape::new(70_000, 1, 8)] {
        expect(minimum_bytes(shape, POLICY).map(drop), &["n_layers", "65535", "KvShape::check"]);
    }
    expect(KvShape::new(1, 0, 8).check(), &["n_kv_heads", "KvShape::check"]);
    expect(KvShape::new(1, 1, 260).check(), &["key_head_dim", "256", "KvShape::check"]);
    expect(KvShape::new(1, 1, 8).with_value_head_dim(6).check(), &["value_head_dim", "KvShape::check"]);
    expect(Policy { span_len: 48, ..POLICY }.check(), &["span_len", "16, 32 or 64", "Policy::check"]);
    let unequal = KvShape::new(1, 1, 256).with_value_head_dim(32);
    expect(
        minimum_bytes(unequal, POLICY).map(drop),
        &["span_len", "key_head_dim", "value_head_dim", "Policy::check"],
    );
    let less = &mut vec![0; memory_less_one()][..];
    expect(KvCache::new(SHAPE, POLICY, Backend::SCALAR, less).map(drop), &["minimum_bytes"]);
    expect(capacity_tokens(SHAPE, POLICY, 10).map(drop), &["minimum_bytes"]);
    expect(cache.append(0, 1, &[0.0; ROW - 1], &[0.0; ROW]), &["keys", "KvShape"]);
    expect(cache.append(0, 1, &[0.0; ROW], &[0.0; ROW + 1]), &["values", "KvShape"]);
    expect(cache.attend(0, 1, &[0.0; ROW], &mut out[1..]), &["out", "KvShape"]);
    let dequantize = crate::block::dequantize_into;
    expect(dequantize(Layout::S3, &[0; 7], 0, &mut out), &["codes", "3", "7"]);
    expect(dequantize(Layout::T2, &[0; 65], 0, &mut [0.0; 260]), &["out", "256"]);
    expect(cache.append(2, 1, &[0.0; ROW], &[0.0; ROW]), &["layer 2", "Cache::shape"]);
    expect(cache.tier_map(9, Side::Key).map(drop), &["layer 9", "Cache::shape"]);
    expect(cache.attend_head(0, 2, 1, 0, &[0.0; 4], &mut out[..4]), &["KV head 2", "Cache::shape"]);
    expect(cache.attend(0, 1, &[0.0; ROW - 1], &mut out), &["key_head_dim", "Cache::shape"]);
    expect(cache.attend_head(0, 0, 2, 0, &[0.0; 4], &mut out[..4]), &["key_head_dim", "Cache::shape"]);
    let mut bad = [0.0; ROW];
    bad[5] = f32::NAN;
    expect(cache.append(1, 1, &bad, &[0.0; ROW]), &["key of head 1", "position 3", "Cache::append"]);
    bad[5] = 1.3e30;
    expect(cache.append(1, 1, &[0.0; ROW], &bad), &["value of head 1", "2^100", "Cache::append"]);
    let (row, mut fixed_out) = ([1i16; ROW], [0; ROW]);
    let fixed = |fraction_bits| Fixed::new(&row[..], fraction_bits);
    expect(cache.append_fixed(0, 1, fixed(65), fixed(0)), &["-64 to 64", "Fixed"]);
    expect(cache.append_fixed(0, 1, fixed(0), fixed(-128)), &["Fixed"]);
    expect(cache.attend_fixed(0, 1, fixed(-65), &mut fixed_out, 0), &["Fixed"]);
    expect(cache.attend_fixed(0, 1, fixed(0), &mut fixed_out, 127), &["Fixed"]);
    expect(cache.attend(0, 4, &[0.0; 4 * ROW], &mut [0.0; 4 * ROW]), &["Cache::len"]);
    expect(cache.attend_head(0, 0, 0, 0, &[0.0; 4], &mut out[..4]), &["Cache::len"]);
    expect(cache.trim(4), &["Cache::len"]);
    expect(cache.snapshot_into(&mut [0; 9]).map(drop), &["Cache::snapshot_bytes"]);
    expect(append(&mut cache, MANY), &["capacity_tokens"]);

    let mut evicting = KvCache::new(SHAPE, EVICTING, Backend::SCALAR, &mut evicting_memory).unwrap();
    append(&mut evicting, if cfg!(miri) { 74 } else { 90 }).unwrap();
    expect(evicting.trim(20), &["Cache::trim", "position 20"]);
    let mut stuck = Cache::new(SHAPE, POLICY, Backend::SCALAR, Stuck(vec![0; 800])).unwrap();
    expect(append(&mut stuck, MANY), &["Cache::append", "Storage::grow"]);

    let mut cache = KvCache::new(SHAPE, POLICY, Backend::SCALAR, &mut small).unwrap();
    let bytes = snapshot(POLICY, 4);
    expect(cache.restore(b"GGUF"), &["Cache::snapshot_into"]);
    let mut changed = bytes.clone();
    changed[8] = 9;
    expect(cache.restore(&changed), &["version 9", "reads 1", "Cache::snapshot_into"]);
    expect(cache.restore(&bytes[..bytes.len() - 9]), &["SnapshotInfo::snapshot_bytes"]);
    expect(SnapshotInfo::read(&bytes[..100]).map(drop), &["SnapshotInfo::snapshot_bytes"]);
    let mut changed = bytes.clone();
    changed[190] ^= 1;
    expect(cache.restore(&changed), &["CRC-32", "Cache::snapshot_into"]);
    let sinks = crate::SNAPSHOT_HEADER_BYTES + 4;
    expect(cache.restore(&patched(bytes.clone(), sinks, 77)), &["sinks", "Cache::snapshot_into"]);
    expect(cache.restore(&snapshot(EVICTING, 4)), &["when_full", "SnapshotInfo::read", "Cache::policy"]);
    expect(evicting.fork_into(&mut cache), &["when_full", "SnapshotInfo::read", "Cache::policy"]);
    expect(cache.restore(&snapshot(POLICY, if cfg!(miri) { 50 } else { 60 })), &["Cache::new"]);
    let ladder = [Some(Step { side: Side::Key, to: 2 }), None, None, None, None, None];
    expect(Policy { ladder, ..POLICY }.check(), &["ladder", "next tier", "Policy::check"]);
    let key_tiers = [Some(Tier::first(Layout::S3)), Some(Tier::from_age(Layout::S4, 9)), None, None];
    expect(Policy { key_tiers, ..POLICY }.check(), &["fewer bits", "Policy::check"]);
    expect(snapshot_bytes_max(SHAPE, Policy { n_sink: 5000, ..POLICY }, 9).map(drop), &["n_sink", "4096"]);
    all
}

fn memory_less_one() -> usize {
    buffer(POLICY).len() - 1
}

#[test]
fn every_variant_is_produced_by_a_call() {
    let mut got: BTreeSet<&str> = produced().iter().map(|(error, _)| name(error)).collect();
    // Only a build that lacks a feature produces it: tests/one_layout.rs.
    got.insert("Feature");
    assert_eq!(got, VARIANTS.iter().copied().collect());
}

/// The numbers of an error, as its message writes them.
fn figures(error: &Error) -> Vec<String> {
    match *error {
        Error::Shape { got, .. } => vec![got.to_string()],
        Error::Policy(_) | Error::NotSnapshot => vec![],
        Error::Feature(feature) => vec![feature.to_string()],
        Error::BufferTooSmall { needed, got }
        | Error::Length { needed, got, .. }
        | Error::Grow { needed, got }
        | Error::Evicted { needed, got }
        | Error::SnapshotVersion { needed, got }
        | Error::SnapshotContent { needed, got, .. }
        | Error::Mismatch { needed, got, .. } => vec![needed.to_string(), got.to_string()],
        Error::SnapshotChecksum { needed, got } => vec![format!("{needed:08x}"), format!("{got:08x}")],
        Error::Layer { n_layers, got } => vec![n_layers.to_string(), got.to_string()],
        Error::KvHead { n_kv_heads, got } => vec![n_kv_heads.to_string(), got.to_string()],
        Error::QueryHeads { multiple_of, got } => vec![multiple_of.to_string(), got.to_string()],
        Error::NotFinite { head, pos, .. } => vec![head.to_string(), pos.to_string()],
        Error::FractionBits { got } => vec![got.to_string()],
        Error::Full { needed, capacity } => vec![needed.to_string(), capacity.to_string()],
        Error::PastEnd { len, got } => vec![len.to_string(), got.to_string()],
        Error::SnapshotBuffer { needed, got }
        | Error::SnapshotLength { needed, got }
        | Error::Room { needed, got } => vec![needed.to_string(), got.to_string()],
    }
}

#[test]
fn every_message_names_what_puts_it_right_and_both_figures() {
    let feature: (Error, &[&str]) = (Error::Feature("low-bits"), &["Layout::is_available"]);
    for (error, names) in produced().iter().chain([&feature]) {
        let message = error.to_string();
        for part in names.iter().map(|name| name.to_string()).chain(figures(error)) {
            assert!(message.contains(&part), "{error:?}: '{message}' lacks {part}");
        }
    }
}

#[test]
fn figures_beyond_32_bits_are_the_largest() {
    assert_eq!([figure(7), figure(u32::MAX as usize), figure(usize::MAX)], [7, u32::MAX, u32::MAX]);
}
