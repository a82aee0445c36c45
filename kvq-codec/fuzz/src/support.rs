//! Memory, policies, tokens and checksums that the targets share.

use kvq_codec::{
    Backend, Budget, Cache, EdgeLayers, KvShape, Layout, MAX_TIERS, Policy, SNAPSHOT_HEADER_BYTES, Side,
    Step, Storage, Tier, WhenFull, minimum_bytes,
};

/// Memory of fixed length, or memory that grows.
#[derive(Debug)]
pub struct Memory<const GROWS: bool>(pub Vec<u8>);

impl<const GROWS: bool> Storage for Memory<GROWS> {
    const GROWS: bool = GROWS;

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn grow(&mut self, len: usize) -> bool {
        if GROWS {
            self.0.resize(len.max(self.0.len()), 0xa5);
        }
        GROWS
    }
}

/// An empty cache. Where memory does not grow, it is half as long again as it must be.
pub fn empty<const GROWS: bool>(shape: KvShape, policy: Policy, backend: Backend) -> Cache<Memory<GROWS>> {
    let least = minimum_bytes(shape, policy).unwrap();
    let bytes = if GROWS { 0 } else { least + least / 2 };
    Cache::new(shape, policy, backend, Memory(vec![0x5a; bytes])).unwrap()
}

/// Tiny shapes: heads that share a block, a width that is no power of two, K and V of different width.
pub const SHAPES: [KvShape; 4] = [
    KvShape::new(1, 1, 8),
    KvShape::new(2, 3, 4),
    KvShape::new(1, 2, 12).with_value_head_dim(8),
    KvShape::new(1, 1, 36).with_value_head_dim(32),
];

/// Layouts of the tiers of a policy, from the first.
const LADDERS: [&[Layout]; 10] = [
    &[Layout::Q8],
    &[Layout::S4],
    &[Layout::S3],
    &[Layout::S2],
    &[Layout::T4],
    &[Layout::T3],
    &[Layout::T2],
    &[Layout::Q8, Layout::S4, Layout::S3, Layout::S2],
    &[Layout::T4, Layout::T3, Layout::T2],
    &[Layout::Q8, Layout::T3, Layout::S2],
];

/// What a cache of `choice` does as it fills.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Demotes at an age.
    Aged,
    /// Demotes under the pressure of its bytes, then evicts.
    Pressed,
}

/// A policy of short spans, so that few tokens reach every tier; and how many tiers it has.
pub fn policy(choice: u8, kind: Kind) -> (Policy, usize) {
    let layouts = LADDERS[usize::from(choice) % LADDERS.len()];
    let (mut tiers, mut ladder) = ([None; MAX_TIERS], [None; 6]);
    for (i, &layout) in layouts.iter().enumerate() {
        let from_age = match (i, kind) {
            (0, _) => 0,
            (_, Kind::Aged) => 16 * i as u32,
            (_, Kind::Pressed) => Tier::UNDER_PRESSURE,
        };
        tiers[i] = Some(Tier { layout, from_age });
        if i > 0 && kind == Kind::Pressed {
            ladder[2 * i - 2] = Some(Step { side: Side::Value, to: i as u8 });
            ladder[2 * i - 1] = Some(Step { side: Side::Key, to: i as u8 });
        }
    }
    let policy = Policy {
        n_sink: u16::from(choice / 10 % 3),
        recent_len: u16::from(choice / 30 % 2) * 8,
        span_len: 16,
        key_tiers: tiers,
        value_tiers: tiers,
        ladder,
        // The second of two layers, or the only one.
        edge_layers: EdgeLayers { first: 0, last: u8::from(choice / 30 % 4 == 3) },
        budget: Budget::Bytes,
        when_full: if kind == Kind::Aged { WhenFull::Demote } else { WhenFull::Evict },
        window_len: if choice / 60 % 4 == 3 { 20 } else { 0 },
    };
    (policy, layouts.len())
}

/// A small reproducible generator (xorshift).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// About Gaussian.
    pub fn value(&mut self) -> f32 {
        (0..4).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).sum()
    }
}

/// CRC-32, bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

/// Makes the length and both checksums of a snapshot right.
pub fn seal(bytes: &mut [u8]) {
    let total = bytes.len();
    bytes[16..24].copy_from_slice(&(total as u64).to_le_bytes());
    for end in [SNAPSHOT_HEADER_BYTES, total] {
        let crc = crc32(&bytes[..end - 4]);
        bytes[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A snapshot of what a cache holds.
pub fn snapshot<S: Storage>(cache: &Cache<S>) -> Vec<u8> {
    let mut out = vec![0; cache.snapshot_bytes()];
    assert_eq!(cache.snapshot_into(&mut out), Ok(out.len()));
    out
}

/// A snapshot with the header of `cache`, behind which `payload` is all that a fuzzer chose, but for the length of
/// layer 0, which the header must repeat, and the checksums.
pub fn with_payload<S: Storage>(cache: &Cache<S>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = snapshot(cache);
    bytes.truncate(SNAPSHOT_HEADER_BYTES);
    if let Some(len) = payload.get(..4) {
        bytes[24..28].copy_from_slice(len);
    }
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&[0; 4]);
    seal(&mut bytes);
    bytes
}

/// Attention of every head over what a layer holds, into a buffer that is filled with `garbage` before.
pub fn attend<S: Storage>(cache: &Cache<S>, layer: usize, seed: u64, garbage: f32) -> Vec<f32> {
    let shape = cache.shape();
    let mut random = Random::new(seed);
    let query: Vec<f32> = (0..shape.n_kv_heads * shape.key_head_dim).map(|_| random.value()).collect();
    let mut out = vec![garbage; shape.n_kv_heads * shape.value_head_dim];
    cache.attend(layer, 1, &query, &mut out).unwrap();
    out
}

/// Whether the report of every byte adds up, and no token is counted twice.
pub fn check_books<S: Storage>(cache: &Cache<S>) {
    assert_eq!(cache.memory().total(), cache.storage_bytes() + size_of_val(cache));
    for layer in 0..cache.shape().n_layers {
        let held = |side| cache.tier_map(layer, side).unwrap().iter().map(|tier| tier.tokens).sum::<usize>();
        assert_eq!(held(Side::Key), held(Side::Value));
    }
}
