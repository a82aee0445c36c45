//! Flags that state a budget of bytes.

use clap::ValueEnum;
use kvq_codec::WhenFull;

use crate::policy::NamedPolicy;

/// What a cache does when its bytes are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenFullChoice {
    /// Keep every token in its first tier; then no more fit.
    Error,
    /// Demote old tokens as far as the policy's ladder goes; then no more fit.
    Demote,
    /// Demote, then drop the oldest tokens behind the sinks.
    Evict,
}

impl WhenFullChoice {
    /// The policy within the bytes of its buffer, whatever ratio it had.
    pub fn within_bytes(self, named: &NamedPolicy) -> NamedPolicy {
        let when_full = match self {
            Self::Error => WhenFull::Error,
            Self::Demote => WhenFull::Demote,
            Self::Evict => WhenFull::Evict,
        };
        NamedPolicy { name: named.name.clone(), policy: named.policy.with_byte_budget(when_full) }
    }
}

/// Bytes of a number of MiB, which may have a fraction.
///
/// # Errors
/// What is no number, or not from 0.001 to 1,048,576.
pub fn mib(text: &str) -> Result<f64, String> {
    number(text, 0.001, 1_048_576.0)
}

/// The same of KiB.
///
/// # Errors
/// What is no number, or not from 1 to 1,048,576.
pub fn kib(text: &str) -> Result<f64, String> {
    number(text, 1.0, 1_048_576.0)
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(format!("allowed are {least} to {most}")),
    }
}
