//! Keys, values and queries: reproducible, and shaped like a model's.

use kvq_codec::KvShape;

/// Width of a head: SmolLM2's, like the counts of heads below.
pub const HEAD_DIM: usize = 64;

/// Heads that keys and values have.
pub const N_KV_HEADS: usize = 3;

/// Heads that queries have.
pub const N_HEADS: usize = 9;

/// The largest part that all keys of a head share, in standard deviations of the rest.
const COMMON: f32 = 3.0;

/// Layers of that model.
pub const N_LAYERS: usize = 30;

/// The shape of `n_layers` layers.
pub const fn shape(n_layers: usize) -> KvShape {
    KvShape::new(n_layers, N_KV_HEADS, HEAD_DIM)
}

/// Tokens of one layer; each KV head's keys have a common part, which a span's center takes out.
pub struct Tokens {
    /// Shape: `(n_tokens, n_kv_heads, head_dim)`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Tokens {
    /// Values in the keys of one token.
    pub const ROW: usize = N_KV_HEADS * HEAD_DIM;

    /// `n_tokens` of them.
    pub fn new(n_tokens: usize) -> Self {
        let mut random = Random(0x243f_6a88_85a3_08d3);
        let common: Vec<f32> = (0..Self::ROW).map(|_| COMMON * random.normal()).collect();
        let keys = (0..n_tokens * Self::ROW).map(|i| common[i % Self::ROW] + random.normal()).collect();
        let values = (0..n_tokens * Self::ROW).map(|_| random.normal()).collect();
        Self { keys, values }
    }

    /// Keys and values of token `i`; shape `(n_kv_heads, 1, head_dim)` each.
    pub fn get(&self, i: usize) -> (&[f32], &[f32]) {
        let at = i * Self::ROW..(i + 1) * Self::ROW;
        (&self.keys[at.clone()], &self.values[at])
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.keys.len() / Self::ROW
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// One query row per head; shape `(n_heads, 1, head_dim)`.
    pub fn query() -> Vec<f32> {
        let mut random = Random(0x1319_8a2e_0370_7344);
        (0..N_HEADS * HEAD_DIM).map(|_| random.normal()).collect()
    }
}

/// Xorshift; normal numbers as the sum of six uniform ones.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Mean 0, variance 1.
    fn normal(&mut self) -> f32 {
        ((0..6).map(|_| self.uniform()).sum::<f32>() - 3.0) * std::f32::consts::SQRT_2
    }
}
