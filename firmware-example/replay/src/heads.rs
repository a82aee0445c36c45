//! Heads of many sizes, alone in a block and several to one, in the layouts that kernels for Arm serve.

use kvq_codec::{Backend, Error, KvCache, KvShape, Layout, Policy, Tier, WhenFull};

use crate::{Hash, Random};

/// KV heads and their size.
pub const SHAPES: [(usize, usize); 9] =
    [(1, 8), (5, 8), (9, 4), (2, 20), (3, 12), (1, 28), (2, 32), (1, 80), (1, 256)];

/// What is behind the window of 8 bits.
pub const LAYOUTS: [Layout; 2] = [Layout::Q8, Layout::S4];

/// Two packed spans, and a part of the next.
const N_TOKENS: usize = 37;

/// Values of all heads of the widest shape.
const MOST_VALUES: usize = 256;

/// Fills a cache in `memory` and attends after each token; returns the hash of every bit of the outputs.
///
/// # Errors
/// What the cache refuses: [`Error::BufferTooSmall`] where `memory` is too short for the shape.
pub fn heads(
    backend: Backend,
    (n_heads, head_dim): (usize, usize),
    layout: Layout,
    memory: &mut [u8],
) -> Result<u64, Error> {
    let tiers = [Some(Tier::first(layout)), None, None, None];
    let policy = Policy {
        n_sink: 2,
        span_len: 16,
        key_tiers: tiers,
        value_tiers: tiers,
        ..Policy::EIGHT_BIT.with_byte_budget(WhenFull::Evict)
    };
    let mut cache = KvCache::new(KvShape::new(1, n_heads, head_dim), policy, backend, memory)?;
    let (mut random, mut outputs) = (Random::new(9), Hash::EMPTY);
    let n = (n_heads * head_dim).min(MOST_VALUES);
    let (mut row, mut out) = ([0.0; MOST_VALUES], [0.0; MOST_VALUES]);
    for _ in 0..N_TOKENS {
        row.fill_with(|| random.exact() - 4.0);
        cache.append(0, 1, &row[..n], &row[..n])?;
        row.fill_with(|| random.exact() - 4.0);
        cache.attend(0, 1, &row[..n], &mut out[..n])?;
        out[..n].iter().for_each(|x| outputs.add(&x.to_bits().to_le_bytes()));
    }
    Ok(outputs.value())
}
