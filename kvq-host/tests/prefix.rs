//! Reuse of prefixes and rollback of guesses: nothing that is taken back leaves a trace.

use kvq_codec::{Backend, KvShape, Policy};
use kvq_host::kv_store::dense::{DenseF16, DenseF32};
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::kv_store::{KvBytes, KvStore};
use kvq_host::model::{GenerateOptions, LoadedModel, Logits, generate, keep_prefix, load, prefill};

fn packed(model: &LoadedModel, policy: Policy) -> PackedStore {
    PackedStore::new(model.model.config().kv_shape(), policy, Backend::detect()).unwrap()
}

fn stores(model: &LoadedModel) -> Vec<(&'static str, Box<dyn KvStore>)> {
    let shape = model.model.config().kv_shape();
    vec![
        ("f32", Box::new(DenseF32::new(shape))),
        ("f16", Box::new(DenseF16::new(shape))),
        ("8bit", Box::new(packed(model, Policy::EIGHT_BIT))),
        ("4x", Box::new(packed(model, Policy::FOUR_X))),
    ]
}

fn story(model: &LoadedModel, n: usize) -> Vec<u32> {
    let text = include_str!("../assets/text/heldout-stories.txt");
    model.tokenizer.encode(text, false).unwrap()[..n].to_vec()
}

fn greedy(model: &LoadedModel, store: &mut dyn KvStore, prompt: &[u32], n: usize) -> Vec<u32> {
    generate(&*model.model, store, prompt, &[], &GenerateOptions::greedy(n), |_| Ok(true)).unwrap().tokens
}

/// A prompt after another with the same beginning gives what it gives alone.
#[test]
fn a_shared_prefix_is_read_once() {
    let model = load("builtin", 0).unwrap();
    let story = story(&model, 300);
    // 8 tokens behind the shared part: few enough that no packed store packs in between.
    let (first, second) =
        ([&story[..120], &story[200..208]].concat(), [&story[..120], &story[240..300]].concat());
    for (name, mut store) in stores(&model) {
        let alone = greedy(&model, &mut *store, &second, 40);
        store.clear();
        prefill(&*model.model, &mut *store, &first).unwrap();
        let held = keep_prefix(&mut *store, &first, &second).unwrap();
        assert_eq!((held, store.len()), (120, 120), "{name}");
        assert_eq!(greedy(&model, &mut *store, &second[held..], 40), alone, "{name}");
    }
}

#[test]
fn what_is_kept_is_what_both_begin_with() {
    let model = load("builtin", 0).unwrap();
    let story = story(&model, 100);
    for (name, mut store) in stores(&model) {
        prefill(&*model.model, &mut *store, &story[..80]).unwrap();
        // One token is always left to compute logits from, also where all are held.
        for (prompt, kept) in [
            (&story[..90], 80usize),
            (&story[..80], 79),
            (&story[..60], 59),
            (&story[1..50], 0),
            (&story[..10], 9),
        ] {
            let held = keep_prefix(&mut *store, &story, prompt).unwrap();
            assert_eq!(store.len(), held, "{name}");
            // A packed store gives up what a fresh one would hold otherwise: a recent window and a span at most.
            let given_up = if matches!(name, "f32" | "f16") { 0 } else { 2 * 64 };
            assert!((kept.saturating_sub(given_up)..=kept).contains(&held), "{name}: {held} of {kept}");
            store.clear();
            prefill(&*model.model, &mut *store, &story[..80]).unwrap();
        }
        assert!(keep_prefix(&mut *store, &story, &[]).is_err());
    }
}

/// A store that holds its tokens from 100 on only, as one that evicts does.
struct Evicted(DenseF32);

impl KvStore for Evicted {
    fn shape(&self) -> KvShape {
        self.0.shape()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn stretch(&self, layer: usize) -> usize {
        self.0.stretch(layer)
    }
    fn append(&mut self, layer: usize, n_tokens: usize, k: &[f32], v: &[f32]) -> anyhow::Result<()> {
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
        anyhow::ensure!(len >= 100, "evicted");
        self.0.trim(len)
    }
    fn clear(&mut self) {
        self.0.clear();
    }
    fn memory(&self) -> KvBytes {
        self.0.memory()
    }
}

/// Where the store has evicted what follows the shared part, nothing of it is taken as read.
#[test]
fn evicted_tokens_are_not_reused() {
    let model = load("builtin", 0).unwrap();
    let story = story(&model, 200);
    let mut store = Evicted(DenseF32::new(model.model.config().kv_shape()));
    for (shared, kept) in [(120, 120), (60, 0)] {
        store.clear();
        prefill(&*model.model, &mut store, &story[..150]).unwrap();
        let prompt = [&story[..shared], &story[160..]].concat();
        let held = keep_prefix(&mut store, &story, &prompt).unwrap();
        assert_eq!((held, store.len()), (kept, kept));
        let fresh = greedy(&model, &mut DenseF32::new(store.shape()), &prompt, 20);
        assert_eq!(greedy(&model, &mut store, &prompt[held..], 20), fresh);
    }
}

/// Speculation without a draft model: what followed the last two tokens earlier in the text is guessed to
/// follow again. Guesses are read in one pass and the wrong ones trimmed; the text is that of plain steps.
#[test]
fn wrong_guesses_are_rolled_back_without_a_trace() {
    let model = load("builtin", 0).unwrap();
    let prompt = story(&model, 150);
    const NEW: usize = 200;
    for (name, mut store) in stores(&model) {
        let plain = greedy(&model, &mut *store, &prompt, NEW);
        let bytes = store.memory();
        store.clear();
        let mut text = prompt.clone();
        let logits = prefill(&*model.model, &mut *store, &prompt).unwrap();
        text.push(logits.argmax(1).unwrap().to_vec1::<u32>().unwrap()[0]);
        let (mut accepted, mut rejected) = (0, 0);
        while text.len() < prompt.len() + NEW {
            let pair = &text[text.len() - 2..];
            let earlier = text[..text.len() - 1].windows(2).rposition(|window| window == pair);
            let guesses = earlier.map_or(&[][..], |at| &text[at + 2..text.len().min(at + 6)]);
            // A store promises exact results for as many tokens at once.
            let room = store.stretch(0).min(prompt.len() + NEW - text.len()) - 1;
            let guesses = guesses[..guesses.len().min(room)].to_vec();
            let pending = [&text[text.len() - 1..], &guesses].concat();
            let before = store.len();
            let logits = model.model.forward(&pending, &mut *store, Logits::All).unwrap();
            let next = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
            let right = guesses.iter().zip(&next).take_while(|(guess, next)| guess == next).count();
            store.trim(before + 1 + right).unwrap();
            text.extend_from_slice(&next[..=right]);
            accepted += right;
            rejected += guesses.len() - right;
        }
        assert_eq!(text[prompt.len()..], plain, "{name}");
        assert!(accepted > 20 && rejected > 20, "{name}: {accepted} guesses right, {rejected} wrong");
        // The last token of plain steps is not read either.
        assert_eq!(store.len(), prompt.len() + NEW - 1);
        assert_eq!(store.memory().code_bytes, bytes.code_bytes, "{name}");
    }
}
