//! From divergences of positions to the figures of a run.

use std::ops::Range;

use super::divergence::Divergence;

/// What one window of text said about one cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowScore {
    /// NLL under the dense f32 reference, nats, and the comparison, position by position.
    scored: Vec<(f64, Divergence)>,
}

impl WindowScore {
    /// Adds one position.
    pub fn push(&mut self, reference_nll: f64, position: Divergence) {
        self.scored.push((reference_nll, position));
    }

    /// Positions scored.
    pub fn positions(&self) -> usize {
        self.scored.len()
    }

    /// The scored positions `range` alone; fewer where there are not so many.
    pub fn part(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.positions());
        Self { scored: self.scored[range.start.min(end)..end].to_vec() }
    }

    fn nll_sum(&self) -> f64 {
        self.scored.iter().map(|(_, position)| position.nll).sum()
    }

    fn reference_nll_sum(&self) -> f64 {
        self.scored.iter().map(|(reference_nll, _)| reference_nll).sum()
    }

    fn kld_sum(&self) -> f64 {
        self.scored.iter().map(|(_, position)| position.kld).sum()
    }

    fn same_top(&self) -> usize {
        self.scored.iter().filter(|(_, position)| position.same_top).count()
    }

    fn per_position(&self, sum: f64) -> f64 {
        sum / self.positions() as f64
    }
}

/// A figure and its standard error over windows (`None` with fewer than two).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The figure over all scored positions.
    pub value: f64,
    /// `sd(window figures) / √windows`, with the sample standard deviation.
    pub standard_error: Option<f64>,
}

/// Quality of one cache over all windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Positions scored.
    pub scored_tokens: usize,
    /// `exp(mean NLL)` of the cache.
    pub perplexity: f64,
    /// `exp(mean NLL)` of the dense f32 reference on the same positions.
    pub reference_perplexity: f64,
    /// `100 (perplexity / reference_perplexity − 1)`, percent.
    pub perplexity_delta_pct: Estimate,
    /// Mean KL divergence, nats.
    pub kld_mean: Estimate,
    /// 99th percentile of the KL divergence over positions, nats.
    pub kld_p99: f64,
    /// Positions whose first token is the reference's, percent.
    pub top1_agreement_pct: Estimate,
}

impl Quality {
    /// Sums windows up; `None` if no position was scored.
    pub fn of(windows: &[WindowScore]) -> Option<Self> {
        let scored_tokens: usize = windows.iter().map(WindowScore::positions).sum();
        if scored_tokens == 0 {
            return None;
        }
        let n = scored_tokens as f64;
        let nll = windows.iter().map(WindowScore::nll_sum).sum::<f64>() / n;
        let reference_nll = windows.iter().map(WindowScore::reference_nll_sum).sum::<f64>() / n;
        let mut klds: Vec<f64> =
            windows.iter().flat_map(|w| w.scored.iter().map(|(_, position)| position.kld)).collect();
        let kld_mean = klds.iter().sum::<f64>() / n;
        klds.sort_by(f64::total_cmp);
        let delta = |difference: f64| 100.0 * difference.exp_m1();
        let estimate = |value, of: &dyn Fn(&WindowScore) -> f64| Estimate {
            value,
            standard_error: standard_error(&windows.iter().map(of).collect::<Vec<_>>()),
        };
        Some(Self {
            scored_tokens,
            perplexity: nll.exp(),
            reference_perplexity: reference_nll.exp(),
            perplexity_delta_pct: estimate(delta(nll - reference_nll), &|w| {
                delta(w.per_position(w.nll_sum() - w.reference_nll_sum()))
            }),
            kld_mean: estimate(kld_mean, &|w| w.per_position(w.kld_sum())),
            kld_p99: percentile(&klds, 99.0),
            top1_agreement_pct: estimate(
                100.0 * windows.iter().map(WindowScore::same_top).sum::<usize>() as f64 / n,
                &|w| 100.0 * w.per_position(w.same_top() as f64),
            ),
        })
    }
}

/// Percentile of ascending values: the smallest value with at least `percent` of all at or below it.
///
/// # Panics
/// If there is no value.
pub fn percentile(ascending: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * ascending.len() as f64).ceil() as usize;
    ascending[rank.clamp(1, ascending.len()) - 1]
}

/// Middle value, or the mean of the two middle ones; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn standard_error(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some((variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(positions: &[(f64, f64, f64, bool)]) -> WindowScore {
        let mut score = WindowScore::default();
        for &(reference_nll, nll, kld, same_top) in positions {
            score.push(reference_nll, Divergence { kld, nll, same_top });
        }
        score
    }

    #[test]
    fn figures_are_the_hand_computed_ones() {
        let windows = [
            window(&[(1.0, 1.1, 0.01, true), (2.0, 2.1, 0.03, false)]),
            window(&[(3.0, 3.2, 0.02, true), (2.0, 2.0, 0.06, true)]),
        ];
        let quality = Quality::of(&windows).unwrap();
        assert_eq!(quality.scored_tokens, 4);
        // Mean NLL 8.4/4 = 2.1 against 8/4 = 2.
        assert!((quality.perplexity - 2.1f64.exp()).abs() < 1e-9);
        assert!((quality.reference_perplexity - 2.0f64.exp()).abs() < 1e-9);
        assert!((quality.perplexity_delta_pct.value - 10.517_091_8).abs() < 1e-6);
        // Window means 0.02 and 0.04: mean 0.03, standard error 0.01.
        assert!((quality.kld_mean.value - 0.03).abs() < 1e-12);
        assert!((quality.kld_mean.standard_error.unwrap() - 0.01).abs() < 1e-12);
        assert_eq!(quality.kld_p99, 0.06);
        // Windows agree at 50 % and 100 %: standard error 25 points.
        assert_eq!(quality.top1_agreement_pct.value, 75.0);
        assert!((quality.top1_agreement_pct.standard_error.unwrap() - 25.0).abs() < 1e-9);
    }

    #[test]
    fn a_part_of_a_window_is_scored_alone() {
        let window = window(&[(1.0, 1.0, 0.1, true), (1.0, 1.0, 0.2, true), (1.0, 1.0, 0.6, false)]);
        let quality = Quality::of(&[window.part(1..9)]).unwrap();
        assert_eq!((quality.scored_tokens, quality.top1_agreement_pct.value), (2, 50.0));
        assert!((quality.kld_mean.value - 0.4).abs() < 1e-12);
        assert_eq!(Quality::of(&[window.part(7..9)]), None);
    }

    #[test]
    fn one_window_has_no_standard_error_and_none_has_no_figure() {
        let quality = Quality::of(&[window(&[(1.0, 1.0, 0.0, true)])]).unwrap();
        assert_eq!(quality.kld_mean.standard_error, None);
        assert_eq!(quality.perplexity_delta_pct.value, 0.0);
        assert_eq!(Quality::of(&[]), None);
    }

    #[test]
    fn percentiles_and_medians() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 99.0), 99.0);
        assert_eq!(percentile(&hundred, 100.0), 100.0);
        assert_eq!(percentile(&[5.0], 99.0), 5.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
