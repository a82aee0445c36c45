//! Model fixtures with the logits of the reference implementation.

use std::path::PathBuf;

use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::{DenseF16, DenseF32};
use kvq_host::model::{LanguageModel, Logits, load_weights};
use serde::Deserialize;

/// What the reference computed: `tokens (n)` and `logits (n, vocab)`.
#[derive(Deserialize)]
pub struct Expected {
    pub tokens: Vec<u32>,
    pub logits: Vec<Vec<f32>>,
}

/// A fixture of `tests/data`.
pub fn fixture(name: &str) -> (Box<dyn LanguageModel>, Expected) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    (load_weights(&folder).unwrap(), serde_json::from_str(&expected).unwrap())
}

/// Runs the tokens of a fixture in chunks and compares all logits.
fn compare(
    model: &dyn LanguageModel,
    expected: &Expected,
    store: &mut dyn KvStore,
    chunk: usize,
    bound: f32,
) {
    let mut row = 0;
    for tokens in expected.tokens.chunks(chunk) {
        let logits = model.forward(tokens, store, Logits::All).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(logits.len(), tokens.len());
        for got in logits {
            let pairs = got.iter().zip(&expected.logits[row]);
            let worst = pairs.map(|(got, want)| (got - want).abs()).fold(0.0f32, f32::max);
            assert!(worst <= bound, "position {row}, chunks of {chunk}: off by {worst}");
            row += 1;
        }
    }
    assert_eq!((row, store.len()), (expected.tokens.len(), expected.tokens.len()));
}

/// The logits of every position, in one chunk, in chunks and token by token, over both dense stores.
pub fn check_parity(name: &str) {
    let (model, expected) = fixture(name);
    let shape = model.config().kv_shape();
    for chunk in [expected.tokens.len(), 7, 1] {
        compare(&*model, &expected, &mut DenseF32::new(shape), chunk, 1e-4);
        compare(&*model, &expected, &mut DenseF16::new(shape), chunk, 2e-2);
    }
}

/// `Last` and `None` are rows of `All`, and a cleared store starts over.
pub fn check_logits_selection(name: &str) {
    let (model, expected) = fixture(name);
    let mut store = DenseF32::new(model.config().kv_shape());
    let (head, tail) = expected.tokens.split_at(5);
    for _ in 0..2 {
        let none = model.forward(head, &mut store, Logits::None).unwrap();
        assert_eq!(none.dims(), [0, model.config().vocab_size]);
        let last = model.forward(tail, &mut store, Logits::Last).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(last.len(), 1);
        let want = expected.logits.last().unwrap();
        assert!(last[0].iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-4));
        store.clear();
    }
}

/// Every documented error of a forward pass, none of which touches the store.
pub fn check_errors(name: &str) {
    let (model, _) = fixture(name);
    let config = model.config().clone();
    let mut store = DenseF32::new(config.kv_shape());
    let too_long = vec![0; config.max_context + 1];
    for tokens in [&[][..], &[config.vocab_size as u32], &too_long] {
        assert!(model.forward(tokens, &mut store, Logits::Last).is_err());
    }
    assert!(store.is_empty());
    let mut other = DenseF32::new(kvq_codec::KvShape::new(1, 1, 8));
    assert!(model.forward(&[0], &mut other, Logits::Last).is_err());
}
