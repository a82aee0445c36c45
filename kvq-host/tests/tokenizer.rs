//! Tokenizers: the built-in model's, one made from GGUF metadata, and streaming.

use std::collections::HashMap;
use std::io::Cursor;

use candle_core::quantized::gguf_file::{self, Content, Value};
use kvq_host::model::{TextTokenizer, load};

const TEXTS: [&str; 6] = [
    "Once upon a time, there was a little girl named Lily.",
    " leading and trailing space ",
    "line\nbreaks\r\n\tand tabs",
    "numbers 1234 and 3.14",
    "naïve café — \u{1F600}\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}",
    "",
];

/// Text of tokens pushed one by one.
fn streamed(tokenizer: &TextTokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text += &stream.finish().unwrap();
    text
}

#[test]
fn builtin_round_trips_and_streams() {
    let tokenizer = load("builtin", 0).unwrap().tokenizer;
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(0), &[0][..]));
    for text in TEXTS {
        let ids = tokenizer.encode(text, false).unwrap();
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(streamed(&tokenizer, &ids), text);
    }
}

#[test]
fn special_tokens_are_found_in_text_and_not_streamed() {
    let tokenizer = load("builtin", 0).unwrap().tokenizer;
    let ids = tokenizer.encode("The end.<|endoftext|>", false).unwrap();
    assert_eq!(ids.last(), Some(&0));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "The end.<|endoftext|>");
    assert_eq!(streamed(&tokenizer, &ids), "The end.");
}

/// Every push yields whole characters, and the bytes of one come when its last token does.
#[test]
fn a_stream_never_splits_a_character() {
    let tokenizer = load("builtin", 0).unwrap().tokenizer;
    let ids = tokenizer.encode("a\u{1F600}b", false).unwrap();
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{pieces:?}");
    assert_eq!(pieces.concat(), "a\u{1F600}b");
    // Bytes that never become a character are shown when the stream ends.
    let mut stream = tokenizer.stream();
    assert_eq!(stream.push(ids[1]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

/// The 256 byte tokens of byte-level BPE, as tokenizer files spell them.
fn byte_tokens() -> Vec<String> {
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let spell = |b: u32| {
        let code = if printable(b) {
            b
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap().to_string()
    };
    (0..256).map(spell).collect()
}

/// A GGUF file of nothing but a tokenizer: three special tokens, the bytes, and a few merges.
fn gguf(pre: &str, model: &str) -> Content {
    let merges = ["u s", "us e", "use r", "Ġ user", "1 2", "Ġ 1"];
    let mut tokens: Vec<String> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from).to_vec();
    tokens.extend(byte_tokens());
    tokens.extend(merges.map(|merge| merge.replace(' ', "")));
    let kinds = (0..tokens.len()).map(|id| Value::I32(if id < 3 { 3 } else { 1 })).collect();
    let strings = |values: Vec<String>| Value::Array(values.into_iter().map(Value::String).collect());
    let metadata: HashMap<&str, Value> = HashMap::from([
        ("tokenizer.ggml.model", Value::String(model.into())),
        ("tokenizer.ggml.pre", Value::String(pre.into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.merges", strings(merges.map(String::from).to_vec())),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(pre == "gpt-2")),
    ]);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &[]).unwrap();
    file.set_position(0);
    Content::read(&mut file).unwrap()
}

/// No space is put in front of a word that follows a special token, and digits stand alone.
#[test]
fn gguf_tokenizer_cuts_text_as_smollm_does() {
    let tokenizer = TextTokenizer::from_gguf(&gguf("smollm", "gpt2")).unwrap();
    let user = tokenizer.token_id("user").unwrap();
    assert_eq!(tokenizer.encode("<|im_start|>user", false).unwrap(), [1, user]);
    assert_eq!(tokenizer.encode("user user", false).unwrap(), [user, tokenizer.token_id("Ġuser").unwrap()]);
    let digits = ["Ġ", "1", "2"].map(|token| tokenizer.token_id(token).unwrap());
    assert_eq!(tokenizer.encode(" 12", false).unwrap(), digits);
    assert_eq!(tokenizer.encode("user", true).unwrap(), [user]);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), &[0, 2][..]));
    for text in TEXTS {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(streamed(&tokenizer, &ids), text);
    }
}

#[test]
fn gguf_tokenizer_cuts_text_as_gpt2_does() {
    let tokenizer = TextTokenizer::from_gguf(&gguf("gpt-2", "gpt2")).unwrap();
    let merged = ["Ġ1", "2"].map(|token| tokenizer.token_id(token).unwrap());
    assert_ne!(tokenizer.encode(" 12", false).unwrap(), merged);
    assert_eq!(tokenizer.encode("12", false).unwrap(), [tokenizer.token_id("12").unwrap()]);
    // Metadata asks for BOS here.
    assert_eq!(tokenizer.encode("12", true).unwrap()[0], 1);
}

/// A GGUF file of scored pieces: three special tokens, the bytes, a user-defined token and some pieces.
fn scored_gguf(space_prefix: bool, pieces: &[(&str, f32)]) -> Content {
    let special = ["<unk>", "<bos>", "<end_of_turn>"]
        .map(|name| (name.to_owned(), 0.0, if name == "<unk>" { 2 } else { 3 }));
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6));
    let user = [("\n\n".to_owned(), 0.0, 4), ("▁▁".to_owned(), 0.0, 4)];
    let pieces = pieces.iter().map(|(piece, score)| ((*piece).to_owned(), *score, 1));
    let tokens: Vec<(String, f32, i32)> =
        special.into_iter().chain(bytes).chain(user).chain(pieces).collect();
    let array =
        |value: &dyn Fn(&(String, f32, i32)) -> Value| Value::Array(tokens.iter().map(value).collect());
    let metadata = [
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.tokens", array(&|token| Value::String(token.0.clone()))),
        ("tokenizer.ggml.scores", array(&|token| Value::F32(token.1))),
        ("tokenizer.ggml.token_type", array(&|token| Value::I32(token.2))),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(space_prefix)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &[]).unwrap();
    file.set_position(0);
    Content::read(&mut file).unwrap()
}

const LETTERS: [(&str, f32); 7] =
    [("h", -50.0), ("e", -51.0), ("l", -52.0), ("o", -53.0), ("▁", -54.0), ("w", -55.0), ("a", -56.0)];

/// The pair with the best score merges first, wherever it stands.
#[test]
fn scored_pieces_merge_by_their_scores() {
    let names = |tokenizer: &TextTokenizer, text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, false).unwrap();
        ids.iter().map(|&id| tokenizer.token_name(id).unwrap()).collect()
    };
    let with = |more: &[(&str, f32)]| {
        TextTokenizer::from_gguf(&scored_gguf(false, &[&LETTERS[..], more].concat())).unwrap()
    };
    // SentencePiece: "ll" is the best pair, so "lo" never forms, and "hell" from "he" and "ll".
    let tokenizer = with(&[("he", -3.0), ("ll", -1.0), ("hell", -4.0), ("lo", -2.0)]);
    assert_eq!(names(&tokenizer, "hello"), ["hell", "o"]);
    // With a better score "lo" forms first, and "hell" cannot.
    let tokenizer = with(&[("he", -3.0), ("ll", -2.0), ("hell", -4.0), ("lo", -1.0), ("▁hel", -9.0)]);
    assert_eq!(names(&tokenizer, "hello"), ["he", "l", "lo"]);
    // Spaces are pieces, double ones and blank lines tokens of their own, and what has no piece goes by bytes.
    assert_eq!(names(&tokenizer, "a a"), ["a", "▁", "a"]);
    assert_eq!(names(&tokenizer, "a  a\n\na"), ["a", "  ", "a", "\n\n", "a"]);
    assert_eq!(names(&tokenizer, "é"), ["<0xC3>", "<0xA9>"]);
    assert_eq!(tokenizer.encode("a", true).unwrap()[0], 1);
    assert_eq!(tokenizer.eos_ids(), [2]);
    assert_eq!(tokenizer.encode("<end_of_turn>a", false).unwrap()[0], 2);
}

#[test]
fn scored_pieces_round_trip_with_and_without_a_space_in_front() {
    for space_prefix in [false, true] {
        let pieces = [&LETTERS[..], &[("▁he", -1.0), ("he", -2.0)]].concat();
        let tokenizer = TextTokenizer::from_gguf(&scored_gguf(space_prefix, &pieces)).unwrap();
        let first = tokenizer.token_name(tokenizer.encode("hello", false).unwrap()[0]).unwrap();
        assert_eq!(first, if space_prefix { "▁he" } else { "he" });
        for text in TEXTS.iter().filter(|text| !text.is_empty()) {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), *text);
            // A stream goes on behind other text, where the first space counts.
            let prefix = if space_prefix { " " } else { "" };
            assert_eq!(streamed(&tokenizer, &ids), format!("{prefix}{text}"));
        }
    }
}

#[test]
fn unknown_tokenizers_are_errors() {
    for (pre, model, word) in [("bloom", "gpt2", "bloom"), ("smollm", "t5", "t5")] {
        let error = TextTokenizer::from_gguf(&gguf(pre, model)).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn names_that_stand_for_nothing_say_what_would() {
    let error = format!("{:#}", load("no-such-model", 0).err().unwrap());
    assert!(error.contains("smollm2-135m") && error.contains("config.json"), "{error}");
}
