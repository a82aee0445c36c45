//! `kvq models` and `kvq inspect`: what is on this machine, and what a file holds.

#[path = "common/program.rs"]
mod program;

use std::path::{Path, PathBuf};
use std::process::Command;

use kvq_codec::{Backend, Cache, KvShape, Policy};
use kvq_host::kv_store::memory::GrowingMemory;
use program::kvq;
use serde_json::Value;

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn inspect(path: &Path) -> Value {
    let output = kvq(&["inspect", path.to_str().unwrap(), "--json", "-"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(path: &Path) -> String {
    let output = kvq(&["inspect", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

fn snapshot(tokens: usize) -> Vec<u8> {
    let shape = KvShape::new(2, 1, 32);
    let mut cache = Cache::new(shape, Policy::FOUR_X, Backend::SCALAR, GrowingMemory::default()).unwrap();
    for pos in 0..tokens {
        let x: Vec<f32> = (0..32).map(|i| ((i * pos) as f32).sin()).collect();
        for layer in 0..2 {
            cache.append(layer, 1, &x, &x).unwrap();
        }
    }
    let mut bytes = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_snapshot_is_read_to_its_last_byte() {
    let (bytes, path) = (snapshot(150), scratch("cache.snapshot"));
    std::fs::write(&path, &bytes).unwrap();
    let found = inspect(&path);
    assert_eq!((found["tokens"].as_u64(), found["n_layers"].as_u64()), (Some(150), Some(2)));
    let tiers = found["tier_map"]["key"].as_array().unwrap();
    assert_eq!(tiers.iter().map(|tier| tier["tokens"].as_u64().unwrap()).sum::<u64>(), 150);
    assert_eq!(found["policy"]["budget_compression"], 4.0);
    let text = String::from_utf8(kvq(&["inspect", path.to_str().unwrap()]).stdout).unwrap();
    assert!(text.contains("snapshot of a cache") && text.contains("tokens"), "{text}");

    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    std::fs::write(&path, &changed).unwrap();
    assert!(refusal(&path).contains("CRC-32"));
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    assert!(refusal(&path).contains("are here"));
    std::fs::write(&path, &bytes[..40]).unwrap();
    assert!(refusal(&path).contains("144"));
}

#[test]
fn images_and_weights_are_told_by_their_first_bytes() {
    let image = scratch("tiny.image");
    assert!(kvq(&["export", "--out", image.to_str().unwrap()]).status.success());
    let found = inspect(&image);
    assert_eq!((found["head_dim"].as_u64(), found["n_layers"].as_u64()), (Some(32), Some(3)));
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/builtin/model.safetensors");
    let found = inspect(&weights);
    assert_eq!(found["parameters"], 791_680);
    assert!(found["weight_formats"]["F16"].as_u64().unwrap() > 10);

    let cut = scratch("cut.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 10]).unwrap();
    assert!(refusal(&cut).contains("cut off"));
    std::fs::write(&image, &std::fs::read(&image).unwrap()[..5000]).unwrap();
    assert!(refusal(&image).contains("tiny.image"));
    std::fs::write(&cut, "nothing of the kind").unwrap();
    assert!(refusal(&cut).contains("no snapshot"));
    std::fs::write(&cut, "").unwrap();
    assert!(refusal(&cut).contains("no snapshot"));
    assert!(refusal(&scratch("no.such")).contains("cannot open"));
    assert_eq!(kvq(&["inspect"]).status.code(), Some(2));
}

#[test]
fn models_lists_what_is_known_and_what_is_here() {
    let text = String::from_utf8(kvq(&["models"]).stdout).unwrap();
    for expected in
        ["builtin", "in this program", "distilbert/distilgpt2", "cargo xtask fetch-model", ".gguf"]
    {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let folder = scratch("models-here");
    std::fs::create_dir_all(folder.join("models/gpt2")).unwrap();
    std::fs::write(folder.join("models/gpt2/config.json"), "{}").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvq"));
    // An empty cache of the hub, whatever this machine has.
    let output = command
        .args(["models", "--json", "-"])
        .current_dir(&folder)
        .env("HF_HOME", &folder)
        .output()
        .unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let entry =
        |name: &str| list.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone();
    assert_eq!(entry("gpt2")["path"], "models/gpt2");
    assert_eq!(entry("gpt2")["file_bytes"], 2);
    assert!(entry("gpt2-medium")["path"].is_null());
    assert!(entry("builtin")["repository"].is_null());
}
