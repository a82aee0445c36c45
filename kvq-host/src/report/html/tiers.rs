//! The tier map: which tokens of a context are stored in how many bits.

use maud::{Markup, html};

use crate::report::TierUseRecord;
use crate::report::collection::Collection;

const WIDTH: f64 = 440.0;
const LEFT: f64 = 96.0;
const BAR: f64 = 20.0;

/// One pair of bars for each packed run; nothing where there is none.
pub(super) fn tier_maps(collection: &Collection) -> Markup {
    let runs = collection.runs();
    let bars: Vec<(String, &[TierUseRecord])> = runs
        .iter()
        .filter(|run| run.context_tokens == collection.longest())
        .filter_map(|run| run.tier_map.as_ref().map(|map| (run, map)))
        .flat_map(|(run, map)| {
            [(format!("{} K", run.name), &map.key[..]), (format!("{} V", run.name), &map.value[..])]
        })
        .collect();
    let longest = bars.iter().map(|(_, tiers)| total(tiers)).max().unwrap_or(0).max(1);
    let height = bars.len() as f64 * (BAR + 6.0) + 4.0;
    html! {
        @if !bars.is_empty() {
            figure {
                h2 { "Tier map" }
                svg viewBox={"0 0 " (WIDTH) " " (height)} role="img" aria-label="Tier map" {
                    @for (i, (name, tiers)) in bars.iter().enumerate() {
                        (bar(i as f64 * (BAR + 6.0), name, tiers, longest))
                    }
                }
                ul.key { @for bits in [2, 3, 4, 8] { li class={"b" (bits)} { i {} (bits) " bits" } } }
                figcaption { "At " (collection.longest()) " tokens. Tokens of one layer from the oldest (left) to the newest: sinks, spans from the last tier to the first, recent window. K keys, V values." }
            }
        }
    }
}

fn bar(top: f64, name: &str, tiers: &[TierUseRecord], longest: usize) -> Markup {
    let scale = (WIDTH - LEFT) / longest as f64;
    let mut at = LEFT;
    let parts: Vec<(f64, f64, &TierUseRecord)> = tiers
        .iter()
        .map(|tier| {
            let (x, width) = (at, tier.tokens as f64 * scale);
            at += width;
            (x, width, tier)
        })
        .collect();
    html! {
        text.strong x=(LEFT - 6.0) y=(top + 14.5) text-anchor="end" { (name) }
        @for (x, width, tier) in parts { g class={"b" (tier.code_bits)} {
            rect.bar x=(format!("{x:.1}")) y=(top) width=(format!("{:.1}", width.max(1.0))) height=(BAR) {
                title { (tier.tokens) " tokens, " (tier.layout) }
            }
            @if width > 7.0 * tier.tokens.to_string().len() as f64 + 4.0 {
                text class=(if matches!(tier.code_bits, 8) { "inbar" } else { "indark" })
                    x=(format!("{:.1}", x + width / 2.0)) y=(top + 14.0) text-anchor="middle" { (tier.tokens) }
            }
        } }
    }
}

fn total(tiers: &[TierUseRecord]) -> usize {
    tiers.iter().map(|tier| tier.tokens).sum()
}
