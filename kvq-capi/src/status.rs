//! What a call returns, and the figures behind it.

use core::ffi::{CStr, c_char};

use kvq_codec::Error;

/// What became of a call; unless it is `KVQ_STATUS_OK`, the cache is as it was before.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvqStatus {
    /// Done.
    Ok = 0,
    /// A pointer is null. got: the number of the argument, from 1 on.
    Null = 1,
    /// A pointer is not aligned to its type; memory for a cache must be aligned to 8. needed: the alignment, got: the
    /// remainder.
    Alignment = 2,
    /// An array overlaps the cache's memory, or the array that is written.
    Overlap = 3,
    /// The pointer leads to no cache that `kvq_init` made at this address.
    NotCache = 4,
    /// A figure of the configuration is out of range. needed: its largest value.
    Config = 5,
    /// A count is 0 or a head size is not a multiple of 4 up to 256. got: the figure.
    Shape = 6,
    /// The policy contradicts itself.
    Policy = 7,
    /// The memory is too short: see `kvq_minimum_bytes`. Bytes.
    BufferTooSmall = 8,
    /// An array does not have the length that the shape asks for. Values.
    Length = 9,
    /// No such layer. needed: layers of the shape.
    Layer = 10,
    /// The query rows are no whole number of heads per KV head. needed: a multiple of this, got: values.
    QueryHeads = 11,
    /// A key or value is NaN, infinite or larger than 2^100. needed: its position, got: its KV head.
    NotFinite = 12,
    /// The memory holds no more tokens: see `kvq_capacity_tokens`. needed: tokens after the call, got: capacity.
    Full = 13,
    /// More tokens asked for than are held. needed: tokens held at most, got: asked for.
    PastEnd = 14,
    /// The buffer for a snapshot is too short: see `kvq_snapshot_bytes`. Bytes.
    SnapshotBuffer = 15,
    /// The bytes do not begin like a snapshot.
    NotSnapshot = 16,
    /// A snapshot of another version.
    SnapshotVersion = 17,
    /// The snapshot is cut off, or bytes follow it. Bytes.
    SnapshotLength = 18,
    /// The snapshot's bytes were changed. Checksums.
    SnapshotChecksum = 19,
    /// The snapshot's checksum is right, but no cache can have written it.
    SnapshotContent = 20,
    /// The snapshot has another shape or policy.
    Mismatch = 21,
    /// The memory cannot hold what is to be restored. Bytes.
    Room = 22,
    /// An error that this interface does not know.
    Other = 23,
    /// A length to trim to whose newest tokens were evicted. needed: the least length that can be had.
    Evicted = 24,
}

impl KvqStatus {
    const fn name(self) -> &'static CStr {
        match self {
            Self::Ok => c"ok",
            Self::Null => c"null pointer",
            Self::Alignment => c"misaligned pointer",
            Self::Overlap => c"overlapping arrays",
            Self::NotCache => c"no cache",
            Self::Config => c"configuration out of range",
            Self::Shape => c"shape refused",
            Self::Policy => c"policy refused",
            Self::BufferTooSmall => c"memory too short",
            Self::Length => c"array of another length",
            Self::Layer => c"no such layer",
            Self::QueryHeads => c"no whole number of heads",
            Self::NotFinite => c"not finite",
            Self::Full => c"full",
            Self::PastEnd => c"past the end",
            Self::SnapshotBuffer => c"buffer for the snapshot too short",
            Self::NotSnapshot => c"no snapshot",
            Self::SnapshotVersion => c"snapshot of another version",
            Self::SnapshotLength => c"snapshot cut off or too long",
            Self::SnapshotChecksum => c"snapshot damaged",
            Self::SnapshotContent => c"snapshot that no cache wrote",
            Self::Mismatch => c"snapshot of another shape or policy",
            Self::Room => c"no room for the snapshot",
            Self::Other => c"other error",
            Self::Evicted => c"tokens were evicted",
        }
    }

    /// Every status, in the order of the numbers.
    const ALL: [Self; 25] = [
        Self::Ok,
        Self::Null,
        Self::Alignment,
        Self::Overlap,
        Self::NotCache,
        Self::Config,
        Self::Shape,
        Self::Policy,
        Self::BufferTooSmall,
        Self::Length,
        Self::Layer,
        Self::QueryHeads,
        Self::NotFinite,
        Self::Full,
        Self::PastEnd,
        Self::SnapshotBuffer,
        Self::NotSnapshot,
        Self::SnapshotVersion,
        Self::SnapshotLength,
        Self::SnapshotChecksum,
        Self::SnapshotContent,
        Self::Mismatch,
        Self::Room,
        Self::Other,
        Self::Evicted,
    ];
}

/// A status in words, as a string that ends with a zero byte; `"unknown status"` for a number that is none.
#[unsafe(no_mangle)]
pub extern "C" fn kvq_status_name(status: i32) -> *const c_char {
    let known = usize::try_from(status).ok().and_then(|i| KvqStatus::ALL.get(i));
    known.map_or(c"unknown status", |status| status.name()).as_ptr()
}

/// What a call that failed needed and what it got; `KvqStatus` says what the figures are, 0 where there are none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvqError {
    /// What the call returned.
    pub status: KvqStatus,
    /// What was needed.
    pub needed: u64,
    /// What was there.
    pub got: u64,
}

impl KvqError {
    /// No call has failed.
    pub(crate) const NONE: Self = Self::plain(KvqStatus::Ok);

    pub(crate) const fn plain(status: KvqStatus) -> Self {
        Self { status, needed: 0, got: 0 }
    }

    pub(crate) const fn new(status: KvqStatus, needed: usize, got: usize) -> Self {
        Self { status, needed: needed as u64, got: got as u64 }
    }
}

impl From<Error> for KvqError {
    fn from(error: Error) -> Self {
        let small = |status, needed: u32, got: u32| Self { status, needed: needed.into(), got: got.into() };
        match error {
            Error::Shape { got, .. } => small(KvqStatus::Shape, 0, got),
            Error::Policy(_) | Error::Feature(_) => Self::plain(KvqStatus::Policy),
            Error::BufferTooSmall { needed, got } => small(KvqStatus::BufferTooSmall, needed, got),
            Error::Length { needed, got, .. } => small(KvqStatus::Length, needed, got),
            Error::Layer { n_layers, got } => small(KvqStatus::Layer, n_layers, got),
            Error::QueryHeads { multiple_of, got } => small(KvqStatus::QueryHeads, multiple_of, got),
            Error::NotFinite { head, pos, .. } => small(KvqStatus::NotFinite, pos, head),
            Error::Full { needed, capacity } => small(KvqStatus::Full, needed, capacity),
            Error::PastEnd { len, got } => small(KvqStatus::PastEnd, len, got),
            Error::Evicted { needed, got } => small(KvqStatus::Evicted, needed, got),
            Error::SnapshotBuffer { needed, got } => Self { status: KvqStatus::SnapshotBuffer, needed, got },
            Error::NotSnapshot => Self::plain(KvqStatus::NotSnapshot),
            Error::SnapshotVersion { needed, got } => small(KvqStatus::SnapshotVersion, needed, got),
            Error::SnapshotLength { needed, got } => Self { status: KvqStatus::SnapshotLength, needed, got },
            Error::SnapshotChecksum { needed, got } => small(KvqStatus::SnapshotChecksum, needed, got),
            Error::SnapshotContent { needed, got, .. } => small(KvqStatus::SnapshotContent, needed, got),
            Error::Mismatch { needed, got, .. } => small(KvqStatus::Mismatch, needed, got),
            Error::Room { needed, got } => Self { status: KvqStatus::Room, needed, got },
            _ => Self::plain(KvqStatus::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_found_by_its_number() {
        for (number, status) in (0..).zip(KvqStatus::ALL) {
            assert_eq!(status as i32, number);
            assert_eq!(kvq_status_name(number), status.name().as_ptr());
        }
        for number in [-1, KvqStatus::ALL.len() as i32, i32::MIN, i32::MAX] {
            assert_eq!(kvq_status_name(number), c"unknown status".as_ptr());
        }
    }
}
