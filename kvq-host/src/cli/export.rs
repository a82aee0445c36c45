//! `export`: a model image for the firmware.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kvq_tiny::Image;

use crate::model;

/// Flags of `export`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example: kvq export --out tiny.image && kvq generate --image tiny.image --new-tokens 20"
)]
pub struct Args {
    /// Model of the GPT-2 architecture (`builtin`, or a folder with config.json, tokenizer.json and safetensors
    /// files) or of the Llama architecture (a .bin file of llama2.c).
    #[arg(long, value_name = "NAME|PATH", default_value = "builtin")]
    model: String,
    /// Tokenizer of a .bin file [default: tok<vocabulary>.bin or tokenizer.bin beside it].
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// A model that is of another architecture or too wide for an image, or a file that cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let bytes = model::export(&args.model, args.tokenizer.as_deref())?;
    let image = Image::parse(&bytes)?;
    let shape = image.shape();
    std::fs::write(&args.out, &bytes).with_context(|| format!("--out {}", args.out.display()))?;
    println!(
        "{}: {} bytes, checksum {:016x}; {:?}, {} layers of width {}, {} heads ({} of keys and values), {} tokens, {} positions",
        args.out.display(),
        bytes.len(),
        image.checksum(),
        shape.architecture,
        shape.n_layers,
        shape.width,
        shape.n_heads,
        shape.n_kv_heads,
        shape.n_tokens,
        shape.n_positions
    );
    Ok(())
}
