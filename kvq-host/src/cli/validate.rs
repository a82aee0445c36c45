//! `validate`: a checklist with figures and limits.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::shared::{self, CommonArgs, usage};
use super::text;
use crate::report::Machine;
use crate::validate::{self, Limits, Line, Subject};

/// Tokens of the scored window where the model has room for them: ratios hold from here on.
const DEFAULT_CONTEXT: usize = 1024;

/// Flags of `validate`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Example: kvq validate --policy 4x --max-kld 0.01\n\nExit code 1 if any line failed."
)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Preset or .toml file.
    /// `6x` gives old keys 2 bits, which loses what lies far back.
    #[arg(long, value_name = "PRESET|FILE", default_value = "4x")]
    policy: String,
    /// Tokens of the scored window [default: 1024, or what the model has room for].
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens decoded.
    #[arg(long, value_name = "M", default_value_t = 32, value_parser = shared::at_least_one)]
    new_tokens: usize,
    /// Rounds of the speed measurement.
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = shared::at_least_one)]
    rounds: usize,
    /// Text to read [default: one inside this program].
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Most attention error on synthetic workloads, relative.
    #[arg(long, value_name = "X", default_value_t = 0.3, value_parser = not_negative)]
    max_attention_error: f64,
    /// Least compression against fp16 [default: what the policy promises].
    #[arg(long, value_name = "X", value_parser = not_negative)]
    min_compression: Option<f64>,
    /// Least decode speed against the dense f16 cache.
    #[arg(long, value_name = "X", default_value_t = 0.2, value_parser = not_negative)]
    min_speed: f64,
    /// Most resident memory of this process, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 4096.0, value_parser = not_negative)]
    max_rss_mib: f64,
    /// Most mean KL divergence, nats.
    #[arg(long, value_name = "NATS", default_value_t = 0.02, value_parser = not_negative)]
    max_kld: f64,
    /// Most change of perplexity, percent.
    #[arg(long, value_name = "PCT", default_value_t = 2.0, value_parser = not_negative)]
    max_perplexity_pct: f64,
    /// Least agreement of the most likely token, percent.
    #[arg(long, value_name = "PCT", default_value_t = 93.0, value_parser = not_negative)]
    min_top1_pct: f64,
}

/// The checklist as JSON.
#[derive(Serialize)]
struct ValidateRecord<'a> {
    kvq_version: &'static str,
    command_line: Vec<String>,
    machine: Machine,
    threads: usize,
    /// Kernels of the caches, packed and dense.
    backend: &'static str,
    model: &'a str,
    policy: &'a str,
    context_tokens: usize,
    new_tokens: usize,
    rounds: usize,
    seed: u64,
    passed: bool,
    lines: &'a [Line],
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => Err("allowed are numbers from 0".into()),
    }
}

/// Runs the verb.
///
/// # Errors
/// [`UsageError`](super::UsageError), a model or file that cannot be read, or a line that failed.
pub fn run(args: &Args) -> Result<()> {
    let policy = shared::policies(std::slice::from_ref(&args.policy))?.remove(0);
    let session = args.common.start()?;
    let max_context = session.model().config().max_context;
    let context = args.context.unwrap_or(DEFAULT_CONTEXT.min(max_context));
    session.check_context(context, 0)?;
    let least = 2 * args.new_tokens + 64;
    usage!(
        context >= least,
        "--context {context}: with {} new tokens, allowed are {least} to {max_context}",
        args.new_tokens
    );
    let text = text::read(args.text.as_deref(), &session)?;
    usage!(
        text.tokens.len() >= context,
        "--context {context}: the text has {} tokens; give a longer one with --text",
        text.tokens.len()
    );
    let limits = Limits {
        max_attention_error: args.max_attention_error,
        min_compression: args.min_compression,
        min_speed: args.min_speed,
        max_rss_mib: args.max_rss_mib,
        max_kld: args.max_kld,
        max_perplexity_pct: args.max_perplexity_pct,
        min_top1_pct: args.min_top1_pct,
    };
    let subject = Subject {
        seed: args.common.seed,
        model: session.model(),
        tokens: &text.tokens,
        policy: &policy,
        backend: session.backend,
        context,
        new_tokens: args.new_tokens,
        rounds: args.rounds,
    };
    let shown = args.common.shows_text();
    if shown {
        let name = &session.loaded.info.name;
        println!("{name}, policy {}, {context} tokens of {}\n", policy.name, text.record.name);
    }
    let lines = validate::run(&subject, &limits, &mut |line| {
        if shown {
            println!("{}", line.describe());
        }
    });
    let failed: Vec<&str> = lines.iter().filter(|line| !line.passed).map(|line| line.name).collect();
    if let Some(target) = &args.common.json {
        let record = ValidateRecord {
            kvq_version: env!("CARGO_PKG_VERSION"),
            command_line: std::env::args().collect(),
            machine: Machine::here(),
            threads: session.threads,
            backend: session.backend.name(),
            new_tokens: args.new_tokens,
            rounds: args.rounds,
            seed: args.common.seed,
            model: &session.loaded.info.name,
            policy: &policy.name,
            context_tokens: context,
            passed: failed.is_empty(),
            lines: &lines,
        };
        let json = serde_json::to_string_pretty(&record)? + "\n";
        if shown {
            std::fs::write(target, json)
                .with_context(|| format!("--json {target}: cannot write the file"))?;
        } else {
            print!("{json}");
        }
    }
    ensure!(failed.is_empty(), "{} of {} lines failed: {}", failed.len(), lines.len(), failed.join(", "));
    if shown {
        println!("\nall {} lines passed", lines.len());
    }
    Ok(())
}
