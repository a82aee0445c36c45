//! The charts of a page of runs.

use maud::Markup;

use super::axis::Scale;
use super::chart::{Chart, Series};
use crate::report::Run;
use crate::report::collection::Collection;
use crate::report::reference::{REFERENCE_POINTS, REFERENCE_SOURCE};
use crate::report::table::bytes;

/// Every chart that has a point.
pub(super) fn all(collection: &Collection) -> Vec<Markup> {
    [bytes_by_context(collection), speed_by_context(collection), quality_by_bpv(collection)]
        .iter()
        .filter_map(Chart::render)
        .collect()
}

fn series(
    collection: &Collection,
    points: impl Fn(&Run) -> Vec<(f64, f64)>,
    is_labelled: bool,
) -> Vec<Series> {
    let series = collection.series().into_iter().map(|(name, colour, runs)| {
        let mut points: Vec<_> = runs.iter().flat_map(&points).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name, colour, points, is_labelled }
    });
    series.filter(|series| !series.points.is_empty()).collect()
}

fn bytes_by_context(collection: &Collection) -> Chart {
    // Only the longest run of a cache shows how it grew: shorter ones would lie on top of it.
    let longest = collection.longest();
    let largest = collection.runs().iter().map(|run| run.kv_bytes).max().unwrap_or(0);
    let (unit, unit_bytes) = if largest < 1 << 20 { ("KiB", 1024.0) } else { ("MiB", 1_048_576.0) };
    let points = |run: &Run| match &run.growth {
        Some(growth) if run.context_tokens == longest => {
            growth.iter().map(|p| (p.context_tokens as f64, p.kv_bytes as f64 / unit_bytes)).collect()
        }
        _ => vec![(run.context_tokens as f64, run.kv_bytes as f64 / unit_bytes)],
    };
    let budget = collection.entries().iter().find_map(|entry| entry.record.settings.budget_bytes);
    Chart {
        title: "Bytes against context",
        caption: "Everything the cache holds, while it filled.".into(),
        x: ("tokens held", Scale::Linear),
        y: (format!("KV cache, {unit}"), Scale::Linear),
        x_text: whole,
        y_text: shortest,
        series: series(collection, points, false),
        level: budget.map(|n| (n as f64 / unit_bytes, format!("budget {}", bytes(n)))),
        marks: Vec::new(),
    }
}

fn speed_by_context(collection: &Collection) -> Chart {
    let points =
        |run: &Run| run.decode_tokens_per_s.map(|y| (run.context_tokens as f64, y)).into_iter().collect();
    Chart {
        title: "Decode speed against context",
        caption:
            "Median over rounds. Give bench several --context, or report several records, for more points."
                .into(),
        x: ("tokens of context", Scale::Linear),
        y: ("tokens per second".into(), Scale::Linear),
        x_text: whole,
        y_text: shortest,
        series: series(collection, points, false),
        level: None,
        marks: Vec::new(),
    }
}

fn quality_by_bpv(collection: &Collection) -> Chart {
    let longest = collection.longest();
    let points = |run: &Run| {
        let is_shown = run.policy.is_some() && run.context_tokens == longest;
        let kld = run.kld_mean.filter(|kld| *kld > 0.0 && is_shown);
        kld.map(|kld| (run.effective_bpv, kld)).into_iter().collect()
    };
    Chart {
        title: "KL divergence against bits per value",
        caption: format!("At {longest} tokens; lower left is better. Hollow circles: {REFERENCE_SOURCE}."),
        x: ("bits per value, everything counted", Scale::Near),
        y: ("mean KL divergence, nats".into(), Scale::Log),
        x_text: shortest,
        y_text: shortest,
        series: series(collection, points, true),
        level: None,
        marks: REFERENCE_POINTS.iter().map(|p| (p.name, p.bpv, p.kld_mean)).collect(),
    }
}

/// Without zeros at the end.
fn shortest(x: f64) -> String {
    let text = format!("{x:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn whole(x: f64) -> String {
    format!("{x:.0}")
}
