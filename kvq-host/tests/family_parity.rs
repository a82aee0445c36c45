//! Llama 3, Qwen2, Qwen3 and Gemma 3 against the reference implementation, and their GGUF form against the checkpoint.

mod common;
#[path = "common/gguf.rs"]
mod file;

use std::io::Cursor;

use candle_core::quantized::gguf_file::{Content, Value};
use file::{folder, gguf};
use kvq_codec::{Backend, Policy};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::DenseF32;
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::model::{LanguageModel, Llama, Logits, load_weights};

const FIXTURES: [&str; 4] = ["llama3-random", "qwen2-random", "qwen3-random", "gemma3-random"];

fn logits(model: &dyn LanguageModel, store: &mut dyn KvStore, tokens: &[u32]) -> Vec<Vec<f32>> {
    model.forward(tokens, store, Logits::All).unwrap().to_vec2().unwrap()
}

fn worst(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_are_those_of_the_reference() {
    for name in FIXTURES {
        common::check_parity(name);
        common::check_logits_selection(name);
        common::check_errors(name);
    }
}

/// The packed store sees the same window as the dense one: its 8 bits change little, another window much.
#[test]
fn packed_stores_serve_every_family() {
    for name in FIXTURES {
        let (model, expected) = common::fixture(name);
        let shape = model.config().kv_shape();
        let mut store = PackedStore::new(shape, Policy::EIGHT_BIT, Backend::detect()).unwrap();
        let error = worst(&logits(&*model, &mut store, &expected.tokens), &expected.logits);
        assert!(error < 0.1, "{name}: {error}");
        let narrow = Policy { window_len: 4, ..Policy::EIGHT_BIT };
        let mut store = PackedStore::new(shape, narrow, Backend::detect()).unwrap();
        let error = worst(&logits(&*model, &mut store, &expected.tokens), &expected.logits);
        assert!(error > 0.2, "{name}: {error}");
    }
}

fn open(bytes: &[u8]) -> anyhow::Result<Llama> {
    let mut reader = Cursor::new(bytes);
    let content = Content::read(&mut reader)?;
    Ok(Llama::from_gguf(&content, &mut reader)?.0)
}

#[test]
fn gguf_forms_of_qwen_give_the_same_logits() {
    for (fixture, architecture, head_dim) in [("qwen2-random", "qwen2", 16), ("qwen3-random", "qwen3", 24)] {
        let model =
            open(&gguf(fixture, architecture, &[("attention.key_length", Value::U32(head_dim))])).unwrap();
        let (_, expected) = common::fixture(fixture);
        let mut store = DenseF32::new(model.config().kv_shape());
        let error = worst(&logits(&model, &mut store, &expected.tokens), &expected.logits);
        assert!(error < 1e-4, "{fixture}: {error}");
    }
}

const GEMMA3: [(&str, Value); 2] =
    [("attention.key_length", Value::U32(256)), ("attention.sliding_window", Value::U32(8))];

/// GGUF files of Gemma 3 have a window in five of six layers, so in both of this one, and the scale of the head
/// size: the checkpoint is given such a configuration.
#[test]
fn the_gguf_form_of_gemma3_gives_the_logits_of_such_a_checkpoint() {
    let path = folder("gemma3-random");
    let config = std::fs::read_to_string(path.join("config.json")).unwrap();
    let changed = tempfile::tempdir().unwrap();
    std::fs::copy(path.join("model.safetensors"), changed.path().join("model.safetensors")).unwrap();
    let config = config.replace("\"full_attention\"\n  ]", "\"sliding_attention\"\n  ]");
    let config = config.replace("\"query_pre_attn_scalar\": 168", "\"query_pre_attn_scalar\": 256");
    std::fs::write(changed.path().join("config.json"), config).unwrap();
    let checkpoint = load_weights(changed.path()).unwrap();
    let model = open(&gguf("gemma3-random", "gemma3", &GEMMA3)).unwrap();
    assert_eq!((model.config(), model.config().head_dim), (checkpoint.config(), 256));
    let (_, expected) = common::fixture("gemma3-random");
    let run = |model: &dyn LanguageModel| {
        logits(model, &mut DenseF32::new(model.config().kv_shape()), &expected.tokens)
    };
    let error = worst(&run(&model), &run(&*checkpoint));
    assert!(error < 1e-4, "{error}");
    assert!(worst(&run(&model), &expected.logits) > 0.1, "the changes make a difference");
}

#[test]
fn variants_of_gemma3_that_would_be_computed_wrongly_are_refused() {
    let with = |key: &'static str, value: Value| [&GEMMA3[..], &[(key, value)]].concat();
    for (key, value, word) in [
        ("rope.scaling.type", Value::String("yarn".into()), "yarn"),
        ("rope.scaling.type", Value::String("linear".into()), "factor"),
        ("attention.sliding_window_pattern", Value::U32(4), "pattern"),
    ] {
        let error = open(&gguf("gemma3-random", "gemma3", &with(key, value))).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    }
    let stretched =
        [("rope.scaling.type", Value::String("linear".into())), ("rope.scaling.factor", Value::F32(8.0))];
    assert!(open(&gguf("gemma3-random", "gemma3", &[&GEMMA3[..], &stretched].concat())).is_ok());
}
