//! GPT-2 against the reference implementation, on random weights.

mod common;

use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::DenseF32;
use kvq_host::model::gpt2::{Gpt2, Gpt2Config};
use kvq_host::model::{GenerateOptions, LanguageModel, Logits, StopReason, generate};

const FIXTURE: &str = "gpt2-random";

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

/// Greedy generation takes the most likely token of each position, and says why it ended.
#[test]
fn generation_follows_the_logits_and_stops_for_a_reason() {
    let (model, expected) = common::fixture(FIXTURE);
    let prompt = &expected.tokens[..5];
    let run = |eos: &[u32], options: GenerateOptions| {
        let mut store = DenseF32::new(model.config().kv_shape());
        generate(&*model, &mut store, prompt, eos, &options, |_| Ok(true)).unwrap()
    };
    let greedy = run(&[], GenerateOptions::greedy(10));
    assert_eq!((greedy.tokens.len(), greedy.stop), (10, StopReason::MaxTokens));
    let text: Vec<u32> = prompt.iter().chain(&greedy.tokens).copied().collect();
    let mut store = DenseF32::new(model.config().kv_shape());
    let logits = model.forward(&text, &mut store, Logits::All).unwrap();
    let best = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
    assert_eq!(best[4..14], greedy.tokens);

    let ended = run(&[greedy.tokens[3]], GenerateOptions::greedy(10));
    let first = greedy.tokens.iter().position(|token| *token == greedy.tokens[3]).unwrap();
    assert_eq!((ended.tokens.as_slice(), ended.stop), (&greedy.tokens[..first], StopReason::Eos));

    let full = run(&[], GenerateOptions::greedy(1000));
    assert_eq!(full.stop, StopReason::ContextFull);
    // The last token needs no position of its own.
    assert_eq!(full.tokens.len(), model.config().max_context - prompt.len() + 1);

    let sampled =
        GenerateOptions { temperature: Some(1.0), top_p: Some(0.9), seed: 5, ..GenerateOptions::greedy(20) };
    assert_eq!(run(&[], sampled), run(&[], sampled));
}

#[test]
fn a_receiver_can_stop_a_generation() {
    let (model, expected) = common::fixture(FIXTURE);
    let mut store = DenseF32::new(model.config().kv_shape());
    let options = GenerateOptions::greedy(10);
    let stopped = generate(&*model, &mut store, &expected.tokens, &[], &options, |_| Ok(false)).unwrap();
    assert_eq!((stopped.tokens.len(), stopped.stop), (1, StopReason::Receiver));
}

/// How far a store's stretches reach changes how attention is cut, and nothing else.
#[test]
fn prefill_respects_the_stretches_of_the_store() {
    struct Narrow(DenseF32);
    impl KvStore for Narrow {
        fn shape(&self) -> kvq_codec::KvShape {
            self.0.shape()
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn stretch(&self, _layer: usize) -> usize {
            3
        }
        fn append(&mut self, layer: usize, n_tokens: usize, k: &[f32], v: &[f32]) -> anyhow::Result<()> {
            assert!(n_tokens <= 3);
            self.0.append(layer, n_tokens, k, v)
        }
        fn attend_within(
            &mut self,
            layer: usize,
            n_tokens: usize,
            window_len: usize,
            q: &[f32],
            out: &mut [f32],
        ) -> anyhow::Result<()> {
            self.0.attend_within(layer, n_tokens, window_len, q, out)
        }
        fn trim(&mut self, len: usize) -> anyhow::Result<()> {
            self.0.trim(len)
        }
        fn clear(&mut self) {
            self.0.clear();
        }
        fn memory(&self) -> kvq_host::kv_store::KvBytes {
            self.0.memory()
        }
    }
    let (model, expected) = common::fixture(FIXTURE);
    let mut store = Narrow(DenseF32::new(model.config().kv_shape()));
    let logits = kvq_host::model::prefill(&*model, &mut store, &expected.tokens).unwrap();
    let last = logits.to_vec2::<f32>().unwrap();
    let want = expected.logits.last().unwrap();
    assert!(last[0].iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-4));
}

#[test]
fn random_weights_follow_their_seed() {
    let config = Gpt2Config::from_json(
        r#"{"vocab_size": 50, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}"#,
    );
    let config = config.unwrap();
    let logits = |seed| {
        let model = Gpt2::random(&config, seed).unwrap();
        let mut store = DenseF32::new(model.config().kv_shape());
        model.forward(&[1, 2, 3], &mut store, Logits::Last).unwrap().to_vec2::<f32>().unwrap()
    };
    assert_eq!(logits(1), logits(1));
    assert_ne!(logits(1), logits(2));
    assert!(logits(1)[0].iter().all(|logit| logit.is_finite()));
}

#[test]
fn unknown_variants_are_refused() {
    for extra in [
        r#""activation_function": "relu""#,
        r#""scale_attn_weights": false"#,
        r#""scale_attn_by_inverse_layer_idx": true"#,
        r#""n_head": 3"#,
    ] {
        let mut fields =
            vec![r#""vocab_size": 50"#, r#""n_positions": 16"#, r#""n_embd": 32"#, r#""n_layer": 2"#];
        if !extra.contains("n_head") {
            fields.push(r#""n_head": 2"#);
        }
        fields.push(extra);
        assert!(Gpt2Config::from_json(&format!("{{{}}}", fields.join(", "))).is_err(), "{extra}");
    }
}
