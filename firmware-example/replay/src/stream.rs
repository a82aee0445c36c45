//! A text many times longer than the cache's bytes could hold: tokens are demoted, then evicted, and
//! appending never fails.

use kvq_codec::{Backend, Error, KvCache, KvShape, Policy, Storage, WhenFull};

use crate::{Hash, Random};

/// Tokens of the text.
pub const N_TOKENS: usize = 2000;

/// Attention is computed for one token in so many: the emulator's time goes into it.
const ATTEND_EVERY: usize = 5;

/// The most values on one side of a token, all heads.
const MAX_ROW: usize = 64;

/// A cache of fixed bytes.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Layers and heads.
    pub shape: KvShape,
    /// What is given up, in which order.
    pub policy: Policy,
    /// Bytes of the cache.
    pub budget_bytes: usize,
}

impl Stream {
    /// What a board with this much RAM has room for: 24 KiB for two layers of two heads, or 4 KiB for one of
    /// one.
    pub const fn for_ram(ram_bytes: usize) -> Self {
        let policy =
            Policy { span_len: 16, recent_len: 16, ..Policy::FOUR_X.with_byte_budget(WhenFull::Evict) };
        if ram_bytes >= 64 * 1024 {
            Self { shape: KvShape::new(2, 2, 32), policy, budget_bytes: 24 * 1024 }
        } else {
            Self { shape: KvShape::new(1, 1, 32), policy, budget_bytes: 4 * 1024 }
        }
    }

    /// Reads the whole text with a cache in `memory`, attending now and then, and calls `observe`
    /// after each token. Returns the hash of every bit that attention gave.
    ///
    /// # Errors
    /// What the cache refuses, which is nothing but a buffer of another length than planned.
    pub fn read(
        &self,
        backend: Backend,
        memory: &mut [u8],
        mut observe: impl FnMut(&KvCache<'_>),
    ) -> Result<u64, Error> {
        let mut cache = KvCache::new(self.shape, self.policy, backend, memory)?;
        let n = self.shape.n_kv_heads * self.shape.key_head_dim;
        let (mut keys, mut values, mut out) = ([0.0; MAX_ROW], [0.0; MAX_ROW], [0.0; MAX_ROW]);
        let (keys, values, out) = (&mut keys[..n], &mut values[..n], &mut out[..n]);
        let (mut random, mut outputs) = (Random::new(11), Hash::EMPTY);
        for token in 0..N_TOKENS {
            for layer in 0..self.shape.n_layers {
                // Keys share a part, as a model's do.
                keys.iter_mut().enumerate().for_each(|(i, k)| *k = random.exact() - 4.0 + (i % 7) as f32);
                values.fill_with(|| random.exact() - 4.0);
                cache.append(layer, 1, keys, values)?;
                if token % ATTEND_EVERY == 0 {
                    cache.attend(layer, 1, keys, out)?;
                    out.iter().for_each(|x| outputs.add(&x.to_bits().to_le_bytes()));
                }
            }
            observe(&cache);
        }
        Ok(outputs.value())
    }
}

/// Tokens of a layer that a cache still holds.
///
/// # Errors
/// [`Error::Layer`].
pub fn held_tokens<S: Storage>(cache: &kvq_codec::Cache<S>, layer: usize) -> Result<usize, Error> {
    Ok(cache.tier_map(layer, kvq_codec::Side::Key)?.iter().map(|tier| tier.tokens).sum())
}
