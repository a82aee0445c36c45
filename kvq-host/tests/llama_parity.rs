//! Llama against the reference implementation, on random weights; and its GGUF form against itself.

mod common;
#[path = "common/gguf.rs"]
mod file;

use std::collections::HashMap;
use std::io::Cursor;

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use file::{folder, gguf_name};
use kvq_host::kv_store::dense::DenseF32;
use kvq_host::model::{LanguageModel, Llama, Logits, load_weights};

const FIXTURE: &str = "llama-random";

#[test]
fn logits_are_those_of_the_reference() {
    common::check_parity(FIXTURE);
}

#[test]
fn wanted_rows_are_returned() {
    common::check_logits_selection(FIXTURE);
}

#[test]
fn bad_input_is_an_error() {
    common::check_errors(FIXTURE);
}

/// The permutation that conversion applies to rows of queries and keys: `(heads, 2, 8, hidden)` to
/// `(heads, 8, 2, hidden)`.
fn permute(weights: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = weights.dims2().unwrap();
    let split = weights.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    split.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

/// The fixture as a GGUF file whose matrices are stored as `dtype`, with some metadata changed.
fn gguf(dtype: GgmlDType, changes: &[(&str, Value)]) -> Vec<u8> {
    write_gguf(dtype, changes, None)
}

/// The fixture as a GGUF file whose rotary frequencies are divided by `factors`.
fn gguf_with_factors(factors: &[f32]) -> Vec<u8> {
    write_gguf(GgmlDType::F32, &[], Some(factors))
}

fn write_gguf(dtype: GgmlDType, changes: &[(&str, Value)], rope_factors: Option<&[f32]>) -> Vec<u8> {
    let path = folder(FIXTURE);
    let tensors = candle_core::safetensors::load(path.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: HashMap<String, QTensor> = tensors
        .iter()
        .map(|(name, tensor)| {
            let tensor = match name {
                name if name.contains("q_proj") => permute(tensor, 4),
                name if name.contains("k_proj") => permute(tensor, 2),
                _ => tensor.clone(),
            };
            let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { dtype };
            (gguf_name(name, false), QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    if let Some(factors) = rope_factors {
        let factors = Tensor::new(factors, &Device::Cpu).unwrap();
        tensors.insert("rope_freqs.weight".into(), QTensor::quantize(&factors, GgmlDType::F32).unwrap());
    }
    let mut metadata: HashMap<String, Value> = HashMap::from([
        ("general.architecture".into(), Value::String("llama".into())),
        ("llama.block_count".into(), Value::U32(2)),
        ("llama.context_length".into(), Value::U32(64)),
        ("llama.embedding_length".into(), Value::U32(64)),
        ("llama.feed_forward_length".into(), Value::U32(160)),
        ("llama.attention.head_count".into(), Value::U32(4)),
        ("llama.attention.head_count_kv".into(), Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5)),
        ("llama.rope.freq_base".into(), Value::F32(10_000.0)),
        ("llama.rope.dimension_count".into(), Value::U32(16)),
    ]);
    metadata.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

fn open(bytes: &[u8]) -> anyhow::Result<(Llama, Vec<String>)> {
    let mut reader = Cursor::new(bytes);
    let content = Content::read(&mut reader)?;
    Llama::from_gguf(&content, &mut reader)
}

/// The largest error over all logits of a GGUF form of the fixture, and its notes.
fn gguf_error(dtype: GgmlDType) -> (f32, Vec<String>) {
    let (_, expected) = common::fixture(FIXTURE);
    let (model, notes) = open(&gguf(dtype, &[])).unwrap();
    let mut store = DenseF32::new(model.config().kv_shape());
    let logits = model.forward(&expected.tokens, &mut store, Logits::All).unwrap().to_vec2::<f32>().unwrap();
    let pairs = logits.iter().flatten().zip(expected.logits.iter().flatten());
    (pairs.map(|(got, want)| (got - want).abs()).fold(0.0, f32::max), notes)
}

#[test]
fn gguf_weights_give_the_same_logits() {
    let (error, notes) = gguf_error(GgmlDType::F32);
    assert!(error < 1e-4 && notes.is_empty(), "{error} {notes:?}");
    let (error, notes) = gguf_error(GgmlDType::Q8_0);
    assert!(error < 0.2 && notes.is_empty(), "{error} {notes:?}");
}

/// Enough rows to be multiplied in f32 give the logits of single tokens, up to the rounding of activations.
#[test]
fn long_chunks_of_quantized_weights_agree_with_single_tokens() {
    let (_, expected) = common::fixture(FIXTURE);
    let (model, _) = open(&gguf(GgmlDType::Q8_0, &[])).unwrap();
    let tokens: Vec<u32> = expected.tokens.iter().cycle().take(40).copied().collect();
    let run = |chunk: usize| -> Vec<f32> {
        let mut store = DenseF32::new(model.config().kv_shape());
        let logits =
            tokens.chunks(chunk).map(|tokens| model.forward(tokens, &mut store, Logits::All).unwrap());
        logits.flat_map(|logits| logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    };
    let (whole, single) = (run(40), run(1));
    let worst = whole.iter().zip(&single).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(worst > 0.0 && worst < 0.1, "{worst}");
    assert_eq!(single, run(7));
}

/// 14 matrices and the two ends are re-encoded, and the model says so.
#[test]
fn slow_types_are_re_encoded_with_a_note() {
    for dtype in [GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q5_1] {
        let (error, notes) = gguf_error(dtype);
        assert!(error < 1.5, "{dtype:?}: {error}");
        assert!(matches!(&notes[..], [note] if note.contains(&format!("16 {dtype:?} tensors"))), "{notes:?}");
    }
}

#[test]
fn variants_that_would_be_computed_wrongly_are_refused() {
    for (key, value) in [
        ("general.architecture", Value::String("gemma".into())),
        ("llama.rope.scaling.type", Value::String("yarn".into())),
        ("llama.rope.scale_linear", Value::F32(2.0)),
        ("llama.attention.sliding_window", Value::U32(4096)),
        ("llama.expert_count", Value::U32(8)),
        ("llama.attention.value_length", Value::U32(8)),
        ("llama.attention.head_count_kv", Value::U32(3)),
        ("llama.feed_forward_length", Value::U32(128)),
    ] {
        assert!(open(&gguf(GgmlDType::F32, &[(key, value)])).is_err(), "{key}");
    }
    assert!(open(&gguf(GgmlDType::F32, &[])).is_ok());
    assert!(open(&gguf(GgmlDType::F32, &[])[..2000]).is_err());
}

/// The frequency factors of a GGUF file are what the figures of config.json come to.
#[test]
fn frequency_factors_give_the_logits_of_a_checkpoint_with_llama3_scaling() {
    let path = folder(FIXTURE);
    let changed = tempfile::tempdir().unwrap();
    std::fs::copy(path.join("model.safetensors"), changed.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(path.join("config.json")).unwrap();
    let scaling = r#""rope_type": "llama3", "factor": 8.0, "low_freq_factor": 0.3, "high_freq_factor": 1.5,
        "original_max_position_embeddings": 16"#;
    let scaled = config.replace("\"rope_type\": \"default\"", scaling);
    assert_ne!(scaled, config);
    std::fs::write(changed.path().join("config.json"), scaled).unwrap();
    let checkpoint = load_weights(changed.path()).unwrap();
    let factors: Vec<f32> = (0..8)
        .map(|pair| {
            let turns = 16.0 / std::f64::consts::TAU * 10_000_f64.powf(-2.0 * f64::from(pair) / 16.0);
            let kept = ((turns - 0.3) / 1.2).clamp(0.0, 1.0);
            (1.0 / (kept + (1.0 - kept) / 8.0)) as f32
        })
        .collect();
    let (plain, _) = open(&gguf(GgmlDType::F32, &[])).unwrap();
    let (model, _) = open(&gguf_with_factors(&factors)).unwrap();
    let (_, expected) = common::fixture(FIXTURE);
    let run = |model: &dyn LanguageModel| -> Vec<f32> {
        let mut store = DenseF32::new(model.config().kv_shape());
        let logits = model.forward(&expected.tokens, &mut store, Logits::All).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    };
    let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let scaled = run(&*checkpoint);
    assert!(worst(&run(&model), &scaled) < 1e-4);
    assert!(worst(&run(&plain), &scaled) > 0.1, "the scaling makes a difference");
    assert!(open(&gguf_with_factors(&factors[..7])).is_err());
}
