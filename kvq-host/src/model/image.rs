//! Writing a model image: int8 weights with a scale per row, and the tokenizer. `kvq_tiny::image` says what
//! the bytes mean.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use kvq_tiny::image::{MAGIC, MAX_INPUTS, VERSION};
use kvq_tiny::{Hash, Shape};
use serde::Deserialize;

use super::gpt2::Gpt2Config;
use super::load::{self, BUILTIN_CONFIG, BUILTIN_TOKENIZER, BUILTIN_WEIGHTS};
use super::registry::{self, Location};
use super::weights::{Checkpoint, Source};

/// The image of the model that `spec` stands for: the built-in one, or a folder in Hugging Face's layout.
///
/// # Errors
/// A model that is none of these, that is not of the GPT-2 architecture, that has an output projection of its
/// own, or that is wider than an image allows.
pub fn export(spec: &str) -> Result<Vec<u8>> {
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
        _ => bail!("--model {spec}: an image is made of `builtin` or of a folder with config.json"),
    };
    write(&config, &tokenizer, &mut checkpoint)
        .with_context(|| format!("--model {spec}: no image can be made"))
}

fn write(config: &str, tokenizer: &[u8], checkpoint: &mut Checkpoint) -> Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: String,
    }
    let kind: Kind = serde_json::from_str(config).context("config.json")?;
    ensure!(
        kind.model_type == "gpt2",
        "model type `{}`: images hold the GPT-2 architecture",
        kind.model_type
    );
    let config = Gpt2Config::from_json(config)?;
    ensure!(!checkpoint.has("lm_head.weight"), "its output projection is not its embedding table");
    ensure!(
        config.layer_norm_epsilon == 1e-5,
        "layer_norm_epsilon is {}, images have 1e-5",
        config.layer_norm_epsilon
    );
    let (width, inner) = (config.n_embd, config.n_inner.unwrap_or(4 * config.n_embd));
    ensure!(width.max(inner) <= MAX_INPUTS, "width {width} or {inner} is more than {MAX_INPUTS}");
    let vocabulary = Vocabulary::from_json(tokenizer, config.vocab_size)?;
    let shape = Shape {
        n_tokens: config.vocab_size,
        n_positions: config.n_positions,
        width,
        n_layers: config.n_layer,
        n_heads: config.n_head,
        inner,
        token_bytes: vocabulary.tokens.iter().map(Vec::len).sum(),
        n_merges: vocabulary.merges.len(),
    };
    let prefix = checkpoint.prefix("transformer.");
    let mut body = Body { bytes: Vec::new(), checkpoint, prefix };
    body.table("wte.weight", config.vocab_size, width)?;
    body.table("wpe.weight", config.n_positions, width)?;
    for layer in 0..config.n_layer {
        let name = |part: &str| format!("h.{layer}.{part}");
        body.norm(&name("ln_1"), width)?;
        body.linear(&name("attn.c_attn"), width, 3 * width)?;
        body.linear(&name("attn.c_proj"), width, width)?;
        body.norm(&name("ln_2"), width)?;
        body.linear(&name("mlp.c_fc"), width, inner)?;
        body.linear(&name("mlp.c_proj"), inner, width)?;
    }
    body.norm("ln_f", width)?;
    let mut body = body.bytes;
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

/// Everything behind the header.
struct Body<'a> {
    bytes: Vec<u8>,
    checkpoint: &'a mut Checkpoint,
    prefix: &'static str,
}

impl Body<'_> {
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.checkpoint.values(&format!("{}{name}", self.prefix), shape)
    }

    fn floats(&mut self, name: &str, n: usize) -> Result<()> {
        let values = self.values(name, &[n])?;
        self.bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        Ok(())
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<()> {
        self.floats(&format!("{name}.weight"), width)?;
        self.floats(&format!("{name}.bias"), width)
    }

    fn table(&mut self, name: &str, n_rows: usize, width: usize) -> Result<()> {
        let values = self.values(name, &[n_rows, width])?;
        self.rows(values.chunks_exact(width).map(<[f32]>::to_vec).collect());
        Ok(())
    }

    /// A `Conv1D`, whose weights are stored `(inputs, outputs)`: each output's become a row.
    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<()> {
        let values = self.values(&format!("{name}.weight"), &[inputs, outputs])?;
        let row = |output| (0..inputs).map(|input| values[input * outputs + output]).collect();
        self.rows((0..outputs).map(row).collect());
        self.floats(&format!("{name}.bias"), outputs)
    }

    /// Scales, then codes: the largest magnitude of a row is 127.
    fn rows(&mut self, rows: Vec<Vec<f32>>) {
        let scale = |row: &Vec<f32>| row.iter().fold(0.0f32, |peak, x| peak.max(x.abs())) / 127.0;
        let scales: Vec<f32> = rows.iter().map(scale).collect();
        self.bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
        for (row, scale) in rows.iter().zip(scales) {
            let code = |x: &f32| if scale > 0.0 { (x / scale).round() as i8 as u8 } else { 0 };
            self.bytes.extend(row.iter().map(code));
        }
    }
}

/// A byte-level BPE.
struct Vocabulary {
    /// The bytes of each token; none for special ones.
    tokens: Vec<Vec<u8>>,
    /// Left, right, result.
    merges: Vec<[u16; 3]>,
}

impl Vocabulary {
    fn from_json(text: &[u8], n_tokens: usize) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            model: Bpe,
            #[serde(default)]
            added_tokens: Vec<Added>,
        }
        #[derive(Deserialize)]
        struct Bpe {
            vocab: HashMap<String, u16>,
            merges: Vec<(String, String)>,
        }
        #[derive(Deserialize)]
        struct Added {
            id: usize,
        }
        let file: File = serde_json::from_slice(text).context("tokenizer.json of a byte-level BPE")?;
        let special: Vec<usize> = file.added_tokens.iter().map(|token| token.id).collect();
        let bytes_of = byte_characters();
        let mut tokens = vec![Vec::new(); n_tokens];
        for (name, &id) in &file.model.vocab {
            let id = usize::from(id);
            ensure!(id < n_tokens, "token {id} of a vocabulary of {n_tokens}");
            if special.contains(&id) {
                continue;
            }
            let bytes = name.chars().map(|c| bytes_of.get(&c).copied());
            tokens[id] =
                bytes.collect::<Option<_>>().with_context(|| format!("token `{name}` is not byte-level"))?;
        }
        let id = |name: &str| {
            file.model.vocab.get(name).copied().ok_or_else(|| anyhow!("merge of `{name}`, which is no token"))
        };
        let merges = file.model.merges.iter();
        let merges = merges.map(|(left, right)| Ok([id(left)?, id(right)?, id(&format!("{left}{right}"))?]));
        Ok(Self { tokens, merges: merges.collect::<Result<_>>()? })
    }

    fn write(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let mut end = 0;
        for token in &self.tokens {
            end += token.len();
            bytes
                .extend(u16::try_from(end).context("the tokens are longer than 65,535 bytes")?.to_le_bytes());
        }
        bytes.extend(self.tokens.iter().flatten());
        bytes.extend(self.merges.iter().flatten().flat_map(|id| id.to_le_bytes()));
        Ok(())
    }
}

/// The characters that stand for bytes in a byte-level vocabulary: printable bytes for themselves, the others
/// from U+0100 on, in order.
fn byte_characters() -> HashMap<char, u8> {
    let is_printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255u8).filter(|&b| !is_printable(b)).zip(0x100u32..);
    let others = others.filter_map(|(byte, code)| Some((char::from_u32(code)?, byte)));
    (0..=255u8).filter(|&b| is_printable(b)).map(|b| (char::from(b), b)).chain(others).collect()
}
