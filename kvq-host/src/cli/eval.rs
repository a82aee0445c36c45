//! `eval`: quality of caches on a text, against the dense f32 cache.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::shared::{self, CommonArgs, UsageError, usage};
use super::text;
use crate::eval::{self, Window, needle};
use crate::measure::CacheChoice;
use crate::report::table::{Detail, legend, machine_line, model_line, needle_table, table};
use crate::report::{NeedleRecord, Record, Run, Settings};

/// Tokens of a window where the model has room for them.
const DEFAULT_CONTEXT: usize = 2048;

/// Flags of `eval`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example: kvq eval --context 256 --windows 2 --policy 4x --policy 8bit --html eval.html"
)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Preset or .toml file, may be given several times.
    /// `6x` gives old keys 2 bits, which loses what lies far back.
    #[arg(long, value_name = "PRESET|FILE", default_value = "4x")]
    policy: Vec<String>,
    /// Tokens of a window [default: 2048, or what the model has room for].
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Text to read [default: one inside this program].
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Consecutive windows to score.
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = shared::at_least_one)]
    windows: usize,
    /// Windows of the text to leave out before the first.
    #[arg(long, value_name = "S", default_value_t = 0)]
    skip_windows: usize,
    /// Score as well as many windows whose end repeats a passage from more than half a window earlier.
    #[arg(long)]
    recall: bool,
    /// Ask as well for facts at five depths of the text, so many at each.
    #[arg(long, value_name = "N", value_parser = shared::at_least_one)]
    needle: Option<usize>,
    /// Write the record as one HTML page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// [`UsageError`], or a failure of the model, a cache or a file.
pub fn run(args: &Args) -> Result<()> {
    let policies = shared::policies(&args.policy)?;
    let session = args.common.start()?;
    let max_context = session.model().config().max_context;
    let context = args.context.unwrap_or(DEFAULT_CONTEXT.min(max_context));
    session.check_context(context, 0)?;
    usage!(
        !args.recall || context >= 16,
        "--context {context}: with --recall, allowed are 16 to {max_context}"
    );
    let text = text::read(args.text.as_deref(), &session)?;
    let too_short = |error: anyhow::Error| UsageError(format!("--windows {}: {error}", args.windows));
    let plain = eval::plain(&text.tokens, context, args.windows, args.skip_windows).map_err(too_short)?;
    let recall = if args.recall {
        eval::recall(&text.tokens, context, args.windows, args.skip_windows).map_err(too_short)?
    } else {
        Vec::new()
    };

    let needles = match args.needle {
        Some(n) => needle::trials(&session.loaded.tokenizer, &text.tokens, context, n)
            .map_err(|error| UsageError(format!("--needle {n}: {error}")))?,
        None => Vec::new(),
    };

    let caches = CacheChoice::dense_and(&policies, None);
    let bar =
        shared::progress("quality", (plain.len() + recall.len() + needles.len()) * context * caches.len());
    let begun = Instant::now();
    let score = |windows: &[Window]| {
        eval::run(session.model(), windows, &caches, session.backend, &mut |n| bar.inc(n as u64))
    };
    let plain_scores = score(&plain)?;
    let recall_scores = score(&recall)?;
    let found = caches.iter().map(|cache| {
        needle::retrieved(session.model(), &needles, cache, session.backend, &mut |n| bar.inc(n as u64))
    });
    let found: Vec<_> = found.collect::<Result<_>>()?;
    let eval_seconds = begun.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let settings = Settings {
        context_tokens: context,
        windows: Some(plain.len()),
        skip_windows: Some(args.skip_windows),
        recall_windows: Some(recall.len()),
        scored_tokens: Some(plain.iter().map(|window| window.scored.len()).sum()),
        eval_seconds: Some(eval_seconds),
        ..Settings::default()
    };
    let mut record = session.record("eval", &args.common, Some(text.record), settings, &policies);
    record.notes = record.model.weight_notes.clone();
    record.notes.extend(shared::recall_warnings(&policies));
    if record.model.random_weights {
        record.notes.push("the weights are random: these figures say nothing about a real model".into());
    }
    let per_token = session.model().config().kv_shape().fp16_bytes_per_token();
    record.runs = (0..caches.len())
        .map(|i| {
            let is_reference = caches[i] == CacheChoice::DenseF32;
            let mut run = Run::filled(&caches[i], &plain_scores[i].held, per_token)
                .with_quality(&plain_scores[i], is_reference)
                .with_recall(&recall_scores[i], is_reference);
            run.needle = args.needle.map(|trials| {
                let at = |(depth_pct, retrieved)| NeedleRecord { depth_pct, trials, retrieved };
                needle::DEPTHS_PCT.into_iter().zip(found[i]).map(at).collect()
            });
            run
        })
        .collect();
    if args.common.shows_text() {
        print!("{}", human(&record));
    }
    shared::write(&record, args.common.json.as_deref(), args.html.as_deref())
}

/// The record for people: what was measured, the table and its legend.
fn human(record: &Record) -> String {
    let settings = &record.settings;
    let windows = settings.windows.unwrap_or(0);
    let plural = if windows == 1 { "" } else { "s" };
    let text = record.text.as_ref().map_or("", |text| &text.name);
    let mut lines = vec![
        format!("Model    {}", model_line(record)),
        format!(
            "Quality  {} tokens of {text} scored in {windows} window{plural} of {}, teacher-forced",
            settings.scored_tokens.unwrap_or(0),
            settings.context_tokens
        ),
    ];
    if let Some(recall @ 1..) = settings.recall_windows {
        let plural = if recall == 1 { "" } else { "s" };
        lines.push(format!(
            "Recall   the last quarter of {recall} window{plural}, which repeats a passage of the first half"
        ));
    }
    lines.push(format!("Run      {:.1} s; {}", settings.eval_seconds.unwrap_or(0.0), machine_line(record)));
    lines.push(format!("\n{}", table(&record.runs, Detail::Full)));
    lines.push(legend(&record.runs, Detail::Full));
    let needles = needle_table(&record.runs);
    if !needles.is_empty() {
        lines.push(format!("\n{needles}Facts of four digits at depths of the text, asked for at its end."));
    }
    lines.extend(record.notes.iter().map(|note| format!("Note: {note}.")));
    lines.join("\n") + "\n"
}
