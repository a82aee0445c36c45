//! Images of Llamas: a small random one computes what a plain f64 implementation does, and files that are none are
//! refused. Nothing outside the repository is read.

#[path = "common/dense_context.rs"]
mod dense_context;

use std::path::PathBuf;

use dense_context::Dense;
use kvq_host::model::export;
use kvq_tiny::{Image, Model, Scratch, Tokenizer};

const WIDTH: usize = 16;
const INNER: usize = 24;
const N_LAYERS: usize = 2;
const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = WIDTH / N_HEADS;
const KV_WIDTH: usize = N_KV_HEADS * HEAD_DIM;
const N_POSITIONS: usize = 32;

/// Behind the unknown token, the ends of texts and 256 bytes; the first has the best score.
const PIECES: [&str; 9] = [" a", "bc", " abc", "e", " ", "a", "b", "c", "é"];
const N_TOKENS: usize = 3 + 256 + PIECES.len();

/// The matrices of a checkpoint, in the order of the file.
struct Weights {
    embeddings: Vec<f32>,
    attention_norms: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    outs: Vec<f32>,
    norms: Vec<f32>,
    gates: Vec<f32>,
    downs: Vec<f32>,
    ups: Vec<f32>,
    last_norm: Vec<f32>,
}

impl Weights {
    /// Rows of integers from -127 to 127 that reach 127, over 256: int8 codes hold them exactly.
    fn random() -> Self {
        let mut state = 77u64;
        let mut rows = |n_rows: usize, n_inputs: usize| {
            let mut values = Vec::new();
            for _ in 0..n_rows {
                for input in 0..n_inputs {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let code = if input == 0 { 127 } else { (state >> 33) as i32 % 255 - 127 };
                    values.push(code as f32 / 256.0);
                }
            }
            values
        };
        Self {
            embeddings: rows(N_TOKENS, WIDTH),
            attention_norms: rows(N_LAYERS, WIDTH),
            queries: rows(N_LAYERS * WIDTH, WIDTH),
            keys: rows(N_LAYERS * KV_WIDTH, WIDTH),
            values: rows(N_LAYERS * KV_WIDTH, WIDTH),
            outs: rows(N_LAYERS * WIDTH, WIDTH),
            norms: rows(N_LAYERS, WIDTH),
            gates: rows(N_LAYERS * INNER, WIDTH),
            downs: rows(N_LAYERS * WIDTH, INNER),
            ups: rows(N_LAYERS * INNER, WIDTH),
            last_norm: rows(1, WIDTH),
        }
    }

    fn file(&self) -> Vec<u8> {
        let header = [WIDTH, INNER, N_LAYERS, N_HEADS, N_KV_HEADS, N_TOKENS, N_POSITIONS];
        let mut bytes: Vec<u8> = header.iter().flat_map(|n| (*n as i32).to_le_bytes()).collect();
        for part in [
            &self.embeddings,
            &self.attention_norms,
            &self.queries,
            &self.keys,
            &self.values,
            &self.outs,
            &self.norms,
            &self.gates,
            &self.downs,
            &self.ups,
            &self.last_norm,
        ] {
            bytes.extend(part.iter().flat_map(|x| x.to_le_bytes()));
        }
        bytes
    }

    /// The logits after the last token.
    fn logits(&self, tokens: &[u32]) -> Vec<f64> {
        let mut past: Vec<Vec<(Vec<f64>, Vec<f64>)>> = vec![Vec::new(); N_LAYERS];
        let mut x = Vec::new();
        for (pos, &token) in tokens.iter().enumerate() {
            x = part(&self.embeddings, token as usize, WIDTH).iter().map(|x| f64::from(*x)).collect();
            for (layer, past) in past.iter_mut().enumerate() {
                let h = norm(&x, part(&self.attention_norms, layer, WIDTH));
                let mut query = product(part(&self.queries, layer, WIDTH * WIDTH), &h);
                let mut key = product(part(&self.keys, layer, KV_WIDTH * WIDTH), &h);
                rotate(&mut query, pos);
                rotate(&mut key, pos);
                past.push((key, product(part(&self.values, layer, KV_WIDTH * WIDTH), &h)));
                let attended: Vec<f64> = query
                    .chunks(HEAD_DIM)
                    .enumerate()
                    .flat_map(|(head, query)| attend(query, past, head * N_KV_HEADS / N_HEADS * HEAD_DIM))
                    .collect();
                add(&mut x, &product(part(&self.outs, layer, WIDTH * WIDTH), &attended));
                let h = norm(&x, part(&self.norms, layer, WIDTH));
                let gate = product(part(&self.gates, layer, INNER * WIDTH), &h);
                let up = product(part(&self.ups, layer, INNER * WIDTH), &h);
                let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(&mut x, &product(part(&self.downs, layer, WIDTH * INNER), &inner));
            }
        }
        product(&self.embeddings, &norm(&x, &self.last_norm))
    }
}

fn part(all: &[f32], number: usize, len: usize) -> &[f32] {
    &all[number * len..][..len]
}

fn product(rows: &[f32], x: &[f64]) -> Vec<f64> {
    rows.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
}

fn add(to: &mut [f64], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

fn norm(x: &[f64], gains: &[f32]) -> Vec<f64> {
    let root = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
    x.iter().zip(gains).map(|(x, gain)| x / root * f64::from(*gain)).collect()
}

fn rotate(heads: &mut [f64], pos: usize) {
    for (i, two) in heads.chunks_exact_mut(2).enumerate() {
        let angle = pos as f64 / 10_000f64.powf((2 * i % HEAD_DIM) as f64 / HEAD_DIM as f64);
        let (a, b) = (two[0], two[1]);
        (two[0], two[1]) = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos());
    }
}

fn attend(query: &[f64], past: &[(Vec<f64>, Vec<f64>)], at: usize) -> Vec<f64> {
    let score =
        |key: &[f64]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / (HEAD_DIM as f64).sqrt();
    let weights: Vec<f64> = past.iter().map(|(key, _)| score(&key[at..at + HEAD_DIM]).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; HEAD_DIM];
    for ((_, value), weight) in past.iter().zip(weights) {
        out.iter_mut().zip(&value[at..]).for_each(|(out, v)| *out += weight / sum * v);
    }
    out
}

fn tokenizer_file() -> Vec<u8> {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let names = ["<unk>", "<s>", "</s>"].map(String::from).into_iter().chain(bytes);
    let mut file = 7i32.to_le_bytes().to_vec();
    for (score, name) in names
        .map(|name| (0.0, name))
        .chain(PIECES.iter().enumerate().map(|(rank, piece)| (-(rank as f32), (*piece).to_owned())))
    {
        file.extend(score.to_le_bytes());
        file.extend((name.len() as u32).to_le_bytes());
        file.extend(name.as_bytes());
    }
    file
}

/// A folder with the files, and the checkpoint's path.
fn folder(checkpoint: &[u8], tokenizer: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("random.bin");
    std::fs::write(&path, checkpoint).unwrap();
    std::fs::write(folder.path().join("tokenizer.bin"), tokenizer).unwrap();
    (folder, path)
}

fn image() -> Vec<u8> {
    let (_folder, path) = folder(&Weights::random().file(), &tokenizer_file());
    export(path.to_str().unwrap(), None).unwrap()
}

#[test]
fn logits_are_those_of_a_plain_implementation() {
    let bytes = image();
    let image = Image::parse(&bytes).unwrap();
    let shape = image.shape();
    let (mut floats, mut codes) =
        (vec![0.0; Scratch::floats_needed(shape)], vec![0; Scratch::codes_needed(shape)]);
    let mut scratch = Scratch { floats: &mut floats, codes: &mut codes };
    let (model, mut context) = (Model::new(image), Dense::new(shape));
    let tokens: Vec<u32> = (0..20).map(|i| (i * 53 + 1) % N_TOKENS as u32).collect();
    for token in &tokens {
        model.step(*token, &mut context, &mut scratch).unwrap();
    }
    let mut logits = Vec::new();
    model.logits(&mut scratch, |_, logit| logits.push(f64::from(logit))).unwrap();
    let expected = Weights::random().logits(&tokens);
    let spread = expected.iter().fold(0.0f64, |peak, x| peak.max(x.abs()));
    assert!(spread > 0.1, "{spread}");
    assert_eq!(logits.len(), expected.len());
    for (got, expected) in logits.iter().zip(&expected) {
        // Inputs of matrices are 15-bit integers.
        assert!((got - expected).abs() < 2e-3 * spread, "{got} {expected}");
    }
}

#[test]
fn text_is_spelled_by_score_and_in_bytes_where_no_piece_spells_it() {
    let bytes = image();
    let tokenizer = Tokenizer::new(Image::parse(&bytes).unwrap());
    let piece = |name: &str| 259 + PIECES.iter().position(|piece| *piece == name).unwrap() as u32;
    for (text, expected) in [
        ("abc", vec![1, piece(" abc")]),
        ("ab bc", vec![1, piece(" a"), piece("b"), piece(" "), piece("bc")]),
        ("e\n", vec![1, piece(" "), piece("e"), 3 + 10]),
        ("é", vec![1, piece(" "), piece("é")]),
        ("ü", vec![1, piece(" "), 3 + 0xc3, 3 + 0xbc]),
        ("", vec![1]),
    ] {
        let mut tokens = [0; 16];
        let n = tokenizer.encode_into(text, &mut tokens).unwrap();
        assert_eq!(tokens[..n], expected, "{text:?}");
        let back: Vec<u8> = tokens[..n].iter().flat_map(|&t| tokenizer.token_bytes(t).to_vec()).collect();
        assert_eq!(back, if text.is_empty() { String::new() } else { format!(" {text}") }.as_bytes());
    }
    assert!(tokenizer.encode_into("abc abc", &mut [0; 2]).is_err());
}

#[test]
fn files_that_are_none_are_refused() {
    let (checkpoint, tokenizer) = (Weights::random().file(), tokenizer_file());
    let error = |checkpoint: &[u8], tokenizer: &[u8]| {
        let (_folder, path) = folder(checkpoint, tokenizer);
        format!("{:#}", export(path.to_str().unwrap(), None).unwrap_err())
    };
    assert!(error(&checkpoint[..checkpoint.len() / 2], &tokenizer).contains("ends too early"));
    assert!(error(&checkpoint, &tokenizer[..tokenizer.len() - 1]).contains("ends too early"));
    let mut not_tied = checkpoint.clone();
    not_tied[20..24].copy_from_slice(&(-(N_TOKENS as i32)).to_le_bytes());
    assert!(error(&not_tied, &tokenizer).contains("output projection"));
    let mut no_heads = checkpoint.clone();
    no_heads[12..16].fill(0);
    assert!(error(&no_heads, &tokenizer).contains("figure of 0"));
    let mut odd_heads = checkpoint.clone();
    odd_heads[16] = 3;
    assert!(error(&odd_heads, &tokenizer).contains("divide"));
    let mut not_finite = checkpoint;
    not_finite[28..32].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(error(&not_finite, &tokenizer).contains("finite"));
    assert!(export("/no/such/file.bin", None).is_err());
}
