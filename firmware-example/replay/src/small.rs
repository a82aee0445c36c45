//! One layer, one head, a few kilobytes: append, attend, trim back, demote, evict.

use kvq_codec::{Backend, Error, KvCache, KvShape, Policy, WhenFull, minimum_bytes};

use crate::{Hash, Random, stream};

const HEAD_DIM: usize = 32;
const SHAPE: KvShape = KvShape::new(1, 1, HEAD_DIM);
const POLICY: Policy =
    Policy { span_len: 16, recent_len: 0, ..Policy::FOUR_X.with_byte_budget(WhenFull::Evict) };

/// Lengths at which the cache's bytes are hashed. The cache borrows its buffer, so each is reached from an
/// empty cache.
const LENGTHS: [usize; 4] = [7, 40, 90, 160];

/// After every so many tokens, some are tried and taken back, as in speculative decoding.
const TRY_EVERY: usize = 16;
const N_TRIED: usize = 5;

/// The buffer that [`small`] needs: half as much again as the least with which the cache works.
pub const SMALL_BYTES: usize = match minimum_bytes(SHAPE, POLICY) {
    Ok(bytes) => bytes + bytes / 2,
    Err(_) => panic!("the shape or the policy is refused"),
};

/// What [`small`] arrives at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmallResult {
    /// Hash of the cache's bytes at four lengths.
    pub cache: u64,
    /// Hash of every bit of the outputs of attention.
    pub outputs: u64,
    /// Whether attention after a trim gave the bits from before the tokens that were taken back.
    pub rollback_exact: bool,
    /// Tokens appended to the last cache.
    pub len_tokens: usize,
    /// Tokens that it still holds.
    pub held_tokens: usize,
}

/// Fills caches in `memory`, whose content does not matter, attending after each token.
///
/// # Errors
/// What the cache refuses.
pub fn small(backend: Backend, memory: &mut [u8; SMALL_BYTES]) -> Result<SmallResult, Error> {
    let (mut cache_hash, mut outputs) = (Hash::EMPTY, Hash::EMPTY);
    let (mut rollback_exact, mut held_tokens, mut len_tokens) = (true, 0, 0);
    for n_tokens in LENGTHS {
        memory.fill(0);
        let mut cache = KvCache::new(SHAPE, POLICY, backend, &mut memory[..])?;
        rollback_exact &= fill(&mut cache, n_tokens, &mut outputs)?;
        held_tokens = stream::held_tokens(&cache, 0)?;
        len_tokens = cache.len();
        cache_hash.add(memory);
    }
    Ok(SmallResult {
        cache: cache_hash.value(),
        outputs: outputs.value(),
        rollback_exact,
        len_tokens,
        held_tokens,
    })
}

/// Appends and attends; returns whether every rollback was exact.
fn fill(cache: &mut KvCache<'_>, n_tokens: usize, outputs: &mut Hash) -> Result<bool, Error> {
    let mut random = Random::new(4);
    let (mut key, mut value, mut query) = ([0.0; HEAD_DIM], [0.0; HEAD_DIM], [0.0; HEAD_DIM]);
    let mut out = [0.0; HEAD_DIM];
    let mut exact = true;
    for token in 1..=n_tokens {
        for (i, (key, value)) in key.iter_mut().zip(&mut value).enumerate() {
            *key = random.exact() - 4.0 + (i % 5) as f32;
            *value = random.exact() - 4.0;
        }
        query.fill_with(|| random.exact() - 4.0);
        cache.append(0, 1, &key, &value)?;
        cache.attend(0, 1, &query, &mut out)?;
        out.iter().for_each(|x| outputs.add(&x.to_bits().to_le_bytes()));
        // Only what does not pack a span leaves the settled tokens as they were.
        if token % TRY_EVERY == 0 && cache.room_before_packing(0) > N_TRIED {
            let len = cache.len();
            for _ in 0..N_TRIED {
                cache.append(0, 1, &value, &key)?;
            }
            cache.trim(len)?;
            let mut again = [0.0; HEAD_DIM];
            cache.attend(0, 1, &query, &mut again)?;
            exact &= out.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits());
        }
    }
    Ok(exact)
}
