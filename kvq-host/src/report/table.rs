//! A record as a table for people.

use std::fmt::Write;

use super::{Record, Run, TierMapRecord, TierUseRecord};

/// One column: its heading, and what stands in it for a run.
struct Column {
    heading: [&'static str; 2],
    /// Only in tables with [`Detail::Full`].
    is_detail: bool,
    cell: fn(&Run) -> Option<String>,
}

/// How much a table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The main figures.
    Brief,
    /// Standard errors and percentiles as well.
    Full,
}

/// Heading of the column that is there only where runs differ in it.
const CONTEXT: &str = "context";

const fn column(above: &'static str, below: &'static str, cell: fn(&Run) -> Option<String>) -> Column {
    Column { heading: [above, below], is_detail: false, cell }
}

const fn detail(above: &'static str, below: &'static str, cell: fn(&Run) -> Option<String>) -> Column {
    Column { heading: [above, below], is_detail: true, cell }
}

const COLUMNS: [Column; 17] = [
    column(CONTEXT, "tokens", |run| Some(run.context_tokens.to_string())),
    column("KV cache", "bytes", |run| Some(bytes(run.kv_bytes))),
    column("compression", "vs fp16", |run| Some(format!("{:.2}x", run.compression_vs_fp16))),
    column("bits per", "value", |run| Some(format!("{:.2}", run.effective_bpv))),
    column("prefill", "tokens/s", |run| run.prefill_tokens_per_s.map(rate)),
    column("decode", "tokens/s", |run| run.decode_tokens_per_s.map(rate)),
    detail("attention", "ms/token", |run| run.attention_ms_per_token.map(|ms| format!("{ms:.3}"))),
    column("speed vs", "dense f16", |run| run.speed_vs_dense_f16.map(|x| format!("{x:.2}x"))),
    column("", "perplexity", |run| run.perplexity.map(|x| format!("{x:.3}"))),
    column("", "change", |run| run.perplexity_delta_pct.map(|x| format!("{x:+.2}%"))),
    detail("", "± s.e.", |run| run.perplexity_delta_pct_standard_error.map(|x| format!("{x:.2}"))),
    column("KL div.", "mean", |run| run.kld_mean.map(small)),
    detail("", "± s.e.", |run| run.kld_mean_standard_error.map(small)),
    detail("KL div.", "p99", |run| run.kld_p99.map(small)),
    column("same top", "token", |run| run.top1_agreement_pct.map(|x| format!("{x:.1}%"))),
    column("recall", "KL div.", |run| run.recall_kld_mean.map(small)),
    column("attention", "error", |run| run.attention_error.map(small)),
];

/// Columns that at least one run has a figure for.
fn used(runs: &[Run], detail: Detail) -> Vec<&'static Column> {
    let has_contexts = runs.iter().any(|run| run.context_tokens != runs[0].context_tokens);
    let is_used = |column: &&Column| {
        (detail == Detail::Full || !column.is_detail)
            && (column.heading[0] != CONTEXT || has_contexts)
            && runs.iter().any(|run| (column.cell)(run).is_some())
    };
    COLUMNS.iter().filter(is_used).collect()
}

/// Headings and rows of the table in cells; gaps are dashes.
pub fn cells(runs: &[Run], detail: Detail) -> (Vec<String>, Vec<Vec<String>>) {
    let used = used(runs, detail);
    let heading = |column: &&Column| column.heading.join(" ").trim().to_owned();
    let headings = std::iter::once("cache".to_owned()).chain(used.iter().map(heading)).collect();
    let row = |run: &Run| {
        let cells = used.iter().map(|column| (column.cell)(run).unwrap_or_else(|| "-".to_owned()));
        std::iter::once(run.name.clone()).chain(cells).collect()
    };
    (headings, runs.iter().map(row).collect())
}

/// Headings and rows of the quarters of packed runs.
pub fn quarter_cells(runs: &[Run]) -> ([&'static str; 7], Vec<Vec<String>>) {
    let headings = [
        "cache",
        "up to token",
        "KV cache bytes",
        "perplexity change",
        "KL div. mean",
        "same top token",
        "tiers",
    ];
    let mut rows = Vec::new();
    for run in runs.iter().filter(|run| run.policy.is_some()) {
        for quarter in run.quarters.iter().flatten() {
            rows.push(vec![
                run.name.clone(),
                quarter.to_tokens.to_string(),
                bytes(quarter.kv_bytes),
                quarter.perplexity_delta_pct.map_or("-".into(), |x| format!("{x:+.2}%")),
                quarter.kld_mean.map_or("-".into(), small),
                quarter.top1_agreement_pct.map_or("-".into(), |x| format!("{x:.1}%")),
                quarter.tier_map.as_ref().map_or("-".into(), tiers),
            ]);
        }
    }
    (headings, rows)
}

/// Facts found again by depth, for people; nothing where none was asked for.
pub fn needle_table(runs: &[Run]) -> String {
    let Some(depths) = runs.iter().find_map(|run| run.needle.as_ref()) else { return String::new() };
    let headings = depths.iter().map(|needle| format!("at {} %", needle.depth_pct));
    let rows = runs.iter().filter_map(|run| {
        let cells =
            run.needle.as_ref()?.iter().map(|needle| format!("{}/{}", needle.retrieved, needle.trials));
        Some(std::iter::once(run.name.clone()).chain(cells).collect())
    });
    with_headings(std::iter::once("fact found".to_owned()).chain(headings).collect(), rows.collect())
}

/// A tier map in a few words: `8b:4 3b:900 4b:80 8b:64 / …`, keys before the stroke.
fn tiers(map: &TierMapRecord) -> String {
    let side = |tiers: &[TierUseRecord]| {
        tiers.iter().map(|tier| format!("{}b:{}", tier.code_bits, tier.tokens)).collect::<Vec<_>>().join(" ")
    };
    format!("{} / {}", side(&map.key), side(&map.value))
}

/// The quarters of packed runs for people; nothing where there are none.
pub fn quarter_table(runs: &[Run]) -> String {
    let (headings, rows) = quarter_cells(runs);
    if rows.is_empty() {
        return String::new();
    }
    with_headings(headings.map(str::to_owned).to_vec(), rows)
}

/// A table of cells under one line of headings.
pub fn with_headings(headings: Vec<String>, rows: Vec<Vec<String>>) -> String {
    aligned(&[vec![headings], rows].concat(), 1)
}

/// The table, without a sentence above or below. Columns that no run has a figure for are left out.
pub fn table(runs: &[Run], detail: Detail) -> String {
    let used = used(runs, detail);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for line in 0..2 {
        let label = if line == 1 { "cache" } else { "" };
        let headings = used.iter().map(|column| column.heading[line].to_owned());
        rows.push(std::iter::once(label.to_owned()).chain(headings).collect());
    }
    rows.extend(cells(runs, detail).1);
    aligned(&rows, 2)
}

/// Rows with the first column flush left, the others flush right, and a rule under the first `n_headings`.
fn aligned(rows: &[Vec<String>], n_headings: usize) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..n_columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            }
            .expect("writing to a string");
        }
        out.push_str(line.trim_end());
        out.push('\n');
        if i + 1 == n_headings {
            let rule = widths.iter().sum::<usize>() + 2 * (n_columns - 1);
            out.push_str(&"-".repeat(rule));
            out.push('\n');
        }
    }
    out
}

/// What the columns mean, for those that are there.
pub fn legend(runs: &[Run], detail: Detail) -> String {
    let mut parts = vec![
        "bytes: everything the cache holds; compression: bytes of the same tokens in fp16 / these bytes",
    ];
    if runs.iter().any(|run| run.decode_tokens_per_s.is_some()) {
        parts.push("speed vs dense f16: decoding, median of the ratios within each round");
    }
    if detail == Detail::Full && runs.iter().any(|run| run.attention_ms_per_token.is_some()) {
        parts.push("attention ms/token: what of a token decoded is attention, all layers together");
    }
    if runs.iter().any(|run| run.kld_mean.is_some()) {
        parts.push("change, KL div. (nats), same top token: against dense-f32 on every scored token");
    }
    if detail == Detail::Full && runs.iter().any(|run| run.kld_mean_standard_error.is_some()) {
        parts.push("s.e.: standard error over windows");
    }
    if runs.iter().any(|run| run.recall_kld_mean.is_some()) {
        parts.push("recall: on repeats of a passage from more than half a context earlier");
    }
    if runs.iter().any(|run| run.attention_error.is_some()) {
        parts.push("attention error: norm of the difference to dense-f32 / norm of dense-f32");
    }
    parts.join(";\n") + "."
}

/// The model of a record in a few words.
pub fn model_line(record: &Record) -> String {
    let model = &record.model;
    let random = if model.random_weights { ", RANDOM WEIGHTS" } else { "" };
    format!(
        "{} ({}, {} layers, {} KV heads of {}, weights {}{random})",
        model.name, model.architecture, model.n_layers, model.n_kv_heads, model.head_dim, model.weight_format
    )
}

/// Threads, kernels and machine in a few words.
pub fn machine_line(record: &Record) -> String {
    let machine = &record.machine;
    let threads =
        if record.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", record.threads) };
    let cpu = machine.cpu.as_deref().unwrap_or(&machine.arch);
    format!("{threads}, packed kernels {}, {cpu}", record.backend)
}

/// A number of bytes in a unit that fits, base 1024.
pub fn bytes(n: usize) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.2} MiB", n as f64 / 1_048_576.0),
    }
}

/// Tokens per second with three digits or none behind the point.
pub fn rate(x: f64) -> String {
    if x < 100.0 { format!("{x:.1}") } else { format!("{x:.0}") }
}

fn small(x: f64) -> String {
    if x != 0.0 && x < 0.001 { format!("{x:.5}") } else { format!("{x:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_without_a_figure_are_left_out_and_gaps_are_dashes() {
        let dense = Run { name: "dense-f32".into(), perplexity: Some(3.5), ..Run::default() };
        let packed =
            Run { name: "4x".into(), perplexity: Some(3.6), kld_mean: Some(0.0004), ..Run::default() };
        let text = table(&[dense, packed], Detail::Full);
        assert!(!text.contains("decode") && text.contains("perplexity"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[3].ends_with('-') && lines[4].ends_with("0.00040"), "{text}");
        assert_eq!(lines[3].chars().count(), lines[4].chars().count(), "{text}");
    }

    #[test]
    fn units_fit_the_number() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(2048), "2.0 KiB");
        assert_eq!(bytes(10_024_387), "9.56 MiB");
        assert_eq!(rate(21.17), "21.2");
        assert_eq!(rate(1234.5), "1234");
    }
}
