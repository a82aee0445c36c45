//! The header of a snapshot: what it is a snapshot of.
//!
//! It has a checksum of its own, so that a host can read it alone and say why a file does not fit.

use crate::block::Layout;
use crate::bytes::{get_u8, get_u32, put, put_u8, put_u32, slice};
use crate::cache::plan::Plan;
use crate::crc::crc32;
use crate::error::{Error, Side};
use crate::policy::{Budget, EdgeLayers, MAX_STEPS, MAX_TIERS, Policy, Step, Tier, WhenFull};
use crate::rotate::ROTATION_ID;
use crate::shape::KvShape;

/// Bytes of a snapshot's header: what [`SnapshotInfo::read`] needs.
pub const SNAPSHOT_HEADER_BYTES: usize = 144;

/// The version that is written and read.
const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"KVQSNAP\n";

/// Stands for no tier and no step.
const ABSENT: u8 = 255;

// Offsets (docs/FORMAT.md).
const AT_VERSION: usize = 8;
const AT_HEADER_BYTES: usize = 10;
const AT_ROTATION: usize = 12;
const AT_TOTAL: usize = 16;
const AT_LEN: usize = 24;
const AT_SHAPE: usize = 28;
const AT_N_SINK: usize = 44;
const AT_RECENT_LEN: usize = 46;
const AT_SPAN_LEN: usize = 48;
const AT_WHEN_FULL: usize = 50;
const AT_BUDGET: usize = 51;
const AT_COMPRESSION: usize = 52;
const AT_EDGE_LAYERS: usize = 54;
const AT_WINDOW_LEN: usize = 56;
const AT_KEY_TIERS: usize = 60;
const AT_VALUE_TIERS: usize = 92;
const AT_LADDER: usize = 124;
const AT_CRC: usize = 140;

/// What must be the same in two caches for one to take over the other's tokens: name, offset and bytes.
const FIELDS: [(&str, usize, usize); 33] = [
    ("rotation", AT_ROTATION, 4),
    ("n_layers", AT_SHAPE, 4),
    ("n_kv_heads", 32, 4),
    ("key_head_dim", 36, 4),
    ("value_head_dim", 40, 4),
    ("n_sink", AT_N_SINK, 2),
    ("recent_len", AT_RECENT_LEN, 2),
    ("span_len", AT_SPAN_LEN, 2),
    ("when_full", AT_WHEN_FULL, 1),
    ("budget", AT_BUDGET, 1),
    ("compression", AT_COMPRESSION, 2),
    ("edge_layers", AT_EDGE_LAYERS, 2),
    ("window_len", AT_WINDOW_LEN, 4),
    ("key_tiers", AT_KEY_TIERS, 4),
    ("key_tiers", 64, 4),
    ("key_tiers", 68, 4),
    ("key_tiers", 72, 4),
    ("key_tiers", 76, 4),
    ("key_tiers", 80, 4),
    ("key_tiers", 84, 4),
    ("key_tiers", 88, 4),
    ("value_tiers", AT_VALUE_TIERS, 4),
    ("value_tiers", 96, 4),
    ("value_tiers", 100, 4),
    ("value_tiers", 104, 4),
    ("value_tiers", 108, 4),
    ("value_tiers", 112, 4),
    ("value_tiers", 116, 4),
    ("value_tiers", 120, 4),
    ("ladder", AT_LADDER, 4),
    ("ladder", 128, 4),
    ("ladder", 132, 4),
    ("reserved", 136, 4),
];

/// What a snapshot holds, read from its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The cache's shape.
    pub shape: KvShape,
    /// The cache's policy.
    pub policy: Policy,
    /// Its length in tokens, as [`Cache::len`](crate::Cache::len).
    pub len: usize,
    /// Bytes of the whole snapshot.
    pub snapshot_bytes: u64,
}

impl SnapshotInfo {
    /// Reads a header: the first [`SNAPSHOT_HEADER_BYTES`] of a snapshot, more do not matter.
    ///
    /// # Errors
    /// [`Error::NotSnapshot`], [`Error::SnapshotLength`], [`Error::SnapshotVersion`] or
    /// [`Error::SnapshotChecksum`] where the header cannot be read; [`Error::SnapshotContent`],
    /// [`Error::Mismatch`] (another rotation), [`Error::Shape`] or [`Error::Policy`] where no cache can
    /// have written it.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let header = Header::read(bytes)?.0;
        let number = |i: usize| get_u32(&header, AT_SHAPE + 4 * i) as usize;
        let shape = KvShape {
            n_layers: number(0),
            n_kv_heads: number(1),
            key_head_dim: number(2),
            value_head_dim: number(3),
        };
        shape.check()?;
        let policy = Policy {
            n_sink: get_u16(&header, AT_N_SINK),
            recent_len: get_u16(&header, AT_RECENT_LEN),
            span_len: get_u16(&header, AT_SPAN_LEN),
            key_tiers: read_tiers(&header, AT_KEY_TIERS, "key_tiers")?,
            value_tiers: read_tiers(&header, AT_VALUE_TIERS, "value_tiers")?,
            ladder: read_ladder(&header)?,
            edge_layers: EdgeLayers {
                first: get_u8(&header, AT_EDGE_LAYERS),
                last: get_u8(&header, AT_EDGE_LAYERS + 1),
            },
            budget: match get_u8(&header, AT_BUDGET) {
                0 => Budget::Bytes,
                1 => Budget::Compression(get_u16(&header, AT_COMPRESSION)),
                got => return Err(content("budget", 1, got)),
            },
            when_full: match get_u8(&header, AT_WHEN_FULL) {
                0 => WhenFull::Error,
                1 => WhenFull::Demote,
                2 => WhenFull::Evict,
                got => return Err(content("when_full", 2, got)),
            },
            window_len: get_u32(&header, AT_WINDOW_LEN),
        };
        policy.check()?;
        let snapshot_bytes = Header(header).total();
        let len = get_u32(&header, AT_LEN);
        // What is not read must be what the fields read say.
        Header::new(&shape, &policy, len, snapshot_bytes).compare(&Header(header))?;
        Ok(Self { shape, policy, len: len as usize, snapshot_bytes })
    }
}

/// The bytes of a header.
pub(in crate::cache) struct Header(pub [u8; SNAPSHOT_HEADER_BYTES]);

impl Header {
    /// The header of a snapshot of `total` bytes.
    pub fn new(shape: &KvShape, policy: &Policy, len: u32, total: u64) -> Self {
        let mut bytes = [0; SNAPSHOT_HEADER_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, AT_VERSION, &VERSION.to_le_bytes());
        put(&mut bytes, AT_HEADER_BYTES, &(SNAPSHOT_HEADER_BYTES as u16).to_le_bytes());
        put_u32(&mut bytes, AT_ROTATION, ROTATION_ID);
        put(&mut bytes, AT_TOTAL, &total.to_le_bytes());
        put_u32(&mut bytes, AT_LEN, len);
        let figures = [shape.n_layers, shape.n_kv_heads, shape.key_head_dim, shape.value_head_dim];
        for (i, figure) in figures.into_iter().enumerate() {
            put_u32(&mut bytes, AT_SHAPE + 4 * i, figure as u32);
        }
        put(&mut bytes, AT_N_SINK, &policy.n_sink.to_le_bytes());
        put(&mut bytes, AT_RECENT_LEN, &policy.recent_len.to_le_bytes());
        put(&mut bytes, AT_SPAN_LEN, &policy.span_len.to_le_bytes());
        let when_full = match policy.when_full {
            WhenFull::Error => 0,
            WhenFull::Demote => 1,
            WhenFull::Evict => 2,
        };
        put_u8(&mut bytes, AT_WHEN_FULL, when_full);
        if let Budget::Compression(hundredths) = policy.budget {
            put_u8(&mut bytes, AT_BUDGET, 1);
            put(&mut bytes, AT_COMPRESSION, &hundredths.to_le_bytes());
        }
        put(&mut bytes, AT_EDGE_LAYERS, &[policy.edge_layers.first, policy.edge_layers.last]);
        put_u32(&mut bytes, AT_WINDOW_LEN, policy.window_len);
        put_tiers(&mut bytes, AT_KEY_TIERS, &policy.key_tiers);
        put_tiers(&mut bytes, AT_VALUE_TIERS, &policy.value_tiers);
        for (i, step) in policy.ladder.iter().enumerate() {
            let pair = step.map_or([ABSENT, 0], |step| [step.side as u8, step.to]);
            put(&mut bytes, AT_LADDER + 2 * i, &pair);
        }
        let crc = crc32(slice(&bytes, 0, AT_CRC));
        put_u32(&mut bytes, AT_CRC, crc);
        Self(bytes)
    }

    /// The header of a cache with `plan`.
    pub fn of(plan: &Plan, len: usize, total: usize) -> Self {
        Self::new(&plan.shape, &plan.policy, len as u32, total as u64)
    }

    /// Reads the header at the start of `bytes`, and checks what does not depend on a cache.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let magic = MAGIC.iter().zip(bytes).all(|(a, b)| a == b);
        if !magic || bytes.is_empty() {
            return Err(Error::NotSnapshot);
        }
        let header = bytes
            .first_chunk::<SNAPSHOT_HEADER_BYTES>()
            .ok_or(Error::SnapshotLength { needed: SNAPSHOT_HEADER_BYTES as u64, got: bytes.len() as u64 })?;
        let version = get_u16(header, AT_VERSION);
        if version != VERSION {
            return Err(Error::SnapshotVersion { needed: u32::from(VERSION), got: u32::from(version) });
        }
        check_crc(slice(header, 0, AT_CRC), get_u32(header, AT_CRC))?;
        let header_bytes = u32::from(get_u16(header, AT_HEADER_BYTES));
        if header_bytes != SNAPSHOT_HEADER_BYTES as u32 {
            let needed = SNAPSHOT_HEADER_BYTES as u32;
            return Err(Error::SnapshotContent { field: "header_bytes", needed, got: header_bytes });
        }
        Ok(Self(*header))
    }

    /// Bytes of the whole snapshot.
    pub fn total(&self) -> u64 {
        u64::from(get_u32(&self.0, AT_TOTAL)) | u64::from(get_u32(&self.0, AT_TOTAL + 4)) << 32
    }

    /// Tokens of layer 0.
    pub fn len(&self) -> u32 {
        get_u32(&self.0, AT_LEN)
    }

    /// Whether rotation, shape and policy are those of `other`.
    pub fn compare(&self, other: &Self) -> Result<(), Error> {
        for (field, offset, bytes) in FIELDS {
            let shift = 32 - 8 * (bytes as u32 & 7).min(4);
            let (needed, got) =
                (get_u32(&self.0, offset) << shift >> shift, get_u32(&other.0, offset) << shift >> shift);
            if needed != got {
                return Err(Error::Mismatch { field, needed, got });
            }
        }
        Ok(())
    }
}

/// Whether `bytes` have the CRC-32 `stored`.
pub(super) fn check_crc(bytes: &[u8], stored: u32) -> Result<(), Error> {
    let got = crc32(bytes);
    if got == stored { Ok(()) } else { Err(Error::SnapshotChecksum { needed: stored, got }) }
}

fn content(field: &'static str, needed: u32, got: u8) -> Error {
    Error::SnapshotContent { field, needed, got: u32::from(got) }
}

fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    crate::bytes::get_i16(bytes, offset) as u16
}

fn put_tiers(bytes: &mut [u8], at: usize, tiers: &[Option<Tier>; MAX_TIERS]) {
    for (i, tier) in tiers.iter().enumerate() {
        put_u32(bytes, at + 8 * i, tier.map_or(u32::from(ABSENT), |t| u32::from(t.layout.tag())));
        put_u32(bytes, at + 8 * i + 4, tier.map_or(0, |t| t.from_age));
    }
}

fn read_tiers(bytes: &[u8], at: usize, field: &'static str) -> Result<[Option<Tier>; MAX_TIERS], Error> {
    let mut tiers = [None; MAX_TIERS];
    for (i, tier) in tiers.iter_mut().enumerate() {
        let tag = get_u8(bytes, at + 8 * i);
        if tag != ABSENT {
            let layout = Layout::from_tag(tag).ok_or(content(field, Layout::ALL.len() as u32 - 1, tag))?;
            *tier = Some(Tier { layout, from_age: get_u32(bytes, at + 8 * i + 4) });
        }
    }
    Ok(tiers)
}

fn read_ladder(bytes: &[u8]) -> Result<[Option<Step>; MAX_STEPS], Error> {
    let mut ladder = [None; MAX_STEPS];
    for (i, step) in ladder.iter_mut().enumerate() {
        let to = get_u8(bytes, AT_LADDER + 2 * i + 1);
        *step = match get_u8(bytes, AT_LADDER + 2 * i) {
            0 => Some(Step { side: Side::Key, to }),
            1 => Some(Step { side: Side::Value, to }),
            ABSENT => None,
            got => return Err(content("ladder", 1, got)),
        };
    }
    Ok(ladder)
}
