//! Plain float attention and reproducible inputs: what the packed cache is compared with.
#![allow(dead_code)]

pub mod snapshots;

use kvq_codec::{Backend, EdgeLayers, KvShape, Layout, Policy, Storage};

/// `all`, or `few` under Miri, which takes a thousand times as long.
pub const fn unless_miri<T: Copy>(all: T, few: T) -> T {
    if cfg!(miri) { few } else { all }
}

/// Under Miri, 8 bits in place of 4 where that is a side's first tier, and scalar codes in place of trellis ones: the
/// search for a row's scale is most of the time. There the golden files and the tests of kernels run every layout.
pub fn lighter(mut policy: Policy) -> Policy {
    for tiers in [&mut policy.key_tiers, &mut policy.value_tiers] {
        for (i, tier) in tiers.iter_mut().flatten().enumerate() {
            tier.layout = match tier.layout {
                Layout::S4 | Layout::T4 if cfg!(miri) && i == 0 => Layout::Q8,
                Layout::T4 if cfg!(miri) => Layout::S4,
                Layout::T3 if cfg!(miri) => Layout::S3,
                Layout::T2 if cfg!(miri) => Layout::S2,
                other => other,
            };
        }
    }
    policy
}

/// Tiers by age in which tests reach the last one; under Miri two of them, a span each, so that few tokens do.
pub fn every_tier() -> Policy {
    if !cfg!(miri) {
        return aged(&[Layout::Q8, Layout::T4, Layout::T3, Layout::T2], 16, 16);
    }
    let mut policy = aged(&[Layout::Q8, Layout::S2], 16, 0);
    for tier in policy.key_tiers.iter_mut().chain(&mut policy.value_tiers).flatten() {
        tier.from_age /= 2;
    }
    policy
}

/// Every backend of this machine; under Miri the one that would be chosen, so the unsafe one where there is one.
pub fn backends() -> impl Iterator<Item = Backend> {
    Backend::available().filter(|&backend| !cfg!(miri) || backend == Backend::detect())
}

/// Memory that grows, as a host lends it.
#[derive(Debug, Default)]
pub struct Growing(pub Vec<u8>);

impl Storage for Growing {
    const GROWS: bool = true;

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn grow(&mut self, len: usize) -> bool {
        self.0.reserve_exact(len - self.0.len());
        self.0.resize(len, 0);
        true
    }
}

/// Memory that grows up to a limit.
#[derive(Debug)]
pub struct Limited {
    pub bytes: Vec<u8>,
    pub most: usize,
}

impl Storage for Limited {
    const GROWS: bool = true;

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn grow(&mut self, len: usize) -> bool {
        let fits = len <= self.most;
        if fits {
            self.bytes.resize(len, 0);
        }
        fits
    }
}

/// A small reproducible generator.
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

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    pub fn gaussian(&mut self) -> f32 {
        if cfg!(miri) {
            return 2.0 * (self.uniform() + self.uniform() + self.uniform()) - 3.0;
        }
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// Keys and values of a sequence that look like a model's: keys share a common part per head.
pub struct Sequence {
    pub shape: KvShape,
    common: Vec<f32>,
    /// Per token: keys `(n_kv_heads, key_head_dim)`, values `(n_kv_heads, value_head_dim)`.
    pub tokens: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Sequence {
    pub fn new(shape: KvShape, n_tokens: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let n_keys = shape.n_kv_heads * shape.key_head_dim;
        let common = (0..n_keys).map(|_| 3.0 * random.gaussian()).collect();
        let mut sequence = Self { shape, common, tokens: Vec::new() };
        for _ in 0..n_tokens {
            sequence.push(&mut random);
        }
        sequence
    }

    pub fn push(&mut self, random: &mut Random) {
        let keys = self.common.iter().map(|c| c + random.gaussian()).collect();
        let n_values = self.shape.n_kv_heads * self.shape.value_head_dim;
        let values = (0..n_values).map(|_| random.gaussian()).collect();
        self.tokens.push((keys, values));
    }

    /// Keys or values of tokens `from..to` as `(n_kv_heads, to - from, head_dim)`.
    pub fn slab(&self, from: usize, to: usize, keys: bool) -> Vec<f32> {
        let dim = if keys { self.shape.key_head_dim } else { self.shape.value_head_dim };
        let mut out = Vec::new();
        for head in 0..self.shape.n_kv_heads {
            for token in &self.tokens[from..to] {
                let row = if keys { &token.0 } else { &token.1 };
                out.extend_from_slice(&row[head * dim..(head + 1) * dim]);
            }
        }
        out
    }
}

/// Attention of one query head over the given positions, in f64.
pub fn reference(
    sequence: &Sequence,
    kv_head: usize,
    query: &[f32],
    visible: impl Iterator<Item = usize>,
) -> Vec<f64> {
    let (kd, vd) = (sequence.shape.key_head_dim, sequence.shape.value_head_dim);
    let visible: Vec<usize> = visible.collect();
    let scores: Vec<f64> = visible
        .iter()
        .map(|&t| {
            let key = &sequence.tokens[t].0[kv_head * kd..(kv_head + 1) * kd];
            key.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                / (kd as f64).sqrt()
        })
        .collect();
    let peak = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    let weights: Vec<f64> = scores.iter().map(|s| (s - peak).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; vd];
    for (&t, w) in visible.iter().zip(&weights) {
        let value = &sequence.tokens[t].1[kv_head * vd..(kv_head + 1) * vd];
        for (o, v) in out.iter_mut().zip(value) {
            *o += w / sum * f64::from(*v);
        }
    }
    out
}

/// Root of the relative squared error.
pub fn relative_error(got: &[f32], expected: &[f64]) -> f64 {
    let (mut error, mut energy) = (0.0, 0.0);
    for (g, e) in got.iter().zip(expected) {
        error += (f64::from(*g) - e).powi(2);
        energy += e * e;
    }
    (error / energy.max(1e-30)).sqrt()
}

/// A policy that demotes by age alone, so that small tests reach every tier.
pub fn aged(layouts: &[kvq_codec::Layout], span_len: u16, recent_len: u16) -> Policy {
    let mut tiers = [None; kvq_codec::MAX_TIERS];
    for (i, &layout) in layouts.iter().enumerate() {
        tiers[i] = Some(kvq_codec::Tier { layout, from_age: i as u32 * 2 * u32::from(span_len) });
    }
    Policy {
        n_sink: 4,
        recent_len,
        span_len,
        key_tiers: tiers,
        value_tiers: tiers,
        ladder: [None; 6],
        edge_layers: EdgeLayers::NONE,
        budget: kvq_codec::Budget::Bytes,
        when_full: kvq_codec::WhenFull::Demote,
        window_len: 0,
    }
}
