//! A policy as a record states it.

use kvq_codec::{Budget, Tier};
use serde::{Deserialize, Serialize};

use crate::policy::{NamedPolicy, side_name, when_full_name};

/// What a policy keeps precise and gives up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PolicyRecord {
    /// Its name in the runs.
    pub name: String,
    /// First tokens kept at 8 bits.
    pub n_sink: u16,
    /// Newest tokens kept at 8 bits at the least.
    pub recent_len: u16,
    /// Tokens packed together.
    pub span_len: u16,
    /// Tiers of keys.
    pub key_tiers: Vec<TierRecord>,
    /// Tiers of values.
    pub value_tiers: Vec<TierRecord>,
    /// Demotion steps under pressure, least harm first.
    pub ladder: Vec<StepRecord>,
    /// Layers at both ends that stay in their first tiers.
    #[serde(default)]
    pub edge_layers: EdgeLayersRecord,
    /// Compression against fp16 that the budget asks for; null for a budget of bytes.
    pub budget_compression: Option<f64>,
    /// `error`, `demote` or `evict`.
    pub when_full: String,
    /// Tokens that a query looks back on; 0 for all.
    pub window_len: u32,
}

/// Layers that keep more bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EdgeLayersRecord {
    /// How many from layer 0 on.
    pub first: u8,
    /// How many up to the last layer.
    pub last: u8,
}

/// One tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TierRecord {
    /// Name of the layout.
    pub layout: String,
    /// Nominal bits of a code.
    pub code_bits: usize,
    /// Age in tokens from which spans enter it; null where only the budget asks for it.
    pub from_age_tokens: Option<u32>,
}

/// One step of the ladder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StepRecord {
    /// `key` or `value`.
    pub side: String,
    /// Index of the tier moved into.
    pub to: u8,
}

impl From<&NamedPolicy> for PolicyRecord {
    fn from(named: &NamedPolicy) -> Self {
        let policy = &named.policy;
        let tiers = |tiers: &[Option<Tier>]| tiers.iter().flatten().map(TierRecord::from).collect();
        Self {
            name: named.name.clone(),
            n_sink: policy.n_sink,
            recent_len: policy.recent_len,
            span_len: policy.span_len,
            key_tiers: tiers(&policy.key_tiers),
            value_tiers: tiers(&policy.value_tiers),
            ladder: policy
                .ladder
                .iter()
                .flatten()
                .map(|step| StepRecord { side: side_name(step.side).into(), to: step.to })
                .collect(),
            edge_layers: EdgeLayersRecord { first: policy.edge_layers.first, last: policy.edge_layers.last },
            budget_compression: match policy.budget {
                Budget::Compression(hundredths) => Some(f64::from(hundredths) / 100.0),
                Budget::Bytes => None,
            },
            when_full: when_full_name(policy.when_full).into(),
            window_len: policy.window_len,
        }
    }
}

impl From<&Tier> for TierRecord {
    fn from(tier: &Tier) -> Self {
        Self {
            layout: tier.layout.name().into(),
            code_bits: tier.layout.code_bits(),
            from_age_tokens: (tier.from_age != Tier::UNDER_PRESSURE).then_some(tier.from_age),
        }
    }
}
