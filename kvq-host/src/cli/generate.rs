//! `generate`: continue a prompt with one cache.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::generate_image;
use super::shared::{self, CommonArgs, Session, UsageError, usage};
use crate::measure::CacheChoice;
use crate::model::{GenerateOptions, Generator, StopReason};
use crate::report::table::{bytes, rate};
use crate::report::{Run, Settings, TextRecord, peak_rss_bytes};

/// Flags of `generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Text to continue.
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["prompt_file", "image"])]
    prompt: Option<String>,
    /// File with the text to continue.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Run this model image (`kvq export`) with the firmware's arithmetic and cache, to the bit; without a
    /// prompt it is the firmware's.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "policy", "dense", "context", "temperature",
          "top_p", "backend", "threads", "json"])]
    image: Option<PathBuf>,
    /// Preset or .toml file.
    #[arg(long, value_name = "PRESET|FILE", default_value = "4x")]
    policy: String,
    /// Keep the cache dense, in this format, instead of packed.
    #[arg(long, value_enum, conflicts_with = "policy")]
    dense: Option<Dense>,
    /// Most tokens of prompt and new text together [default: the model's longest].
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens to generate at most.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = shared::at_least_one)]
    new_tokens: usize,
    /// Sampling temperature; 0 takes the most likely token each time.
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature,
          allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the most likely tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = top_p)]
    top_p: f64,
}

/// Formats of a dense cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dense {
    /// Four bytes per value.
    F32,
    /// Two bytes per value.
    F16,
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(t) if (0.0..=10.0).contains(&t) => Ok(t),
        _ => Err("allowed are 0 to 10".into()),
    }
}

fn top_p(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err("allowed are numbers above 0, up to 1".into()),
    }
}

/// Runs the verb.
///
/// # Errors
/// [`UsageError`], or a failure of the model, the cache or a file.
pub fn run(args: &Args) -> Result<()> {
    let given = prompt(args)?;
    if let Some(image) = &args.image {
        return generate_image::run(image, given.as_ref().map(|(_, text)| text.as_str()), args.new_tokens);
    }
    let cache = match args.dense {
        Some(Dense::F32) => CacheChoice::DenseF32,
        Some(Dense::F16) => CacheChoice::DenseF16,
        None => CacheChoice::Packed(shared::policies(std::slice::from_ref(&args.policy))?.remove(0)),
    };
    let Some((prompt_name, prompt)) = given else {
        return Err(UsageError("--prompt or --prompt-file is needed".into()).into());
    };
    let session = args.common.start()?;
    let tokens = session.loaded.tokenizer.encode(&prompt, true)?;
    usage!(!tokens.is_empty(), "--prompt: no token to continue");
    let max_context = session.model().config().max_context;
    let context = args.context.unwrap_or(max_context);
    usage!(
        tokens.len() < context && context <= max_context,
        "--context {context}: the prompt has {} tokens and the model {max_context} positions; allowed are {} to \
         {max_context}",
        tokens.len(),
        tokens.len() + 1
    );
    let options = GenerateOptions {
        max_new_tokens: args.new_tokens.min(context - tokens.len()),
        temperature: (args.temperature > 0.0).then_some(args.temperature),
        top_p: (args.top_p < 1.0).then_some(args.top_p),
        seed: args.common.seed,
    };
    let shown = args.common.shows_text();
    if shown {
        print!("{prompt}");
    }
    let (run, stop) = generate(&session, &cache, &tokens, &options, shown)?;
    if shown {
        print!("\n\n{}", summary(&run, &tokens, stop));
    }
    let Some(target) = &args.common.json else { return Ok(()) };
    let settings = Settings {
        context_tokens: tokens.len(),
        new_tokens: Some(args.new_tokens),
        temperature: options.temperature,
        top_p: options.top_p,
        ..Settings::default()
    };
    let text = TextRecord::new(&prompt_name, &prompt, tokens.len());
    let policies: Vec<_> = cache.policy().cloned().into_iter().collect();
    let mut record = session.record("generate", &args.common, Some(text), settings, &policies);
    record.notes = record.model.weight_notes.clone();
    record.notes.push(format!("generation ended: {}", stop.describe()));
    record.runs = vec![run];
    record.write_json(target)
}

/// The prompt and what it is called in records, if there is one.
fn prompt(args: &Args) -> Result<Option<(String, String)>> {
    Ok(match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => Some(("--prompt".to_owned(), prompt.clone())),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("--prompt-file {}: cannot read the file", path.display()))?;
            Some((path.display().to_string(), text))
        }
        (None, None) => None,
    })
}

/// Generates, and writes the text to standard output as it comes if it is `shown`.
fn generate(
    session: &Session,
    cache: &CacheChoice,
    prompt: &[u32],
    options: &GenerateOptions,
    shown: bool,
) -> Result<(Run, StopReason)> {
    let (model, tokenizer) = (session.model(), &session.loaded.tokenizer);
    let shape = model.config().kv_shape();
    let mut store = cache.open(shape, session.backend)?;
    let begun = Instant::now();
    let mut generator = Generator::new(model, &mut *store, prompt, tokenizer.eos_ids(), options)?;
    let prefill = begun.elapsed();
    let mut stream = tokenizer.stream();
    let (mut new_tokens, mut new_text) = (Vec::new(), String::new());
    let begun = Instant::now();
    let mut show = |piece: &str| -> Result<()> {
        new_text.push_str(piece);
        if shown && !piece.is_empty() {
            print!("{piece}");
            std::io::stdout().flush()?;
        }
        Ok(())
    };
    while let Some(token) = generator.next().transpose()? {
        new_tokens.push(token);
        show(&stream.push(token)?)?;
    }
    let decode = begun.elapsed();
    show(&stream.finish()?)?;
    let stop = generator.stop().unwrap_or(StopReason::MaxTokens);
    let mut run = Run::new(cache, store.memory(), store.len(), shape.fp16_bytes_per_token());
    run.prefill_tokens_per_s = Some(prompt.len() as f64 / prefill.as_secs_f64());
    // The first new token comes from the prompt's logits: it took no step.
    let steps = store.len() - prompt.len();
    run.decode_tokens_per_s = (steps > 0).then(|| steps as f64 / decode.as_secs_f64());
    run.peak_rss_bytes = peak_rss_bytes();
    run.new_token_ids = Some(new_tokens);
    run.new_text = Some(new_text);
    Ok((run, stop))
}

fn summary(run: &Run, prompt: &[u32], stop: StopReason) -> String {
    let new_tokens = run.new_token_ids.as_ref().map_or(0, Vec::len);
    let speed = run.decode_tokens_per_s.map_or_else(String::new, |x| format!(" at {} tokens/s", rate(x)));
    format!(
        "[{new_tokens} tokens after {} of prompt{speed}; {}; cache {}: {} for {} tokens, {:.2}x smaller than fp16]\n",
        prompt.len(),
        stop.describe(),
        run.name,
        bytes(run.kv_bytes),
        run.context_tokens,
        run.compression_vs_fp16
    )
}
