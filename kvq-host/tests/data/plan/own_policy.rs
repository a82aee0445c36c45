// Written by `kvq plan --rust --shape 3,4,32 --context 512 --policy long-values.toml --when-full evict`.

use kvq_codec::Budget::*;
use kvq_codec::Layout::*;
use kvq_codec::Side::*;
use kvq_codec::Step;
use kvq_codec::WhenFull::*;
use kvq_codec::{EdgeLayers, KvShape, Policy, Tier, capacity_tokens};

/// 3 layers, 4 KV heads, head_dim 32.
pub const SHAPE: KvShape = KvShape::new(3, 4, 32);

/// `long-values` within the bytes of its buffer.
pub const POLICY: Policy = Policy {
    n_sink: 4,
    recent_len: 0,
    span_len: 64,
    key_tiers: [
        Some(
            Tier {
                layout: T4,
                from_age: 0,
            },
        ),
        None,
        None,
        None,
    ],
    value_tiers: [
        Some(
            Tier {
                layout: T4,
                from_age: 0,
            },
        ),
        Some(
            Tier {
                layout: T3,
                from_age: 256,
            },
        ),
        Some(
            Tier {
                layout: T2,
                from_age: 4294967295,
            },
        ),
        None,
    ],
    ladder: [
        Some(
            Step {
                side: Value,
                to: 1,
            },
        ),
        Some(
            Step {
                side: Value,
                to: 2,
            },
        ),
        None,
        None,
        None,
        None,
    ],
    edge_layers: EdgeLayers {
        first: 0,
        last: 0,
    },
    budget: Bytes,
    when_full: Evict,
    window_len: 0,
};

/// Bytes of the cache's buffer.
pub const CACHE_BYTES: usize = 204448;

/// Tokens that are sure to fit.
pub const CONTEXT_TOKENS: usize = 516;

const _: () = assert!(matches!(capacity_tokens(SHAPE, POLICY, CACHE_BYTES), Ok(CONTEXT_TOKENS)));
