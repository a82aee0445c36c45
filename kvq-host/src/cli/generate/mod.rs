//! `generate`: continue prompts, or hold a conversation, with one cache each.

mod chat;
mod image;
mod sequence;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use kvq_tiny::{Sampler, demo};

use super::shared::{self, CommonArgs, Session, usage};
use crate::measure::CacheChoice;
use crate::model::GenerateOptions;
use crate::report::table::{bytes, rate};
use crate::report::{Settings, TextRecord};
use sequence::{Answer, Sequence};

/// Flags of `generate`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kvq generate --prompt 'Once upon a time' --policy 5x --new-tokens 40\n  \
                        kvq generate --chat --prompt 'Who are you?' --save-state talk.state"
)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Text to continue; given several times, each with a cache of its own. With --chat, a turn each.
    #[arg(long, value_name = "TEXT",
          required_unless_present_any = ["prompt_file", "image", "chat", "load_state"])]
    prompt: Vec<String>,
    /// File with the text to continue.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "chat"])]
    prompt_file: Option<PathBuf>,
    /// Hold a conversation on one cache: each --prompt is a turn, or else each line of standard input.
    #[arg(long)]
    chat: bool,
    /// Go on from a state file. A prompt that begins as the saved text does is read from where it parts from
    /// it; without a prompt the saved text itself goes on, and with --chat the saved conversation.
    #[arg(long, value_name = "FILE", conflicts_with = "dense")]
    load_state: Option<PathBuf>,
    /// Write a state file at the end, with --chat after each turn. An old one is replaced as a whole.
    #[arg(long, value_name = "FILE", conflicts_with = "dense")]
    save_state: Option<PathBuf>,
    /// Run this model image (`kvq export`) with the firmware's arithmetic and cache, to the bit; without a
    /// prompt it is the firmware's.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "policy", "dense", "context",
          "top_p", "backend", "threads", "json", "chat", "load_state", "save_state"])]
    image: Option<PathBuf>,
    /// Preset or .toml file.
    /// `6x` gives old keys 2 bits, which loses what lies far back.
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
    /// Sampling temperature; 0 takes the most likely token each time [default: 0, with --image the firmware's].
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    temperature: Option<f64>,
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

impl Args {
    /// What a prompt of `prompt_tokens` may be followed by.
    ///
    /// # Errors
    /// A prompt that leaves no room in the context.
    fn options(&self, prompt_tokens: usize, session: &Session) -> Result<GenerateOptions> {
        let max_context = session.model().config().max_context;
        let context = self.context.unwrap_or(max_context);
        usage!(
            prompt_tokens < max_context,
            "the prompt has {prompt_tokens} tokens, which leave no room in the model's {max_context} positions"
        );
        usage!(
            prompt_tokens < context && context <= max_context,
            "--context {context}: the prompt has {prompt_tokens} tokens and the model {max_context} positions; \
             allowed are {} to {max_context}",
            prompt_tokens + 1
        );
        Ok(GenerateOptions {
            max_new_tokens: self.new_tokens.min(context - prompt_tokens),
            temperature: self.temperature.filter(|t| *t > 0.0),
            top_p: (self.top_p < 1.0).then_some(self.top_p),
            seed: self.common.seed,
        })
    }
}

/// What there is to record.
struct Finished {
    prompt_name: String,
    /// Each prompt or turn, and what followed.
    answers: Vec<Answer>,
    prompts: Vec<String>,
    notes: Vec<String>,
}

impl Finished {
    fn new(prompt_name: &str) -> Self {
        Self { prompt_name: prompt_name.into(), answers: Vec::new(), prompts: Vec::new(), notes: Vec::new() }
    }

    fn add(&mut self, prompt: &str, answer: Answer) {
        self.prompts.push(prompt.to_owned());
        self.notes.push(format!("generation ended: {}", answer.stop.describe()));
        if answer.reused_tokens > 0 {
            let Answer { reused_tokens, prompt_tokens, .. } = answer;
            self.notes
                .push(format!("{reused_tokens} of {prompt_tokens} tokens of the prompt were in the cache"));
        }
        self.answers.push(answer);
    }
}

/// Runs the verb.
///
/// # Errors
/// [`UsageError`](shared::UsageError), or a failure of the model, the cache or a file.
pub fn run(args: &Args) -> Result<()> {
    let given = prompts(args)?;
    if let Some(image) = &args.image {
        usage!(given.len() <= 1, "--prompt: an image continues one");
        let temperature = args.temperature.map_or(demo::TEMPERATURE, |t| t as f32);
        let sampler = Sampler::new(args.common.seed, temperature);
        return image::run(image, given.first().map(|(_, text)| text.as_str()), args.new_tokens, sampler);
    }
    usage!(
        args.save_state.is_none() || args.chat || given.len() <= 1,
        "--save-state: a file holds one text, and there are {} prompts; allowed is 1, or --chat",
        given.len()
    );
    let cache = match args.dense {
        Some(Dense::F32) => CacheChoice::DenseF32,
        Some(Dense::F16) => CacheChoice::DenseF16,
        None => CacheChoice::Packed(shared::policies(std::slice::from_ref(&args.policy))?.remove(0)),
    };
    let session = args.common.start()?;
    let finished = if args.chat {
        chat::run(args, &session, &cache)?
    } else {
        continue_prompts(args, &session, &cache, given)?
    };
    let Some(target) = &args.common.json else { return Ok(()) };
    let prompt_tokens = finished.answers.iter().map(|answer| answer.prompt_tokens).max().unwrap_or(0);
    let settings = Settings {
        context_tokens: prompt_tokens,
        new_tokens: Some(args.new_tokens),
        temperature: args.temperature.filter(|t| *t > 0.0),
        top_p: (args.top_p < 1.0).then_some(args.top_p),
        ..Settings::default()
    };
    let text = TextRecord::new(&finished.prompt_name, &finished.prompts.join("\n"), prompt_tokens);
    let policies: Vec<_> = cache.policy().cloned().into_iter().collect();
    let mut record = session.record("generate", &args.common, Some(text), settings, &policies);
    record.notes = record.model.weight_notes.clone();
    record.notes.extend(finished.notes);
    record.runs = finished.answers.into_iter().map(|answer| answer.run).collect();
    record.write_json(target)
}

/// The prompts and what they are called in records.
fn prompts(args: &Args) -> Result<Vec<(String, String)>> {
    let Some(path) = &args.prompt_file else {
        return Ok(args.prompt.iter().map(|prompt| ("--prompt".to_owned(), prompt.clone())).collect());
    };
    let text = shared::read_text(path).with_context(|| format!("--prompt-file {}", path.display()))?;
    Ok(vec![(path.display().to_string(), text)])
}

/// Continues every prompt, or the text of the state where there is none.
fn continue_prompts(
    args: &Args,
    session: &Session,
    cache: &CacheChoice,
    mut given: Vec<(String, String)>,
) -> Result<Finished> {
    let tokenizer = &session.loaded.tokenizer;
    let shown = args.common.shows_text();
    let load = args.load_state.as_deref();
    let mut saved = None;
    if given.is_empty() {
        let sequence = Sequence::open(session, cache, load)?;
        given.push(("--load-state".into(), tokenizer.decode(sequence.tokens())?));
        saved = Some(sequence);
    }
    let mut finished = Finished::new(&given[0].0);
    for (_, prompt) in given {
        let (mut sequence, tokens) = match saved.take() {
            Some(sequence) => {
                let tokens = sequence.tokens().to_vec();
                (sequence, tokens)
            }
            None => (Sequence::open(session, cache, load)?, tokenizer.encode(&prompt, true)?),
        };
        usage!(
            !tokens.is_empty(),
            "{}: a text of {} characters has no token to continue; allowed is at least 1",
            finished.prompt_name,
            prompt.chars().count()
        );
        let options = args.options(tokens.len(), session)?;
        stream_to_stdout(shown, &prompt)?;
        let answer = sequence.generate(tokens, &options, |piece| stream_to_stdout(shown, piece))?;
        stream_to_stdout(shown, &format!("\n\n{}", summary(&answer)))?;
        if let Some(path) = &args.save_state {
            sequence.save(path)?;
        }
        finished.add(&prompt, answer);
    }
    Ok(finished)
}

/// Writes a piece of text at once, if people read standard output.
fn stream_to_stdout(shown: bool, piece: &str) -> Result<()> {
    if shown {
        print!("{piece}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn summary(answer: &Answer) -> String {
    let run = &answer.run;
    let new_tokens = run.new_token_ids.as_ref().map_or(0, Vec::len);
    let speed = run.decode_tokens_per_s.map_or_else(String::new, |x| format!(" at {} tokens/s", rate(x)));
    let reused = match answer.reused_tokens {
        0 => String::new(),
        n => format!(" ({n} of them in the cache)"),
    };
    format!(
        "[{new_tokens} tokens after {} of prompt{reused}{speed}; {}; cache {}: {} for {} tokens, {:.2}x smaller than \
         fp16]\n",
        answer.prompt_tokens,
        answer.stop.describe(),
        run.name,
        bytes(run.kv_bytes),
        run.context_tokens,
        run.compression_vs_fp16
    )
}
