//! Prompts that are too long, empty or of one token; files that are not UTF-8; a tokenizer that does not fit the model;
//! GGUF files that are cut off or lie about sizes: an answer, or an error that says what was found and what helps.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use kvq_host::model::{GenerateOptions, generate, load};
use stats_alloc::Region;

use super::gguf::{folder, gguf_with, tokenizer};
use super::program::{kvq, record, refusal, tokens};
use super::{ALLOCATOR, alone, packed, story};

const BUILTIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin");

/// What a command line that must fail with `code` says, which has all `parts`.
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let (got, error) = refusal(arguments);
    assert_eq!(got, Some(code), "{arguments:?}: {error}");
    for part in parts {
        assert!(error.contains(part), "{arguments:?}: no '{part}' in {error}");
    }
}

#[test]
fn prompts_longer_than_the_models_context_are_refused_with_both_figures() {
    let long = "Once there was a cat. ".repeat(400);
    let length = load("builtin", 0).unwrap().tokenizer.encode(&long, true).unwrap().len().to_string();
    refused(&["generate", "--prompt", &long], 2, &[&format!("{length} tokens"), "1024 positions"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &long).unwrap();
    let path = file.path().to_str().unwrap();
    refused(&["generate", "--prompt-file", path], 2, &[&format!("{length} tokens"), "1024 positions"]);
    refused(&["generate", "--prompt", "One", "--context", "2000"], 2, &["--context 2000", "1024"]);
    refused(&["bench", "--context", "2000"], 2, &["--context 2000", "1024"]);
    // A caller of the library is told by the model.
    let model = load("builtin", 0).unwrap();
    let prompt = [story(&model, 1000), story(&model, 25)].concat();
    let mut store = packed(&model, kvq_codec::Policy::FOUR_X);
    let result = generate(&*model.model, &mut store, &prompt, &[], &GenerateOptions::greedy(1), |_| Ok(true));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("1024"), "{error}");
}

#[test]
fn empty_prompts_are_refused_and_one_token_is_enough() {
    refused(&["generate", "--prompt", ""], 2, &["--prompt", "0 characters", "no token"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    refused(&["generate", "--prompt-file", path], 2, &[path, "0 characters", "no token"]);
    let model = load("builtin", 0).unwrap();
    let mut store = packed(&model, kvq_codec::Policy::FOUR_X);
    let result = generate(&*model.model, &mut store, &[], &[], &GenerateOptions::greedy(1), |_| Ok(true));
    assert!(result.unwrap_err().to_string().contains("without tokens"));
    assert_eq!(model.tokenizer.encode("A", true).unwrap().len(), 1);
    let one = record(&["generate", "--prompt", "A", "--new-tokens", "12", "--policy", "8bit"]);
    let dense = record(&["generate", "--prompt", "A", "--new-tokens", "12", "--dense", "f32"]);
    assert_eq!(tokens(&one, 0).len(), 12);
    assert_eq!(tokens(&one, 0), tokens(&dense, 0));
}

#[test]
fn files_that_are_not_utf8_are_told_by_their_first_wrong_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latin1.txt");
    // "café" in Latin-1: the é is one byte.
    std::fs::write(&path, [&b"Once upon a time in a caf"[..], &[0xe9], b" there was a cat."].concat())
        .unwrap();
    let path = path.to_str().unwrap();
    let parts = ["latin1.txt", "byte 25 (0xe9) is not UTF-8", "iconv"];
    refused(&["generate", "--prompt-file", path], 1, &[&parts[..], &["--prompt-file"]].concat());
    refused(&["eval", "--context", "64", "--text", path], 1, &[&parts[..], &["--text"]].concat());
    refused(&["bench", "--context", "64", "--text", path], 1, &parts);
    // The byte order mark of other programs is text, too; cut-off characters are not.
    std::fs::write(path, "Once \u{1F600}".as_bytes().split_last().unwrap().1).unwrap();
    refused(&["generate", "--prompt-file", path], 1, &["byte 5 (0xf0)"]);
    let folder = folder.path().to_str().unwrap();
    refused(&["generate", "--prompt-file", folder], 1, &["--prompt-file", "cannot read the file"]);
}

/// A folder with the built-in model and another tokenizer or configuration.
fn model_with(file: &str, change: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(Path::new(BUILTIN).join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join(file);
    let mut json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
    folder
}

#[test]
fn a_tokenizer_that_does_not_fit_the_model_is_refused_at_load() {
    let generate = |folder: &tempfile::TempDir, code: i32, parts: &[&str]| {
        refused(&["generate", "--prompt", "One", "--model", folder.path().to_str().unwrap()], code, parts);
    };
    let larger = model_with("tokenizer.json", |json| {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        (512..900).for_each(|id| drop(vocab.insert(format!("more{id}"), id.into())));
    });
    generate(&larger, 1, &["900 tokens and the model 512", "another model", "tokenizer.json"]);
    let smaller = model_with("tokenizer.json", |json| {
        json["model"]["merges"] = serde_json::json!([]);
        json["model"]["vocab"].as_object_mut().unwrap().retain(|_, id| id.as_u64().unwrap() < 200);
    });
    generate(&smaller, 1, &["200 tokens and the model 512", "another model"]);
    let ends = model_with("config.json", |json| json["eos_token_id"] = 5000.into());
    generate(&ends, 1, &["token 5000", "512 tokens"]);
    let nothing = model_with("tokenizer.json", |json| *json = serde_json::json!({"version": "1.0"}));
    generate(&nothing, 1, &["tokenizer.json"]);
    // A few added tokens beyond the embeddings are usual, and refused only where a text has them.
    let added = model_with("tokenizer.json", |json| {
        let mut token = json["added_tokens"][0].clone();
        (token["id"], token["content"]) = (512.into(), "<image>".into());
        json["added_tokens"].as_array_mut().unwrap().push(token);
    });
    let path = added.path().to_str().unwrap();
    assert!(kvq(&["generate", "--prompt", "One", "--new-tokens", "2", "--model", path]).status.success());
    refused(
        &["generate", "--prompt", "One <image>", "--model", path],
        1,
        &["token 512", "vocabulary of 512"],
    );
}

/// A whole GGUF file with a tokenizer, whose text is written and read.
fn good_gguf(general: &[(&str, Value)]) -> Vec<u8> {
    let general = [&tokenizer(97)[..], general].concat();
    gguf_with("qwen2-random", "qwen2", &[("attention.key_length", Value::U32(16))], &general)
}

/// Where the metadata and tensor descriptions end: the tensors' own bytes are what is last.
fn header_bytes(whole: &[u8]) -> usize {
    let data: usize = candle_core::safetensors::load(
        folder("qwen2-random").join("model.safetensors"),
        &candle_core::Device::Cpu,
    )
    .unwrap()
    .values()
    .map(|tensor| (4 * tensor.elem_count()).next_multiple_of(32))
    .sum();
    whole.len() - data
}

fn little_endian(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

#[test]
fn gguf_files_that_are_cut_off_or_lie_are_refused_by_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let text = path.to_str().unwrap();
    let whole = good_gguf(&[]);
    std::fs::write(&path, &whole).unwrap();
    let found = record(&["generate", "--model", text, "--prompt", "HELLO", "--new-tokens", "5"]);
    assert!(!tokens(&found, 0).is_empty());
    let generate = ["generate", "--model", text, "--prompt", "HELLO"];
    for (what, bytes, parts) in [
        ("empty", Vec::new(), &["no GGUF file"][..]),
        ("another kind", b"PK\x03\x04 and so on".to_vec(), &["no GGUF file"]),
        ("four bytes", b"GGUF".to_vec(), &["damaged GGUF file of 4 bytes", "cut off"]),
        ("cut off in its header", whole[..2000].to_vec(), &["damaged GGUF file of 2000 bytes", "cut off"]),
        ("cut off in its tensors", whole[..whole.len() - 1].to_vec(), &["ends at byte", "cut off"]),
        ("half of it", whole[..whole.len() / 2].to_vec(), &["ends at byte", "cut off"]),
        (
            "2^63 tensors",
            [&whole[..8], &little_endian(1 << 63), &whole[16..]].concat(),
            &["damaged GGUF file"],
        ),
        (
            "2^40 entries",
            [&whole[..16], &little_endian(1 << 40), &whole[24..]].concat(),
            &["damaged GGUF file"],
        ),
        (
            "a name of 2^63",
            [&whole[..24], &little_endian(1 << 63), &whole[32..]].concat(),
            &["damaged GGUF file"],
        ),
        ("no alignment", good_gguf(&[("general.alignment", Value::U32(0))]), &["general.alignment is 0"]),
        (
            "many layers",
            good_gguf(&[("qwen2.block_count", Value::U32(u32::MAX))]),
            &["block_count", "4294967295"],
        ),
        ("no layers", good_gguf(&[("qwen2.block_count", Value::U32(0))]), &["zero"]),
        (
            "wide heads",
            good_gguf(&[("qwen2.attention.key_length", Value::U32(1 << 30))]),
            &["asks for (4294967296, 64)"],
        ),
        ("no heads", good_gguf(&[("qwen2.attention.head_count", Value::U32(0))]), &["without heads"]),
        (
            "other heads",
            good_gguf(&[("qwen2.attention.head_count_kv", Value::U32(3))]),
            &["4 query heads over 3 KV heads"],
        ),
        ("wide layers", good_gguf(&[("qwen2.feed_forward_length", Value::U32(u32::MAX))]), &["4294967295"]),
        ("another width", good_gguf(&[("qwen2.embedding_length", Value::U32(128))]), &["128"]),
        (
            "a rotation too wide",
            good_gguf(&[("qwen2.rope.dimension_count", Value::U32(1 << 31))]),
            &["2147483648"],
        ),
        (
            "a tokenizer of another model",
            {
                let general = tokenizer(259);
                gguf_with("qwen2-random", "qwen2", &[("attention.key_length", Value::U32(16))], &general)
            },
            &["259 tokens and the model 97"],
        ),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        refused(&generate, 1, &[parts, &["a.gguf"]].concat());
        if parts[0].contains("GGUF") || parts[0].contains("ends at") {
            refused(&["inspect", text], 1, &["a.gguf"]);
        }
        println!("{what}: refused");
    }
}

/// Every header that was cut off or has one byte changed: an error, or a model; never a panic, and no memory beyond a
/// small multiple of the file's size.
#[test]
#[ignore = "the child process of another test: it counts allocations"]
fn every_cut_and_flip_of_a_gguf_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let spec = path.to_str().unwrap();
    let whole = good_gguf(&[]);
    let header = header_bytes(&whole);
    std::fs::write(&path, &whole).unwrap();
    let region = Region::new(ALLOCATOR);
    drop(load(spec, 0).unwrap());
    // What the whole file takes, hash, tokenizer and all.
    let usual = region.change().bytes_allocated;
    let mut read = 0;
    let mut try_it = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let region = Region::new(ALLOCATOR);
        read += usize::from(load(spec, 0).is_ok());
        let allocated = region.change().bytes_allocated;
        assert!(allocated < 2 * usual + (1 << 20), "{what}: {allocated} bytes, {usual} for the whole file");
    };
    for len in (0..header).step_by(7) {
        try_it(&whole[..len], &format!("cut off at {len}"));
    }
    let mut bytes = whole.clone();
    for at in (0..header).step_by(3) {
        for flip in [0x01, 0x80] {
            bytes[at] ^= flip;
            try_it(&bytes, &format!("byte {at} changed by {flip}"));
            bytes[at] = whole[at];
        }
    }
    println!("{header} bytes of header, {usual} allocated for the whole file; {read} changes were harmless");
    assert!(read > 0, "names of unused metadata do not matter");
}

#[test]
fn gguf_headers_with_any_byte_changed_neither_panic_nor_take_memory() {
    alone("bad_input::every_cut_and_flip_of_a_gguf_header");
}
