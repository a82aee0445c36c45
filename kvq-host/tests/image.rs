//! Model images: what they hold is what the model is, and damaged ones are refused.

#[path = "common/dense_context.rs"]
mod dense_context;

use dense_context::Dense;
use kvq_codec::{Backend, KvCache, capacity_tokens};
use kvq_host::eval::Reference;
use kvq_host::kv_store::dense::DenseF32;
use kvq_host::model::{Logits, export, load};
use kvq_tiny::{Context, Error, Image, Model, Scratch, Tokenizer, demo};

const TEXT: &str = include_str!("../assets/text/heldout-stories.txt");

/// Full windows of the text that are scored.
const N_WINDOWS: usize = 3;

/// The mean loss of a window, by the arithmetic of the image.
fn image_loss(image: Image<'_>, window: &[u32], context: &mut impl Context) -> f64 {
    let shape = image.shape();
    let (mut floats, mut codes) =
        (vec![0.0; Scratch::floats_needed(shape)], vec![0; Scratch::codes_needed(shape)]);
    let mut scratch = Scratch { floats: &mut floats, codes: &mut codes };
    let (model, mut logits, mut total) = (Model::new(image), vec![0.0; shape.n_tokens], 0.0);
    for two in window.windows(2) {
        model.step(two[0], context, &mut scratch).unwrap();
        model.logits(&mut scratch, |id, logit| logits[id as usize] = logit).unwrap();
        total += Reference::new(&logits).nll(two[1]);
    }
    total / (window.len() - 1) as f64
}

#[test]
fn tokens_are_those_of_the_models_tokenizer() {
    let bytes = export("builtin", None).unwrap();
    let tokenizer = Tokenizer::new(Image::parse(&bytes).unwrap());
    let reference = load("builtin", 0).unwrap().tokenizer;
    for text in [demo::PROMPT, TEXT, " 12 apples,\n\n  and (maybe) I'll see'm...  \n x "] {
        let mut tokens = vec![0; text.len()];
        let n = tokenizer.encode_into(text, &mut tokens).unwrap();
        assert_eq!(tokens[..n], reference.encode(text, false).unwrap());
        let back: Vec<u8> = tokens[..n].iter().flat_map(|&t| tokenizer.token_bytes(t).to_vec()).collect();
        assert_eq!(back, text.as_bytes());
    }
}

#[test]
fn int8_weights_and_the_firmwares_cache_keep_the_loss() {
    let loaded = load("builtin", 0).unwrap();
    let bytes = export("builtin", None).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let shape = image.shape();
    let tokens = loaded.tokenizer.encode(TEXT, false).unwrap();
    let len = capacity_tokens(shape.kv_shape(), demo::POLICY, demo::CACHE_BYTES).unwrap() + 1;
    let (mut f32_weights, mut dense, mut packed) = (0.0, 0.0, 0.0);
    for window in tokens.chunks_exact(len).take(N_WINDOWS) {
        let mut store = DenseF32::new(shape.kv_shape());
        let logits = loaded.model.forward(&window[..len - 1], &mut store, Logits::All).unwrap();
        let rows = logits.to_vec2::<f32>().unwrap();
        let sum: f64 = rows.iter().zip(&window[1..]).map(|(row, &next)| Reference::new(row).nll(next)).sum();
        f32_weights += sum / (len - 1) as f64 / N_WINDOWS as f64;

        let mut context = Dense::new(shape);
        dense += image_loss(image, window, &mut context) / N_WINDOWS as f64;

        let mut memory = vec![0; demo::CACHE_BYTES];
        let mut cache =
            KvCache::new(shape.kv_shape(), demo::POLICY, Backend::SCALAR, &mut memory[..]).unwrap();
        packed += image_loss(image, window, &mut cache) / N_WINDOWS as f64;
    }
    println!(
        "held-out loss over {N_WINDOWS} windows of {len} tokens: f32 weights, dense f32 cache {f32_weights:.4}; int8 \
         weights, dense f32 cache {dense:.4}; int8 weights, packed cache of the firmware {packed:.4}"
    );
    assert!((dense - f32_weights).abs() < 0.02, "{f32_weights} {dense}");
    assert!((packed - dense).abs() < 0.05, "{dense} {packed}");
}

#[test]
fn damaged_images_are_refused() {
    let bytes = export("builtin", None).unwrap();
    for at in [0, 8, 12, 16, 48, 52, 60, 80, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(matches!(Image::parse(&damaged), Err(Error::Image(_))), "byte {at}");
    }
    for len in [0, 7, 59, 60, bytes.len() - 1] {
        assert!(matches!(Image::parse(&bytes[..len]), Err(Error::Image(_))), "{len} bytes");
    }
    assert!(export("no-such-model", None).is_err());
}
