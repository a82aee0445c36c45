//! A checklist from end to end: synthetic bytes, a real model, speed, memory, quality, integration.
//!
//! Each line has a figure and a limit. A line that cannot be measured has failed.

mod integration;
mod line;

use anyhow::{Context, Result};
use kvq_codec::{Backend, Budget, COMPRESSION_FROM_TOKENS};

use crate::eval::{self, Quality};
use crate::kv_store::KvStore;
use crate::measure::{self, CacheChoice, SpeedOptions};
use crate::model::{GenerateOptions, LanguageModel, generate};
use crate::policy::NamedPolicy;
use crate::report::peak_rss_bytes;
use crate::synth::{self, WORKLOADS};
pub use line::{Limit, Line};

/// What lines are held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most attention error on synthetic workloads.
    pub max_attention_error: f64,
    /// Least compression of the real run against fp16; none for the policy's own ratio.
    pub min_compression: Option<f64>,
    /// Least decode speed against the dense f16 cache.
    pub min_speed: f64,
    /// Most resident memory of the process, MiB.
    pub max_rss_mib: f64,
    /// Most mean KL divergence, nats.
    pub max_kld: f64,
    /// Most change of perplexity in either direction, percent.
    pub max_perplexity_pct: f64,
    /// Least agreement of the most likely token, percent.
    pub min_top1_pct: f64,
}

/// What is validated.
pub struct Subject<'a> {
    /// The model.
    pub model: &'a dyn LanguageModel,
    /// A text in its tokens.
    pub tokens: &'a [u32],
    /// The policy.
    pub policy: &'a NamedPolicy,
    /// Kernels.
    pub backend: Backend,
    /// Seed of the synthetic values.
    pub seed: u64,
    /// Tokens of the scored window; of the speed's prompt and new tokens together.
    pub context: usize,
    /// Tokens decoded.
    pub new_tokens: usize,
    /// Rounds of the speed measurement.
    pub rounds: usize,
}

/// Runs every check; `on_line` hears each line as it is known.
pub fn run(subject: &Subject<'_>, limits: &Limits, on_line: &mut dyn FnMut(&Line)) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut put = |new: Result<Vec<Line>>, name: &'static str| {
        let new = new.unwrap_or_else(|error| vec![Line::broken(name, &error)]);
        new.iter().for_each(&mut *on_line);
        lines.extend(new);
    };
    put(synthetic(subject, limits), "synthetic workloads");
    put(repeats(subject), "real model");
    put(quality(subject, limits), "quality");
    put(speed(subject, limits), "speed");
    put(integration::snapshot(subject), "snapshot");
    put(integration::rollback(subject), "rollback");
    put(memory(limits), "peak resident memory");
    lines
}

/// The ratio that a policy promises from [`COMPRESSION_FROM_TOKENS`] on.
fn ratio(policy: &NamedPolicy) -> Option<f64> {
    match policy.policy.budget {
        Budget::Compression(hundredths) => Some(f64::from(hundredths) / 100.0),
        Budget::Bytes => None,
    }
}

fn synthetic(subject: &Subject<'_>, limits: &Limits) -> Result<Vec<Line>> {
    let (mut least, mut worst, mut parts_differ) = (f64::INFINITY, 0.0f64, 0usize);
    for workload in &WORKLOADS {
        let found =
            synth::run(workload, std::slice::from_ref(subject.policy), subject.backend, subject.seed)?;
        let packed = found.last().context("no packed run")?;
        worst = worst.max(packed.attention_error);
        let held = packed.held.last().context("nothing held")?;
        let fp16 = (held.tokens * workload.shape.fp16_bytes_per_token()) as f64;
        if !workload.is_fixed {
            least = least.min(fp16 / held.bytes.total() as f64);
        }
        let CacheChoice::Fixed(_, budget) = packed.cache else { continue };
        parts_differ += packed.held.iter().filter(|held| held.bytes.total() != budget).count();
    }
    let mut lines = vec![Line::new(
        "synthetic fixed buffer",
        parts_differ as f64,
        "lengths off budget",
        Limit::AtMost(0.0),
    )];
    if let Some(ratio) = ratio(subject.policy) {
        lines.push(Line::new("synthetic bytes", least, "x vs fp16", Limit::AtLeast(ratio)));
    }
    lines.push(Line::new(
        "synthetic error",
        worst,
        "of attention",
        Limit::AtMost(limits.max_attention_error),
    ));
    Ok(lines)
}

/// The same prompt twice gives the same tokens.
fn repeats(subject: &Subject<'_>) -> Result<Vec<Line>> {
    let prompt = &subject.tokens[..subject.context / 2];
    let run = || {
        let cache = CacheChoice::Packed(subject.policy.clone());
        let mut store = cache.open(subject.model.config().kv_shape(), subject.backend)?;
        let options = GenerateOptions::greedy(subject.new_tokens);
        generate(subject.model, &mut *store, prompt, &[], &options, |_| Ok(true))
    };
    let (first, second) = (run()?.tokens, run()?.tokens);
    let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    Ok(vec![Line::new(
        "real model",
        same as f64,
        "tokens repeated",
        Limit::AtLeast(subject.new_tokens as f64),
    )])
}

fn quality(subject: &Subject<'_>, limits: &Limits) -> Result<Vec<Line>> {
    let windows = eval::plain(subject.tokens, subject.context, 1, 0)?;
    let caches = [CacheChoice::DenseF32, CacheChoice::Packed(subject.policy.clone())];
    let scored = eval::run(subject.model, &windows, &caches, subject.backend, &mut |_| ())?;
    let quality = Quality::of(&scored[1].windows).context("nothing was scored")?;
    let held = scored[1].held.last().context("nothing held")?;
    let fp16 = held.tokens * subject.model.config().kv_shape().fp16_bytes_per_token();
    let compression = fp16 as f64 / held.bytes.total() as f64;
    let promised = ratio(subject.policy).filter(|_| held.tokens >= COMPRESSION_FROM_TOKENS);
    // In a shorter context nothing is promised but to be smaller than fp16.
    let least = limits.min_compression.or(promised).unwrap_or(1.0);
    Ok(vec![
        Line::new("bytes of the real run", compression, "x vs fp16", Limit::AtLeast(least)),
        Line::new("KL divergence", quality.kld_mean.value, "nats", Limit::AtMost(limits.max_kld)),
        Line::new(
            "perplexity change",
            quality.perplexity_delta_pct.value.abs(),
            "%",
            Limit::AtMost(limits.max_perplexity_pct),
        ),
        Line::new(
            "same top token",
            quality.top1_agreement_pct.value,
            "%",
            Limit::AtLeast(limits.min_top1_pct),
        ),
    ])
}

fn speed(subject: &Subject<'_>, limits: &Limits) -> Result<Vec<Line>> {
    let caches = [CacheChoice::DenseF16, CacheChoice::Packed(subject.policy.clone())];
    let options =
        SpeedOptions { new_tokens: subject.new_tokens, rounds: subject.rounds, backend: subject.backend };
    let prompt = &subject.tokens[..subject.context - subject.new_tokens];
    let measured = measure::run(subject.model, prompt, &caches, &options, &mut |_| ())?;
    let speed = measured[1].decode_speed_vs(&measured[0]).context("nothing was measured")?;
    Ok(vec![Line::new("decode speed", speed, "x dense f16", Limit::AtLeast(limits.min_speed))])
}

fn memory(limits: &Limits) -> Result<Vec<Line>> {
    let peak = peak_rss_bytes().context("this system does not tell")?;
    let mib = peak as f64 / 1_048_576.0;
    Ok(vec![Line::new("peak resident memory", mib, "MiB", Limit::AtMost(limits.max_rss_mib))])
}

/// The tokens of a store as a model sees them next: shared by the checks of integration.
fn open(subject: &Subject<'_>) -> Result<Box<dyn KvStore>> {
    CacheChoice::Packed(subject.policy.clone()).open(subject.model.config().kv_shape(), subject.backend)
}
