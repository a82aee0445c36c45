//! Tensors of a checkpoint in the safetensors format, as f32.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

/// Where a model's parameters come from: a checkpoint, or random numbers.
pub(crate) trait Source {
    /// The values of a tensor of this shape, row-major.
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;

    /// Whether there is a tensor of this name.
    fn has(&self, name: &str) -> bool;
}

/// One or several safetensors files held in memory.
pub(crate) struct Checkpoint {
    files: Vec<Cow<'static, [u8]>>,
    tensors: HashMap<String, Entry>,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Checkpoint {
    /// Reads the index of files held in memory.
    ///
    /// # Errors
    /// Bytes that are not in the format.
    pub(crate) fn new(files: Vec<Cow<'static, [u8]>>) -> Result<Self> {
        let mut tensors = HashMap::new();
        for (file, bytes) in files.iter().enumerate() {
            let (header_bytes, metadata) =
                SafeTensors::read_metadata(bytes).context("not a safetensors file")?;
            for (name, info) in metadata.tensors() {
                // The data begins after the eight bytes of the header's length and the header.
                let start = 8 + header_bytes;
                let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
                tensors.insert(name, Entry { file, dtype: info.dtype, shape: info.shape.clone(), bytes });
            }
        }
        Ok(Self { files, tensors })
    }

    /// Reads files from disk.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self> {
        let read = |path: &PathBuf| -> Result<Cow<'static, [u8]>> {
            Ok(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?.into())
        };
        Self::new(paths.iter().map(read).collect::<Result<_>>()?)
    }

    /// `prefix` if names start with it in this file, otherwise nothing: checkpoints of the bare model lack
    /// the name of its container.
    pub(crate) fn prefix(&self, prefix: &'static str) -> &'static str {
        if self.tensors.keys().any(|name| name.starts_with(prefix)) { prefix } else { "" }
    }

    /// The number type most tensors are stored in, for people to read.
    pub(crate) fn format(&self) -> String {
        let mut bytes: HashMap<String, usize> = HashMap::new();
        for entry in self.tensors.values() {
            *bytes.entry(format!("{:?}", entry.dtype).to_lowercase()).or_default() += entry.bytes.len();
        }
        let largest = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
        format!("safetensors {}", largest.map_or_else(String::new, |(name, _)| name))
    }
}

impl Source for Checkpoint {
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let entry =
            self.tensors.get(name).with_context(|| format!("no tensor `{name}` in the checkpoint"))?;
        ensure!(
            entry.shape == shape,
            "tensor `{name}` is {:?}, the configuration asks for {shape:?}",
            entry.shape
        );
        let bytes = self.files[entry.file]
            .get(entry.bytes.clone())
            .with_context(|| format!("tensor `{name}` lies outside its file"))?;
        Ok(match entry.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => {
                bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
            }
            other => bail!("tensor `{name}` is {other:?}: only F32, F16 and BF16 are read"),
        })
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// The safetensors files of a model folder: one, or the shards that its index names.
///
/// # Errors
/// Neither `model.safetensors` nor `model.safetensors.index.json`, or an index that cannot be read.
pub(crate) fn safetensors_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index)
        .with_context(|| format!("neither {} nor {} can be read", single.display(), index.display()))?;
    Ok(shard_names(&text)?.into_iter().map(|name| folder.join(name)).collect())
}

/// The file names in a `model.safetensors.index.json`, sorted, each once.
pub(crate) fn shard_names(index: &str) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let index: Index = serde_json::from_str(index).context("index of safetensors shards")?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    ensure!(!names.is_empty(), "an index of no safetensors shards");
    Ok(names)
}

/// Random parameters as GPT-2 initializes them: gains one, biases zero, weights normal with a standard
/// deviation of 0.02.
pub(crate) struct RandomSource {
    state: u64,
}

impl RandomSource {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// The sum of eight uniform bytes, centered and scaled: close to a normal value, and fast.
    fn normal(&mut self) -> f32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let mixed = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let sum: u32 = mixed.to_le_bytes().into_iter().map(u32::from).sum();
        // Eight bytes have mean 1020 and variance 8 · (256² - 1)/12.
        (sum as f32 - 1020.0) * (1.0 / 209.02)
    }
}

impl Source for RandomSource {
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let len = shape.iter().product();
        Ok(match (shape.len(), name.ends_with(".bias")) {
            (1, true) => vec![0.0; len],
            (1, false) => vec![1.0; len],
            _ => (0..len).map(|_| 0.02 * self.normal()).collect(),
        })
    }

    fn has(&self, _name: &str) -> bool {
        false
    }
}
