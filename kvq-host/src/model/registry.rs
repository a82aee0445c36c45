//! The model names this program knows, and how any name becomes files.

use std::path::{Path, PathBuf};

use kvq_codec::KvShape;

/// A model that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name on the command line, and of its folder under `models/`.
    pub name: &'static str,
    /// Its repository on the Hugging Face hub; none for the built-in model.
    pub repository: Option<&'static str>,
    /// The family that its code is written for.
    pub family: &'static str,
    /// What a token's keys and values are.
    pub kv_shape: KvShape,
}

const fn on_hub(
    name: &'static str,
    repository: &'static str,
    family: &'static str,
    kv_shape: KvShape,
) -> Known {
    Known { name, repository: Some(repository), family, kv_shape }
}

/// Every known name.
pub const KNOWN: [Known; 14] = [
    Known { name: BUILTIN, repository: None, family: "GPT-2", kv_shape: KvShape::new(3, 4, 32) },
    on_hub("distilgpt2", "distilbert/distilgpt2", "GPT-2", KvShape::new(6, 12, 64)),
    on_hub("gpt2", "openai-community/gpt2", "GPT-2", KvShape::new(12, 12, 64)),
    on_hub("gpt2-medium", "openai-community/gpt2-medium", "GPT-2", KvShape::new(24, 16, 64)),
    on_hub("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "Llama", KvShape::new(30, 3, 64)),
    on_hub("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct", "Llama", KvShape::new(32, 5, 64)),
    on_hub("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "Llama", KvShape::new(24, 32, 64)),
    on_hub("tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Llama", KvShape::new(22, 4, 64)),
    on_hub("llama-3.2-1b", "meta-llama/Llama-3.2-1B-Instruct", "Llama", KvShape::new(16, 8, 64)),
    on_hub("llama-3.2-3b", "meta-llama/Llama-3.2-3B-Instruct", "Llama", KvShape::new(28, 8, 128)),
    on_hub("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", "Llama", KvShape::new(32, 8, 128)),
    on_hub("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen2", KvShape::new(24, 2, 64)),
    on_hub("qwen3-0.6b", "Qwen/Qwen3-0.6B", "Qwen3", KvShape::new(28, 8, 128)),
    on_hub("gemma-3-270m", "google/gemma-3-270m-it", "Gemma 3", KvShape::new(18, 1, 256)),
];

/// The name of the model inside this program.
pub const BUILTIN: &str = "builtin";

/// What a specification of a model stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The model inside this program.
    Builtin,
    /// Random weights in the shape of this model.
    Random(String),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A folder with config.json, tokenizer.json and safetensors files.
    Folder(PathBuf),
    /// A repository on the Hugging Face hub.
    Hub(String),
}

/// Finds out what `spec` stands for: `builtin`, `random:SHAPE`, a path, a known name or folder under
/// `models/`, or `organisation/name` on the hub. Nothing if it is none of these.
pub fn locate(spec: &str) -> Option<Location> {
    if spec == BUILTIN {
        return Some(Location::Builtin);
    }
    if let Some(shape) = spec.strip_prefix("random:") {
        return Some(Location::Random(shape.into()));
    }
    if let Some(found) = at_path(Path::new(spec)) {
        return Some(found);
    }
    if let Some(found) = model_folders(spec).iter().find_map(|folder| at_path(folder)) {
        return Some(found);
    }
    let known = KNOWN.iter().find(|known| known.name == spec).and_then(|known| known.repository);
    let is_repository = spec.split('/').filter(|part| !part.is_empty()).count() == 2
        && spec.matches('/').count() == 1
        && !spec.starts_with('.');
    known.or(is_repository.then_some(spec)).map(|repository| Location::Hub(repository.into()))
}

/// A GGUF file, a folder of a checkpoint, or a folder that holds one GGUF file.
fn at_path(path: &Path) -> Option<Location> {
    if path.is_file() && path.extension().is_some_and(|extension| extension == "gguf") {
        return Some(Location::Gguf(path.into()));
    }
    if path.join("config.json").is_file() {
        return Some(Location::Folder(path.into()));
    }
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.is_file() && file.extension().is_some_and(|extension| extension == "gguf"));
    files.sort();
    files.into_iter().next().map(Location::Gguf)
}

/// Folders where a named model may lie: `models/NAME` under the current folder, and in the workspace that
/// this program was built from.
pub fn model_folders(name: &str) -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let roots = [Some(Path::new("")), workspace];
    roots.into_iter().flatten().map(|root| root.join("models").join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(locate("builtin"), Some(Location::Builtin));
        assert_eq!(locate("random:distilgpt2"), Some(Location::Random("distilgpt2".into())));
        assert_eq!(
            locate("some-organisation/some-model"),
            Some(Location::Hub("some-organisation/some-model".into()))
        );
        for unknown in ["no-such-model", "./no/such/path", "/no/such", "a/b/c", "no-such.gguf"] {
            assert_eq!(locate(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn paths_are_recognized_by_what_they_hold() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gpt2-random");
        assert_eq!(at_path(&fixture), Some(Location::Folder(fixture.clone())));
        assert_eq!(at_path(fixture.parent().unwrap()), None);
    }
}
