//! Rotary position embeddings on plain slices.
//!
//! The angles of one forward pass serve all of its layers and heads, so they are computed once per pass
//! (about a microsecond per token) and nothing is kept that grows with the longest context.

use anyhow::{Result, ensure};

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

/// How a model reaches contexts longer than those that its frequencies were made for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// Positions divided by this.
    Linear(f64),
    /// Slow frequencies divided, fast ones kept, and a ramp in between: Llama 3.1 and later, as config.json
    /// states it (the method is described in `transformers`, `_compute_llama3_parameters`).
    Llama3 {
        /// What slow frequencies are divided by.
        factor: f64,
        /// Turns within `original_context` up to which a frequency is slow, and from which it is fast.
        turns: (f64, f64),
        /// The context that the frequencies were made for.
        original_context: f64,
    },
    /// Each frequency divided by its own number: the same as a GGUF file states it.
    Divisors(Vec<f64>),
}

impl Scaling {
    /// # Errors
    /// Figures that leave no frequencies, or divisors for another number of pairs.
    pub(crate) fn check(&self, dims: usize) -> Result<()> {
        let is_positive = |x: f64| x.is_finite() && x > 0.0;
        match self {
            Self::None => {}
            Self::Linear(factor) => ensure!(is_positive(*factor), "positions divided by {factor}"),
            Self::Llama3 { factor, turns: (slow, fast), original_context } => ensure!(
                is_positive(*factor) && is_positive(*slow) && slow < fast && is_positive(*original_context),
                "rope scaling `llama3` by {factor} between {slow} and {fast} turns in {original_context} tokens"
            ),
            Self::Divisors(divisors) => ensure!(
                divisors.len() == dims / 2 && divisors.iter().all(|&divisor| is_positive(divisor)),
                "{} frequency factors for {} pairs, or one that is not positive",
                divisors.len(),
                dims / 2
            ),
        }
        Ok(())
    }

    /// What the frequency of `pair` is divided by.
    fn divisor(&self, pair: usize, frequency: f64) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Linear(factor) => *factor,
            Self::Llama3 { factor, turns: (slow, fast), original_context } => {
                let turns = frequency * original_context / std::f64::consts::TAU;
                let kept = ((turns - slow) / (fast - slow)).clamp(0.0, 1.0);
                1.0 / (kept + (1.0 - kept) / factor)
            }
            Self::Divisors(divisors) => divisors[pair],
        }
    }
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

    /// The same for longer contexts; `scaling` was checked for as many values as are rotated.
    pub(crate) fn scaled(mut self, scaling: &Scaling) -> Self {
        for (pair, frequency) in self.frequencies.iter_mut().enumerate() {
            *frequency /= scaling.divisor(pair, *frequency);
        }
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
    fn linear_scaling_makes_positions_fractions() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        let mut y = x;
        Rope::new(Pairing::Halves, 4, 100.0).scaled(&Scaling::Linear(8.0)).angles(16, 1).apply(&mut x, 4);
        Rope::new(Pairing::Halves, 4, 100.0).angles(2, 1).apply(&mut y, 4);
        assert_eq!(x, y);
    }

    #[test]
    fn llama3_scaling_divides_slow_frequencies_only() {
        let scaling = Scaling::Llama3 { factor: 8.0, turns: (1.0, 4.0), original_context: 64.0 };
        scaling.check(16).unwrap();
        let plain = Rope::new(Pairing::Halves, 16, 10_000.0);
        let expected = plain.frequencies.clone();
        let scaled = plain.scaled(&scaling).frequencies;
        // 10.2 turns within 64 tokens are fast, 3.2 are on the ramp, 1.0 and fewer are slow.
        assert_eq!(scaled[0], expected[0]);
        let (kept, on_ramp) =
            ((expected[1] * 64.0 / std::f64::consts::TAU - 1.0) / 3.0, scaled[1] / expected[1]);
        assert!((on_ramp - (kept + (1.0 - kept) / 8.0)).abs() < 1e-12, "{on_ramp}");
        assert_eq!(scaled[3], expected[3] / 8.0);
        // What a GGUF file states for it.
        let divisors =
            Scaling::Divisors(expected.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect());
        divisors.check(16).unwrap();
        let again = Rope::new(Pairing::Halves, 16, 10_000.0).scaled(&divisors).frequencies;
        assert!(again.iter().zip(&scaled).all(|(a, b)| (a / b - 1.0).abs() < 1e-12));
    }

    #[test]
    fn scalings_without_frequencies_are_refused() {
        for scaling in [
            Scaling::Linear(0.0),
            Scaling::Linear(f64::NAN),
            Scaling::Llama3 { factor: 8.0, turns: (4.0, 4.0), original_context: 64.0 },
            Scaling::Divisors(vec![1.0; 7]),
            Scaling::Divisors(vec![0.0; 8]),
        ] {
            assert!(scaling.check(16).is_err(), "{scaling:?}");
        }
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
