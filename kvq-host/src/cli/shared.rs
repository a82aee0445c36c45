//! Flags and steps that verbs share.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use kvq_codec::Backend;

use crate::model::{LanguageModel, LoadedModel};
use crate::policy::{self, NamedPolicy};
use crate::report::collection::Collection;
use crate::report::{
    Machine, ModelRecord, PolicyRecord, Record, SCHEMA_VERSION, Settings, TextRecord, html, peak_rss_bytes,
};
use crate::threads;

/// A command line that asks for what is not allowed: exit code 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Ends the verb with a [`UsageError`] unless the condition holds.
macro_rules! usage {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::cli::UsageError(format!($($message)+)).into());
        }
    };
}
pub(super) use usage;

/// Flags of every verb that runs a model.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonArgs {
    /// Model: `builtin`, a known name, a folder or .gguf file, or organisation/name on the hub.
    #[arg(long, value_name = "NAME|PATH", default_value = "builtin")]
    pub model: String,
    /// Threads of model and caches [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads_in_range)]
    pub threads: Option<usize>,
    /// Seed of everything random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Kernels of the caches, packed and dense.
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// Write the record as JSON to this file, or to standard output for `-`.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<String>,
}

/// Which kernels the caches run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    /// The fastest of this machine.
    Auto,
    /// Portable code.
    Scalar,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 with VNNI, VBMI and GFNI.
    Avx512,
    /// NEON.
    Neon,
}

impl BackendChoice {
    /// The kernels.
    ///
    /// # Errors
    /// [`UsageError`] for kernels that this machine has not.
    pub fn backend(self) -> Result<Backend> {
        let name = match self {
            Self::Auto => return Ok(Backend::detect()),
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        };
        Backend::available().find(|backend| backend.name() == name).ok_or_else(|| {
            let names: Vec<_> = Backend::available().map(Backend::name).collect();
            UsageError(format!("--backend {name}: this machine has {}", names.join(", "))).into()
        })
    }
}

fn threads_in_range(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("allowed are 1 to 1024".into()),
    }
}

/// A count of at least 1.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("allowed are whole numbers from 1".into()),
    }
}

/// What every verb has before its own work begins.
pub struct Session {
    /// The model.
    pub loaded: LoadedModel,
    /// Threads in every pool.
    pub threads: usize,
    /// Kernels of the caches, packed and dense.
    pub backend: Backend,
}

impl CommonArgs {
    /// Sets the threads up, chooses the kernels and loads the model. Policies are loaded before, so that a
    /// wrong name is told at once.
    ///
    /// # Errors
    /// Kernels that this machine has not, or a model that cannot be loaded.
    pub fn start(&self) -> Result<Session> {
        let threads = threads::apply(self.threads)?;
        let backend = self.backend.backend()?;
        let loaded = crate::model::load(&self.model, self.seed)?;
        Ok(Session { loaded, threads, backend })
    }

    /// Whether people read standard output: not when the record goes there.
    pub fn shows_text(&self) -> bool {
        self.json.as_deref() != Some("-")
    }
}

impl Session {
    /// The model.
    pub fn model(&self) -> &dyn LanguageModel {
        &*self.loaded.model
    }

    /// A record with everything but notes and runs.
    pub fn record(
        &self,
        verb: &'static str,
        args: &CommonArgs,
        text: Option<TextRecord>,
        settings: Settings,
        policies: &[NamedPolicy],
    ) -> Record {
        Record {
            schema_version: SCHEMA_VERSION,
            kvq_version: env!("CARGO_PKG_VERSION").into(),
            git_revision: Record::built_from().map(str::to_owned),
            verb: verb.into(),
            command_line: std::env::args().collect(),
            machine: Machine::here(),
            threads: self.threads,
            backend: self.backend.name().into(),
            seed: args.seed,
            model: ModelRecord::new(&self.loaded.info, self.model()),
            text,
            settings,
            policies: policies.iter().map(PolicyRecord::from).collect(),
            peak_rss_bytes: peak_rss_bytes(),
            notes: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Refuses a context that the model has no positions for.
    pub fn check_context(&self, context: usize, new_tokens: usize) -> Result<()> {
        let max = self.model().config().max_context;
        let room = max.saturating_sub(new_tokens);
        usage!(
            (2..=room).contains(&context),
            "--context {context}: the model has {max} positions; allowed are 2 to {room} with {new_tokens} new tokens"
        );
        Ok(())
    }
}

/// The policies that flags name.
///
/// # Errors
/// [`UsageError`] for a policy that cannot be loaded, or one that is named twice.
pub fn policies(specs: &[String]) -> Result<Vec<NamedPolicy>> {
    let mut found: Vec<NamedPolicy> = Vec::new();
    for spec in specs {
        let policy = policy::load(spec).map_err(|error| UsageError(format!("--policy {spec}: {error:#}")))?;
        usage!(found.iter().all(|other| other.name != policy.name), "--policy {spec}: given twice");
        found.push(policy);
    }
    Ok(found)
}

/// Warnings of policies under which keys may fall to 2 bits: perplexity hardly shows what that costs.
pub fn recall_warnings(policies: &[NamedPolicy]) -> impl Iterator<Item = String> {
    let falls = |named: &&NamedPolicy| {
        let mut tiers = named.policy.key_tiers.iter().flatten();
        tiers.any(|tier| tier.layout.code_bits() <= 2)
    };
    policies.iter().filter(falls).map(|named| {
        format!(
            "{}: old keys may fall to 2 bits, which loses what lies far back; `kvq eval --recall` says how much",
            named.name
        )
    })
}

/// Writes the record where it was asked for: as JSON, and as a page.
///
/// # Errors
/// A file that cannot be written.
pub fn write(record: &Record, json: Option<&str>, page: Option<&Path>) -> Result<()> {
    if let Some(target) = json {
        record.write_json(target)?;
    }
    page.map_or(Ok(()), |path| html::write(path, &Collection::one(record.clone())))
}

/// The text of a file.
///
/// # Errors
/// A file that cannot be read, or is not UTF-8: the first byte that is not is named.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).context("cannot read the file")?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(at).copied().unwrap_or_default();
        anyhow!("byte {at} (0x{byte:02x}) is not UTF-8: convert the file, for example with `iconv -t UTF-8`")
    })
}

/// A progress bar over tokens on standard error; nothing where that is no terminal.
pub fn progress(what: &'static str, tokens: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:>9} [{bar:40}] {human_pos}/{human_len} tokens, {eta} left");
    let bar = ProgressBar::new(tokens as u64).with_message(what);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
