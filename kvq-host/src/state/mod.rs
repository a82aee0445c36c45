//! State files: a sequence that goes on in another process.
//!
//! A state is the tokens of a text or a conversation, the codec's snapshot of the cache that read them, and
//! which model and policy they belong to. [`format`](self) of the bytes: `docs/STATE.md`. Nothing of a file is
//! believed before its length and its SHA-256 are right, and nothing of a cache is replaced before model,
//! policy and snapshot fit.

mod file;
mod format;

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use kvq_codec::{Backend, SnapshotInfo};
use serde::{Deserialize, Serialize};

use crate::kv_store::packed::PackedStore;
use crate::model::{LanguageModel, Message, ModelInfo};
use crate::policy::NamedPolicy;

pub use format::STATE_VERSION;

/// What a state belongs to, and the conversation it is the end of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Version of the program that wrote the file.
    pub kvq_version: String,
    /// The name the model was loaded by, for people.
    pub model_name: String,
    /// [`ModelInfo::identity`] of the model.
    pub model_identity: String,
    /// The policy's name, for people; the policy itself is in the snapshot.
    pub policy_name: String,
    /// The turns of a conversation so far; none for plain text.
    pub messages: Vec<Message>,
}

impl Origin {
    /// Of a sequence under this model and policy.
    pub fn new(model: &ModelInfo, policy: &NamedPolicy, messages: Vec<Message>) -> Self {
        Self {
            kvq_version: env!("CARGO_PKG_VERSION").into(),
            model_name: model.name.clone(),
            model_identity: model.identity().into(),
            policy_name: policy.name.clone(),
            messages,
        }
    }
}

/// A sequence at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What it belongs to.
    pub origin: Origin,
    /// Every token of the sequence; the last ones may not be in the cache yet.
    pub tokens: Vec<u32>,
    /// The codec's snapshot of the cache.
    pub snapshot: Vec<u8>,
}

impl State {
    /// Of a store and the tokens that it has read or is about to read.
    ///
    /// # Errors
    /// Fewer tokens than the store holds, or a failure of the codec.
    pub fn new(origin: Origin, tokens: Vec<u32>, store: &PackedStore) -> Result<Self> {
        let cache = store.cache();
        ensure!(tokens.len() >= cache.len(), "{} tokens for a store of {}", tokens.len(), cache.len());
        let mut snapshot = vec![0; cache.snapshot_bytes()];
        cache.snapshot_into(&mut snapshot).map_err(|error| anyhow!("{error}"))?;
        Ok(Self { origin, tokens, snapshot })
    }

    /// Reads a state file.
    ///
    /// # Errors
    /// A file that cannot be read, is no state file, was written in another version, or is not whole.
    pub fn read(path: &Path) -> Result<Self> {
        let state = file::read(path).and_then(|bytes| format::parse(&bytes));
        state.with_context(|| format!("state file {}", path.display()))
    }

    /// Writes a state file: whole, or not at all. Until the new file is on disk an old one of this name stays
    /// as it is, also if the process is killed.
    ///
    /// # Errors
    /// A folder that cannot be written, a full disk, or a `path` that is a folder.
    pub fn write(&self, path: &Path) -> Result<()> {
        file::write(path, &format::parts(self)?)
            .with_context(|| format!("state file {}: nothing was saved", path.display()))
    }

    /// What the snapshot says about itself.
    ///
    /// # Errors
    /// A snapshot of another version, or bytes that are none.
    pub fn info(&self) -> Result<SnapshotInfo> {
        SnapshotInfo::read(&self.snapshot).map_err(|error| anyhow!("snapshot: {error}"))
    }

    /// A store that attends and goes on as the one that was saved.
    ///
    /// # Errors
    /// Another model or policy than the state's, tokens that the model does not have, or a snapshot that is
    /// not whole.
    pub fn open(
        &self,
        model: &dyn LanguageModel,
        info: &ModelInfo,
        policy: &NamedPolicy,
        backend: Backend,
    ) -> Result<PackedStore> {
        let origin = &self.origin;
        ensure!(
            origin.model_identity == info.identity(),
            "it was saved with the model `{}` ({}), not with `{}` ({})",
            origin.model_name,
            origin.model_identity,
            info.name,
            info.identity()
        );
        let (snapshot, config) = (self.info()?, model.config());
        ensure!(
            snapshot.policy == policy.policy,
            "it was saved under the policy `{}`, which is not `{}`: pass --policy with the one it was saved under",
            origin.policy_name,
            policy.name
        );
        ensure!(
            snapshot.len <= self.tokens.len() && snapshot.len <= config.max_context,
            "a cache of {} tokens for a text of {} and a model of {} positions",
            snapshot.len,
            self.tokens.len(),
            config.max_context
        );
        if let Some(token) = self.tokens.iter().find(|&&token| token as usize >= config.vocab_size) {
            anyhow::bail!("token {token} outside a vocabulary of {}", config.vocab_size);
        }
        let mut store = PackedStore::new(config.kv_shape(), policy.policy, backend)?;
        store.restore(&self.snapshot)?;
        Ok(store)
    }
}
