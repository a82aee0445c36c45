//! The C interface does what the codec does, and refuses what C can get wrong.

use std::ptr::{null, null_mut};

use kvq_capi::*;
use kvq_codec::{Backend, KvCache, KvShape, Policy, WhenFull};

/// A call as C makes it.
macro_rules! call {
    ($call:expr) => {{
        // SAFETY: each pointer here is null, leads to what is said of it, or is refused before it is followed.
        unsafe { $call }
    }};
}

const ROW: usize = 64;
const STORAGE_BYTES: usize = 16 * 1024;
const ALL_BYTES: usize = KVQ_HANDLE_BYTES + STORAGE_BYTES;

/// Memory as C would declare it.
#[repr(C, align(8))]
struct Memory([u8; ALL_BYTES]);

fn config() -> KvqConfig {
    let mut config = KvqConfig {
        n_layers: 9,
        n_kv_heads: 9,
        key_head_dim: 9,
        value_head_dim: 9,
        preset: 9,
        n_sink: 9,
        recent_len: 9,
        span_len: 9,
        when_full: 9,
        window_len: 9,
    };
    assert_eq!(call!(kvq_preset(KvqPreset::FourX as u32, &mut config)), KvqStatus::Ok);
    assert_eq!(config.n_layers, 0);
    KvqConfig {
        n_layers: 1,
        n_kv_heads: 2,
        key_head_dim: 32,
        value_head_dim: 32,
        span_len: 16,
        when_full: KvqWhenFull::Evict as u32,
        ..config
    }
}

fn init(memory: &mut Memory) -> *mut KvqCache {
    let (mut cache, mut error) = (null_mut(), KvqError { status: KvqStatus::Other, needed: 9, got: 9 });
    let status = call!(kvq_init(&config(), memory.0.as_mut_ptr(), ALL_BYTES, &mut cache, &mut error));
    assert_eq!((status, error.status), (KvqStatus::Ok, KvqStatus::Ok));
    cache
}

fn row(token: usize) -> [f32; ROW] {
    std::array::from_fn(|i| ((token * 31 + i * 17) % 97) as f32 / 16.0 - 3.0)
}

fn append(cache: *mut KvqCache, token: usize) -> KvqStatus {
    let row = row(token);
    call!(kvq_append(cache, 0, 1, row.as_ptr(), ROW, row.as_ptr(), ROW))
}

fn attend(cache: *mut KvqCache) -> [f32; ROW] {
    let (query, mut out) = (row(7), [0.0; ROW]);
    let status = call!(kvq_attend(cache, 0, 1, query.as_ptr(), ROW, out.as_mut_ptr(), ROW));
    assert_eq!(status, KvqStatus::Ok);
    out
}

fn last_error(cache: *mut KvqCache) -> KvqError {
    let mut error = KvqError { status: KvqStatus::Other, needed: 9, got: 9 };
    assert_eq!(call!(kvq_error(cache, &mut error)), KvqStatus::Ok);
    error
}

#[test]
fn calls_give_the_bits_of_the_codec() {
    let mut memory = Memory([0; ALL_BYTES]);
    let cache = init(&mut memory);
    let policy = Policy { span_len: 16, ..Policy::FOUR_X.with_byte_budget(WhenFull::Evict) };
    let mut storage = vec![0; STORAGE_BYTES];
    let mut codec = KvCache::new(KvShape::new(1, 2, 32), policy, Backend::detect(), &mut storage).unwrap();
    for token in 0..400 {
        assert_eq!(append(cache, token), KvqStatus::Ok);
        codec.append(0, 1, &row(token), &row(token)).unwrap();
        if token == 100 {
            assert_eq!(call!(kvq_trim(cache, 95)), KvqStatus::Ok);
            codec.trim(95).unwrap();
        }
        let mut out = [0.0; ROW];
        codec.attend(0, 1, &row(7), &mut out).unwrap();
        assert_eq!(attend(cache).map(f32::to_bits), out.map(f32::to_bits), "token {token}");
    }
    let mut len = 0;
    let mut report = KvqMemory {
        code_bytes: 0,
        scale_bytes: 0,
        center_bytes: 0,
        recent_bytes: 0,
        sink_bytes: 0,
        header_bytes: 0,
        scratch_bytes: 0,
        unused_bytes: 0,
    };
    assert_eq!(call!(kvq_len(cache, &mut len)), KvqStatus::Ok);
    assert_eq!(len, codec.len());
    assert_eq!(call!(kvq_memory(cache, &mut report)), KvqStatus::Ok);
    assert_eq!(report.code_bytes, codec.memory().code_bytes);
    let all = report.code_bytes
        + report.scale_bytes
        + report.center_bytes
        + report.recent_bytes
        + report.sink_bytes
        + report.header_bytes
        + report.scratch_bytes
        + report.unused_bytes;
    assert_eq!(all, ALL_BYTES);
    assert_eq!(last_error(cache).status, KvqStatus::Ok);
}

#[test]
fn snapshots_restore_and_damaged_ones_are_refused() {
    let mut memory = Memory([0; ALL_BYTES]);
    let cache = init(&mut memory);
    for token in 0..60 {
        append(cache, token);
    }
    let (mut needed, mut written) = (0, 0);
    assert_eq!(call!(kvq_snapshot_bytes(cache, &mut needed)), KvqStatus::Ok);
    let mut bytes = vec![0; needed];
    let out = bytes.as_mut_ptr();
    assert_eq!(call!(kvq_snapshot_into(cache, out, needed - 1, &mut written)), KvqStatus::SnapshotBuffer);
    let error = last_error(cache);
    assert_eq!((error.needed, error.got), (needed as u64, needed as u64 - 1));
    assert_eq!(call!(kvq_snapshot_into(cache, out, needed, &mut written)), KvqStatus::Ok);
    assert_eq!(written, needed);
    let before = attend(cache);
    assert_eq!(call!(kvq_clear(cache)), KvqStatus::Ok);
    bytes[needed / 2] ^= 1;
    assert_eq!(call!(kvq_restore(cache, bytes.as_ptr(), needed)), KvqStatus::SnapshotChecksum);
    bytes[needed / 2] ^= 1;
    assert_eq!(call!(kvq_restore(cache, bytes.as_ptr(), needed)), KvqStatus::Ok);
    assert_eq!(attend(cache).map(f32::to_bits), before.map(f32::to_bits));
}

#[test]
fn what_is_no_cache_is_refused() {
    let mut memory = Memory([0; ALL_BYTES]);
    let at = memory.0.as_mut_ptr();
    assert_eq!(append(null_mut(), 0), KvqStatus::Null);
    assert_eq!(append(at.wrapping_add(1).cast(), 0), KvqStatus::Alignment);
    assert_eq!(append(at.cast(), 0), KvqStatus::NotCache);
    init(&mut memory);
    let mut moved = Memory(memory.0);
    assert_eq!(append(moved.0.as_mut_ptr().cast(), 0), KvqStatus::NotCache);
}

#[test]
fn memory_that_cannot_hold_a_cache_is_refused() {
    let mut memory = Memory([0; ALL_BYTES]);
    let at = memory.0.as_mut_ptr();
    let try_with = |config: *const KvqConfig, at, bytes| {
        let (mut cache, mut error) = (null_mut(), KvqError { status: KvqStatus::Other, needed: 9, got: 9 });
        let status = call!(kvq_init(config, at, bytes, &mut cache, &mut error));
        assert_eq!(status, error.status);
        assert_eq!(cache.is_null(), status != KvqStatus::Ok);
        error
    };
    let good = config();
    let mut least = 0;
    assert_eq!(call!(kvq_minimum_bytes(&good, &mut least)), KvqStatus::Ok);
    let error = try_with(&good, at, least - 1);
    assert_eq!((error.status, error.needed), (KvqStatus::BufferTooSmall, least as u64));
    assert_eq!(try_with(&good, at, least).status, KvqStatus::Ok);
    assert_eq!(try_with(null(), at, ALL_BYTES).status, KvqStatus::Null);
    assert_eq!(try_with(&good, null_mut(), ALL_BYTES).status, KvqStatus::Null);
    assert_eq!(try_with(&good, at.wrapping_add(4), ALL_BYTES - 4).status, KvqStatus::Alignment);
    assert_eq!(try_with(&good, at, usize::MAX).status, KvqStatus::Length);
    for (bad, status) in [
        (KvqConfig { preset: 4, ..good }, KvqStatus::Config),
        (KvqConfig { when_full: 3, ..good }, KvqStatus::Config),
        (KvqConfig { n_sink: 65_536, ..good }, KvqStatus::Config),
        (KvqConfig { span_len: 15, ..good }, KvqStatus::Policy),
        (KvqConfig { key_head_dim: 30, ..good }, KvqStatus::Shape),
        (KvqConfig { n_layers: 0, ..good }, KvqStatus::Shape),
    ] {
        assert_eq!(try_with(&bad, at, ALL_BYTES).status, status, "{bad:?}");
    }
    let null_error = call!(kvq_init(&good, at, ALL_BYTES, null_mut(), null_mut()));
    assert_eq!(null_error, KvqStatus::Null);
    let (mut more, mut fewer) = (0, 0);
    assert_eq!(call!(kvq_capacity_tokens(&good, ALL_BYTES, &mut more)), KvqStatus::Ok);
    assert_eq!(call!(kvq_capacity_tokens(&good, least, &mut fewer)), KvqStatus::Ok);
    assert!(more > fewer && fewer > 0, "{more} {fewer}");
}

#[test]
fn arrays_that_cannot_be_right_are_refused_and_change_nothing() {
    let mut memory = Memory([0; ALL_BYTES]);
    let cache = init(&mut memory);
    append(cache, 0);
    let before = attend(cache);
    let good = row(1);
    let (at, mut out) = (good.as_ptr(), [0.0f32; ROW]);
    let try_append =
        |keys, n_keys, values, n_values| call!(kvq_append(cache, 0, 1, keys, n_keys, values, n_values));
    assert_eq!(try_append(null(), ROW, at, ROW), KvqStatus::Null);
    assert_eq!(last_error(cache).got, 4);
    assert_eq!(try_append(at, ROW, null(), ROW), KvqStatus::Null);
    assert_eq!(last_error(cache).got, 6);
    assert_eq!(try_append(at.wrapping_byte_add(2), ROW - 1, at, ROW), KvqStatus::Alignment);
    assert_eq!(try_append(at, ROW - 1, at, ROW), KvqStatus::Length);
    assert_eq!((last_error(cache).needed, last_error(cache).got), (ROW as u64, ROW as u64 - 1));
    assert_eq!(try_append(at, usize::MAX, at, ROW), KvqStatus::Length);
    assert_eq!(try_append(cache.cast(), ROW, at, ROW), KvqStatus::Overlap);
    let nan = [f32::NAN; ROW];
    assert_eq!(try_append(nan.as_ptr(), ROW, at, ROW), KvqStatus::NotFinite);
    assert_eq!(call!(kvq_append(cache, 1, 1, at, ROW, at, ROW)), KvqStatus::Layer);

    let target = out.as_mut_ptr();
    let try_attend =
        |n_tokens, queries, n, out, n_out| call!(kvq_attend(cache, 0, n_tokens, queries, n, out, n_out));
    assert_eq!(try_attend(1, null(), ROW, target, ROW), KvqStatus::Null);
    assert_eq!(try_attend(1, at, ROW, null_mut(), ROW), KvqStatus::Null);
    assert_eq!(try_attend(1, target, ROW, target, ROW), KvqStatus::Overlap);
    assert_eq!(try_attend(1, at, ROW, cache.wrapping_byte_add(1024).cast(), ROW), KvqStatus::Overlap);
    assert_eq!(try_attend(1, at, ROW, target, ROW - 1), KvqStatus::Length);
    assert_eq!(try_attend(1, at, ROW / 2, target, ROW / 2), KvqStatus::QueryHeads);
    assert_eq!(try_attend(2, at, ROW, target, ROW), KvqStatus::QueryHeads);
    assert_eq!(call!(kvq_trim(cache, 2)), KvqStatus::PastEnd);
    assert_eq!(call!(kvq_len(cache, cache.cast())), KvqStatus::Overlap);
    assert_eq!(call!(kvq_restore(cache, at.cast(), 4 * ROW)), KvqStatus::NotSnapshot);
    assert_eq!(attend(cache).map(f32::to_bits), before.map(f32::to_bits));
}
