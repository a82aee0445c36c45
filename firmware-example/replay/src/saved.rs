//! Two texts for a small cache: one that a host has read and put into a snapshot, one that is interrupted by
//! snapshots that went bad.

use kvq_codec::{Backend, Cache, Error, KvCache, KvShape, Policy, Storage, WhenFull, minimum_bytes};

use crate::{Hash, Random};

const HEAD_DIM: usize = 32;
const SHAPE: KvShape = KvShape::new(1, 1, HEAD_DIM);
const POLICY: Policy =
    Policy { span_len: 16, recent_len: 0, ..Policy::FOUR_X.with_byte_budget(WhenFull::Evict) };

/// The buffer of the cache: the least with which it works, and room for one span more.
pub const SAVED_BYTES: usize = match minimum_bytes(SHAPE, POLICY) {
    Ok(bytes) => bytes + bytes / 4,
    Err(_) => panic!("the shape or the policy is refused"),
};

/// Tokens that a text has before the snapshot.
pub const N_BEFORE: usize = 60;
/// Tokens that it has after it.
pub const N_AFTER: usize = 40;

/// Tokens that differ from text to text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// The one whose cache is in the snapshot.
    Saved = 5,
    /// The one that is being read when snapshots are tried.
    Present = 6,
}

/// An empty cache in `memory`.
///
/// # Errors
/// What the cache refuses.
pub fn cache(backend: Backend, memory: &mut [u8]) -> Result<KvCache<'_>, Error> {
    KvCache::new(SHAPE, POLICY, backend, memory)
}

/// Reads `n_tokens` more of `text`; returns the hash of every bit that attention gave.
///
/// # Errors
/// What the cache refuses.
pub fn read<S: Storage>(cache: &mut Cache<S>, text: Text, n_tokens: usize) -> Result<u64, Error> {
    let (mut key, mut value, mut out) = ([0.0; HEAD_DIM], [0.0; HEAD_DIM], [0.0; HEAD_DIM]);
    let mut outputs = Hash::EMPTY;
    for _ in 0..n_tokens {
        let mut random = Random::new((cache.len() * 16 + text as usize) as u64);
        key.fill_with(|| random.exact() - 4.0);
        value.fill_with(|| random.exact() - 4.0);
        cache.append(0, 1, &key, &value)?;
        cache.attend(0, 1, &key, &mut out)?;
        out.iter().for_each(|x| outputs.add(&x.to_bits().to_le_bytes()));
    }
    Ok(outputs.value())
}

/// The bits of what one query gets, hashed.
///
/// # Errors
/// What the cache refuses.
pub fn attend<S: Storage>(cache: &Cache<S>) -> Result<u64, Error> {
    let mut out = [0.0; HEAD_DIM];
    cache.attend(0, 1, &[0.5; HEAD_DIM], &mut out)?;
    let mut hash = Hash::EMPTY;
    out.iter().for_each(|x| hash.add(&x.to_bits().to_le_bytes()));
    Ok(hash.value())
}
