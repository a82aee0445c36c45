//! Records as one page that needs nothing but itself: no script, no font, no network.

mod axis;
mod chart;
mod charts;
mod style;
mod tiers;

pub(crate) use axis::Scale;
pub(crate) use chart::{Chart, Series};

use std::path::Path;

use anyhow::{Context, Result};
use maud::{DOCTYPE, Markup, html};

use super::collection::{Collection, Entry};
use super::table::{Detail, bytes, cells, legend, machine_line, model_line};
use super::{Record, Run};

/// Writes the page to a file.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, collection: &Collection) -> Result<()> {
    std::fs::write(path, page(collection))
        .with_context(|| format!("--html {}: cannot write the file", path.display()))
}

/// The page.
pub fn page(collection: &Collection) -> String {
    let title = format!("kvq {}", collection.entries().first().map_or("report", |e| e.record.verb.as_str()));
    let parts = html! {
        @for entry in collection.entries() {
            p.summary { (summary(&entry.record)) }
        }
        (run_table(collection))
        div.charts {
            @for chart in charts::all(collection) { (chart) }
            (tiers::tier_maps(collection))
        }
        (quarter_table(collection))
        h2 { "How it was measured" }
        @for entry in collection.entries() { (conditions(entry, collection.is_comparison())) }
    };
    frame(&title, &parts)
}

/// A whole page around `body`.
pub(crate) fn frame(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (maud::PreEscaped(style::CSS)) }
            }
            body { main { h1 { (title) } (body) } }
        }
    }
    .into_string()
}

/// What one record says, in a sentence: of `4x`, or else of its first packed cache.
fn summary(record: &Record) -> String {
    let packed = || record.runs.iter().filter(|run| run.policy.is_some()).rev();
    let Some(run) = packed().find(|run| run.name == "4x").or_else(|| packed().next_back()) else {
        return format!("{} without a packed cache.", model_line(record));
    };
    let mut text = format!(
        "{}: at {} tokens the {} cache takes {}, {:.2}x less than fp16 ({:.2} bits per value, everything counted)",
        record.model.name,
        run.context_tokens,
        run.name,
        bytes(run.kv_bytes),
        run.compression_vs_fp16,
        run.effective_bpv
    );
    if let Some(delta) = run.perplexity_delta_pct {
        text += &format!("; perplexity changes by {delta:+.2} %");
    }
    if let Some(top) = run.top1_agreement_pct {
        text += &format!(", {top:.1} % of the most likely tokens stay the same");
    }
    if let Some(speed) = run.speed_vs_dense_f16 {
        text += &format!("; it decodes at {speed:.2}x the speed of the dense f16 cache");
    }
    text + "."
}

fn run_table(collection: &Collection) -> Markup {
    let runs: Vec<Run> = collection.runs();
    let (headings, rows) = cells(&runs, Detail::Full);
    html! {
        div.wide {
            table {
                thead { tr { @for heading in &headings { th { (heading) } } } }
                tbody { @for row in &rows { tr { @for cell in row { td { (cell) } } } } }
            }
        }
        p.note { (legend(&runs, Detail::Full)) }
    }
}

/// The quarters of each packed cache, where there are any.
fn quarter_table(collection: &Collection) -> Markup {
    let longest = |run: &Run| run.context_tokens == collection.longest();
    let runs: Vec<Run> = collection.runs().into_iter().filter(longest).collect();
    let (headings, rows) = super::table::quarter_cells(&runs);
    html! {
        @if !rows.is_empty() {
            h2 { "By quarter of the context" }
            div.wide {
                table {
                    thead { tr { @for heading in &headings { th { (heading) } } } }
                    tbody { @for row in &rows { tr { @for cell in row { td { (cell) } } } } }
                }
            }
            p.note { "Tiers: tokens at so many bits, keys / values, oldest first; each figure is of that quarter's positions alone." }
        }
    }
}

fn conditions(entry: &Entry, is_named: bool) -> Markup {
    let record = &entry.record;
    let command = record.command_line.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let revision = record.git_revision.as_deref().unwrap_or("unknown");
    let text = record.text.as_ref().map_or("random token ids".to_owned(), |text| {
        format!("{}, {} tokens, SHA-256 {}", text.name, text.tokens, text.sha256)
    });
    let memory = record.machine.memory_bytes.map(|n| format!(", {} of memory", bytes(n as usize)));
    let machine = format!(
        "{}; {}, {} logical CPUs, {}{}",
        machine_line(record),
        record.machine.arch,
        record.machine.logical_cpus,
        record.machine.os,
        memory.unwrap_or_default()
    );
    let peak = record.peak_rss_bytes.map_or("unknown".to_owned(), |n| bytes(n as usize));
    html! {
        @if is_named { h3 { (entry.label) } }
        dl {
            dt { "Command" } dd { code { (command) } }
            dt { "Program" } dd { "kvq " (record.kvq_version) ", revision " (revision) ", record schema " (record.schema_version) }
            dt { "Model" } dd { (model_line(record)) @if let Some(sum) = &record.model.sha256 { ", SHA-256 " (sum) } }
            dt { "Text" } dd { (text) }
            dt { "Machine" } dd { (machine) }
            dt { "Peak memory" } dd { (peak) " resident, of the process with all its caches" }
            @if !record.notes.is_empty() {
                dt { "Notes" } dd { @for note in &record.notes { p { (note) "." } } }
            }
        }
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted("--context"), "--context");
        assert_eq!(quoted("it's so"), r"'it'\''s so'");
        assert_eq!(quoted(""), "''");
    }
}
