//! `plan`: tokens of a budget, or bytes of a context, before any model runs.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kvq_codec::{KvShape, WhenFull};
use serde::Serialize;

use super::budget::{self, WhenFullChoice};
use super::shared::{self, UsageError, usage};
use crate::plan::{self, PlanRow, page};
use crate::policy::{NamedPolicy, preset_names};
use crate::report::table::{bytes, with_headings};

/// Flags of `plan`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  kvq plan --shape smollm2-135m --budget-mib 8\n  \
    kvq plan --shape 3,4,32 --context 512\n  \
    kvq plan --shape 3,4,32 --budget-kib 96 --policy 4x --rust > plan.rs")]
pub struct Args {
    /// Model whose shape is planned for; its files must be on this machine.
    #[arg(long, value_name = "NAME|PATH", default_value = "builtin", conflicts_with = "shape")]
    model: String,
    /// Shape to plan for: LAYERS,KV_HEADS,HEAD_DIM, or the name of a model, which need not be here.
    #[arg(long, value_name = "SHAPE", value_parser = plan::parse_shape)]
    shape: Option<KvShape>,
    /// Preset or .toml file, may be given several times [default: every preset].
    /// `6x` gives old keys 2 bits, which loses what lies far back.
    #[arg(long, value_name = "PRESET|FILE")]
    policy: Vec<String>,
    /// Bytes of the cache, in MiB: how many tokens do they hold?
    #[arg(long, value_name = "MIB", value_parser = budget::mib, conflicts_with_all = ["budget_kib", "context"])]
    budget_mib: Option<f64>,
    /// The same in KiB.
    #[arg(long, value_name = "KIB", value_parser = budget::kib, conflicts_with = "context")]
    budget_kib: Option<f64>,
    /// Tokens of the context: how many bytes do they need?
    #[arg(long, value_name = "N", value_parser = shared::at_least_one,
          required_unless_present_any = ["budget_mib", "budget_kib"])]
    context: Option<usize>,
    /// What caches do when their bytes are used up.
    #[arg(long, value_enum, default_value_t = WhenFullChoice::Demote)]
    when_full: WhenFullChoice,
    /// Print Rust constants for firmware instead of a table; needs one --policy.
    #[arg(long, conflicts_with_all = ["json", "html"])]
    rust: bool,
    /// Write the plan as JSON to this file, or to standard output for `-`.
    #[arg(long, value_name = "FILE|-")]
    json: Option<String>,
    /// Write the plan as one HTML page with a chart.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// The plan as JSON.
#[derive(Serialize)]
struct PlanRecord<'a> {
    kvq_version: &'static str,
    command_line: Vec<String>,
    n_layers: usize,
    n_kv_heads: usize,
    head_dim: usize,
    budget_bytes: Option<usize>,
    context_tokens: Option<usize>,
    rows: &'a [PlanRow],
}

/// Runs the verb.
///
/// # Errors
/// [`UsageError`], a model whose files are not here, or a file that cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let presets = || preset_names().map(str::to_owned).collect();
    let named = shared::policies(&if args.policy.is_empty() { presets() } else { args.policy.clone() })?;
    let shape = args.shape.map_or_else(|| plan::of_model(&args.model), Ok)?;
    let mib = args.budget_mib.map(|mib| (mib * 1_048_576.0) as usize);
    let budget_bytes = mib.or(args.budget_kib.map(|kib| (kib * 1024.0) as usize));
    let when_full = args.when_full.within_bytes(&named[0]).policy.when_full;
    if args.rust {
        usage!(named.len() == 1, "--rust: give one --policy, not {}", named.len());
        return rust(args, shape, &named[0], budget_bytes);
    }
    let rows = rows(shape, &named, when_full, budget_bytes, args.context)?;
    if args.json.as_deref() != Some("-") {
        let (headings, cells) = cells(&rows, args.context.is_some());
        println!("{}\n\n{}", summary(shape, budget_bytes, args.context), with_headings(headings, cells));
    }
    if let Some(target) = &args.json {
        write_json(target, shape, budget_bytes, args.context, &rows)?;
    }
    let Some(path) = &args.html else { return Ok(()) };
    let (headings, cells) = cells(&rows, args.context.is_some());
    let page = page::Page {
        summary: &summary(shape, budget_bytes, args.context),
        headings: &headings,
        rows: &cells,
        shape,
        policies: &named,
        when_full,
        budget_bytes: budget_bytes.unwrap_or_else(|| rows.iter().map(|row| row.kv_bytes).max().unwrap_or(0)),
        is_budget_given: budget_bytes.is_some(),
        command: &command(),
    };
    page::write(path, &page)
}

fn rows(
    shape: KvShape,
    named: &[NamedPolicy],
    when_full: WhenFull,
    budget_bytes: Option<usize>,
    context: Option<usize>,
) -> Result<Vec<PlanRow>> {
    let budget = budget_bytes.unwrap_or(0);
    let dense = [4, 2].map(|size| plan::dense(shape, size, budget, context));
    let packed = named.iter().map(|named| match context {
        Some(tokens) => plan::for_context(shape, named, when_full, tokens),
        None => plan::for_budget(shape, named, when_full, budget),
    });
    dense.into_iter().map(Ok).chain(packed).collect()
}

fn summary(shape: KvShape, budget_bytes: Option<usize>, context: Option<usize>) -> String {
    let of = format!("{} layers, {} KV heads of {}", shape.n_layers, shape.n_kv_heads, shape.key_head_dim);
    let per_token = shape.fp16_bytes_per_token();
    match (budget_bytes, context) {
        (Some(budget), _) => {
            format!("{} for the KV cache of {of} ({per_token} bytes per token in fp16)", bytes(budget))
        }
        (_, context) => {
            let tokens = context.unwrap_or(0);
            format!("{tokens} tokens of {of} ({} in fp16)", bytes(tokens * per_token))
        }
    }
}

/// Headings and rows: of tokens for a budget, of bytes for a context.
fn cells(rows: &[PlanRow], is_context: bool) -> (Vec<String>, Vec<Vec<String>>) {
    let headings = if is_context {
        ["cache", "bytes at its ratio", "least bytes", "bytes per token", "bits per value", "vs fp16"]
    } else {
        ["cache", "tokens at its ratio", "tokens at most", "bytes per token", "bits per value", "vs fp16"]
    };
    let dash = || "-".to_owned();
    let cells = rows.iter().map(|row| {
        let (at_ratio, main) = if is_context {
            (row.ratio_bytes.map(bytes), Some(bytes(row.kv_bytes)))
        } else {
            (row.tokens_at_ratio.map(|n| n.to_string()), row.capacity_tokens.map(|n| n.to_string()))
        };
        vec![
            row.name.clone(),
            at_ratio.unwrap_or_else(dash),
            main.unwrap_or_else(dash),
            row.bytes_per_token.map_or_else(dash, |n| format!("{n:.0}")),
            row.effective_bpv.map_or_else(dash, |n| format!("{n:.2}")),
            row.compression_vs_fp16.map_or_else(dash, |n| format!("{n:.2}x")),
        ]
    });
    (headings.map(str::to_owned).to_vec(), cells.collect())
}

fn rust(args: &Args, shape: KvShape, named: &NamedPolicy, budget_bytes: Option<usize>) -> Result<()> {
    let named = args.when_full.within_bytes(named);
    let cache_bytes = match (budget_bytes, args.context) {
        (Some(bytes), _) => bytes,
        (None, tokens) => plan::least_bytes(shape, named.policy, tokens.unwrap_or(1))?,
    };
    let tokens = plan::capacity(shape, named.policy, cache_bytes)
        .map_err(|error| UsageError(format!("--budget-kib {}: {error}", cache_bytes as f64 / 1024.0)))?;
    print!("{}", plan::rust_source(shape, &named, cache_bytes, tokens, &command()));
    Ok(())
}

fn write_json(
    target: &str,
    shape: KvShape,
    budget_bytes: Option<usize>,
    context_tokens: Option<usize>,
    rows: &[PlanRow],
) -> Result<()> {
    let record = PlanRecord {
        kvq_version: env!("CARGO_PKG_VERSION"),
        command_line: std::env::args().collect(),
        n_layers: shape.n_layers,
        n_kv_heads: shape.n_kv_heads,
        head_dim: shape.key_head_dim,
        budget_bytes,
        context_tokens,
        rows,
    };
    let json = serde_json::to_string_pretty(&record)? + "\n";
    if target == "-" {
        print!("{json}");
        return Ok(());
    }
    std::fs::write(target, json).with_context(|| format!("--json {target}: cannot write the file"))
}

/// The command line without the folder of this program.
fn command() -> String {
    let words: Vec<String> = std::iter::once("kvq".to_owned()).chain(std::env::args().skip(1)).collect();
    words.join(" ")
}
