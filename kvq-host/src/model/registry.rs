//! The model names this program knows, and how any name becomes files.

use std::path::{Path, PathBuf};

/// A model that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name on the command line, and of its folder under `models/`.
    pub name: &'static str,
    /// Its repository on the Hugging Face hub; none for the built-in model.
    pub repository: Option<&'static str>,
    /// One line for people.
    pub description: &'static str,
}

/// Every known name.
pub const KNOWN: [Known; 5] = [
    Known {
        name: BUILTIN,
        repository: None,
        description: "tiny GPT-2 trained on short stories, in this program",
    },
    Known {
        name: "smollm2-135m",
        repository: Some("HuggingFaceTB/SmolLM2-135M-Instruct"),
        description: "Llama family, 30 layers, 9 heads on 3 KV heads of 64, 8192 positions",
    },
    Known {
        name: "distilgpt2",
        repository: Some("distilbert/distilgpt2"),
        description: "GPT-2 family, 6 layers, 12 heads of 64, 1024 positions",
    },
    Known {
        name: "gpt2",
        repository: Some("openai-community/gpt2"),
        description: "GPT-2 family, 12 layers, 12 heads of 64, 1024 positions",
    },
    Known {
        name: "gpt2-medium",
        repository: Some("openai-community/gpt2-medium"),
        description: "GPT-2 family, 24 layers, 16 heads of 64, 1024 positions",
    },
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
