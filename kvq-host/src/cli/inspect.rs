//! `inspect`: what a file is and what it holds, from its first bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kvq_codec::{Backend, Cache, SNAPSHOT_HEADER_BYTES, SnapshotInfo};
use kvq_tiny::Image;
use safetensors::tensor::Metadata;
use serde_json::{Value, json};

use crate::kv_store::memory::GrowingMemory;
use crate::measure::TierMap;
use crate::model::open_gguf;
use crate::plan;
use crate::policy::NamedPolicy;
use crate::report::{PolicyRecord, TierMapRecord};

/// The longest header of a safetensors file that is read, bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Flags of `inspect`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: kvq export --out tiny.image && kvq inspect tiny.image")]
pub struct Args {
    /// Snapshot of a cache, model image, .gguf or .safetensors file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write what was found as JSON to standard output instead.
    #[arg(long, value_name = "-", value_parser = ["-"])]
    json: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// A file that cannot be read, is none of these, or is damaged.
pub fn run(args: &Args) -> Result<()> {
    let found = inspect(&args.file).with_context(|| args.file.display().to_string())?;
    if args.json.is_some() {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    println!("{}: {}", args.file.display(), found["kind"].as_str().unwrap_or_default());
    for (key, value) in found.as_object().into_iter().flatten().filter(|(key, _)| *key != "kind") {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        println!("  {:<24} {text}", key.replace('_', " "));
    }
    Ok(())
}

/// What a file holds, as one flat object with its `kind`.
///
/// # Errors
/// As [`run`].
fn inspect(path: &Path) -> Result<Value> {
    let mut file = File::open(path).context("cannot open the file")?;
    let file_bytes = file.metadata()?.len();
    let mut start = [0; 8];
    let n = file.read(&mut start)?;
    let start = &start[..n];
    let whole = || std::fs::read(path).context("cannot read the file");
    if start == b"KVQSNAP\n" {
        return snapshot(&whole()?);
    }
    if start == kvq_tiny::image::MAGIC {
        return image(&whole()?);
    }
    if start.starts_with(b"GGUF") {
        return gguf(path, file_bytes);
    }
    let header_bytes = start.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let mut brace = [0];
    if header_bytes > 1
        && header_bytes.saturating_add(8) <= file_bytes
        && file.read(&mut brace)? == 1
        && brace == *b"{"
    {
        return safetensors(path, header_bytes, file_bytes);
    }
    bail!(
        "it begins with {start:02x?}: no snapshot, model image, GGUF or safetensors file (`kvq report` reads records)"
    )
}

/// Reads the header, and restores the rest, which checks every byte.
fn snapshot(bytes: &[u8]) -> Result<Value> {
    let header = bytes.get(..SNAPSHOT_HEADER_BYTES).unwrap_or(bytes);
    let info = SnapshotInfo::read(header).map_err(|e| anyhow!("{e}"))?;
    ensure!(
        bytes.len() as u64 == info.snapshot_bytes,
        "a snapshot of {} bytes, of which {} are here",
        info.snapshot_bytes,
        bytes.len()
    );
    let mut cache = Cache::new(info.shape, info.policy, Backend::detect(), GrowingMemory::default())
        .map_err(|e| anyhow!("{e}"))?;
    cache.restore(bytes).map_err(|e| anyhow!("{e}"))?;
    let policy = PolicyRecord::from(&NamedPolicy { name: "in the snapshot".into(), policy: info.policy });
    Ok(json!({
        "kind": "snapshot of a cache, whole",
        "file_bytes": bytes.len(),
        "n_layers": info.shape.n_layers,
        "n_kv_heads": info.shape.n_kv_heads,
        "key_head_dim": info.shape.key_head_dim,
        "value_head_dim": info.shape.value_head_dim,
        "tokens": info.len,
        "fp16_bytes": info.len * info.shape.fp16_bytes_per_token(),
        "tier_map": TierMapRecord::from(&TierMap::of(&cache)),
        "policy": policy,
    }))
}

fn image(bytes: &[u8]) -> Result<Value> {
    let image = Image::parse(bytes).map_err(|e| anyhow!("{e}"))?;
    let shape = image.shape();
    let kv = shape.kv_shape();
    Ok(json!({
        "kind": "model image, checksum right",
        "file_bytes": bytes.len(),
        "checksum": format!("{:016x}", image.checksum()),
        "n_layers": shape.n_layers,
        "width": shape.width,
        "n_heads": shape.n_heads,
        "head_dim": kv.key_head_dim,
        "vocab_size": shape.n_tokens,
        "max_context_tokens": shape.n_positions,
        "kv_fp16_bytes_per_token": kv.fp16_bytes_per_token(),
    }))
}

fn gguf(path: &Path, file_bytes: u64) -> Result<Value> {
    let (content, _) = open_gguf(path)?;
    let text = |key: &str| content.metadata.get(key).and_then(|value| value.to_string().ok().cloned());
    let tensors = content.tensor_infos.values();
    let formats = tally(tensors.clone().map(|info| format!("{:?}", info.ggml_dtype)));
    let values: usize = tensors.map(|info| info.shape.elem_count()).sum();
    let shape = plan::of_model(&path.display().to_string()).ok();
    Ok(json!({
        "kind": "GGUF model",
        "file_bytes": file_bytes,
        "name": text("general.name"),
        "architecture": text("general.architecture"),
        "tokenizer": text("tokenizer.ggml.model"),
        "tensors": content.tensor_infos.len(),
        "weight_formats": formats,
        "parameters": values,
        "n_layers": shape.map(|shape| shape.n_layers),
        "n_kv_heads": shape.map(|shape| shape.n_kv_heads),
        "head_dim": shape.map(|shape| shape.key_head_dim),
        "kv_fp16_bytes_per_token": shape.map(|shape| shape.fp16_bytes_per_token()),
    }))
}

fn safetensors(path: &Path, header_bytes: u64, file_bytes: u64) -> Result<Value> {
    ensure!(header_bytes <= MAX_HEADER_BYTES, "its header would have {header_bytes} bytes");
    let mut header = Vec::new();
    File::open(path)?.take(8 + header_bytes).read_to_end(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header[8..]).context("a damaged safetensors file")?;
    let tensors = metadata.tensors();
    let data_bytes = tensors.values().map(|info| info.data_offsets.1 as u64).max().unwrap_or(0);
    ensure!(
        8 + header_bytes + data_bytes == file_bytes,
        "its tensors end at {} bytes, the file at {file_bytes}: it is cut off or changed",
        8 + header_bytes + data_bytes
    );
    let values: usize = tensors.values().map(|info| info.shape.iter().product::<usize>()).sum();
    Ok(json!({
        "kind": "safetensors weights",
        "file_bytes": file_bytes,
        "tensors": tensors.len(),
        "weight_formats": tally(tensors.values().map(|info| format!("{:?}", info.dtype))),
        "parameters": values,
        "metadata": metadata.metadata(),
    }))
}

/// How often each comes.
fn tally(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}
