//! What can go wrong, what was needed, what was got, and which call or field puts it right.

#[cfg(all(test, feature = "trellis", feature = "low-bits", feature = "demote"))]
mod tests;

use core::fmt;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Side {
    /// Keys.
    Key,
    /// Values.
    Value,
}

/// An error of the codec; the cache is as it was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// The shape cannot be stored: a count is not in 1..=65,535, or a head size is not a multiple of 4 in 4..=256.
    Shape {
        /// Which field of [`KvShape`](crate::KvShape).
        field: &'static str,
        /// What it is.
        got: u32,
    },
    /// The policy contradicts itself; the text says how.
    Policy(&'static str),
    /// The policy, or a layout, needs code that this build of the codec lacks; the text is the Cargo feature of
    /// `kvq-codec` that brings it.
    Feature(&'static str),
    /// The buffer cannot hold the fixed parts and one full recent window: see `minimum_bytes`.
    BufferTooSmall {
        /// Bytes needed.
        needed: u32,
        /// Bytes given.
        got: u32,
    },
    /// A slice does not have the length that its shape asks for.
    Length {
        /// Which argument.
        argument: &'static str,
        /// Values needed.
        needed: u32,
        /// Values given.
        got: u32,
    },
    /// No such layer.
    Layer {
        /// Layers of the shape.
        n_layers: u32,
        /// Layer asked for.
        got: u32,
    },
    /// No such KV head.
    KvHead {
        /// KV heads of the shape.
        n_kv_heads: u32,
        /// Head asked for.
        got: u32,
    },
    /// The queries are not a whole number of heads per KV head, one row of `key_head_dim` per token.
    QueryHeads {
        /// Their values must be a multiple of this, and not none.
        multiple_of: u32,
        /// Query values given.
        got: u32,
    },
    /// An input is NaN, infinite, or larger than 2^100.
    NotFinite {
        /// Keys or values.
        side: Side,
        /// KV head.
        head: u32,
        /// Position in the sequence.
        pos: u32,
    },
    /// Fraction bits of fixed-point numbers that are not in -64..=64: see [`Fixed`](crate::Fixed).
    FractionBits {
        /// What they are.
        got: i8,
    },
    /// The cache holds all the tokens that its bytes can hold: see `capacity_tokens`.
    Full {
        /// Tokens after the call, had it succeeded.
        needed: u32,
        /// Tokens that fit.
        capacity: u32,
    },
    /// The storage has to grow first: see `Storage::grow`.
    Grow {
        /// Bytes needed.
        needed: u32,
        /// Bytes there.
        got: u32,
    },
    /// More tokens asked for than are held, or none to attend: see `Cache::len`.
    PastEnd {
        /// Tokens held.
        len: u32,
        /// Tokens asked for.
        got: u32,
    },
    /// A length to trim to whose newest tokens were evicted.
    Evicted {
        /// The least length, beyond that of the sinks, that `Cache::trim` can go back to.
        needed: u32,
        /// Length asked for.
        got: u32,
    },
    /// The buffer for a snapshot is too short: see `Cache::snapshot_bytes`.
    SnapshotBuffer {
        /// Bytes needed.
        needed: u64,
        /// Bytes given.
        got: u64,
    },
    /// The bytes do not begin like a snapshot.
    NotSnapshot,
    /// A snapshot of a version that this codec does not read.
    SnapshotVersion {
        /// The version that it reads.
        needed: u32,
        /// The snapshot's.
        got: u32,
    },
    /// The snapshot is cut off, or bytes follow it: see `SnapshotInfo::snapshot_bytes`.
    SnapshotLength {
        /// Bytes needed.
        needed: u64,
        /// Bytes given.
        got: u64,
    },
    /// The snapshot's bytes have changed since they were written.
    SnapshotChecksum {
        /// The CRC-32 stored.
        needed: u32,
        /// The CRC-32 of the bytes given.
        got: u32,
    },
    /// The snapshot's checksum is right, but no cache can have written it.
    SnapshotContent {
        /// Which field.
        field: &'static str,
        /// The value that it must have, or the largest that it may have.
        needed: u32,
        /// Its value, or the stored bits of a negative one.
        got: u32,
    },
    /// The snapshot, or the cache to fork into, has another shape, policy or rotation: see `SnapshotInfo::read`.
    Mismatch {
        /// The first field that differs, by its name in `docs/FORMAT.md`.
        field: &'static str,
        /// What the cache that was called has stored there.
        needed: u32,
        /// What the other one has.
        got: u32,
    },
    /// The buffer cannot hold what is to be restored or forked into it: give `Cache::new` a longer one.
    Room {
        /// Bytes with which it fits.
        needed: u64,
        /// Bytes there.
        got: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Shape { field, got } => write!(
                f,
                "{field} is {got}: counts must be 1 to 65535, head sizes multiples of 4 from 4 to 256 (KvShape::check)"
            ),
            Self::Policy(why) => write!(f, "policy refused: {why} (Policy::check)"),
            Self::Feature(feature) => {
                write!(
                    f,
                    "this build lacks it: build kvq-codec with its feature `{feature}` (Layout::is_available)"
                )
            }
            Self::BufferTooSmall { needed, got } => {
                write!(f, "buffer of {got} bytes, at least {needed} needed (minimum_bytes)")
            }
            Self::Length { argument, needed, got } => {
                write!(f, "{argument} has {got} values, its shape needs {needed} (KvShape)")
            }
            Self::Layer { n_layers, got } => {
                write!(f, "layer {got} of a cache with {n_layers} layers (Cache::shape)")
            }
            Self::KvHead { n_kv_heads, got } => {
                write!(f, "KV head {got} of a cache with {n_kv_heads} KV heads (Cache::shape)")
            }
            Self::QueryHeads { multiple_of, got } => write!(
                f,
                "{got} query values, a multiple of {multiple_of} needed: KV heads × tokens × key_head_dim (Cache::shape)"
            ),
            Self::NotFinite { side, head, pos } => write!(
                f,
                "{} of head {head} at position {pos} is NaN, infinite or above 2^100: Cache::append takes neither",
                match side {
                    Side::Key => "key",
                    Side::Value => "value",
                }
            ),
            Self::FractionBits { got } => {
                write!(f, "{got} fraction bits: fixed-point numbers have -64 to 64 (Fixed)")
            }
            Self::Full { needed, capacity } => {
                write!(f, "{needed} tokens do not fit: capacity is {capacity} (capacity_tokens)")
            }
            Self::Grow { needed, got } => {
                write!(
                    f,
                    "storage of {got} bytes must grow to {needed} bytes and did not: Cache::append works again once Storage::grow can"
                )
            }
            Self::PastEnd { len, got } => write!(f, "{got} tokens asked for, {len} held (Cache::len)"),
            Self::Evicted { needed, got } => write!(
                f,
                "the tokens before position {got} were evicted: Cache::trim can go back to {needed}, or to the sinks"
            ),
            Self::SnapshotBuffer { needed, got } => {
                write!(f, "the snapshot has {needed} bytes, the buffer for it {got} (Cache::snapshot_bytes)")
            }
            Self::NotSnapshot => {
                write!(f, "the bytes do not begin like a snapshot (Cache::snapshot_into writes one)")
            }
            Self::SnapshotVersion { needed, got } => write!(
                f,
                "snapshot of version {got}, this codec reads {needed}: write it anew with Cache::snapshot_into"
            ),
            Self::SnapshotLength { needed, got } => write!(
                f,
                "{got} bytes given, the snapshot has {needed}: it is cut off or followed by others (SnapshotInfo::snapshot_bytes)"
            ),
            Self::SnapshotChecksum { needed, got } => write!(
                f,
                "the snapshot's bytes were changed: CRC-32 {got:08x} instead of {needed:08x}; write it anew with Cache::snapshot_into"
            ),
            Self::SnapshotContent { field, needed, got } => write!(
                f,
                "the snapshot's {field} is {got}, out of range with {needed}: Cache::snapshot_into did not write this"
            ),
            Self::Mismatch { field, needed, got } => write!(
                f,
                "{field} is {needed} in this cache and {got} in the other or the snapshot: compare with SnapshotInfo::read, Cache::shape and Cache::policy"
            ),
            Self::Room { needed, got } => write!(
                f,
                "the tokens need a buffer of {needed} bytes, there are {got}: give Cache::new a longer one"
            ),
        }
    }
}

impl core::error::Error for Error {}

/// A figure of an error; what 32 bits do not hold is as large as they can say.
pub(crate) const fn figure(n: usize) -> u32 {
    if n > u32::MAX as usize { u32::MAX } else { n as u32 }
}
