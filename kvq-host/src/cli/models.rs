//! `models`: what this program can run, what of it is on this machine, and how the rest gets here.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::model::registry::{self, KNOWN, Known, Location};
use crate::report::table::{bytes, with_headings};

/// What the model code computes.
const SUPPORTED: &str = "\
A model that is not here is fetched from its repository on the Hugging Face hub when it is first used (smollm2-135m \
also by `cargo xtask fetch-model smollm2-135m`, without the hub). Meta's and Google's ask for an account's token \
there: HF_TOKEN.

Any other model of the families GPT-2, Llama, Qwen2, Qwen3 and Gemma 3: --model with a folder (config.json, \
tokenizer.json, safetensors files), with organisation/name on the hub, or, but for GPT-2, with a .gguf file.";

/// Flags of `models`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: kvq models --json -")]
pub struct Args {
    /// Write the list as JSON to standard output instead.
    #[arg(long, value_name = "-", value_parser = ["-"])]
    json: Option<String>,
}

/// A known model on this machine.
#[derive(Serialize)]
struct Entry {
    name: &'static str,
    family: &'static str,
    n_layers: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Its repository on the hub; null for the built-in model.
    repository: Option<&'static str>,
    /// Where it is; null if it is not here.
    path: Option<String>,
    /// Bytes of its files; null if it is not here, or inside this program.
    file_bytes: Option<u64>,
}

/// Runs the verb.
///
/// # Errors
/// None but for standard output.
pub fn run(args: &Args) -> Result<()> {
    let entries: Vec<Entry> = KNOWN.iter().map(entry).collect();
    if args.json.is_some() {
        println!("{}", serde_json::to_string_pretty(&entries)?);
        return Ok(());
    }
    let rows = entries.iter().map(|entry| {
        let size = entry.file_bytes.map(|n| format!(" ({})", bytes(n as usize))).unwrap_or_default();
        let place = match (&entry.path, entry.repository) {
            (Some(path), _) => format!("{path}{size}"),
            (None, repository) => format!("hub: {}", repository.unwrap_or("-")),
        };
        let figures = [entry.n_layers, entry.n_kv_heads, entry.head_dim].map(|n| n.to_string());
        [entry.name, entry.family].map(str::to_owned).into_iter().chain(figures).chain([place]).collect()
    });
    let headings = ["model", "family", "layers", "KV heads", "head_dim", "where"].map(str::to_owned);
    println!("{}", with_headings(headings.to_vec(), rows.collect()));
    println!("{SUPPORTED}");
    Ok(())
}

fn entry(known: &Known) -> Entry {
    let (path, file_bytes) = match registry::locate(known.name) {
        Some(Location::Builtin) => (Some("in this program".to_owned()), None),
        Some(Location::Gguf(path) | Location::Folder(path)) => {
            (Some(path.display().to_string()), Some(size(&path)))
        }
        _ => match known.repository.and_then(cached) {
            Some(folder) => (Some(folder.display().to_string()), Some(size(&folder))),
            None => (None, None),
        },
    };
    let Known { name, repository, family, kv_shape } = *known;
    Entry {
        name,
        family,
        n_layers: kv_shape.n_layers,
        n_kv_heads: kv_shape.n_kv_heads,
        head_dim: kv_shape.key_head_dim,
        repository,
        path,
        file_bytes,
    }
}

/// The folder in the local cache of the hub that holds the repository's files.
fn cached(repository: &str) -> Option<PathBuf> {
    let config = hf_hub::Cache::from_env().model(repository.to_owned()).get("config.json")?;
    config.parent().map(Path::to_path_buf)
}

/// Bytes of a file, or of the files of a folder.
fn size(path: &Path) -> u64 {
    let of =
        |path: &Path| std::fs::metadata(path).ok().filter(|data| data.is_file()).map_or(0, |data| data.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| of(&entry.path())).sum(),
        Err(_) => of(path),
    }
}
