//! Files of a repository on the Hugging Face hub, from the local cache or the network.

use std::path::PathBuf;

use anyhow::{Context, Result};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};

use super::weights::shard_names;

/// Local copies of the files of one model.
pub(crate) struct Files {
    pub(crate) config: PathBuf,
    pub(crate) generation_config: Option<PathBuf>,
    pub(crate) tokenizer: PathBuf,
    pub(crate) tokenizer_config: Option<PathBuf>,
    pub(crate) chat_template: Option<PathBuf>,
    pub(crate) weights: Vec<PathBuf>,
}

/// Fetches what a model in Hugging Face's layout consists of, with a progress bar per file.
///
/// # Errors
/// No network, no such repository, or a file it does not have; the message says which files to put where
/// instead.
pub(crate) fn fetch(repository: &str, name: &str) -> Result<Files> {
    fetch_files(repository).with_context(|| {
        format!(
            "cannot fetch `{repository}` from the Hugging Face hub. To work offline put config.json, \
             tokenizer.json and model.safetensors (for the Llama family, one .gguf file will do) into \
             models/{name}/, or pass the path of such a folder or file"
        )
    })
}

fn fetch_files(repository: &str) -> Result<Files> {
    let mut builder = ApiBuilder::from_env().with_progress(true);
    // Repositories behind a licence want an account's token. The file that `hf auth login` leaves is read anyway.
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build()?;
    let repo = api.model(repository.into());
    let config = repo.get("config.json").context("config.json")?;
    let tokenizer = repo.get("tokenizer.json").context("tokenizer.json")?;
    let weights = match optional(&repo, "model.safetensors")? {
        Some(path) => vec![path],
        None => shards(&repo).context("there is no model.safetensors")?,
    };
    Ok(Files {
        config,
        generation_config: optional(&repo, "generation_config.json")?,
        tokenizer,
        tokenizer_config: optional(&repo, "tokenizer_config.json")?,
        chat_template: optional(&repo, "chat_template.jinja")?,
        weights,
    })
}

/// A file that not every repository has. Only the hub's own word counts as its absence: a connection that
/// broke must not turn into a model without its chat template.
fn optional(repo: &ApiRepo, name: &str) -> Result<Option<PathBuf>> {
    match repo.get(name) {
        Ok(path) => Ok(Some(path)),
        Err(ApiError::RequestError(error)) if error.to_string().contains("404") => Ok(None),
        Err(error) => Err(error).with_context(|| name.to_owned()),
    }
}

fn shards(repo: &ApiRepo) -> Result<Vec<PathBuf>> {
    let index = repo.get("model.safetensors.index.json").context("model.safetensors.index.json")?;
    let names = shard_names(&std::fs::read_to_string(index)?)?;
    names.iter().map(|name| repo.get(name).with_context(|| name.clone())).collect()
}
