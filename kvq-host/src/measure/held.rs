//! What a store holds while it fills.

use kvq_codec::{Cache, Side, Storage, TierUse};

use crate::kv_store::{KvBytes, KvStore};

/// A store's bytes and tiers at one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Tokens held.
    pub tokens: usize,
    /// Bytes by purpose.
    pub bytes: KvBytes,
    /// Tokens by tier; none for a dense store.
    pub tiers: Option<TierMap>,
}

impl Held {
    /// Of a store as it is now.
    pub fn of(store: &dyn KvStore) -> Self {
        Self { tokens: store.len(), bytes: store.memory(), tiers: store.tier_map() }
    }

    /// The first of these, ordered by length, that holds at least `tokens`.
    pub fn first_with(held: &[Self], tokens: usize) -> Option<&Self> {
        held.iter().find(|held| held.tokens >= tokens)
    }
}

/// Tokens of a layer by tier, oldest first: the sinks, the tiers from the last to the first, the recent window.
/// It is the first layer that is no edge layer: all of those have the same number of tokens and the same share of
/// the bytes, so they are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierMap {
    /// Of keys.
    pub key: Vec<TierUse>,
    /// Of values.
    pub value: Vec<TierUse>,
}

impl TierMap {
    /// Of a cache as it is now; tiers without a token are left out.
    pub fn of<S: Storage>(cache: &Cache<S>) -> Self {
        let side = |side| {
            let layer = usize::from(cache.policy().edge_layers.first).min(cache.shape().n_layers - 1);
            let map = cache.tier_map(layer, side);
            map.into_iter().flatten().filter(|tier| tier.tokens > 0).collect()
        };
        Self { key: side(Side::Key), value: side(Side::Value) }
    }
}
