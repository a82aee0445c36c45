//! `tune`: search a policy for a model at a number of bits per value, and write it as a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kvq_codec::COMPRESSION_FROM_TOKENS;

use super::shared::{self, CommonArgs, UsageError, usage};
use super::text;
use crate::eval;
use crate::policy::to_toml;
use crate::report::table::with_headings;
use crate::tune::{self, MOST_TRIALS, Round, Trial};

/// Tokens of a window where the model has room for them: twice where compressions begin to hold.
const DEFAULT_CONTEXT: usize = 2 * COMPRESSION_FROM_TOKENS;

/// Flags of `tune`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: kvq tune --budget-bpv 4 --windows 1 --held-out 1 --out tuned.toml && \
                        kvq eval --context 1024 --policy tuned.toml --policy 4x")]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Bits per value that the whole cache may take, everything counted.
    #[arg(long, value_name = "X", value_parser = bits)]
    budget_bpv: f64,
    /// Policy file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens of a window [default: 2048, or what the model has room for].
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Text to search and to check on [default: one inside this program].
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Windows that candidates are scored on.
    #[arg(long, value_name = "W", default_value_t = 2, value_parser = shared::at_least_one)]
    windows: usize,
    /// Windows after those, on which what was found is scored again.
    #[arg(long, value_name = "W", default_value_t = 2, value_parser = shared::at_least_one)]
    held_out: usize,
}

fn bits(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(bits) if (2.5..=8.0).contains(&bits) => Ok(bits),
        _ => Err("allowed are 2.5 to 8".into()),
    }
}

/// Runs the verb.
///
/// # Errors
/// [`UsageError`], bits that no candidate keeps to, or a failure of the model, a cache or a file.
pub fn run(args: &Args) -> Result<()> {
    usage!(args.common.json.is_none(), "--json: tune writes a policy file; `kvq eval` makes a record of it");
    let session = args.common.start()?;
    let max_context = session.model().config().max_context;
    let context = args.context.unwrap_or(DEFAULT_CONTEXT.min(max_context));
    session.check_context(context, 0)?;
    usage!(
        context >= COMPRESSION_FROM_TOKENS,
        "--context {context}: compressions hold from {COMPRESSION_FROM_TOKENS} tokens on; allowed are \
         {COMPRESSION_FROM_TOKENS} to {max_context}"
    );
    let text = text::read(args.text.as_deref(), &session)?;
    let too_short = |error: anyhow::Error| UsageError(format!("--windows and --held-out: {error}"));
    let windows = eval::plain(&text.tokens, context, args.windows, 0).map_err(too_short)?;
    let held_out = eval::plain(&text.tokens, context, args.held_out, args.windows).map_err(too_short)?;

    let compression = 16.0 / args.budget_bpv;
    let caches = (MOST_TRIALS + 4) * windows.len() + 2 * held_out.len();
    let bar = shared::progress("tune", caches * context);
    let mut on_tokens = |n| bar.inc(n as u64);
    let rounds = tune::search(session.model(), &windows, compression, session.backend, &mut on_tokens)?;
    let found = rounds.last().map_or_else(|| tune::start(compression), |round| round.trials[0].policy);
    let scores = tune::score(session.model(), &held_out, &[found], session.backend, &mut on_tokens)?;
    bar.finish_and_clear();

    let place = format!("{} x {context} tokens of {}", held_out.len(), text.record.name);
    let origin = format!(
        "# kvq tune --budget-bpv {} --model {}, on {} x {context} tokens.\n# On the {place} after those: {}\n",
        args.budget_bpv,
        session.loaded.info.name,
        windows.len(),
        figures(&scores[0])
    );
    write(&args.out, &format!("{origin}{}", to_toml(&found)))?;
    print!("{}", human(&rounds));
    println!("\nHeld out, {place}: {}", figures(&scores[0]));
    println!("Written to {}", args.out.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("--out {}: cannot write the file", path.display()))
}

fn figures(trial: &Trial) -> String {
    let Trial { compression, quality, .. } = trial;
    format!(
        "{compression:.2}x of fp16 ({:.2} bits per value), KL divergence {:.5}, perplexity {:+.2} %, same top \
         token {:.1} %",
        16.0 / compression,
        quality.kld_mean.value,
        quality.perplexity_delta_pct.value,
        quality.top1_agreement_pct.value
    )
}

/// The candidates of each round, the best first.
fn human(rounds: &[Round]) -> String {
    let headings = ["knob", "candidate", "vs fp16", "KL div.", "same top"].map(str::to_owned).to_vec();
    let mut rows = Vec::new();
    for Round { knob, trials } in rounds {
        for (i, trial) in trials.iter().enumerate() {
            rows.push(vec![
                if i == 0 { (*knob).to_owned() } else { String::new() },
                candidate(knob, trial),
                format!("{:.2}x", trial.compression),
                format!("{:.5}", trial.quality.kld_mean.value),
                format!("{:.1}%", trial.quality.top1_agreement_pct.value),
            ]);
        }
    }
    with_headings(headings, rows)
}

/// The line of the policy file that a candidate of this knob differs in.
fn candidate(knob: &str, trial: &Trial) -> String {
    let key = knob.split(' ').next().unwrap_or(knob);
    let wanted: &[&str] = match key {
        "first" => &["key_tiers", "value_tiers"],
        "span_len" => &["span_len", "recent_len"],
        key => &[key],
    };
    let toml = to_toml(&trial.policy);
    let lines = toml.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key)));
    let lines = lines.collect::<Vec<_>>().join(", ");
    let noise = ["layout = ", "side = ", "to = ", "{ ", " }", "\"", " ="];
    noise.iter().fold(lines, |line, noise| line.replace(noise, ""))
}
