//! How a cache filled: its bytes along the way, its tiers, and the quality of each quarter of the context.

use kvq_codec::TierUse;
use serde::{Deserialize, Serialize};

use crate::eval::{Quality, WindowScore};
use crate::measure::{Held, TierMap};

/// The most points of a growth.
const MAX_POINTS: usize = 64;

/// Bytes held at one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GrowthPoint {
    /// Tokens held.
    pub context_tokens: usize,
    /// All bytes held.
    pub kv_bytes: usize,
}

/// Tokens by tier, oldest first, of the first layer; the others are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TierMapRecord {
    /// Of keys: sinks, tiers from the last to the first, recent window; those without a token are left out.
    pub key: Vec<TierUseRecord>,
    /// Of values.
    pub value: Vec<TierUseRecord>,
}

/// Tokens in one layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TierUseRecord {
    /// Name of the layout.
    pub layout: String,
    /// Nominal bits of a code.
    pub code_bits: usize,
    /// Tokens stored so.
    pub tokens: usize,
}

/// What one quarter of the context looked like when the cache had just filled it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct QuarterRecord {
    /// Positions before this one, and not before the quarter's start, were scored.
    pub to_tokens: usize,
    /// All bytes held there, or after the chunk that ended behind it.
    pub kv_bytes: usize,
    /// `perplexity_delta_pct` of these positions, percent; null for dense-f32.
    pub perplexity_delta_pct: Option<f64>,
    /// `kld_mean` of these positions, nats; null for dense-f32.
    pub kld_mean: Option<f64>,
    /// `top1_agreement_pct` of these positions, percent; null for dense-f32.
    pub top1_agreement_pct: Option<f64>,
    /// Tokens by tier there; null for a dense cache.
    pub tier_map: Option<TierMapRecord>,
}

impl From<&TierMap> for TierMapRecord {
    fn from(map: &TierMap) -> Self {
        let side = |tiers: &[TierUse]| tiers.iter().map(TierUseRecord::from).collect();
        Self { key: side(&map.key), value: side(&map.value) }
    }
}

impl From<&TierUse> for TierUseRecord {
    fn from(tier: &TierUse) -> Self {
        Self { layout: tier.layout.name().into(), code_bits: tier.layout.code_bits(), tokens: tier.tokens }
    }
}

/// At most [`MAX_POINTS`] of what was held, evenly over the lengths, the last one always.
pub(super) fn growth(held: &[Held]) -> Vec<GrowthPoint> {
    let step = held.last().map_or(1, |last| last.tokens.div_ceil(MAX_POINTS));
    let mut points: Vec<GrowthPoint> = Vec::new();
    for (i, held_now) in held.iter().enumerate() {
        let due = points.last().map_or(0, |point| point.context_tokens) + step;
        if held_now.tokens >= due || i + 1 == held.len() {
            points.push(GrowthPoint { context_tokens: held_now.tokens, kv_bytes: held_now.bytes.total() });
        }
    }
    points
}

/// The four quarters of windows of which every prediction was scored.
pub(super) fn quarters(windows: &[WindowScore], held: &[Held], is_reference: bool) -> Vec<QuarterRecord> {
    let context = held.last().map_or(0, |last| last.tokens);
    let quarter = |i: usize| {
        let (from, to) = (context * i / 4, context * (i + 1) / 4);
        let parts: Vec<WindowScore> = windows.iter().map(|window| window.part(from..to)).collect();
        let quality = Quality::of(&parts)?;
        let then = Held::first_with(held, to)?;
        Some(QuarterRecord {
            to_tokens: to,
            kv_bytes: then.bytes.total(),
            perplexity_delta_pct: (!is_reference).then_some(quality.perplexity_delta_pct.value),
            kld_mean: (!is_reference).then_some(quality.kld_mean.value),
            top1_agreement_pct: (!is_reference).then_some(quality.top1_agreement_pct.value),
            tier_map: then.tiers.as_ref().map(TierMapRecord::from),
        })
    };
    (0..4).filter_map(quarter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Divergence;
    use crate::kv_store::KvBytes;

    fn held(lengths: impl Iterator<Item = usize>) -> Vec<Held> {
        let at = |tokens| Held {
            tokens,
            bytes: KvBytes { code_bytes: 10 * tokens, ..KvBytes::default() },
            tiers: None,
        };
        lengths.map(at).collect()
    }

    #[test]
    fn a_growth_is_thinned_and_keeps_its_end() {
        let points = growth(&held(1..=1000));
        assert!((32..=MAX_POINTS).contains(&points.len()), "{}", points.len());
        assert_eq!(points.last(), Some(&GrowthPoint { context_tokens: 1000, kv_bytes: 10_000 }));
        assert_eq!(growth(&held([7].into_iter())).len(), 1);
        assert!(growth(&[]).is_empty());
    }

    #[test]
    fn quarters_are_scored_apart() {
        let mut window = WindowScore::default();
        for pos in 0..99 {
            let kld = if pos < 75 { 0.0 } else { 0.5 };
            window.push(1.0, Divergence { kld, nll: 1.0, same_top: true });
        }
        let quarters = quarters(&[window], &held([30, 60, 100].into_iter()), false);
        let ends: Vec<_> = quarters.iter().map(|q| (q.to_tokens, q.kv_bytes)).collect();
        assert_eq!(ends, [(25, 300), (50, 600), (75, 1000), (100, 1000)]);
        assert_eq!(quarters[2].kld_mean, Some(0.0));
        assert_eq!(quarters[3].kld_mean, Some(0.5));
    }
}
