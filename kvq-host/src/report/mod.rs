//! What a verb found, as one JSON object and as a table.
//!
//! Measuring, recording and showing are separate steps: a verb fills a [`Record`], and [`table`] shows
//! nothing that is not in it. A figure that was not measured is `null` in the record and a dash in the
//! table, never 0.

pub mod collection;
pub mod compare;
mod filling;
pub mod html;
mod machine;
mod policy;
pub mod reference;
mod run;
pub mod table;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use filling::{GrowthPoint, QuarterRecord, TierMapRecord, TierUseRecord};
pub use machine::{Machine, peak_rss_bytes};
pub use policy::PolicyRecord;
pub use run::{NeedleRecord, Run};

use crate::model::{LanguageModel, ModelInfo};

/// Version of the record's keys; it changes when a key changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything a verb found and under which conditions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Record {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of this program.
    pub kvq_version: String,
    /// Commit the program was built from, `-dirty` appended where its sources differed; null if unknown.
    pub git_revision: Option<String>,
    /// The verb: `bench`, `eval` or `generate`.
    pub verb: String,
    /// The command line, word by word.
    pub command_line: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// Threads of the model and the caches.
    pub threads: usize,
    /// Kernels of the caches, packed and dense.
    pub backend: String,
    /// Seed of everything random.
    pub seed: u64,
    /// The model.
    pub model: ModelRecord,
    /// The text that was read; null for random token ids.
    pub text: Option<TextRecord>,
    /// The verb's own settings.
    pub settings: Settings,
    /// Policies of the packed runs.
    pub policies: Vec<PolicyRecord>,
    /// Peak resident memory of the process up to the end of the measurement, bytes; null if unknown.
    pub peak_rss_bytes: Option<u64>,
    /// What a reader should know beside the figures, one sentence each.
    pub notes: Vec<String>,
    /// One object per cache.
    pub runs: Vec<Run>,
}

/// The model of a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ModelRecord {
    /// The name it was asked for by.
    pub name: String,
    /// The weights file, or what stands for it.
    pub source_path: String,
    /// SHA-256 of the weights; null for random ones.
    pub sha256: Option<String>,
    /// How most weights are stored.
    pub weight_format: String,
    /// What is computed otherwise than stored.
    pub weight_notes: Vec<String>,
    /// Whether the weights are random numbers.
    pub random_weights: bool,
    /// `gpt2` or `llama`.
    pub architecture: String,
    /// Transformer layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest context, in tokens.
    pub max_context_tokens: usize,
    /// `2 bytes · 2 · n_layers · n_kv_heads · head_dim`: what a token takes in a dense fp16 cache.
    pub kv_fp16_bytes_per_token: usize,
}

impl ModelRecord {
    /// From a loaded model.
    pub fn new(info: &ModelInfo, model: &dyn LanguageModel) -> Self {
        let config = model.config();
        Self {
            name: info.name.clone(),
            source_path: info.source_path.clone(),
            sha256: (!info.sha256.is_empty()).then(|| info.sha256.clone()),
            weight_format: info.weight_format.clone(),
            weight_notes: info.weight_notes.clone(),
            random_weights: info.random_weights,
            architecture: config.architecture.clone(),
            n_layers: config.n_layers,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            max_context_tokens: config.max_context,
            kv_fp16_bytes_per_token: config.kv_shape().fp16_bytes_per_token(),
        }
    }
}

/// The text of a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TextRecord {
    /// The file's path, or the name of a text inside this program.
    pub name: String,
    /// Length in bytes of UTF-8.
    pub bytes: usize,
    /// Length in the model's tokens.
    pub tokens: usize,
    /// SHA-256 of the bytes.
    pub sha256: String,
}

impl TextRecord {
    /// Of a text and its number of tokens.
    pub fn new(name: &str, text: &str, tokens: usize) -> Self {
        Self { name: name.into(), bytes: text.len(), tokens, sha256: sha256_hex(text.as_bytes()) }
    }
}

/// The settings of a verb; those of other verbs are null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Settings {
    /// Tokens of the prompt, or of one window; the longest where there were several: each run has its own.
    pub context_tokens: usize,
    /// Tokens decoded behind the prompt.
    pub new_tokens: Option<usize>,
    /// Rounds of the speed measurement.
    pub rounds: Option<usize>,
    /// Bytes that each packed cache was given at the start; null where caches grew.
    pub budget_bytes: Option<usize>,
    /// Windows scored.
    pub windows: Option<usize>,
    /// Windows left out before the first.
    pub skip_windows: Option<usize>,
    /// Windows with a repeated passage, scored for recall.
    pub recall_windows: Option<usize>,
    /// Positions scored over all windows.
    pub scored_tokens: Option<usize>,
    /// Wall-clock time of the quality measurement over all caches, seconds.
    pub eval_seconds: Option<f64>,
    /// Sampling temperature; null for the most likely token.
    pub temperature: Option<f64>,
    /// Probability mass that is sampled from.
    pub top_p: Option<f64>,
}

impl Record {
    /// Writes the record as JSON to a file, or to standard output for `-`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_json(&self, target: &str) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        if target == "-" {
            print!("{json}");
            return Ok(());
        }
        std::fs::write(Path::new(target), json)
            .with_context(|| format!("--json {target}: cannot write the file"))
    }

    /// Reads a record that was written as JSON.
    ///
    /// # Errors
    /// A file that cannot be read, is no record, or has another [`SCHEMA_VERSION`].
    pub fn read_json(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let json =
            std::fs::read(path).with_context(|| format!("{}: cannot read the file", path.display()))?;
        let version: Version = serde_json::from_slice(&json)
            .with_context(|| format!("{}: this is no record of kvq", path.display()))?;
        ensure!(
            version.schema_version == SCHEMA_VERSION,
            "{}: schema_version {}, this program reads {SCHEMA_VERSION}",
            path.display(),
            version.schema_version
        );
        serde_json::from_slice(&json)
            .with_context(|| format!("{}: a record of another shape", path.display()))
    }

    /// The commit this program was built from.
    pub const fn built_from() -> Option<&'static str> {
        option_env!("KVQ_GIT_REVISION")
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/record.schema.json` is made from the types here: run with `KVQ_BLESS=1` after a change.
    #[test]
    fn the_schema_in_docs_is_that_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/record.schema.json");
        let mut schema = serde_json::to_string_pretty(&schemars::schema_for!(Record)).unwrap();
        schema.push('\n');
        if std::env::var_os("KVQ_BLESS").is_some() {
            std::fs::write(&path, &schema).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).is_ok_and(|found| found == schema),
            "docs/record.schema.json is not that of the types: KVQ_BLESS=1 cargo test --release -p kvq-host schema"
        );
    }
}
