//! From a name or a path to a model that can run.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::chat::{ChatTemplate, TokenizerConfig};
use super::gpt2::{Gpt2, Gpt2Config};
use super::llama::{self, Llama};
use super::registry::{self, Location};
use super::weights::{Checkpoint, safetensors_files};
use super::{LanguageModel, Logits, TextTokenizer, gguf_file, hub};
use crate::huge_pages;
use crate::kv_store::dense::DenseF32;

/// The model inside this program, in Hugging Face's layout.
pub(super) const BUILTIN_CONFIG: &str = include_str!("../../assets/builtin/config.json");
pub(super) const BUILTIN_TOKENIZER: &[u8] = include_bytes!("../../assets/builtin/tokenizer.json");
pub(super) const BUILTIN_WEIGHTS: &[u8] = include_bytes!("../../assets/builtin/model.safetensors");

/// Where a model came from, for records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The specification it was loaded by.
    pub name: String,
    /// The first weights file, or `built in`.
    pub source_path: String,
    /// SHA-256 of the weights (of all files in order, where there are several), in hex; empty for random
    /// weights.
    pub sha256: String,
    /// How most weights are stored, such as `safetensors f16` or `gguf Q4_1`.
    pub weight_format: String,
    /// What is computed otherwise than stored, one sentence each.
    pub weight_notes: Vec<String>,
    /// Whether the weights are random numbers, so that text and quality mean nothing.
    pub random_weights: bool,
}

impl ModelInfo {
    /// What tells this model's caches from any other's: the hash of its weights, or how they were drawn.
    pub fn identity(&self) -> &str {
        if self.sha256.is_empty() { &self.source_path } else { &self.sha256 }
    }
}

/// A model with its tokenizer.
pub struct LoadedModel {
    /// The model.
    pub model: Box<dyn LanguageModel>,
    /// Its tokenizer; for random weights that of the built-in model.
    pub tokenizer: TextTokenizer,
    /// How conversations are written for it, if its files say so.
    pub chat_template: Option<ChatTemplate>,
    /// Where it came from.
    pub info: ModelInfo,
}

/// Loads the model that `spec` stands for.
///
/// - `builtin`: the model inside this program
/// - `random:distilgpt2`: random weights, drawn from `seed`, in the shape of that model
/// - a `.gguf` file, or a folder with config.json, tokenizer.json and safetensors files
/// - a name of [`registry::KNOWN`], or of a folder under `models/`
/// - `organisation/name`: a repository on the Hugging Face hub
///
/// # Errors
/// A name that stands for nothing, files that cannot be read or fetched, or a model that this program does
/// not compute.
pub fn load(spec: &str, seed: u64) -> Result<LoadedModel> {
    let location = registry::locate(spec).with_context(|| {
        let names: Vec<&str> = registry::KNOWN.iter().map(|known| known.name).collect();
        format!(
            "model `{spec}` is neither a known name ({}), a folder with config.json, a .gguf file nor \
             organisation/name on the Hugging Face hub",
            names.join(", ")
        )
    })?;
    let loaded = match location {
        Location::Builtin => builtin(),
        Location::Random(shape) => random(&shape, seed),
        Location::Gguf(path) => gguf(&path),
        Location::Folder(folder) => folder_files(&folder).and_then(|files| checkpoint(&files)),
        Location::Hub(repository) => hub::fetch(&repository, spec).and_then(|files| checkpoint(&files)),
    };
    let mut loaded = loaded.with_context(|| format!("cannot load the model `{spec}`"))?;
    loaded.info.name = spec.into();
    settle(&*loaded.model).with_context(|| format!("the model `{spec}` cannot run"))?;
    Ok(loaded)
}

/// Runs one token, for which candle lays quantized weights out anew, and puts all weights into huge pages.
fn settle(model: &dyn LanguageModel) -> Result<()> {
    model.forward(&[0], &mut DenseF32::new(model.config().kv_shape()), Logits::Last)?;
    // Without huge pages it is only slower.
    let _ = huge_pages::collapse_allocated();
    Ok(())
}

fn builtin() -> Result<LoadedModel> {
    let mut checkpoint = Checkpoint::new(vec![Cow::Borrowed(BUILTIN_WEIGHTS)])?;
    Ok(LoadedModel {
        model: build(BUILTIN_CONFIG, &mut checkpoint)?,
        tokenizer: TextTokenizer::from_json(BUILTIN_TOKENIZER, &[BUILTIN_CONFIG])?,
        chat_template: None,
        info: ModelInfo {
            name: registry::BUILTIN.into(),
            source_path: "built in".into(),
            sha256: hex(&Sha256::digest(BUILTIN_WEIGHTS)),
            weight_format: checkpoint.format(),
            weight_notes: Vec::new(),
            random_weights: false,
        },
    })
}

fn random(shape: &str, seed: u64) -> Result<LoadedModel> {
    let config = match shape {
        "distilgpt2" => Gpt2Config::distilgpt2(),
        other => bail!("random weights come in the shape of distilgpt2, not of `{other}`"),
    };
    Ok(LoadedModel {
        model: Box::new(Gpt2::random(&config, seed)?),
        tokenizer: TextTokenizer::from_json(BUILTIN_TOKENIZER, &[BUILTIN_CONFIG])?,
        chat_template: None,
        info: ModelInfo {
            name: format!("random:{shape}"),
            source_path: format!("random numbers, seed {seed}"),
            sha256: String::new(),
            weight_format: "random f32".into(),
            weight_notes: vec![
                "random weights: speed and bytes mean something, text and quality do not".into(),
            ],
            random_weights: true,
        },
    })
}

fn gguf(path: &Path) -> Result<LoadedModel> {
    let (content, mut reader) = gguf_file::open(path)?;
    let tokenizer = TextTokenizer::from_gguf(&content)?;
    let (model, weight_notes) = Llama::from_gguf(&content, &mut reader)?;
    check_vocabulary(&tokenizer, &model, "the GGUF file's")?;
    let text = |key: &str| content.metadata.get(key).and_then(|value| value.to_string().ok());
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.token_name(id)).unwrap_or_default();
    let chat_template = text("tokenizer.chat_template").map(|source| {
        let eos_id = content.metadata.get("tokenizer.ggml.eos_token_id").and_then(|id| id.to_u32().ok());
        ChatTemplate::new(source.clone(), name(tokenizer.bos_id()), name(eos_id))
    });
    Ok(LoadedModel {
        model: Box::new(model),
        chat_template,
        tokenizer,
        info: ModelInfo {
            name: String::new(),
            source_path: path.display().to_string(),
            sha256: sha256_of(&[path.into()])?,
            weight_format: llama::weight_format(&content),
            weight_notes,
            random_weights: false,
        },
    })
}

pub(super) fn folder_files(folder: &Path) -> Result<hub::Files> {
    let optional = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    Ok(hub::Files {
        config: folder.join("config.json"),
        generation_config: optional("generation_config.json"),
        tokenizer_config: optional("tokenizer_config.json"),
        chat_template: optional("chat_template.jinja"),
        tokenizer: folder.join("tokenizer.json"),
        weights: safetensors_files(folder)?,
    })
}

fn checkpoint(files: &hub::Files) -> Result<LoadedModel> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let config = read(&files.config)?;
    let mut configs = vec![config.clone()];
    if let Some(path) = &files.generation_config {
        configs.push(read(path)?);
    }
    let configs: Vec<&str> = configs.iter().map(String::as_str).collect();
    let mut tokenizer = TextTokenizer::from_json(read(&files.tokenizer)?.as_bytes(), &configs)?;
    let tokenizer_config = match &files.tokenizer_config {
        Some(path) => TokenizerConfig::from_json(&read(path)?)?,
        None => TokenizerConfig::default(),
    };
    let separate = files.chat_template.as_deref().map(read).transpose()?;
    let (eos_token, chat_template) = tokenizer_config.into_parts(separate);
    if let Some(name) = eos_token {
        tokenizer = tokenizer.with_end(&name);
    }
    let mut checkpoint = Checkpoint::open(&files.weights)?;
    let model = build(&config, &mut checkpoint)?;
    check_vocabulary(&tokenizer, &*model, &files.tokenizer.display().to_string())?;
    Ok(LoadedModel {
        model,
        tokenizer,
        chat_template,
        info: ModelInfo {
            name: String::new(),
            source_path: files.weights[0].display().to_string(),
            sha256: sha256_of(&files.weights)?,
            weight_format: checkpoint.format(),
            weight_notes: vec!["computed in f32".into()],
            random_weights: false,
        },
    })
}

/// Refuses a tokenizer of another model: one with tokens that the model has no embeddings for, or without names for
/// most of those it has. Models are padded to round sizes, and tokenizers may have a few added tokens more (Gemma 3's
/// has one for images), so that the numbers need not be the same.
fn check_vocabulary(tokenizer: &TextTokenizer, model: &dyn LanguageModel, from: &str) -> Result<()> {
    let (base, all, needed) =
        (tokenizer.base_vocab_size(), tokenizer.vocab_size(), model.config().vocab_size);
    ensure!(
        base <= needed && all >= needed / 2,
        "{from} tokenizer has {all} tokens and the model {needed}: it belongs to another model; put the model's own \
         tokenizer in its place"
    );
    if let Some(id) = tokenizer.eos_ids().iter().chain(&tokenizer.bos_id()).find(|&&id| id as usize >= needed)
    {
        bail!(
            "the token {id} begins or ends texts, and the model has {needed} tokens: {from} tokenizer or the \
               configuration belongs to another model"
        );
    }
    Ok(())
}

/// The model that config.json describes, with the weights of a checkpoint.
///
/// # Errors
/// A model type that is not known, or weights that do not fit the configuration.
fn build(config: &str, checkpoint: &mut Checkpoint) -> Result<Box<dyn LanguageModel>> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: String,
    }
    let kind: Kind = serde_json::from_str(config).context("config.json")?;
    Ok(match kind.model_type.as_str() {
        "gpt2" => Box::new(Gpt2::from_checkpoint(&Gpt2Config::from_json(config)?, checkpoint)?),
        _ => Box::new(Llama::from_checkpoint(config, checkpoint)?),
    })
}

/// A model in Hugging Face's layout without its tokenizer: config.json and safetensors files in `folder`.
///
/// # Errors
/// As [`load`].
pub fn load_weights(folder: &Path) -> Result<Box<dyn LanguageModel>> {
    let config = folder.join("config.json");
    let config =
        std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    build(&config, &mut Checkpoint::open(&safetensors_files(folder)?)?)
}

fn sha256_of(paths: &[PathBuf]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in paths {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        loop {
            let n = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
        }
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
