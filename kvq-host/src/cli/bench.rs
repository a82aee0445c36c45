//! `bench`: bytes, speed and quality of caches side by side, on the same prompt.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::budget::{self, WhenFullChoice};
use super::shared::{self, CommonArgs, Session, UsageError, usage};
use super::text::{self, Text};
use crate::eval::{self, Scored, WindowScore};
use crate::kv_store::fixed::STRUCT_BYTES;
use crate::measure::{self, CacheChoice, Measured, SpeedOptions};
use crate::model::registry::BUILTIN;
use crate::plan;
use crate::policy::{NamedPolicy, preset_names};
use crate::report::table::{Detail, bytes, legend, machine_line, model_line, quarter_table, table};
use crate::report::{Record, Run, Settings};

/// Prompt length where the model has room for it; the ratio presets promise their ratio from here on.
const DEFAULT_CONTEXT: usize = 1024;

/// Prompt length of the older system's published figures.
const RANDOM_CONTEXT: usize = 272;

/// What the older system published for the shape of distilgpt2, and how to read it.
const OLDER_SYSTEM: &str = "the older system published 9.56 MiB -> 2.39 MiB for this shape at 272 tokens, at 0.76x \
    to 0.92x of its own uncompressed speed; those were fp32 bytes against 8-bit codes without their scales, \
    which is 2.00x against fp16";

/// Flags of `bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kvq bench --context 256,512 --policy 4x --policy 8bit --html bench.html\n  \
                        kvq bench --context 900 --budget-mib 0.375"
)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Preset or .toml file, may be given several times [default: every preset].
    /// `6x` gives old keys 2 bits, which loses what lies far back.
    #[arg(long, value_name = "PRESET|FILE")]
    policy: Vec<String>,
    /// Tokens of the prompt; several, with commas between, are measured one after the other [default: 1024, or
    /// what the model has room for].
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    context: Vec<usize>,
    /// Tokens decoded behind the prompt.
    #[arg(long, value_name = "M", default_value_t = 64, value_parser = shared::at_least_one)]
    new_tokens: usize,
    /// Text to read [default: one inside this program].
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Rounds of the speed measurement.
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = shared::at_least_one)]
    rounds: usize,
    /// Windows of the prompt's length to score for quality, 0 for none [default: 4 for the built-in model, 1
    /// for others].
    #[arg(long, value_name = "W")]
    windows: Option<usize>,
    /// Score recall of old passages as well.
    #[arg(long)]
    recall: bool,
    /// Random weights in the shape of a known model: bytes and speed only.
    #[arg(long, value_name = "SHAPE", value_parser = ["distilgpt2"],
          conflicts_with_all = ["model", "text", "windows", "recall"])]
    shape: Option<String>,
    /// Give each packed cache so many MiB at the start and no byte more; policies then have no ratio
    /// [default policy: 6x, whose ladder goes furthest].
    #[arg(long, value_name = "MIB", value_parser = budget::mib)]
    budget_mib: Option<f64>,
    /// What those caches do when the bytes are used up.
    #[arg(long, value_enum, default_value_t = WhenFullChoice::Demote, requires = "budget_mib")]
    when_full: WhenFullChoice,
    /// Write the record as one HTML page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Quality scores per cache, and what they took.
#[derive(Default)]
struct QualityScores {
    plain: Vec<Scored>,
    recall: Vec<Scored>,
}

/// Runs the verb.
///
/// # Errors
/// [`UsageError`](super::UsageError), or a failure of the model, a cache or a file.
pub fn run(args: &Args) -> Result<()> {
    let defaults = || match args.budget_mib {
        Some(_) => vec!["6x".to_owned()],
        None => preset_names().map(str::to_owned).collect(),
    };
    let mut policies =
        shared::policies(&if args.policy.is_empty() { defaults() } else { args.policy.clone() })?;
    let mut common = args.common.clone();
    if let Some(shape) = &args.shape {
        common.model = format!("random:{shape}");
    }
    let session = common.start()?;
    let random = session.loaded.info.random_weights;
    let max_context = session.model().config().max_context;
    let default = if random { RANDOM_CONTEXT } else { DEFAULT_CONTEXT };
    let fitting = default.min(max_context.saturating_sub(args.new_tokens));
    let contexts = if args.context.is_empty() { vec![fitting] } else { args.context.clone() };
    for (i, &context) in contexts.iter().enumerate() {
        session.check_context(context, args.new_tokens)?;
        usage!(!contexts[..i].contains(&context), "--context {context}: given twice");
    }
    let longest = contexts.iter().copied().max().unwrap_or(fitting);

    let budget_bytes = args.budget_mib.map(|mib| (mib * 1_048_576.0) as usize);
    if let Some(bytes) = budget_bytes {
        policies = policies.iter().map(|named| args.when_full.within_bytes(named)).collect();
        for named in &policies {
            check_budget(args, &session, named, bytes, longest + args.new_tokens)?;
        }
    }

    let text = if random { None } else { Some(text::read(args.text.as_deref(), &session)?) };
    let tokens = match &text {
        Some(text) => text.tokens.clone(),
        None => random_tokens(longest, session.model().config().vocab_size, args.common.seed),
    };
    usage!(
        tokens.len() >= longest,
        "--context {longest}: the text has {} tokens; give a longer one with --text",
        tokens.len()
    );
    let n_windows = windows(args, &session, longest, tokens.len())?;
    let n_recall = if args.recall { n_windows.max(1) } else { 0 };

    let caches = CacheChoice::dense_and(&policies, budget_bytes);
    let (mut found, mut scored_tokens, mut eval_time) = (Vec::new(), 0, Duration::ZERO);
    for &context in &contexts {
        let speed = measure_speed(args, &session, &caches, &tokens[..context])?;
        let begun = Instant::now();
        let scores = measure_quality(&session, &caches, &tokens, context, n_windows, n_recall)?;
        eval_time += begun.elapsed();
        scored_tokens += scores.plain[0].windows.iter().map(WindowScore::positions).sum::<usize>();
        found.extend(runs(&session, &caches, &speed, &scores, args.new_tokens)?);
    }
    let settings = Settings {
        context_tokens: longest,
        new_tokens: Some(args.new_tokens),
        rounds: Some(args.rounds),
        budget_bytes,
        windows: Some(n_windows),
        skip_windows: Some(0),
        recall_windows: Some(n_recall),
        scored_tokens: Some(scored_tokens),
        eval_seconds: (n_windows + n_recall > 0).then_some(eval_time.as_secs_f64()),
        ..Settings::default()
    };
    let mut record =
        session.record("bench", &common, text.as_ref().map(|text| text.record.clone()), settings, &policies);
    record.notes = notes(&record, &contexts, &policies);
    record.runs = found;
    if common.shows_text() {
        print!("{}", human(&record, &contexts, text.as_ref(), &session)?);
    }
    shared::write(&record, common.json.as_deref(), args.html.as_deref())
}

/// Refuses a budget that the policy cannot hold `tokens` in.
fn check_budget(
    args: &Args,
    session: &Session,
    named: &NamedPolicy,
    budget_bytes: usize,
    tokens: usize,
) -> Result<()> {
    let mib = args.budget_mib.unwrap_or(0.0);
    let shape = session.model().config().kv_shape();
    let capacity = plan::capacity(shape, named.policy, budget_bytes.saturating_sub(STRUCT_BYTES))
        .map_err(|error| UsageError(format!("--budget-mib {mib}: {error}")))?;
    usage!(
        capacity >= tokens || args.when_full == WhenFullChoice::Evict,
        "--budget-mib {mib}: {} holds {capacity} tokens in it, and {tokens} are asked for; allowed are {:.3} and \
         more, or --when-full evict",
        named.name,
        (plan::least_bytes(shape, named.policy, tokens)? + STRUCT_BYTES) as f64 / 1_048_576.0 + 0.0005
    );
    Ok(())
}

/// Windows to score: none of random tokens, and by default no more than the text has.
fn windows(args: &Args, session: &Session, context: usize, text_tokens: usize) -> Result<usize> {
    if session.loaded.info.random_weights {
        return Ok(0);
    }
    let fitting = text_tokens / context;
    let Some(wanted) = args.windows else {
        let default = if session.loaded.info.name == BUILTIN { 4 } else { 1 };
        return Ok(fitting.min(default));
    };
    usage!(
        wanted <= fitting,
        "--windows {wanted}: the text has {text_tokens} tokens; allowed are 0 to {fitting} windows of {context}"
    );
    Ok(wanted)
}

fn measure_speed(
    args: &Args,
    session: &Session,
    caches: &[CacheChoice],
    prompt: &[u32],
) -> Result<Vec<Measured>> {
    let options = SpeedOptions { new_tokens: args.new_tokens, rounds: args.rounds, backend: session.backend };
    let bar = shared::progress("speed", args.rounds * caches.len() * (prompt.len() + args.new_tokens));
    let found = measure::run(session.model(), prompt, caches, &options, &mut |n| bar.inc(n as u64))?;
    bar.finish_and_clear();
    Ok(found)
}

fn measure_quality(
    session: &Session,
    caches: &[CacheChoice],
    tokens: &[u32],
    context: usize,
    n_windows: usize,
    n_recall: usize,
) -> Result<QualityScores> {
    let bar = shared::progress("quality", (n_windows + n_recall) * caches.len() * context);
    let score = |windows: &[eval::Window]| {
        eval::run(session.model(), windows, caches, session.backend, &mut |n| bar.inc(n as u64))
    };
    let plain = score(&eval::plain(tokens, context, n_windows, 0)?)?;
    let recall = score(&if n_recall > 0 { eval::recall(tokens, context, n_recall, 0)? } else { Vec::new() })?;
    bar.finish_and_clear();
    Ok(QualityScores { plain, recall })
}

fn runs(
    session: &Session,
    caches: &[CacheChoice],
    speed: &[Measured],
    scores: &QualityScores,
    new_tokens: usize,
) -> Result<Vec<Run>> {
    let per_token = session.model().config().kv_shape().fp16_bytes_per_token();
    // The dense caches come first: see `CacheChoice::dense_and`.
    let (f32, f16) = (&speed[0], &speed[1]);
    let run = |i: usize| -> Result<Run> {
        let (cache, own) = (&caches[i], &speed[i]);
        let is_reference = *cache == CacheChoice::DenseF32;
        let mut run = Run::filled(cache, &own.held, per_token)
            .with_speed(own, f32, f16, new_tokens)
            .with_quality(&scores.plain[i], is_reference)
            .with_recall(&scores.recall[i], is_reference);
        if !session.loaded.info.random_weights {
            run.new_text = Some(session.loaded.tokenizer.decode(&own.continuation)?);
        }
        run.new_token_ids = Some(own.continuation.clone());
        Ok(run)
    };
    (0..caches.len()).map(run).collect()
}

fn notes(record: &Record, contexts: &[usize], policies: &[NamedPolicy]) -> Vec<String> {
    let mut notes = record.model.weight_notes.clone();
    notes.extend(shared::recall_warnings(policies));
    let ratio = |policy: &NamedPolicy| matches!(policy.policy.budget, kvq_codec::Budget::Compression(_));
    let shortest = contexts.iter().copied().min().unwrap_or(DEFAULT_CONTEXT);
    if shortest < DEFAULT_CONTEXT && policies.iter().any(ratio) {
        notes.push(format!(
            "presets with a ratio hold it from {DEFAULT_CONTEXT} tokens on; {shortest} are fewer, of which the \
             8-bit window of the newest tokens is a larger share"
        ));
    }
    if record.model.random_weights {
        notes.push(OLDER_SYSTEM.into());
    }
    notes
}

/// Token ids without meaning, from the seed (SplitMix64).
fn random_tokens(n: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..n).map(|_| (next() % vocab_size as u64) as u32).collect()
}

/// The record for people: what was measured, the table, its legend, and what each cache wrote.
fn human(record: &Record, contexts: &[usize], text: Option<&Text>, session: &Session) -> Result<String> {
    let settings = &record.settings;
    let (longest, new_tokens) = (settings.context_tokens, settings.new_tokens.unwrap_or(0));
    let context = contexts.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let source = text.map_or("random token ids".to_owned(), |text| text.record.name.clone());
    let mut lines = vec![
        format!("Model    {}", model_line(record)),
        format!("Prompt   {context} tokens of {source}, then {new_tokens} tokens decoded at that depth"),
        format!(
            "Speed    median of {} rounds, caches in turns; {}",
            settings.rounds.unwrap_or(0),
            machine_line(record)
        ),
    ];
    let fp16_bytes = longest * record.model.kv_fp16_bytes_per_token;
    lines.push(format!(
        "Baseline {}: the values of {longest} tokens in fp16, nothing else",
        bytes(fp16_bytes)
    ));
    if let (Some(windows @ 1..), Some(scored)) = (settings.windows, settings.scored_tokens) {
        lines.push(format!(
            "Quality  {scored} tokens scored in {windows} windows of {context}, teacher-forced"
        ));
    }
    if let Some(budget) = settings.budget_bytes {
        let when_full = record.policies.first().map_or("", |policy| &policy.when_full);
        lines.push(format!("Budget   {} for each packed cache, when full: {when_full}", bytes(budget)));
    }
    lines.push(String::new());
    lines.push(table(&record.runs, Detail::Brief));
    lines.push(legend(&record.runs, Detail::Brief));
    if settings.budget_bytes.is_some() {
        lines.push(format!("\n{}", quarter_table(&record.runs)));
        lines.push("Tiers: tokens at so many bits, keys / values, oldest first.".into());
    }
    lines.extend(record.notes.iter().map(|note| format!("Note: {note}.")));
    if let Some(text) = text {
        let end = session.loaded.tokenizer.decode(&text.tokens[longest.saturating_sub(40)..longest])?;
        lines.push(format!(
            "\nWhat each cache writes next (the most likely token each time), after\n  ...{}",
            one_line(&end)
        ));
        let runs = || record.runs.iter().filter(|run| run.context_tokens == longest);
        let reference = runs().next().and_then(|run| run.new_token_ids.as_ref());
        for run in runs() {
            let same = run.name != "dense-f32" && run.new_token_ids.as_ref() == reference;
            let same = if same { ": the same tokens as dense-f32" } else { "" };
            lines.push(format!("{}{same}\n  {}", run.name, one_line(run.new_text.as_deref().unwrap_or(""))));
        }
    }
    Ok(lines.join("\n") + "\n")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_repeat_with_the_seed_and_stay_in_the_vocabulary() {
        let tokens = random_tokens(100, 50, 7);
        assert_eq!(tokens, random_tokens(100, 50, 7));
        assert_ne!(tokens, random_tokens(100, 50, 8));
        assert!(tokens.iter().all(|&token| token < 50));
    }
}
