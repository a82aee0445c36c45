//! Rotary position embeddings on plain slices.
//!
//! The angles of one forward pass serve all of its layers and heads, so they are computed once per pass
//! (about a microsecond per token) and nothing is kept that grows with the longest context.

/// How a head vector is paired for rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// `x[i]` with `x[i + dims/2]`: Hugging Face checkpoints.
    Halves,
    /// `x[2i]` with `x[2i + 1]`: Llama weights in GGUF files, whose query and key rows are permuted for it.
    Adjacent,
}

/// The frequencies of a model and how they are applied.
pub(crate) struct Rope {
    pairing: Pairing,
    /// `θ_i = base^(-2i/dims)`, one per pair.
    frequencies: Vec<f64>,
}

/// Cosine and sine for each position and pair of one forward pass, `(n, pairs)`.
pub(crate) struct Angles {
    pairing: Pairing,
    pairs: usize,
    cos_sin: Vec<(f32, f32)>,
}

impl Rope {
    /// Rotation of the first `dims` values of each head.
    pub(crate) fn new(pairing: Pairing, dims: usize, base: f64) -> Self {
        let frequency = |pair: usize| base.powf(-2.0 * pair as f64 / dims as f64);
        Self { pairing, frequencies: (0..dims / 2).map(frequency).collect() }
    }

    /// The same with positions divided by `factor`: linear scaling to longer contexts.
    pub(crate) fn stretched(mut self, factor: f64) -> Self {
        self.frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
        self
    }

    /// The angles of positions `pos..pos + n`.
    pub(crate) fn angles(&self, pos: usize, n: usize) -> Angles {
        let cos_sin = (pos..pos + n).flat_map(|pos| {
            self.frequencies.iter().map(move |frequency| {
                let (sin, cos) = (pos as f64 * frequency).sin_cos();
                (cos as f32, sin as f32)
            })
        });
        Angles { pairing: self.pairing, pairs: self.frequencies.len(), cos_sin: cos_sin.collect() }
    }
}

impl Angles {
    /// Rotates the tokens of every head. Shapes: `x (heads, n, head_dim)`.
    pub(crate) fn apply(&self, x: &mut [f32], head_dim: usize) {
        for head in x.chunks_exact_mut(self.cos_sin.len() / self.pairs * head_dim) {
            for (x, angles) in head.chunks_exact_mut(head_dim).zip(self.cos_sin.chunks_exact(self.pairs)) {
                match self.pairing {
                    Pairing::Halves => {
                        let (first, second) = x[..2 * self.pairs].split_at_mut(self.pairs);
                        for ((a, b), angle) in first.iter_mut().zip(second).zip(angles) {
                            rotate(a, b, *angle);
                        }
                    }
                    Pairing::Adjacent => {
                        for ([a, b], angle) in x.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                            rotate(a, b, *angle);
                        }
                    }
                }
            }
        }
    }
}

fn rotate(a: &mut f32, b: &mut f32, (cos, sin): (f32, f32)) {
    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairings_are_permutations_of_each_other() {
        let halves = Rope::new(Pairing::Halves, 8, 100.0).angles(5, 2);
        let adjacent = Rope::new(Pairing::Adjacent, 8, 100.0).angles(5, 2);
        let original: Vec<f32> = (0..32).map(|x| (x as f32 * 0.7).sin()).collect();
        // Two heads, two tokens; value i of a half-split row is value order[i] of an adjacent row.
        let order = [0, 2, 4, 6, 1, 3, 5, 7];
        let permute = |x: &[f32]| -> Vec<f32> { x.chunks(8).flat_map(|row| order.map(|i| row[i])).collect() };
        let mut a = original.clone();
        adjacent.apply(&mut a, 8);
        let mut h = permute(&original);
        halves.apply(&mut h, 8);
        assert_eq!(permute(&a), h);
        assert_ne!(a, original);
    }

    #[test]
    fn stretched_positions_are_fractions() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        let mut y = x;
        Rope::new(Pairing::Halves, 4, 100.0).stretched(8.0).angles(16, 1).apply(&mut x, 4);
        Rope::new(Pairing::Halves, 4, 100.0).angles(2, 1).apply(&mut y, 4);
        assert_eq!(x, y);
    }

    #[test]
    fn position_zero_and_values_past_the_rotated_ones_stay() {
        let angles = Rope::new(Pairing::Halves, 4, 100.0).angles(0, 2);
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        angles.apply(&mut x, 6);
        assert_eq!(x[..6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_ne!(x[6..10], [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(x[10..], [5.0, 6.0]);
    }
}
