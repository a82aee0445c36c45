//! The search for a policy: which knobs, in the order of what they are worth, at one compression.
//!
//! Knob by knob, the candidates that differ in it alone are scored side by side on the same windows, and the
//! best that keeps the compression goes on. A knob is fewer candidates than all combinations, and what one
//! round costs is known before it begins.

use anyhow::{Result, bail};
use kvq_codec::{Backend, Budget, EdgeLayers, Layout, MAX_TIERS, Policy, Side, Step, Tier, WhenFull};

use crate::eval::{self, Quality, Scored, Window};
use crate::measure::CacheChoice;
use crate::model::LanguageModel;
use crate::policy::NamedPolicy;

/// What one candidate came to.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The candidate.
    pub policy: Policy,
    /// fp16 bytes of the same tokens over every byte held, at the end of a window.
    pub compression: f64,
    /// Its quality on the windows.
    pub quality: Quality,
}

/// One knob, and the candidates that were tried.
#[derive(Clone, Debug)]
pub struct Round {
    /// The name of the knob.
    pub knob: &'static str,
    /// The candidates, the one that goes on first.
    pub trials: Vec<Trial>,
}

/// How many candidates a search scores at most.
pub const MOST_TRIALS: usize = 4 + 3 + 2 + 3;

/// Where a search at `compression` begins: every tier and every step that there may be.
pub fn start(compression: f64) -> Policy {
    let first = Tier::first;
    let under_pressure = Tier::under_pressure;
    Policy {
        key_tiers: tiers([first(Layout::T4), under_pressure(Layout::T3), under_pressure(Layout::T2)]),
        value_tiers: tiers([first(Layout::S4), under_pressure(Layout::T3), under_pressure(Layout::T2)]),
        ladder: ladder([(Side::Value, 1), (Side::Key, 1), (Side::Value, 2), (Side::Key, 2)]),
        budget: Budget::Compression((compression * 100.0).ceil() as u16),
        when_full: WhenFull::Demote,
        ..Policy::FOUR_X
    }
}

fn tiers<const N: usize>(list: [Tier; N]) -> [Option<Tier>; MAX_TIERS] {
    let mut out = [None; MAX_TIERS];
    out.iter_mut().zip(list).for_each(|(slot, tier)| *slot = Some(tier));
    out
}

fn ladder<const N: usize>(list: [(Side, u8); N]) -> [Option<Step>; 6] {
    let mut out = [None; 6];
    out.iter_mut().zip(list).for_each(|(slot, (side, to))| *slot = Some(Step { side, to }));
    out
}

/// `policy` with each of `values` in place of one of its own.
fn changed<T>(policy: Policy, values: &[T], change: impl Fn(&mut Policy, &T)) -> Vec<Policy> {
    let mut all = vec![policy; values.len()];
    all.iter_mut().zip(values).for_each(|(policy, value)| change(policy, value));
    all
}

/// The candidates that differ from a policy in one knob.
type Candidates = fn(Policy) -> Vec<Policy>;

/// The knobs.
fn knobs() -> [(&'static str, Candidates); 4] {
    use Side::{Key, Value};
    [
        ("ladder", |policy| {
            let orders = [
                [(Value, 1), (Key, 1), (Value, 2), (Key, 2)],
                [(Value, 1), (Value, 2), (Key, 1), (Key, 2)],
                [(Key, 1), (Value, 1), (Key, 2), (Value, 2)],
                [(Value, 1), (Key, 1), (Key, 2), (Value, 2)],
            ];
            changed(policy, &orders, |policy, order| policy.ladder = ladder(*order))
        }),
        ("span_len and recent_len", |policy| {
            let lengths = [(64, 0), (64, 16), (32, 16), (32, 32)];
            changed(policy, &lengths, |policy, lengths| (policy.span_len, policy.recent_len) = *lengths)
        }),
        ("first tiers", |policy| {
            let firsts = [(Layout::T4, Layout::S4), (Layout::T4, Layout::T4), (Layout::S4, Layout::S4)];
            changed(policy, &firsts, |policy, &(key, value)| {
                policy.key_tiers[0] = Some(Tier::first(key));
                policy.value_tiers[0] = Some(Tier::first(value));
            })
        }),
        ("edge_layers", |policy| {
            let edges = [(0, 0), (1, 0), (0, 1), (2, 2)];
            changed(policy, &edges, |policy, &(first, last)| policy.edge_layers = EdgeLayers { first, last })
        }),
    ]
}

/// Searches at `compression`, scoring candidates on `windows`; `on_tokens` hears how many more tokens have been
/// through a model.
///
/// # Errors
/// A compression that no candidate keeps at the windows' length, or an error of the model or a store.
pub fn search(
    model: &dyn LanguageModel,
    windows: &[Window],
    compression: f64,
    backend: Backend,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Round>> {
    let mut rounds: Vec<Round> = Vec::new();
    for (knob, candidates) in knobs() {
        // What was best so far is a candidate of each round, and is not scored again.
        let best = rounds.last().map(|round| round.trials[0].clone());
        let mut candidates = candidates(best.as_ref().map_or_else(|| start(compression), |best| best.policy));
        candidates.retain(|candidate| best.as_ref().is_none_or(|best| best.policy != *candidate));
        let mut trials = score(model, windows, &candidates, backend, on_tokens)?;
        trials.extend(best);
        trials.sort_by(|a, b| {
            let misses = |trial: &Trial| trial.compression < compression;
            let kld = |trial: &Trial| trial.quality.kld_mean.value;
            misses(a).cmp(&misses(b)).then(kld(a).total_cmp(&kld(b)))
        });
        rounds.push(Round { knob, trials });
    }
    let reached = rounds.last().map_or(0.0, |round| round.trials[0].compression);
    if reached < compression {
        let tokens = windows.first().map_or(0, |window| window.tokens.len());
        bail!("no candidate keeps {compression:.2}x at {tokens} tokens: the best has {reached:.2}x");
    }
    Ok(rounds)
}

/// Compression and quality of `policies` on `windows`.
///
/// # Errors
/// An error of the model or a store.
pub fn score(
    model: &dyn LanguageModel,
    windows: &[Window],
    policies: &[Policy],
    backend: Backend,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Trial>> {
    let named = |policy: &Policy| NamedPolicy { name: "candidate".into(), policy: *policy };
    let caches: Vec<CacheChoice> = policies.iter().map(|policy| CacheChoice::Packed(named(policy))).collect();
    let scored = eval::run(model, windows, &caches, backend, on_tokens)?;
    let per_token = model.config().kv_shape().fp16_bytes_per_token();
    let trial = |(policy, scored): (&Policy, Scored)| {
        let held = scored.held.last().cloned().unwrap_or_default();
        let compression = (held.tokens * per_token) as f64 / held.bytes.total().max(1) as f64;
        let quality = Quality::of(&scored.windows)?;
        Some(Trial { policy: *policy, compression, quality })
    };
    let trials: Option<Vec<Trial>> = policies.iter().zip(scored).map(trial).collect();
    trials.ok_or_else(|| anyhow::anyhow!("no position was scored"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_is_a_policy_and_they_are_as_many_as_announced() {
        let mut n = 0;
        for (knob, candidates) in knobs() {
            let candidates = candidates(start(5.0));
            n += candidates.len();
            for (i, policy) in candidates.iter().enumerate() {
                assert_eq!(policy.check(), Ok(()), "{knob}");
                assert_eq!(policy.budget, Budget::Compression(500));
                assert!(!candidates[..i].contains(policy), "{knob}: the same twice");
            }
            assert!(candidates.contains(&start(5.0)), "{knob}: what was best before is a candidate");
        }
        assert_eq!(n, MOST_TRIALS + knobs().len() - 1);
    }
}
