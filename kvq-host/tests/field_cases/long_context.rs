//! A context to its end and one past it: the built-in model's 1,024 here, and with `cargo xtask test --slow` the 8,192
//! of SmolLM2.

use std::time::Instant;

use kvq_codec::{Policy, Side};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::{DenseF16, DenseF32};
use kvq_host::model::{GenerateOptions, LoadedModel, Logits, StopReason, generate, load, prefill};

use super::program::{record, refusal, tokens};
use super::{packed, story};

/// Reads `n` tokens but the last few, writes on to the end, and asks for one more. Returns the logits of the last prompt
/// token, and what was written.
fn to_the_end_and_one_past_it(
    model: &LoadedModel,
    store: &mut dyn KvStore,
    text: &[u32],
    left: usize,
) -> Vec<u32> {
    let max = model.model.config().max_context;
    let prompt = &text[..max - left];
    let options = GenerateOptions::greedy(2 * left);
    let generation = generate(&*model.model, store, prompt, &[], &options, |_| Ok(true)).unwrap();
    // The last token is written from the last position, and has none itself.
    assert_eq!((generation.stop, generation.tokens.len()), (StopReason::ContextFull, left + 1));
    assert_eq!(store.len(), max);
    let before = store.memory();
    let error = model.model.forward(&[1], store, Logits::Last).unwrap_err().to_string();
    assert!(error.contains(&max.to_string()), "{error}");
    assert_eq!((store.len(), store.memory()), (max, before), "one past the end changes nothing");
    // A rollback makes room again.
    store.trim(max - 1).unwrap();
    model.model.forward(&[1], store, Logits::Last).unwrap();
    assert_eq!(store.len(), max);
    generation.tokens
}

fn holds_all(store: &kvq_host::kv_store::packed::PackedStore, n: usize) {
    for layer in 0..store.shape().n_layers {
        for side in [Side::Key, Side::Value] {
            let held: usize =
                store.cache().tier_map(layer, side).unwrap().iter().map(|tier| tier.tokens).sum();
            assert_eq!(held, n, "layer {layer}");
        }
    }
}

#[test]
fn the_built_in_models_context_to_its_end_and_one_past_it() {
    let model = load("builtin", 0).unwrap();
    let max = model.model.config().max_context;
    let text = story(&model, max);
    let dense =
        to_the_end_and_one_past_it(&model, &mut DenseF32::new(model.model.config().kv_shape()), &text, 30);
    to_the_end_and_one_past_it(&model, &mut DenseF16::new(model.model.config().kv_shape()), &text, 30);
    for (name, policy) in Policy::PRESETS {
        let mut store = packed(&model, policy);
        let written = to_the_end_and_one_past_it(&model, &mut store, &text, 30);
        holds_all(&store, max);
        let same = written.iter().zip(&dense).take_while(|(a, b)| a == b).count();
        println!("{name}: {same} of {} tokens as dense f32 writes them", dense.len());
        assert!(name != "8bit" || 2 * same > dense.len(), "{name}: {same}");
        let fp16 = max * store.shape().fp16_bytes_per_token();
        assert!(store.memory().total() < fp16, "{name}");
    }
}

#[test]
fn the_program_writes_to_the_last_position_and_refuses_a_prompt_that_leaves_none() {
    let model = load("builtin", 0).unwrap();
    let max = model.model.config().max_context;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.txt");
    let text = model.tokenizer.decode(&story(&model, max + 60)).unwrap();
    // As many characters as give so many tokens when they are read again.
    let prompt = |n: usize| {
        let ends = text.char_indices().map(|(at, _)| at).filter(|&at| text[..at].ends_with(' '));
        let lengths = ends.map(|at| (at, model.tokenizer.encode(&text[..at - 1], true).unwrap().len()));
        let near = lengths.filter(|(at, _)| *at > text.len() * 3 / 4).find(|(_, len)| *len >= n - 3).unwrap();
        let mut words = text[..near.0 - 1].to_owned();
        while model.tokenizer.encode(&words, true).unwrap().len() < n {
            words.push('!');
        }
        assert_eq!(model.tokenizer.encode(&words, true).unwrap().len(), n, "each mark is a token");
        words
    };
    let path_text = path.to_str().unwrap();
    std::fs::write(&path, prompt(max - 1)).unwrap();
    let last = record(&["generate", "--prompt-file", path_text, "--new-tokens", "50"]);
    assert_eq!(tokens(&last, 0).len(), 1, "the last position is written from, and no other is left");
    assert_eq!(last["settings"]["context_tokens"].as_u64(), Some(max as u64 - 1));
    std::fs::write(&path, prompt(max)).unwrap();
    let (code, error) = refusal(&["generate", "--prompt-file", path_text, "--new-tokens", "50"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(
        error.contains(&format!("{max} tokens")) && error.contains(&format!("{max} positions")),
        "{error}"
    );
}

/// The model of the slow tests, or what puts it there.
fn smollm2() -> LoadedModel {
    let name = "smollm2-135m";
    let is_here = kvq_host::model::registry::model_folders(name).iter().any(|folder| folder.exists());
    assert!(is_here, "models/{name} is not here: `cargo xtask fetch-model {name}` puts it there");
    load(name, 0).unwrap()
}

/// Mean KL divergence of the next token's distribution over some positions, in nats.
fn divergence(exact: &[Vec<f32>], other: &[Vec<f32>]) -> f64 {
    let log_softmax = |logits: &[f32]| -> Vec<f64> {
        let peak = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let sum: f64 = logits.iter().map(|&x| f64::from(x - peak).exp()).sum();
        logits.iter().map(|&x| f64::from(x - peak) - sum.ln()).collect()
    };
    let pairs = exact.iter().zip(other).map(|(exact, other)| (log_softmax(exact), log_softmax(other)));
    let each = pairs.map(|(p, q)| p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
    each.sum::<f64>() / exact.len() as f64
}

#[test]
#[ignore = "slow: 8,192 tokens through SmolLM2-135M, with `cargo xtask test --slow`"]
fn slow_smollm2_reads_its_whole_context_and_not_one_token_more() {
    const ASKED: usize = 64;
    let model = smollm2();
    let max = model.model.config().max_context;
    assert_eq!(max, 8192);
    let text = include_str!("../../assets/text/alice.txt");
    let mut ids = model.tokenizer.encode(text, false).unwrap();
    while ids.len() < max {
        ids.extend_from_within(..);
    }
    let (prompt, asked) = (&ids[..max - ASKED], &ids[max - ASKED..max]);
    // The distributions of the last 64 positions, the very last among them.
    let run = |name: &str, store: &mut dyn KvStore| -> Vec<Vec<f32>> {
        let begun = Instant::now();
        prefill(&*model.model, store, prompt).unwrap();
        let read = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let rows = asked.iter().map(|&token| {
            let logits = model.model.forward(&[token], store, Logits::Last).unwrap();
            logits.squeeze(0).unwrap().to_vec1::<f32>().unwrap()
        });
        let rows: Vec<Vec<f32>> = rows.collect();
        let step = begun.elapsed().as_secs_f64();
        assert_eq!(store.len(), max);
        assert!(rows.iter().flatten().all(|x| x.is_finite()));
        let (before, fp16) = (store.memory(), max * store.shape().fp16_bytes_per_token());
        let error = model.model.forward(&[1], store, Logits::Last).unwrap_err().to_string();
        assert!(error.contains("8192"), "{error}");
        assert_eq!((store.len(), store.memory()), (max, before));
        println!(
            "{name}: prefill {:.1} tokens/s, decode at the end {:.1} tokens/s, {} bytes, {:.3}x smaller than fp16",
            prompt.len() as f64 / read,
            ASKED as f64 / step,
            before.total(),
            fp16 as f64 / before.total() as f64
        );
        rows
    };
    let exact = run("dense-f16", &mut DenseF16::new(model.model.config().kv_shape()));
    for (name, policy, compression, bound) in
        [("4x", Policy::FOUR_X, 4.0, 0.05), ("6x", Policy::SIX_X, 6.0, 0.5)]
    {
        let mut store = packed(&model, policy);
        let rows = run(name, &mut store);
        holds_all(&store, max);
        let ratio = (max * store.shape().fp16_bytes_per_token()) as f64 / store.memory().total() as f64;
        assert!(ratio >= compression, "{name}: {ratio}");
        let kld = divergence(&exact, &rows);
        println!("{name}: KL divergence {kld:.4} over the last {ASKED} positions");
        assert!(kld < bound, "{name}: {kld}");
    }
}
