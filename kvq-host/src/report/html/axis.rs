//! One axis of a chart: from figures to places, and the figures that are written beside it.

/// How figures are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly, from zero.
    Linear,
    /// Evenly, from near the least figure.
    Near,
    /// By their logarithm.
    Log,
}

/// An axis from `low` to `high`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// Figures to write, ascending.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// An axis on which all `values` lie; those of a logarithmic one are above zero.
    pub fn over(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let high = values.clone().fold(f64::MIN_POSITIVE, f64::max);
        match scale {
            Scale::Linear | Scale::Near => {
                let least = if scale == Scale::Near { values.fold(high, f64::min) } else { 0.0 };
                let step = nice_step((high - least).max(high / 100.0) / 5.0);
                let (first, last) = ((least / step).floor(), (high / step).ceil());
                let last = last.max(first + 1.0);
                let ticks = (first as usize..=last as usize).map(|i| i as f64 * step).collect();
                Self { scale, low: first * step, high: last * step, ticks }
            }
            Scale::Log => {
                let low = values.fold(high, f64::min);
                let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
                let last = last.max(first + 1);
                let ticks: Vec<f64> = (first..=last).map(|e| 10f64.powi(e)).collect();
                Self { scale, low: ticks[0], high: ticks[ticks.len() - 1], ticks }
            }
        }
    }

    /// Where a figure lies: 0 at the low end, 1 at the high end.
    pub fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear | Scale::Near => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        }
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is no less than `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    factors.into_iter().map(|factor| factor * power).find(|step| *step >= least * 0.999).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_every_value() {
        let axis = Axis::over(Scale::Linear, [300.0, 1024.0].into_iter());
        assert_eq!(axis.ticks, [0.0, 500.0, 1000.0, 1500.0]);
        assert_eq!((axis.place(0.0), axis.place(750.0), axis.place(1500.0)), (0.0, 0.5, 1.0));
        let axis = Axis::over(Scale::Near, [2.6, 8.5].into_iter());
        assert_eq!((axis.ticks[0], axis.place(2.0), axis.place(10.0)), (2.0, 0.0, 1.0));
        let axis = Axis::over(Scale::Log, [0.0003, 0.45].into_iter());
        assert_eq!(axis.ticks.len(), 5, "{:?}", axis.ticks);
        assert!((axis.place(0.01) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn one_value_and_no_value_still_make_an_axis() {
        assert!(Axis::over(Scale::Log, [0.01].into_iter()).place(0.01).is_finite());
        assert!(Axis::over(Scale::Linear, [].into_iter()).place(0.0).is_finite());
    }
}
