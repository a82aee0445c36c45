// Written by `kvq plan --rust --shape 3,4,32 --budget-kib 96 --policy 4x`.

use kvq_codec::{KvShape, Policy, WhenFull, capacity_tokens};

/// 3 layers, 4 KV heads, head_dim 32.
pub const SHAPE: KvShape = KvShape::new(3, 4, 32);

/// `4x` within the bytes of its buffer.
pub const POLICY: Policy = Policy::FOUR_X.with_byte_budget(WhenFull::Demote);

/// Bytes of the cache's buffer.
pub const CACHE_BYTES: usize = 98304;

/// Tokens that are sure to fit.
pub const CONTEXT_TOKENS: usize = 236;

const _: () = assert!(matches!(capacity_tokens(SHAPE, POLICY, CACHE_BYTES), Ok(CONTEXT_TOKENS)));
