//! KV-cache quantization without `std` and without allocation.
//!
//! The keys and values that a transformer keeps for its context are stored in 2 to 8 bits per value,
//! inside one buffer that you provide, and attention is computed on the packed bytes.
//!
//! ```
//! use kvq_codec::{Backend, KvCache, KvShape, Policy};
//!
//! # fn main() -> Result<(), kvq_codec::Error> {
//! const SHAPE: KvShape = KvShape::new(1, 2, 32); // layers, KV heads, head_dim
//! let mut memory = [0u8; 24 * 1024];
//! let mut cache = KvCache::new(SHAPE, Policy::FOUR_X, Backend::detect(), &mut memory)?;
//! let (key, value) = ([0.5f32; 64], [1.0f32; 64]); // (n_kv_heads, 1 token, head_dim)
//! cache.append(0, 1, &key, &value)?;
//! let (query, mut out) = ([0.1f32; 64], [0.0f32; 64]); // (n_heads, 1 token, head_dim)
//! cache.attend(0, 1, &query, &mut out)?;
//! assert!((out[0] - 1.0).abs() < 0.02);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! `std` adds run-time CPU detection, `defmt` its `Format` for errors, shapes and reports. Three more are there by
//! default, and can be left out (`default-features = false`) where flash is short; 8-bit and 4-bit scalar codes,
//! eviction, sliding windows, trim and snapshots always stay. What a build lacks is refused with [`Error::Feature`],
//! which names the feature; the bytes of what it has are the same.
//!
//! | feature | brings | presets that need it |
//! |---|---|---|
//! | `trellis` | [`Layout::T4`], [`Layout::T3`], [`Layout::T2`] | all but [`Policy::EIGHT_BIT`] |
//! | `low-bits` | [`Layout::S3`], [`Layout::S2`] | none |
//! | `demote` | more than one tier per side, compression budgets, [`EdgeLayers`] | all but [`Policy::EIGHT_BIT`] |
//!
//! Where Cargo compiles for size (`opt-level` of `"s"` or `"z"`), the crate takes smaller loops and more calls.
//!
//! What the bytes mean is told in `docs/FORMAT.md`, how numbers are rounded in `docs/NUMERICS.md`.
#![no_std]
#![deny(missing_docs)]

#[cfg(any(feature = "std", test))]
extern crate std;

pub mod block;
mod bytes;
mod cache;
mod crc;
mod error;
mod factor;
mod fixed;
mod kernel;
mod math;
mod pack;
mod policy;
mod quantize;
mod rotate;
mod shape;

pub use block::Layout;
pub use cache::{
    COMPRESSION_FROM_TOKENS, Cache, KvCache, MemoryReport, SNAPSHOT_HEADER_BYTES, SNAPSHOT_OVERHEAD_BYTES,
    SnapshotInfo, Storage, Threads, TierUse, capacity_tokens, minimum_bytes, snapshot_bytes_max,
};
pub use error::{Error, Side};
pub use fixed::Fixed;
pub use kernel::Backend;
pub use policy::{Budget, EdgeLayers, MAX_STEPS, MAX_TIERS, Policy, Step, Tier, WhenFull};
pub use rotate::Rotation;
pub use shape::{KvShape, MAX_HEAD_DIM};
