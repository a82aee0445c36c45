//! A plan as one HTML page.

use std::path::Path;

use anyhow::{Context, Result};
use kvq_codec::{KvShape, WhenFull};
use maud::html;

use super::{capacity, least_bytes};
use crate::policy::NamedPolicy;
use crate::report::html::{Chart, Scale, Series, frame};

/// What a page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// What is planned, in a sentence.
    pub summary: &'a str,
    /// Headings of the table.
    pub headings: &'a [String],
    /// Its rows.
    pub rows: &'a [Vec<String>],
    /// The shape.
    pub shape: KvShape,
    /// The policies.
    pub policies: &'a [NamedPolicy],
    /// What they do when their bytes are used up.
    pub when_full: WhenFull,
    /// The budget, or the most that any policy needs.
    pub budget_bytes: usize,
    /// Whether the budget was given, and is marked in the chart.
    pub is_budget_given: bool,
    /// The command line.
    pub command: &'a str,
}

/// Writes the page.
///
/// # Errors
/// A policy that the codec refuses, or a file that cannot be written.
pub fn write(path: &Path, page: &Page<'_>) -> Result<()> {
    let body = html! {
        p.summary { (page.summary) }
        div.wide { table {
            thead { tr { @for heading in page.headings { th { (heading) } } } }
            tbody { @for row in page.rows { tr { @for cell in row { td { (cell) } } } } }
        } }
        div.charts { @if let Some(chart) = chart(page)?.render() { (chart) } }
        h2 { "How it was computed" }
        dl {
            dt { "Command" } dd { code { (page.command) } }
            dt { "Program" } dd { "kvq " (env!("CARGO_PKG_VERSION")) ": the codec's const functions, nothing measured" }
        }
    };
    std::fs::write(path, frame("kvq plan", &body))
        .with_context(|| format!("--html {}: cannot write the file", path.display()))
}

/// The least bytes against the tokens that they are sure to hold, up to the budget.
fn chart(page: &Page<'_>) -> Result<Chart> {
    let mut series = Vec::new();
    let mut longest = 0;
    for (i, named) in page.policies.iter().enumerate() {
        let policy = named.policy.with_byte_budget(page.when_full);
        let Ok(most) = capacity(page.shape, policy, page.budget_bytes) else { continue };
        longest = longest.max(most);
        let mut points = Vec::new();
        for step in 1..=16 {
            let tokens = (most * step / 16).max(1);
            points.push((tokens as f64, least_bytes(page.shape, policy, tokens)? as f64 / MIB));
        }
        series.push(Series { name: named.name.clone(), colour: 2 + i % 6, points, is_labelled: false });
    }
    let per_token = page.shape.fp16_bytes_per_token();
    let fp16 = (page.budget_bytes / per_token).min(longest);
    let points = vec![(0.0, 0.0), (fp16 as f64, (fp16 * per_token) as f64 / MIB)];
    series.push(Series { name: "dense-f16".into(), colour: 1, points, is_labelled: false });
    let budget = page.budget_bytes as f64 / MIB;
    Ok(Chart {
        title: "Bytes against context",
        caption: "The least bytes that are sure to hold so many tokens, all demoted that may be.".into(),
        x: ("tokens", Scale::Linear),
        y: ("KV cache, MiB".into(), Scale::Linear),
        x_text: |x| format!("{x:.0}"),
        y_text: |y| format!("{y:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        series,
        level: page.is_budget_given.then(|| (budget, format!("budget {budget:.2} MiB"))),
        marks: Vec::new(),
    })
}

const MIB: f64 = 1_048_576.0;
