//! How many tokens fit into how many bytes, from a shape and a policy alone: the codec's own const functions.

pub mod page;
mod rust;
mod shapes;

use anyhow::{Result, anyhow};
use kvq_codec::{Budget, COMPRESSION_FROM_TOKENS, KvShape, Policy, WhenFull, capacity_tokens, minimum_bytes};
use serde::Serialize;

pub use rust::rust_source;
pub use shapes::{of_model, parse_shape};

use crate::policy::NamedPolicy;

/// What one policy makes of a budget or a context.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanRow {
    /// The policy, or `dense-f32` or `dense-f16`.
    pub name: String,
    /// Tokens at the ratio that the policy names, before its bytes run out; null where it names none, or
    /// where they are fewer than the ratio holds from.
    pub tokens_at_ratio: Option<usize>,
    /// Tokens that are sure to fit, with all demoted that may be; null where not even the least cache fits.
    pub capacity_tokens: Option<usize>,
    /// The least bytes that are sure to hold the tokens asked for, or the budget.
    pub kv_bytes: usize,
    /// Bytes that the ratio allows for the tokens asked for; null where the policy names none.
    pub ratio_bytes: Option<usize>,
    /// `kv_bytes / tokens`, where tokens fit.
    pub bytes_per_token: Option<f64>,
    /// `8 · kv_bytes / values of these tokens`, bits per value.
    pub effective_bpv: Option<f64>,
    /// `fp16 bytes of these tokens / kv_bytes`.
    pub compression_vs_fp16: Option<f64>,
}

/// What fits into `budget_bytes` under a policy; the policy's own ratio is put aside for the capacity.
///
/// # Errors
/// A shape or policy that the codec refuses.
///
/// # Examples
/// ```
/// use kvq_host::codec::{KvShape, WhenFull};
/// use kvq_host::{plan, policy};
///
/// let smollm2 = KvShape::new(30, 3, 64);
/// let row = plan::for_budget(smollm2, &policy::load("4x")?, WhenFull::Demote, 16 << 20)?;
/// assert!(row.capacity_tokens.unwrap() > 4 * ((16 << 20) / smollm2.fp16_bytes_per_token()));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn for_budget(
    shape: KvShape,
    named: &NamedPolicy,
    when_full: WhenFull,
    budget_bytes: usize,
) -> Result<PlanRow> {
    let fixed = named.policy.with_byte_budget(when_full);
    let least = minimum_bytes(shape, fixed).map_err(|e| anyhow!("{e}"))?;
    let capacity = if budget_bytes < least { None } else { Some(capacity(shape, fixed, budget_bytes)?) };
    let at_ratio = ratio(&named.policy)
        .map(|ratio| (budget_bytes as f64 * ratio / shape.fp16_bytes_per_token() as f64) as usize);
    let mut row = row(&named.name, shape, capacity, budget_bytes);
    row.tokens_at_ratio = at_ratio.filter(|tokens| *tokens >= COMPRESSION_FROM_TOKENS);
    Ok(row)
}

/// The bytes that `tokens` need under a policy.
///
/// # Errors
/// A shape or policy that the codec refuses.
pub fn for_context(
    shape: KvShape,
    named: &NamedPolicy,
    when_full: WhenFull,
    tokens: usize,
) -> Result<PlanRow> {
    let bytes = least_bytes(shape, named.policy.with_byte_budget(when_full), tokens)?;
    let mut row = row(&named.name, shape, Some(tokens), bytes);
    row.ratio_bytes = ratio(&named.policy).map(|ratio| {
        let counted = tokens.max(COMPRESSION_FROM_TOKENS) * shape.fp16_bytes_per_token();
        (counted as f64 / ratio) as usize
    });
    Ok(row)
}

/// A dense cache with `bytes_per_value`, of a budget (`tokens` none) or of so many tokens.
pub fn dense(shape: KvShape, bytes_per_value: usize, budget_bytes: usize, tokens: Option<usize>) -> PlanRow {
    let per_token = shape.values_per_token() * bytes_per_value;
    let name = if bytes_per_value == 4 { "dense-f32" } else { "dense-f16" };
    match tokens {
        Some(tokens) => row(name, shape, Some(tokens), tokens * per_token),
        None => row(name, shape, Some(budget_bytes / per_token), budget_bytes),
    }
}

fn row(name: &str, shape: KvShape, tokens: Option<usize>, kv_bytes: usize) -> PlanRow {
    let some = tokens.filter(|tokens| *tokens > 0);
    let fp16 = some.map(|tokens| (tokens * shape.fp16_bytes_per_token()) as f64);
    PlanRow {
        name: name.into(),
        tokens_at_ratio: None,
        capacity_tokens: tokens,
        kv_bytes,
        ratio_bytes: None,
        bytes_per_token: some.map(|tokens| kv_bytes as f64 / tokens as f64),
        effective_bpv: fp16.map(|fp16| 16.0 * kv_bytes as f64 / fp16),
        compression_vs_fp16: fp16.map(|fp16| fp16 / kv_bytes as f64),
    }
}

fn ratio(policy: &Policy) -> Option<f64> {
    match policy.budget {
        Budget::Compression(hundredths) => Some(f64::from(hundredths) / 100.0),
        Budget::Bytes => None,
    }
}

/// Tokens that are sure to fit into a buffer of `bytes`.
///
/// # Errors
/// A shape or policy that the codec refuses, or fewer bytes than its least.
pub fn capacity(shape: KvShape, policy: Policy, bytes: usize) -> Result<usize> {
    capacity_tokens(shape, policy, bytes).map_err(|e| anyhow!("{e}"))
}

/// The least buffer that is sure to hold `tokens`, bytes.
///
/// # Errors
/// A shape or policy that the codec refuses.
pub fn least_bytes(shape: KvShape, policy: Policy, tokens: usize) -> Result<usize> {
    let mut low = minimum_bytes(shape, policy).map_err(|e| anyhow!("{e}"))?;
    if capacity(shape, policy, low)? >= tokens {
        return Ok(low);
    }
    // Nothing takes more than 32 bits per value beside the fixed parts.
    let mut high = 2 * low + tokens * 4 * shape.values_per_token();
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if capacity(shape, policy, middle)? >= tokens { high = middle } else { low = middle }
    }
    Ok(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;

    const SHAPE: KvShape = KvShape::new(3, 4, 32);

    #[test]
    fn the_least_bytes_hold_the_tokens_and_one_less_does_not() {
        for when_full in [WhenFull::Demote, WhenFull::Error] {
            for name in ["8bit", "4x", "6x"] {
                let policy = policy::load(name).unwrap().policy.with_byte_budget(when_full);
                for tokens in [300, 1000, 4096] {
                    let bytes = least_bytes(SHAPE, policy, tokens).unwrap();
                    assert!(capacity(SHAPE, policy, bytes).unwrap() >= tokens);
                    assert!(capacity(SHAPE, policy, bytes - 1).unwrap() < tokens, "{name} {tokens} {bytes}");
                }
            }
        }
        let policy = Policy::FOUR_X.with_byte_budget(WhenFull::Demote);
        assert_eq!(least_bytes(SHAPE, policy, 1).unwrap(), minimum_bytes(SHAPE, policy).unwrap());
    }

    #[test]
    fn ratios_are_of_fp16_and_hold_from_their_length_on() {
        let named = policy::load("4x").unwrap();
        let bytes = 2048 * SHAPE.fp16_bytes_per_token() / 4;
        assert_eq!(for_budget(SHAPE, &named, WhenFull::Demote, bytes).unwrap().tokens_at_ratio, Some(2048));
        assert_eq!(for_budget(SHAPE, &named, WhenFull::Demote, bytes / 4).unwrap().tokens_at_ratio, None);
        assert_eq!(for_context(SHAPE, &named, WhenFull::Demote, 2048).unwrap().ratio_bytes, Some(bytes));
        let tiny = for_budget(SHAPE, &named, WhenFull::Demote, 100).unwrap();
        assert_eq!((tiny.capacity_tokens, tiny.effective_bpv), (None, None));
        let dense = dense(SHAPE, 2, bytes, None);
        assert_eq!((dense.capacity_tokens, dense.effective_bpv), (Some(512), Some(16.0)));
    }
}
