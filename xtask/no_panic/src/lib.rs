//! Every entry of `kvq-codec` as an exported symbol, for `cargo xtask test` to see what each one links.
//!
//! The compiler knows nothing about the arguments: shapes, policies, lengths and memory come from a caller
//! that does not exist. What it cannot rule out is therefore linked, and a panic that remains has a symbol.
#![no_std]

use core::ops::Range;
use core::panic::PanicInfo;

use kvq_codec::{
    Backend, Error, Fixed, KvCache, KvShape, Layout, MAX_TIERS, MemoryReport, Policy, Rotation, Side,
    SnapshotInfo, TierUse,
};

unsafe extern "C" {
    /// Defined nowhere, so that what calls it cannot go unseen.
    safe fn a_panic_is_reachable() -> !;
}

/// The end of every path into a panic; none may lead here.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    a_panic_is_reachable()
}

/// `KvCache::new`.
#[unsafe(no_mangle)]
pub fn kvq_new(
    shape: &KvShape,
    policy: &Policy,
    memory: &'static mut [u8],
) -> Result<KvCache<'static>, Error> {
    KvCache::new(*shape, *policy, Backend::detect(), memory)
}

/// `Cache::append`.
#[unsafe(no_mangle)]
pub fn kvq_append(
    cache: &mut KvCache<'_>,
    layer: usize,
    n_tokens: usize,
    keys: &[f32],
    values: &[f32],
) -> Result<(), Error> {
    cache.append(layer, n_tokens, keys, values)
}

/// `Cache::append` of one token.
#[unsafe(no_mangle)]
pub fn kvq_append_one(
    cache: &mut KvCache<'_>,
    layer: usize,
    keys: &[f32],
    values: &[f32],
) -> Result<(), Error> {
    cache.append(layer, 1, keys, values)
}

/// `Cache::attend`.
#[unsafe(no_mangle)]
pub fn kvq_attend(
    cache: &KvCache<'_>,
    layer: usize,
    n_tokens: usize,
    queries: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    cache.attend(layer, n_tokens, queries, out)
}

/// `Cache::attend_head`.
#[unsafe(no_mangle)]
pub fn kvq_attend_head(
    cache: &KvCache<'_>,
    layer: usize,
    kv_head: usize,
    n_tokens: usize,
    window_len: usize,
    queries: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    cache.attend_head(layer, kv_head, n_tokens, window_len, queries, out)
}

/// `Cache::attend_parts`.
#[unsafe(no_mangle)]
pub fn kvq_attend_parts(
    cache: &KvCache<'_>,
    layer: usize,
    kv_heads: Range<usize>,
    positions: &[Range<usize>],
    tokens: (usize, usize),
    queries: &[f32],
    parts: &mut [f32],
) -> Result<(), Error> {
    cache.attend_parts(layer, kv_heads, positions, tokens, queries, parts)
}

/// `Cache::join_parts`.
#[unsafe(no_mangle)]
pub fn kvq_join_parts(
    cache: &KvCache<'_>,
    n_parts: usize,
    parts: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    cache.join_parts(n_parts, parts, out)
}

/// `Cache::append_fixed`; what begins with `kvq_fixed_` may call no float function either.
#[unsafe(no_mangle)]
pub fn kvq_fixed_append(
    cache: &mut KvCache<'_>,
    layer: usize,
    n_tokens: usize,
    keys: Fixed<'_, i16>,
    values: Fixed<'_, i16>,
) -> Result<(), Error> {
    cache.append_fixed(layer, n_tokens, keys, values)
}

/// `Cache::append_fixed` of 8-bit numbers.
#[unsafe(no_mangle)]
pub fn kvq_fixed_append_narrow(
    cache: &mut KvCache<'_>,
    layer: usize,
    keys: Fixed<'_, i8>,
    values: Fixed<'_, i8>,
) -> Result<(), Error> {
    cache.append_fixed(layer, 1, keys, values)
}

/// `Cache::attend_fixed`.
#[unsafe(no_mangle)]
pub fn kvq_fixed_attend(
    cache: &KvCache<'_>,
    layer: usize,
    n_tokens: usize,
    queries: Fixed<'_, i16>,
    out: &mut [i32],
    out_fraction_bits: i8,
) -> Result<(), Error> {
    cache.attend_fixed(layer, n_tokens, queries, out, out_fraction_bits)
}

/// `Cache::trim`.
#[unsafe(no_mangle)]
pub fn kvq_trim(cache: &mut KvCache<'_>, len: usize) -> Result<(), Error> {
    cache.trim(len)
}

/// `Cache::clear`.
#[unsafe(no_mangle)]
pub fn kvq_clear(cache: &mut KvCache<'_>) {
    cache.clear();
}

/// `Cache::fork_into`.
#[unsafe(no_mangle)]
pub fn kvq_fork_into(cache: &KvCache<'_>, other: &mut KvCache<'_>) -> Result<(), Error> {
    cache.fork_into(other)
}

/// `Cache::snapshot_into`.
#[unsafe(no_mangle)]
pub fn kvq_snapshot_into(cache: &KvCache<'_>, out: &mut [u8]) -> Result<usize, Error> {
    cache.snapshot_into(out)
}

/// `Cache::restore`.
#[unsafe(no_mangle)]
pub fn kvq_restore(cache: &mut KvCache<'_>, snapshot: &[u8]) -> Result<(), Error> {
    cache.restore(snapshot)
}

/// `SnapshotInfo::read`.
#[unsafe(no_mangle)]
pub fn kvq_snapshot_info(bytes: &[u8]) -> Result<SnapshotInfo, Error> {
    SnapshotInfo::read(bytes)
}

/// Lengths: `len`, `room_before_packing`, `storage_bytes`, `snapshot_bytes`.
#[unsafe(no_mangle)]
pub fn kvq_lengths(cache: &KvCache<'_>, layer: usize) -> [usize; 4] {
    [cache.len(), cache.room_before_packing(layer), cache.storage_bytes(), cache.snapshot_bytes()]
}

/// `Cache::memory`.
#[unsafe(no_mangle)]
pub fn kvq_memory(cache: &KvCache<'_>) -> MemoryReport {
    cache.memory()
}

/// `Cache::tier_map`.
#[unsafe(no_mangle)]
pub fn kvq_tier_map(
    cache: &KvCache<'_>,
    layer: usize,
    side: Side,
) -> Result<[TierUse; MAX_TIERS + 2], Error> {
    cache.tier_map(layer, side)
}

/// Sizes: `minimum_bytes`, `capacity_tokens`, `snapshot_bytes_max`.
#[unsafe(no_mangle)]
pub fn kvq_sizes(shape: &KvShape, policy: &Policy, n: usize) -> Result<[usize; 3], Error> {
    let least = kvq_codec::minimum_bytes(*shape, *policy)?;
    let capacity = kvq_codec::capacity_tokens(*shape, *policy, n)?;
    Ok([least, capacity, kvq_codec::snapshot_bytes_max(*shape, *policy, n)?])
}

/// `Rotation`.
#[unsafe(no_mangle)]
pub fn kvq_rotate(head_dim: usize, x: &mut [f32]) {
    let rotation = Rotation::new(head_dim);
    rotation.forward(x);
    rotation.inverse(x);
}

/// `block::dequantize_into`.
#[unsafe(no_mangle)]
pub fn kvq_dequantize(layout: Layout, codes: &[u8], exponent: i16, out: &mut [f32]) -> Result<(), Error> {
    kvq_codec::block::dequantize_into(layout, codes, exponent, out)
}

/// `Layout`.
#[unsafe(no_mangle)]
pub fn kvq_layout(tag: u8, n_values: usize) -> Option<usize> {
    Layout::from_tag(tag).map(|layout| layout.row_bytes(n_values))
}
