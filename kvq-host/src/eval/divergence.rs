//! How one distribution over the next token differs from another.
//!
//! With reference logits `x`, candidate logits `y`, and `lse(z) = ln Σ exp z`:
//!
//! ```text
//! KL(p‖q) = Σ p_i (ln p_i − ln q_i) = Σ p_i (x_i − y_i) + lse(y) − lse(x)      nats
//! NLL     = lse(z) − z_target                                                  nats
//! ```
//!
//! The differences are formed in f64 from the f32 logits, so that divergences far below the rounding of a
//! log-probability are still resolved.

/// Reference logits of one position, prepared for comparison with several candidates.
pub struct Reference<'a> {
    logits: &'a [f32],
    /// `exp(x_i − max)`.
    weights: Vec<f32>,
    /// `Σ weights`.
    sum: f64,
    lse: f64,
    top: usize,
}

/// One candidate position against the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// `KL(reference‖candidate)`, nats.
    pub kld: f64,
    /// Negative log-likelihood of the target under the candidate, nats.
    pub nll: f64,
    /// Whether both put the same token first.
    pub same_top: bool,
}

impl<'a> Reference<'a> {
    /// Prepares the logits of one position.
    pub fn new(logits: &'a [f32]) -> Self {
        let top = argmax(logits);
        let max = logits[top];
        let weights: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
        let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        Self { logits, weights, sum, lse: f64::from(max) + sum.ln(), top }
    }

    /// Negative log-likelihood of `target` under the reference, nats.
    pub fn nll(&self, target: u32) -> f64 {
        self.lse - f64::from(self.logits[target as usize])
    }

    /// Compares a candidate's logits of the same position.
    pub fn compare(&self, candidate: &[f32], target: u32) -> Divergence {
        let top = argmax(candidate);
        let max = candidate[top];
        let (mut sum, mut moved) = (0.0f64, 0.0f64);
        for ((&y, &x), &weight) in candidate.iter().zip(self.logits).zip(&self.weights) {
            sum += f64::from((y - max).exp());
            moved += f64::from(weight) * (f64::from(x) - f64::from(y));
        }
        let lse = f64::from(max) + sum.ln();
        // Rounding may leave a tiny negative number where both are equal; a divergence has none.
        let kld = (moved / self.sum + lse - self.lse).max(0.0);
        Divergence { kld, nll: lse - f64::from(candidate[target as usize]), same_top: top == self.top }
    }
}

/// Index of the greatest value, the first of equals.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_of_two_coins_is_the_hand_computed_one() {
        // p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308121 nats.
        let p = [3.0f32.ln(), 0.0];
        let found = Reference::new(&p).compare(&[5.0, 5.0], 1);
        assert!((found.kld - 0.130_812_1).abs() < 1e-6, "{}", found.kld);
        assert!((found.nll - 2.0f64.ln()).abs() < 1e-6);
        assert!(found.same_top);
        assert!((Reference::new(&p).nll(0) - (4.0f64 / 3.0).ln()).abs() < 1e-6);
    }

    #[test]
    fn a_shift_of_all_logits_changes_nothing() {
        let p = [1.0f32, -2.0, 0.5, 3.0];
        let shifted = p.map(|x| x + 8.0);
        let found = Reference::new(&p).compare(&shifted, 2);
        assert!(found.kld < 1e-6 && found.same_top);
        assert!((found.nll - Reference::new(&p).nll(2)).abs() < 1e-6);
    }

    #[test]
    fn the_order_of_the_two_matters_and_is_reference_first() {
        // KL((1/2, 1/2) ‖ (3/4, 1/4)) = 1/2 ln(2/3) + 1/2 ln 2 = 0.1438410 nats.
        let found = Reference::new(&[0.0, 0.0]).compare(&[3.0f32.ln(), 0.0], 0);
        assert!((found.kld - 0.143_841_0).abs() < 1e-6, "{}", found.kld);
    }

    #[test]
    fn another_first_token_is_seen() {
        assert!(!Reference::new(&[0.0, 1.0]).compare(&[1.0, 0.0], 0).same_top);
        assert_eq!(argmax(&[2.0, 7.0, 7.0]), 1);
    }
}
