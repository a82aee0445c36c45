//! Choosing the next token, the same on a host and on a microcontroller.
//!
//! Scores become whole weights, so that their sum and the draw have one value whatever computes them.

use crate::{Error, Model, Scratch};

/// Tokens that are drawn from: the most likely ones.
const TOP: usize = 32;

/// The weight of the most likely token.
const UNIT: f32 = 16_777_216.0;

/// Draws tokens by their scores; the draws follow from the seed.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    state: u64,
    temperature: f32,
}

impl Sampler {
    /// A sampler; with a temperature of 0 or less it takes the most likely token each time.
    pub const fn new(seed: u64, temperature: f32) -> Self {
        // An odd number: a xorshift must not begin with 0.
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, temperature }
    }

    /// A token to follow, of the 32 most likely ones.
    ///
    /// # Errors
    /// [`Error::Buffer`].
    pub fn pick(&mut self, model: &Model<'_>, scratch: &mut Scratch<'_>) -> Result<u32, Error> {
        if self.temperature <= 0.0 {
            return model.most_likely(scratch);
        }
        let mut top = [(0, f32::NEG_INFINITY); TOP];
        model.logits(scratch, |id, logit| insert(&mut top, (id, logit)))?;
        Ok(self.draw(&top))
    }

    /// One of the tokens, which begin with the most likely one.
    fn draw(&mut self, top: &[(u32, f32); TOP]) -> u32 {
        let (first, peak) = top[0];
        let weight = |logit: f32| (libm::expf((logit - peak) / self.temperature) * UNIT) as u64;
        let sum: u64 = top.iter().map(|(_, logit)| weight(*logit)).sum();
        // At most 32 × 2^24, so the 32 upper bits of a draw are fine enough.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let draw = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let mut left = (draw * sum) >> 32;
        for (id, logit) in top {
            match left.checked_sub(weight(*logit)) {
                Some(rest) => left = rest,
                None => return *id,
            }
        }
        first
    }
}

/// Keeps the best in order; of equals the one that came first.
fn insert(top: &mut [(u32, f32); TOP], new: (u32, f32)) {
    let mut carried = new;
    for entry in top.iter_mut().skip_while(|entry| entry.1 >= new.1) {
        core::mem::swap(entry, &mut carried);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top_of(logits: &[f32]) -> [(u32, f32); TOP] {
        let mut top = [(0, f32::NEG_INFINITY); TOP];
        (0..).zip(logits).for_each(|(id, logit)| insert(&mut top, (id, *logit)));
        top
    }

    #[test]
    fn the_best_are_kept_in_order() {
        let logits: [f32; 100] = core::array::from_fn(|i| (i * 37 % 50) as f32);
        let top = top_of(&logits);
        assert!(
            top.windows(2).all(|two| two[0].1 > two[1].1 || (two[0].1 == two[1].1 && two[0].0 < two[1].0))
        );
        assert_eq!((top[0].1, top[1].1, top[TOP - 1].1), (49.0, 49.0, 34.0));
    }

    #[test]
    fn draws_follow_the_weights_and_the_seed() {
        // Probabilities 2/3, 1/3 and none.
        let top = top_of(&[0.0, -1e9, core::f32::consts::LN_2]);
        let (mut sampler, mut same) = (Sampler::new(5, 1.0), Sampler::new(5, 1.0));
        let mut counts = [0; 3];
        for _ in 0..30_000 {
            let token = sampler.draw(&top);
            assert_eq!(token, same.draw(&top));
            counts[token as usize] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((19_500..20_500).contains(&counts[2]), "{counts:?}");
        let mut cold = Sampler::new(5, 0.05);
        assert!((0..1000).all(|_| cold.draw(&top) == 2));
    }

    #[test]
    fn fewer_tokens_than_are_drawn_from_are_enough() {
        let top = top_of(&[1.0]);
        let mut sampler = Sampler::new(0, 10.0);
        assert!((0..1000).all(|_| sampler.draw(&top) == 0));
    }
}
