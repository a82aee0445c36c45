//! Writing a model image: int8 weights with a scale per row, and the tokenizer. `kvq_tiny::image` says what
//! the bytes mean.

mod gpt2;
mod llama2c;
mod vocabulary;

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kvq_tiny::image::{MAGIC, VERSION};
use kvq_tiny::{Hash, Shape};

use super::load::{self, BUILTIN_CONFIG, BUILTIN_TOKENIZER, BUILTIN_WEIGHTS};
use super::registry::{self, Location};
use super::weights::Checkpoint;
use vocabulary::Vocabulary;

/// The image of the model that `spec` stands for: the built-in one, a folder in Hugging Face's layout, or a
/// checkpoint of llama2.c (a `.bin` file), whose tokenizer is `tokenizer` or lies beside it as
/// `tok<vocabulary>.bin` or `tokenizer.bin`.
///
/// # Errors
/// A model that is none of these, that is not of the GPT-2 or Llama architecture, that has an output projection
/// of its own, or that is wider than an image allows.
pub fn export(spec: &str, tokenizer: Option<&Path>) -> Result<Vec<u8>> {
    let checkpoint = Path::new(spec);
    if checkpoint.extension().is_some_and(|extension| extension == "bin") {
        return llama2c::write(checkpoint, tokenizer)
            .with_context(|| format!("--model {spec}: no image can be made"));
    }
    if let Some(path) = tokenizer {
        bail!("--tokenizer {}: it goes with a .bin file; other models bring theirs", path.display());
    }
    let (config, tokenizer, mut checkpoint) = match registry::locate(spec) {
        Some(Location::Builtin) => {
            let checkpoint = Checkpoint::new(vec![Cow::Borrowed(BUILTIN_WEIGHTS)])?;
            (BUILTIN_CONFIG.to_owned(), BUILTIN_TOKENIZER.to_vec(), checkpoint)
        }
        Some(Location::Folder(folder)) => {
            let files = load::folder_files(&folder)?;
            let read = |path| {
                std::fs::read(path).with_context(|| format!("cannot read a file of {}", folder.display()))
            };
            let config = String::from_utf8(read(&files.config)?).context("config.json")?;
            (config, read(&files.tokenizer)?, Checkpoint::open(&files.weights)?)
        }
        _ => bail!(
            "--model {spec}: an image is made of `builtin`, of a folder with config.json, or of a .bin file of llama2.c"
        ),
    };
    gpt2::write(&config, &tokenizer, &mut checkpoint)
        .with_context(|| format!("--model {spec}: no image can be made"))
}

/// Header, weights, tokenizer.
fn assemble(shape: &Shape, mut body: Vec<u8>, vocabulary: &Vocabulary) -> Result<Vec<u8>> {
    vocabulary.write(&mut body)?;
    let mut image = MAGIC.to_vec();
    image.extend(VERSION.to_le_bytes());
    for figure in shape.figures() {
        image.extend(u32::try_from(figure)?.to_le_bytes());
    }
    image.extend(Hash::of(&body).value().to_le_bytes());
    image.extend(body);
    Ok(image)
}

fn put_floats(bytes: &mut Vec<u8>, values: &[f32]) {
    bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
}

/// Scales, then codes: the largest magnitude of a row is 127.
fn put_rows(bytes: &mut Vec<u8>, rows: Vec<Vec<f32>>) {
    let scale = |row: &Vec<f32>| row.iter().fold(0.0f32, |peak, x| peak.max(x.abs())) / 127.0;
    let scales: Vec<f32> = rows.iter().map(scale).collect();
    put_floats(bytes, &scales);
    for (row, scale) in rows.iter().zip(scales) {
        let code = |x: &f32| if scale > 0.0 { (x / scale).round() as i8 as u8 } else { 0 };
        bytes.extend(row.iter().map(code));
    }
}
