//! Keys and values that nothing is taken from.

use kvq_tiny::{Context, Error, Shape};

/// Keys and values in f32.
pub struct Dense {
    /// Per layer, `(len, width)`.
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    width: usize,
    head_dim: usize,
}

impl Dense {
    pub fn new(shape: Shape) -> Self {
        let (kv, layers) = (shape.kv_shape(), vec![Default::default(); shape.n_layers]);
        Self { layers, width: kv.n_kv_heads * kv.key_head_dim, head_dim: kv.key_head_dim }
    }
}

impl Context for Dense {
    fn len(&self) -> usize {
        self.layers[0].0.len() / self.width
    }

    fn append(&mut self, layer: usize, keys: &[f32], values: &[f32]) -> Result<(), Error> {
        self.layers[layer].0.extend_from_slice(keys);
        self.layers[layer].1.extend_from_slice(values);
        Ok(())
    }

    fn attend(&self, layer: usize, queries: &[f32], out: &mut [f32]) -> Result<(), Error> {
        let (keys, values) = &self.layers[layer];
        // Heads that share a KV head are neighbours.
        let group = queries.len() / self.width;
        let heads = queries.chunks(self.head_dim).zip(out.chunks_mut(self.head_dim));
        for (head, (query, out)) in heads.enumerate() {
            let part = |row: &[f32]| row[head / group * self.head_dim..][..self.head_dim].to_vec();
            let score = |row| part(row).iter().zip(query).map(|(k, q)| k * q).sum::<f32>();
            let root = (self.head_dim as f32).sqrt();
            let scores: Vec<f32> = keys.chunks(self.width).map(|row| score(row) / root).collect();
            let peak = scores.iter().fold(f32::NEG_INFINITY, |peak, s| peak.max(*s));
            let weights: Vec<f32> = scores.iter().map(|s| (s - peak).exp()).collect();
            let sum: f32 = weights.iter().sum();
            out.fill(0.0);
            for (row, weight) in values.chunks(self.width).zip(weights) {
                out.iter_mut().zip(part(row)).for_each(|(out, v)| *out += weight / sum * v);
            }
        }
        Ok(())
    }
}
