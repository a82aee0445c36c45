//! A tokenizer from the metadata of a GGUF file: byte-level BPE here, scored pieces in [`super::scored`].
//!
//! candle-core has such code too, but its default arm takes the place of every pre-tokenizer it does not
//! know and adds a space in front of each text: SmolLM2's `<|im_start|>user` became 1, 2914 for 1, 4093. Here
//! a pre-tokenizer that is not known is an error.

use anyhow::{Context, Result, anyhow, bail};
use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer};

use super::{TextTokenizer, scored};

/// Kinds of token in `tokenizer.ggml.token_type` that text is searched for before anything else.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Names of control tokens that end a turn or a text whatever `eos_token_id` says.
const END_NAMES: [&str; 5] =
    ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>"];

/// Words, numbers of one digit, punctuation and space, as Qwen2 splits them.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same with numbers of up to three digits, as Llama 3 splits them.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut before merges apply.
struct Cutting {
    pre_tokenizer: PreTokenizerWrapper,
    compose: bool,
    /// Whether a piece that is a token is that token, whatever the merges say.
    ignore_merges: bool,
}

impl Cutting {
    fn of(name: &str) -> Result<Self> {
        let plain = |steps: Vec<PreTokenizerWrapper>| Self {
            pre_tokenizer: Sequence::new(steps).into(),
            compose: false,
            ignore_merges: false,
        };
        // ByteLevel::new(add_prefix_space, trim_offsets, use_regex)
        let gpt2 = || ByteLevel::new(false, true, true).into();
        let by = |pattern: &str| -> Result<Vec<PreTokenizerWrapper>> {
            let pattern = SplitPattern::Regex(pattern.into());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| anyhow!("pattern of a pre-tokenizer: {error}"))?;
            Ok(vec![split.into(), ByteLevel::new(false, true, false).into()])
        };
        Ok(match name {
            "gpt2" | "gpt-2" => plain(vec![gpt2()]),
            "smollm" | "starcoder" => plain(vec![Digits::new(true).into(), gpt2()]),
            "qwen2" => Self { compose: true, ..plain(by(QWEN2)?) },
            "llama3" | "llama-bpe" => Self { ignore_merges: true, ..plain(by(LLAMA3)?) },
            other => bail!(
                "pre-tokenizer `{other}` of the GGUF file is not known (known: gpt-2, smollm, starcoder, qwen2, \
                 llama-bpe); use the model's safetensors and tokenizer.json"
            ),
        })
    }
}

/// An array of the metadata.
pub(super) fn values<'a>(content: &'a Content, key: &str) -> Result<&'a [Value]> {
    let values =
        content.metadata.get(key).with_context(|| format!("no metadata `{key}` in the GGUF file"))?;
    Ok(values.to_vec().with_context(|| format!("metadata `{key}`"))?)
}

fn strings<'a>(content: &'a Content, key: &str) -> Result<Vec<&'a str>> {
    values(content, key)?.iter().map(|value| Ok(value.to_string()?.as_str())).collect()
}

/// Byte-level BPE without its control tokens, and whether texts begin with the BOS token by default.
fn byte_level(content: &Content, tokens: &[&str]) -> Result<(Tokenizer, bool)> {
    let pre = content.metadata.get("tokenizer.ggml.pre").and_then(|value| value.to_string().ok());
    let cutting = Cutting::of(pre.context("no metadata `tokenizer.ggml.pre` in the GGUF file")?)?;
    let merges = strings(content, "tokenizer.ggml.merges")?.into_iter().map(|merge| {
        let (a, b) = merge.split_once(' ').with_context(|| format!("merge `{merge}` is no pair"))?;
        Ok((a.to_owned(), b.to_owned()))
    });
    let vocab: Vocab = tokens.iter().zip(0u32..).map(|(token, id)| ((*token).to_owned(), id)).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges.collect::<Result<Vec<_>>>()?)
        .ignore_merges(cutting.ignore_merges)
        .build()
        .map_err(|error| anyhow!("vocabulary of the GGUF file: {error}"))?;
    let mut inner = Tokenizer::new(bpe);
    if cutting.compose {
        inner.with_normalizer(Some(NFC)).map_err(|error| anyhow!("normalizer: {error}"))?;
    }
    inner.with_pre_tokenizer(Some(cutting.pre_tokenizer));
    inner.with_decoder(Some(ByteLevel::default()));
    Ok((inner, cutting.ignore_merges))
}

fn id(content: &Content, key: &str) -> Option<u32> {
    content.metadata.get(key).and_then(|value| value.to_u32().ok())
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::I32(n) => Some(i64::from(*n)),
        Value::U32(n) => Some(i64::from(*n)),
        _ => None,
    }
}

impl TextTokenizer {
    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// A tokenizer that is neither byte-level BPE (`tokenizer.ggml.model` is `gpt2`) nor scored pieces (`llama`),
    /// a pre-tokenizer that is not known, or metadata that is missing.
    pub fn from_gguf(content: &Content) -> Result<Self> {
        let text = |key: &str| content.metadata.get(key).and_then(|value| value.to_string().ok());
        let flag = |key: &str| content.metadata.get(key).and_then(|value| value.to_bool().ok());
        let model = text("tokenizer.ggml.model").context("no tokenizer in the GGUF file")?.as_str();
        let tokens = strings(content, "tokenizer.ggml.tokens")?;
        let scored = model == "llama";
        let space_prefix = scored && flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let (mut inner, bos_by_default) = match model {
            "gpt2" => byte_level(content, &tokens)?,
            "llama" => (scored::tokenizer(content, &tokens, space_prefix)?, true),
            other => bail!(
                "tokenizer `{other}` of the GGUF file is not known: byte-level BPE (`gpt2`) and scored pieces \
                 (`llama`) are; use the model's safetensors and tokenizer.json"
            ),
        };

        let kinds = content.metadata.get("tokenizer.ggml.token_type");
        let kinds = kinds.map(|kinds| kinds.to_vec()).transpose()?.map_or(&[][..], Vec::as_slice);
        let of_kind = |kind: i64| {
            let tokens = tokens.iter().zip(kinds).filter(move |(_, value)| integer(value) == Some(kind));
            tokens.map(move |(token, _)| AddedToken::from(*token, kind == CONTROL).normalized(false))
        };
        inner.add_special_tokens(of_kind(CONTROL)).map_err(|error| anyhow!("control tokens: {error}"))?;
        // Texts are searched for these before their spaces are replaced.
        let user_defined = of_kind(USER_DEFINED).map(|mut token| {
            if scored {
                token.content = token.content.replace(scored::SPACE, " ");
            }
            token
        });
        inner.add_tokens(user_defined).map_err(|error| anyhow!("user-defined tokens: {error}"))?;

        let named_ends = END_NAMES.iter().filter_map(|name| {
            let id = inner.token_to_id(name)?;
            (kinds.get(id as usize).and_then(integer) == Some(CONTROL)).then_some(id)
        });
        let stated = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
        let mut eos_ids: Vec<u32> =
            stated.iter().filter_map(|key| id(content, key)).chain(named_ends).collect();
        eos_ids.sort_unstable();
        eos_ids.dedup();
        Ok(Self {
            inner,
            bos_id: id(content, "tokenizer.ggml.bos_token_id"),
            eos_ids,
            prepend_bos: flag("tokenizer.ggml.add_bos_token").unwrap_or(bos_by_default),
            space_prefix,
        })
    }
}
