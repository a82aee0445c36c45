//! An image of a Llama from the files of llama2.c.
//!
//! A checkpoint is seven 32-bit integers (width, inner width, layers, heads, KV heads, vocabulary, positions), then f32
//! matrices, row by row, each kind for all layers before the next kind: embeddings, attention norms, queries, keys,
//! values, attention outputs, norms, gates, downs, ups, last norm, then tables of rotations. A negative
//! vocabulary says that the output projection is a matrix of its own. A tokenizer is a 32-bit integer that does
//! not matter, then per token a score in f32, a length in 32 bits, and the bytes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kvq_tiny::{Architecture, MAX_INPUTS, Shape};

use super::vocabulary::Vocabulary;
use super::{assemble, put_floats, put_rows};

/// Ids 3 to 258 are bytes: what no piece spells.
const FIRST_BYTE_TOKEN: usize = 3;

/// The image of a checkpoint.
pub fn write(checkpoint: &Path, tokenizer: Option<&Path>) -> Result<Vec<u8>> {
    let bytes = read(checkpoint)?;
    let mut reader = Reader(&bytes);
    let [width, inner, n_layers, n_heads, n_kv_heads, vocabulary, n_positions] = reader.header()?;
    ensure!(vocabulary > 0, "its output projection is not its embedding table");
    let mut figures = [0; 7];
    let header = [width, inner, n_layers, n_heads, n_kv_heads, vocabulary, n_positions];
    for (figure, number) in figures.iter_mut().zip(header) {
        *figure = usize::try_from(number).ok().filter(|n| (1..1 << 20).contains(n)).with_context(|| {
            format!("its header has a figure of {number}, so it is no checkpoint of llama2.c")
        })?;
    }
    let [width, inner, n_layers, n_heads, n_kv_heads, n_tokens, n_positions] = figures;
    ensure!(width.max(inner) <= MAX_INPUTS, "width {width} or {inner} is more than {MAX_INPUTS}");
    ensure!(
        width.is_multiple_of(n_heads) && n_heads.is_multiple_of(n_kv_heads),
        "{width} values, {n_heads} heads and {n_kv_heads} KV heads do not divide"
    );
    let tokenizer = match tokenizer {
        Some(path) => path.to_owned(),
        None => beside(checkpoint, n_tokens)?,
    };
    let vocabulary = vocabulary_of(&read(&tokenizer)?, n_tokens)
        .with_context(|| format!("tokenizer {}", tokenizer.display()))?;
    let shape = Shape {
        architecture: Architecture::Llama,
        n_tokens,
        n_positions,
        width,
        n_layers,
        n_heads,
        n_kv_heads,
        inner,
        token_bytes: vocabulary.tokens.iter().map(Vec::len).sum(),
        n_merges: vocabulary.merges.len(),
    };
    let kv_width = n_kv_heads * shape.head_dim();
    let embeddings = reader.matrices(1, n_tokens, width)?;
    let attention_norms = reader.matrices(n_layers, 1, width)?;
    let queries = reader.matrices(n_layers, width, width)?;
    let keys = reader.matrices(n_layers, kv_width, width)?;
    let values = reader.matrices(n_layers, kv_width, width)?;
    let attention_outs = reader.matrices(n_layers, width, width)?;
    let norms = reader.matrices(n_layers, 1, width)?;
    let gates = reader.matrices(n_layers, inner, width)?;
    let downs = reader.matrices(n_layers, width, inner)?;
    let ups = reader.matrices(n_layers, inner, width)?;
    let last_norm = reader.matrices(1, 1, width)?;

    let mut body = Vec::new();
    put_rows(&mut body, embeddings.concat());
    for layer in 0..n_layers {
        put_floats(&mut body, &attention_norms[layer].concat());
        put_rows(&mut body, [&queries[layer][..], &keys[layer], &values[layer]].concat());
        put_rows(&mut body, attention_outs[layer].clone());
        put_floats(&mut body, &norms[layer].concat());
        put_rows(&mut body, [&gates[layer][..], &ups[layer]].concat());
        put_rows(&mut body, downs[layer].clone());
    }
    put_floats(&mut body, &last_norm[0].concat());
    assemble(&shape, body, &vocabulary)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The tokenizer that lies beside a checkpoint.
fn beside(checkpoint: &Path, n_tokens: usize) -> Result<PathBuf> {
    let names = [format!("tok{n_tokens}.bin"), "tokenizer.bin".into()];
    let mut paths = names.iter().map(|name| checkpoint.with_file_name(name));
    paths
        .find(|path| path.is_file())
        .with_context(|| format!("neither {} nor {} lies beside it: --tokenizer FILE", names[0], names[1]))
}

/// Bytes yet to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).context("the file ends too early")?;
        self.0 = tail;
        Ok(head)
    }

    fn four(&mut self) -> Result<[u8; 4]> {
        Ok(self.take(4)?.try_into()?)
    }

    fn header(&mut self) -> Result<[i32; 7]> {
        let mut header = [0; 7];
        for figure in &mut header {
            *figure = i32::from_le_bytes(self.four()?);
        }
        Ok(header)
    }

    /// `n` matrices as rows.
    fn matrices(&mut self, n: usize, n_rows: usize, n_inputs: usize) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut row = || -> Result<Vec<f32>> {
            let bytes = self.take(4 * n_inputs)?;
            let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            ensure!(values.iter().all(|x| x.is_finite()), "a weight is not finite");
            Ok(values)
        };
        (0..n).map(|_| (0..n_rows).map(|_| row()).collect()).collect()
    }
}

/// The bytes of each piece; the merges are every way to cut a piece into two others, the best score first.
fn vocabulary_of(bytes: &[u8], n_tokens: usize) -> Result<Vocabulary> {
    let mut reader = Reader(bytes);
    reader.four()?;
    let (mut tokens, mut scores) = (Vec::new(), Vec::new());
    for id in 0..n_tokens {
        scores.push(f32::from_le_bytes(reader.four()?));
        let len = u32::from_le_bytes(reader.four()?) as usize;
        let piece = reader.take(len)?;
        tokens.push(match id.checked_sub(FIRST_BYTE_TOKEN) {
            // The unknown token, and the ends of texts.
            None => Vec::new(),
            Some(byte @ 0..256) => {
                ensure!(piece == format!("<0x{byte:02X}>").as_bytes(), "token {id} is not byte {byte}");
                vec![byte as u8]
            }
            Some(_) => piece.to_vec(),
        });
    }
    let first_piece = FIRST_BYTE_TOKEN + 256;
    let Some(pieces) = tokens.get(first_piece..).filter(|_| n_tokens <= 1 << 16) else {
        bail!("{n_tokens} tokens: allowed are {first_piece} to 65,536");
    };
    // A byte's own token comes last, so that a piece of that byte is found in its place.
    let spelled = |bytes: &[u8]| {
        let piece = pieces.iter().position(|piece| piece == bytes).map(|at| at + first_piece);
        piece.or_else(|| (bytes.len() == 1).then(|| FIRST_BYTE_TOKEN + usize::from(bytes[0])))
    };
    let mut merges = Vec::new();
    for (id, piece) in pieces.iter().enumerate().map(|(at, piece)| (at + first_piece, piece)) {
        for at in 1..piece.len() {
            let (left, right) = piece.split_at(at);
            if let (Some(left), Some(right)) = (spelled(left), spelled(right)) {
                merges.push((scores[id], [left as u16, right as u16, id as u16]));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(Vocabulary { tokens, merges: merges.into_iter().map(|(_, merge)| merge).collect() })
}
