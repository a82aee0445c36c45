//! Keys, values and queries that depend on the seed, the layer and the position alone.

use std::f32::consts::TAU;

use kvq_codec::KvShape;

use super::Workload;

/// Largest magnitude of a key's common part, in standard deviations of its noise.
const MEAN: f32 = 3.0;

/// Every so many channels one is an outlier.
const OUTLIER_EVERY: usize = 24;
const OUTLIER: f32 = 8.0;

/// Numbers for one workload.
#[derive(Debug)]
pub(super) struct Source {
    shape: KvShape,
    n_heads: usize,
    seed: u64,
}

impl Source {
    pub fn new(workload: &Workload, seed: u64) -> Self {
        Self { shape: workload.shape, n_heads: workload.n_heads, seed }
    }

    /// Shapes: `(n_kv_heads, n_tokens, head_dim)` each.
    pub fn keys_and_values(&self, layer: usize, pos: usize, n_tokens: usize) -> (Vec<f32>, Vec<f32>) {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in 0..self.shape.n_kv_heads {
            for pos in pos..pos + n_tokens {
                keys.extend(self.key(layer, head, pos));
                let scale = 0.25 + 0.5 * head as f32;
                let mut noise = self.stream(layer, head, pos, 1);
                values.extend((0..self.shape.value_head_dim).map(|_| scale * noise.normal()));
            }
        }
        (keys, values)
    }

    fn key(&self, layer: usize, head: usize, pos: usize) -> Vec<f32> {
        let mut mean = self.stream(layer, head, usize::MAX, 0);
        let mut noise = self.stream(layer, head, pos, 0);
        let channel = |i: usize| {
            let (size, phase) = (MEAN * mean.uniform(), TAU * mean.uniform());
            // Slower and slower turns, as of rotary positions.
            let turn =
                phase + pos as f32 * 10f32.powf(-4.0 * i as f32 / self.shape.key_head_dim as f32) * 0.1;
            let size = if i % OUTLIER_EVERY == 7 { OUTLIER * size } else { size };
            size * turn.cos() + noise.normal()
        };
        (0..self.shape.key_head_dim).map(channel).collect()
    }

    /// Query number `i` of a layer that holds `len` tokens; shape `(n_heads, 1, head_dim)`.
    pub fn query(&self, layer: usize, i: usize, len: usize) -> Vec<f32> {
        let mut query = Vec::new();
        for head in 0..self.n_heads {
            let kv_head = head * self.shape.n_kv_heads / self.n_heads;
            let mut noise = self.stream(layer, 1000 + head, i, 2);
            let back = if i.is_multiple_of(2) { 64.min(len) } else { len };
            let pos = len - 1 - ((noise.uniform() * back as f32) as usize).min(len - 1);
            // So that the key that is looked for stands out by a few nats.
            let gain = 8.0 / (self.shape.key_head_dim as f32).sqrt();
            let own = self.stream(layer, kv_head, pos, 0);
            query.extend(self.noise_of(own).map(|x| gain * x + 0.3 * noise.normal()));
        }
        query
    }

    /// The noise of a key, without its head's common part.
    fn noise_of(&self, mut stream: Stream) -> impl Iterator<Item = f32> {
        (0..self.shape.key_head_dim).map(move |_| stream.normal())
    }

    fn stream(&self, layer: usize, head: usize, pos: usize, kind: u64) -> Stream {
        let mut state = self.seed;
        for part in [layer as u64, head as u64, pos as u64, kind] {
            state = mix(state ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        Stream(state)
    }
}

/// SplitMix64.
struct Stream(u64);

impl Stream {
    /// From 0 up to 1.
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (mix(self.0) >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Mean 0, variance 1 (Box-Muller).
    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (TAU * self.uniform()).cos()
    }
}

const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::WORKLOADS;

    #[test]
    fn numbers_depend_on_the_position_and_not_on_the_chunk() {
        let source = Source::new(&WORKLOADS[1], 3);
        let dim = source.shape.key_head_dim;
        let (together, _) = source.keys_and_values(0, 10, 2);
        let (second, values) = source.keys_and_values(0, 11, 1);
        assert_eq!(together[dim..2 * dim], second[..dim]);
        let mean: f32 = values.iter().sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.3 && values.iter().any(|x| x.abs() > 0.2), "{mean}");
    }
}
