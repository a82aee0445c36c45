//! `models`: what this program can run, what of it is on this machine, and how the rest gets here.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::model::registry::{self, KNOWN, Known, Location};
use crate::report::table::{bytes, with_headings};

/// What the model code computes.
const SUPPORTED: &str = "Any other model of these families: --model with a folder (config.json, tokenizer.json, \
    safetensors files), with a .gguf file, or with organisation/name on the Hugging Face hub, which is fetched when \
    it is first used.\nGPT-2 family: from such a folder. Llama family: from such a folder, or from GGUF.";

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
    description: &'static str,
    /// Where it is; null if it is not here.
    path: Option<String>,
    /// Bytes of its files; null if it is not here, or inside this program.
    file_bytes: Option<u64>,
    /// How it gets here; null for the built-in one.
    fetched_by: Option<String>,
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
        let path = entry.path.as_deref().map_or("not here".to_owned(), |path| format!("{path}{size}"));
        vec![entry.name.to_owned(), path, entry.fetched_by.clone().unwrap_or_else(|| "-".into())]
    });
    println!(
        "{}",
        with_headings(["model", "where", "how it gets here"].map(str::to_owned).to_vec(), rows.collect())
    );
    for entry in &entries {
        println!("{}: {}", entry.name, entry.description);
    }
    println!("\n{SUPPORTED}");
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
    let fetched_by = known.repository.map(|repository| {
        let hub = format!("first use, from {repository}");
        // The one model that xtask has a mirror for.
        if known.name == "smollm2-135m" {
            format!("cargo xtask fetch-model {}, or {hub}", known.name)
        } else {
            hub
        }
    });
    Entry { name: known.name, description: known.description, path, file_bytes, fetched_by }
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
