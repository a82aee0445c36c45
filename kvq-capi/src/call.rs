//! The calls on a cache.

use crate::config::{KvqConfig, read};
use crate::handle::KvqCache;
use crate::pointer::{apart, put, range};
use crate::status::{KvqError, KvqStatus};

/// Every byte of a cache's memory by purpose.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvqMemory {
    /// Codes of packed tokens.
    pub code_bytes: usize,
    /// Their scales.
    pub scale_bytes: usize,
    /// Their key centers.
    pub center_bytes: usize,
    /// The recent window.
    pub recent_bytes: usize,
    /// The sinks.
    pub sink_bytes: usize,
    /// Counters, tables and the handle.
    pub header_bytes: usize,
    /// Kept free for conversions.
    pub scratch_bytes: usize,
    /// Everything else.
    pub unused_bytes: usize,
}

/// Runs a call on a cache and keeps what went wrong.
///
/// # Safety
/// As [`KvqCache::open`].
unsafe fn on(cache: *mut KvqCache, call: impl FnOnce(&mut KvqCache) -> Result<(), KvqError>) -> KvqStatus {
    // SAFETY: the caller's contract.
    let handle = match unsafe { KvqCache::open(cache) } {
        Ok(handle) => handle,
        Err(error) => return error.status,
    };
    match call(handle) {
        Ok(()) => KvqStatus::Ok,
        Err(error) => {
            handle.error = error;
            error.status
        }
    }
}

/// Makes an empty cache in `memory`, aligned to 8, and writes its address to `cache`. Nothing has to be
/// freed; the memory is the cache's until it is used for something else. Unless `error` is null, what
/// went wrong is written to it.
///
/// # Safety
/// Unless they are null: `config` must lead to a configuration, `memory` to `memory_bytes` bytes that nobody else uses
/// while the cache is in use, `cache` and `error` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_init(
    config: *const KvqConfig,
    memory: *mut u8,
    memory_bytes: usize,
    cache: *mut *mut KvqCache,
    error: *mut KvqError,
) -> KvqStatus {
    let made = range(cache, 1, 4)
        // SAFETY: the caller's contract.
        .and_then(|_| unsafe { read(config) })
        // SAFETY: the caller's contract.
        .and_then(|(shape, policy)| unsafe { KvqCache::init(shape, policy, memory, memory_bytes) })
        // SAFETY: the caller's contract.
        .and_then(|made| unsafe { put(cache, made, 4) });
    let outcome = made.err().unwrap_or(KvqError::NONE);
    if !error.is_null() {
        // SAFETY: the caller's contract. A misaligned pointer is left alone: there is nowhere to say so.
        let _ = unsafe { put(error, outcome, 5) };
    }
    outcome.status
}

/// Appends `n_tokens` to `layer`. Values, as many as the lengths say: `keys` (n_kv_heads, n_tokens, key_head_dim),
/// `values` (n_kv_heads, n_tokens, value_head_dim).
///
/// # Safety
/// `cache` must come from `kvq_init` and be used by nobody else meanwhile; unless they are null, the arrays must be
/// readable for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_append(
    cache: *mut KvqCache,
    layer: usize,
    n_tokens: usize,
    keys: *const f32,
    keys_len: usize,
    values: *const f32,
    values_len: usize,
) -> KvqStatus {
    let call = |handle: &mut KvqCache| {
        // SAFETY: the caller's contract.
        let keys = unsafe { handle.input(keys, keys_len, 4) }?;
        // SAFETY: the caller's contract.
        let values = unsafe { handle.input(values, values_len, 6) }?;
        Ok(handle.cache.append(layer, n_tokens, keys, values)?)
    };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// Attention of the newest `n_tokens` of `layer` over what is held, each over its own past. Values: `queries`
/// (n_heads, n_tokens, key_head_dim), `out` (n_heads, n_tokens, value_head_dim), where n_heads is a multiple of
/// n_kv_heads.
///
/// # Safety
/// As `kvq_append`; `out` must be writable for its length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_attend(
    cache: *mut KvqCache,
    layer: usize,
    n_tokens: usize,
    queries: *const f32,
    queries_len: usize,
    out: *mut f32,
    out_len: usize,
) -> KvqStatus {
    let call = |handle: &mut KvqCache| {
        apart(&range(queries, queries_len, 4)?, &range(out, out_len, 6)?)?;
        // SAFETY: the caller's contract.
        let queries = unsafe { handle.input(queries, queries_len, 4) }?;
        // SAFETY: the caller's contract, and `queries` lies elsewhere.
        let out = unsafe { handle.output(out, out_len, 6) }?;
        Ok(handle.cache.attend(layer, n_tokens, queries, out)?)
    };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// Takes tokens back until `len` are left.
///
/// # Safety
/// `cache` must come from `kvq_init` and be used by nobody else meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_trim(cache: *mut KvqCache, len: usize) -> KvqStatus {
    // SAFETY: the caller's contract.
    unsafe { on(cache, |handle| Ok(handle.cache.trim(len)?)) }
}

/// Forgets every token.
///
/// # Safety
/// As `kvq_trim`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_clear(cache: *mut KvqCache) -> KvqStatus {
    let call = |handle: &mut KvqCache| {
        handle.cache.clear();
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// Tokens appended: the position of the next one.
///
/// # Safety
/// As `kvq_trim`; unless it is null, `len` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_len(cache: *mut KvqCache, len: *mut usize) -> KvqStatus {
    // SAFETY: the caller's contract.
    let call = |handle: &mut KvqCache| unsafe { handle.put(len, handle.cache.len(), 2) };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// Tokens that `layer` can take before it packs a span: a `kvq_trim` that takes back no more than was appended
/// within this room leaves attention as it was before, to the bit.
///
/// # Safety
/// As `kvq_trim`; unless it is null, `tokens` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_room_before_packing(
    cache: *mut KvqCache,
    layer: usize,
    tokens: *mut usize,
) -> KvqStatus {
    // SAFETY: the caller's contract.
    let call =
        |handle: &mut KvqCache| unsafe { handle.put(tokens, handle.cache.room_before_packing(layer), 3) };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// Where every byte goes; the figures add up to the bytes of the memory.
///
/// # Safety
/// As `kvq_trim`; unless it is null, `report` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_memory(cache: *mut KvqCache, report: *mut KvqMemory) -> KvqStatus {
    let call = |handle: &mut KvqCache| {
        let memory = handle.cache.memory();
        // The handle takes more than the struct that the codec counts.
        let all = handle.cache.storage_bytes() + crate::KVQ_HANDLE_BYTES;
        let value = KvqMemory {
            code_bytes: memory.code_bytes,
            scale_bytes: memory.scale_bytes,
            center_bytes: memory.center_bytes,
            recent_bytes: memory.recent_bytes,
            sink_bytes: memory.sink_bytes,
            header_bytes: memory.header_bytes + all.saturating_sub(memory.total()),
            scratch_bytes: memory.scratch_bytes,
            unused_bytes: memory.unused_bytes,
        };
        // SAFETY: the caller's contract.
        unsafe { handle.put(report, value, 2) }
    };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// Bytes of a snapshot taken now.
///
/// # Safety
/// As `kvq_trim`; unless it is null, `bytes` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_snapshot_bytes(cache: *mut KvqCache, bytes: *mut usize) -> KvqStatus {
    // SAFETY: the caller's contract.
    let call = |handle: &mut KvqCache| unsafe { handle.put(bytes, handle.cache.snapshot_bytes(), 2) };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// Writes a snapshot to the start of `out`, and its bytes to `written`.
///
/// # Safety
/// As `kvq_trim`; unless they are null, `out` must be writable for `out_bytes`, `written` for one value.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_snapshot_into(
    cache: *mut KvqCache,
    out: *mut u8,
    out_bytes: usize,
    written: *mut usize,
) -> KvqStatus {
    let call = |handle: &mut KvqCache| {
        apart(&range(out, out_bytes, 2)?, &range(written, 1, 4)?)?;
        // SAFETY: the caller's contract.
        let out = unsafe { handle.output(out, out_bytes, 2) }?;
        let n = handle.cache.snapshot_into(out)?;
        // SAFETY: the caller's contract.
        unsafe { handle.put(written, n, 4) }
    };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// Replaces what the cache holds by what a snapshot holds, whose shape and policy must be the cache's.
///
/// # Safety
/// As `kvq_trim`; unless it is null, `snapshot` must be readable for `snapshot_bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_restore(
    cache: *mut KvqCache,
    snapshot: *const u8,
    snapshot_bytes: usize,
) -> KvqStatus {
    let call = |handle: &mut KvqCache| {
        // SAFETY: the caller's contract.
        let snapshot = unsafe { handle.input(snapshot, snapshot_bytes, 2) }?;
        Ok(handle.cache.restore(snapshot)?)
    };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}

/// What the last call on this cache that failed needed and got; `KVQ_STATUS_OK` if none has. A call with a pointer that
/// leads to no cache cannot be told here.
///
/// # Safety
/// As `kvq_trim`; unless it is null, `error` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_error(cache: *mut KvqCache, error: *mut KvqError) -> KvqStatus {
    // SAFETY: the caller's contract.
    let call = |handle: &mut KvqCache| unsafe { handle.put(error, handle.error, 2) };
    // SAFETY: the caller's contract.
    unsafe { on(cache, call) }
}
