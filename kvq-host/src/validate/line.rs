//! One line of the checklist.

use serde::Serialize;

/// What a figure may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
}

/// A figure, its limit, and whether it keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What was checked.
    pub name: &'static str,
    /// The figure; null where it could not be measured.
    pub figure: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// What it may be; null where it could not be measured.
    pub limit: Option<Limit>,
    /// Whether it is within the limit.
    pub passed: bool,
    /// Why it could not be measured.
    pub error: Option<String>,
}

impl Line {
    /// A figure against a limit; one that is no number fails.
    pub fn new(name: &'static str, figure: f64, unit: &'static str, limit: Limit) -> Self {
        let passed = match limit {
            Limit::AtLeast(least) => figure >= least,
            Limit::AtMost(most) => figure <= most,
        };
        Self { name, figure: Some(figure), unit, limit: Some(limit), passed, error: None }
    }

    /// A check that could not be made.
    pub fn broken(name: &'static str, error: &anyhow::Error) -> Self {
        Self { name, figure: None, unit: "", limit: None, passed: false, error: Some(format!("{error:#}")) }
    }

    /// For people: `pass  name  figure unit  (at most limit)`.
    pub fn describe(&self) -> String {
        let verdict = if self.passed { "pass" } else { "FAIL" };
        let limit = match self.limit {
            Some(Limit::AtLeast(least)) => format!("at least {}", short(least)),
            Some(Limit::AtMost(most)) => format!("at most {}", short(most)),
            None => String::new(),
        };
        let figure = match (self.figure, &self.error) {
            (Some(figure), _) => format!("{} {}", short(figure), self.unit),
            (None, error) => error.clone().unwrap_or_default(),
        };
        format!("{verdict}  {:<24} {figure:<26} {limit}", self.name).trim_end().to_owned()
    }
}

/// Four digits behind the point, without zeros at the end.
fn short(x: f64) -> String {
    let text = format!("{x:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_kept_in_their_direction_and_no_number_fails() {
        let passes = |figure, limit| Line::new("x", figure, "u", limit).passed;
        assert!(passes(2.0, Limit::AtLeast(2.0)) && !passes(1.9, Limit::AtLeast(2.0)));
        assert!(passes(2.0, Limit::AtMost(2.0)) && !passes(2.1, Limit::AtMost(2.0)));
        assert!(!passes(f64::NAN, Limit::AtMost(2.0)) && !passes(f64::NAN, Limit::AtLeast(2.0)));
        let line = Line::new("KL", 0.00125, "nats", Limit::AtMost(0.02)).describe();
        assert!(
            line.starts_with("pass  KL") && line.contains("0.0013 nats") && line.ends_with("at most 0.02"),
            "{line}"
        );
        let broken = Line::broken("KL", &anyhow::anyhow!("no text"));
        assert!(!broken.passed && broken.describe().contains("no text"));
    }
}
