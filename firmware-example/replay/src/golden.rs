//! The golden buffers of `kvq-codec/tests/data`, and how a cache is filled to hold the same bytes.

use kvq_codec::{
    Backend, Budget, EdgeLayers, Error, KvCache, KvShape, Layout, MAX_TIERS, Policy, Tier, WhenFull,
};

use crate::Random;

/// The most values on one side of a token.
const MAX_ROW: usize = 128;

/// A golden buffer.
#[derive(Clone, Copy, Debug)]
pub struct Golden {
    /// The name of its file.
    pub name: &'static str,
    /// The buffer after `n_tokens`.
    pub bytes: &'static [u8],
    shape: KvShape,
    policy: Policy,
    n_tokens: usize,
}

/// Every golden buffer.
pub const ALL: [Golden; 3] = [
    Golden {
        name: "narrow-heads",
        bytes: include_bytes!("../../../kvq-codec/tests/data/narrow-heads.bin"),
        shape: KvShape::new(1, 5, 8).with_value_head_dim(12),
        policy: Policy { span_len: 32, recent_len: 0, ..Policy::FOUR_X.with_byte_budget(WhenFull::Demote) },
        n_tokens: 250,
    },
    Golden {
        name: "trellis-tiers",
        bytes: include_bytes!("../../../kvq-codec/tests/data/trellis-tiers.bin"),
        shape: KvShape::new(1, 2, 64),
        policy: aged(&[Layout::T4, Layout::T3, Layout::T2]),
        n_tokens: 140,
    },
    Golden {
        name: "scalar-tiers",
        bytes: include_bytes!("../../../kvq-codec/tests/data/scalar-tiers.bin"),
        shape: KvShape::new(2, 2, 32),
        policy: aged(&[Layout::Q8, Layout::S4, Layout::S3, Layout::S2]),
        n_tokens: 140,
    },
];

/// Demotes by age alone, so that few tokens reach every tier.
const fn aged(layouts: &[Layout]) -> Policy {
    let mut tiers = [None; MAX_TIERS];
    let mut i = 0;
    while i < layouts.len() {
        tiers[i] = Some(Tier { layout: layouts[i], from_age: i as u32 * 32 });
        i += 1;
    }
    Policy {
        n_sink: 2,
        recent_len: 16,
        span_len: 16,
        key_tiers: tiers,
        value_tiers: tiers,
        ladder: [None; 6],
        edge_layers: EdgeLayers::NONE,
        budget: Budget::Bytes,
        when_full: WhenFull::Demote,
        window_len: 0,
    }
}

impl Golden {
    /// Fills a cache in `memory`, which is as long as the golden buffer and holds zeros.
    ///
    /// # Errors
    /// What the cache refuses.
    pub fn replay(&self, backend: Backend, memory: &mut [u8]) -> Result<(), Error> {
        let mut cache = KvCache::new(self.shape, self.policy, backend, memory)?;
        let n_keys = self.shape.n_kv_heads * self.shape.key_head_dim;
        let n_values = self.shape.n_kv_heads * self.shape.value_head_dim;
        let (mut common, mut keys, mut values) = ([0.0; MAX_ROW], [0.0; MAX_ROW], [0.0; MAX_ROW]);
        let (common, keys, values) = (&mut common[..n_keys], &mut keys[..n_keys], &mut values[..n_values]);
        let mut random = Random::new(2026);
        common.fill_with(|| 2.0 * random.exact());
        for token in 0..self.n_tokens {
            for layer in 0..self.shape.n_layers {
                keys.iter_mut().zip(&*common).for_each(|(key, common)| *key = common + random.exact());
                values.fill_with(|| random.exact() - 4.0);
                match token % 50 {
                    7 => keys.fill(0.0),
                    8 => values.fill(0.0),
                    9 => keys.iter_mut().chain(&mut *values).for_each(|x| *x /= 1_048_576.0),
                    10 => values[3] = 30_000.0,
                    _ => {}
                }
                cache.append(layer, 1, keys, values)?;
            }
        }
        Ok(())
    }
}
