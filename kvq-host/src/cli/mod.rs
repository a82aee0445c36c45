//! The command line: one verb per file, and what verbs share.
//!
//! Exit codes: 0 for success, 1 for a failure, 2 for a command line that asks for what is not allowed.

mod bench;
mod budget;
mod eval;
mod export;
mod generate;
mod inspect;
mod models;
mod plan;
mod report;
mod shared;
mod synth;
mod text;
mod tune;
mod validate;

use anyhow::Result;
use clap::{Parser, Subcommand};

pub use shared::UsageError;

/// KV cache quantization for language models: measure it, read what it writes.
///
/// Without a verb, `kvq` runs `bench` on the model that is built in.
#[derive(Debug, Parser)]
#[command(name = "kvq", version, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Exit codes: 0 success; 1 failure, or a line of `validate` that failed; 2 a command line \
                        that asks for what is not allowed."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    bench: bench::Args,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bytes, speed and quality of caches side by side.
    Bench(bench::Args),
    /// Continue a prompt with one cache.
    Generate(generate::Args),
    /// Write a model image for the firmware.
    Export(export::Args),
    /// Quality of caches on a text, against the dense f32 cache.
    Eval(eval::Args),
    /// Check bytes, quality, speed, memory and integration against limits.
    Validate(validate::Args),
    /// Search a policy for a number of bits per value.
    Tune(tune::Args),
    /// Bytes and attention error on synthetic keys and values.
    Synth(synth::Args),
    /// Tokens that a budget of bytes holds, bytes that a context needs.
    Plan(plan::Args),
    /// What a file is and holds: snapshots, model images, weights.
    Inspect(inspect::Args),
    /// Known models, and which of them are here.
    Models(models::Args),
    /// Compare records that bench and eval wrote.
    Report(report::Args),
}

impl Cli {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`UsageError`] for what a command line may not ask for; anything else is a failure.
    pub fn run(&self) -> Result<()> {
        // In a thread of rayon's pool, which takes part in what it shares out; any other thread sleeps until the pool is done,
        // and being woken takes longer than many a product does.
        rayon::scope(|_| self.run_verb())
    }

    fn run_verb(&self) -> Result<()> {
        match &self.verb {
            None => bench::run(&self.bench),
            Some(Verb::Bench(args)) => bench::run(args),
            Some(Verb::Generate(args)) => generate::run(args),
            Some(Verb::Export(args)) => export::run(args),
            Some(Verb::Eval(args)) => eval::run(args),
            Some(Verb::Validate(args)) => validate::run(args),
            Some(Verb::Tune(args)) => tune::run(args),
            Some(Verb::Synth(args)) => synth::run(args),
            Some(Verb::Plan(args)) => plan::run(args),
            Some(Verb::Inspect(args)) => inspect::run(args),
            Some(Verb::Models(args)) => models::run(args),
            Some(Verb::Report(args)) => report::run(args),
        }
    }
}
