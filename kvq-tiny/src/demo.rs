//! What the firmware's `generate` does, and a host after it: a prompt, a cache, a token drawn each time.

use kvq_codec::{Backend, Cache, Policy, WhenFull};

use crate::{Error, Image, Model, Sampler, Scratch, Tokenizer, Watch, Watched};

/// What is continued where nothing else is said.
pub const PROMPT: &str = "Once upon a time, there was a little girl";

/// How far from the most likely token a draw may go where nothing else is said. The most likely token each time
/// would soon repeat itself: the model is small.
pub const TEMPERATURE: f32 = 0.4;

/// Where the draws begin where nothing else is said.
pub const SEED: u64 = 0;

/// Bytes of the cache: what 128 KB leave when the activations and 16 KB of stack are taken off.
pub const CACHE_BYTES: usize = 104 * 1024;

/// Short spans: in a context of a few hundred tokens a recent window of 32 would be a large part.
pub const POLICY: Policy =
    Policy { span_len: 16, recent_len: 16, ..Policy::FOUR_X.with_byte_budget(WhenFull::Demote) };

/// The cache's bytes are hashed after every so many tokens.
pub const HASH_EVERY: usize = 32;

/// The most tokens of a prompt.
pub const MAX_PROMPT: usize = 128;

/// What happens while text is generated.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A token that came out, with its bytes.
    Token(u32, &'a [u8]),
    /// The hash of the cache's bytes after that many tokens.
    Hash(usize, u64),
}

/// What is to be generated.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Text to continue.
    pub prompt: &'a str,
    /// Tokens to add.
    pub n_new: usize,
    /// Draws them.
    pub sampler: Sampler,
}

impl Request<'static> {
    /// The firmware's own.
    pub const fn of_firmware(n_new: usize) -> Self {
        Self { prompt: PROMPT, n_new, sampler: Sampler::new(SEED, TEMPERATURE) }
    }
}

/// The buffers of a run.
#[derive(Debug)]
pub struct Buffers<'a> {
    /// The cache's memory, zeros.
    pub cache: &'a mut [u8],
    /// The model's.
    pub scratch: Scratch<'a>,
}

/// Generates what is asked for and tells `observe` what happens; the cache is handed to `last` at the end.
///
/// # Errors
/// What the model, the tokenizer or the cache refuses.
pub fn generate(
    image: Image<'_>,
    backend: Backend,
    request: Request<'_>,
    buffers: Buffers<'_>,
    mut observe: impl FnMut(Event<'_>),
    last: impl FnOnce(&Cache<Watched<'_>>),
) -> Result<(), Error> {
    let Request { prompt, n_new, mut sampler } = request;
    let Buffers { cache: memory, mut scratch } = buffers;
    let (model, tokenizer, watch) = (Model::new(image), Tokenizer::new(image), Watch::default());
    let mut cache = Cache::new(image.shape().kv_shape(), POLICY, backend, Watched::new(memory, &watch))?;
    let mut tokens = [0; MAX_PROMPT];
    let n_prompt = tokenizer.encode_into(prompt, &mut tokens)?;
    let mut prompt = tokens.iter().take(n_prompt);
    let mut token = *prompt.next().ok_or(Error::Buffer { what: "a prompt", needed: 1, got: 0 })?;
    let n_steps = n_prompt + n_new - 1;
    for step in 1..=n_steps {
        model.step(token, &mut cache, &mut scratch)?;
        if step.is_multiple_of(HASH_EVERY) || step == n_steps {
            observe(Event::Hash(step, watch.hash(&cache)));
        }
        token = match prompt.next() {
            Some(&token) => token,
            None => {
                let token = sampler.pick(&model, &mut scratch)?;
                observe(Event::Token(token, tokenizer.token_bytes(token)));
                token
            }
        };
    }
    last(&cache);
    Ok(())
}
