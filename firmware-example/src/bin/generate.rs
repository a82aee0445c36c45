//! A trained transformer writes a story: weights in flash, keys and values packed in RAM.
//!
//! Tokens and the cache's bytes are compared with those of the host that built this.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_codec::{Backend, KvShape};
use kvq_firmware::{board, exit, flash, log, stack};
use kvq_tiny::{Error, Image, Scratch, demo};

static IMAGE: &[u8] = include_bytes!(env!("KVQ_IMAGE_PATH"));

// TOKENS and HASHES: what the host arrived at.
include!(concat!(env!("OUT_DIR"), "/expected.rs"));

const N_FLOATS: usize = board::number(env!("KVQ_SCRATCH_FLOATS")) as usize;
const N_CODES: usize = board::number(env!("KVQ_SCRATCH_CODES")) as usize;

/// Bytes of text that are logged together.
const LINE_BYTES: usize = 100;

#[entry]
fn main() -> ! {
    static mut CACHE: [u8; demo::CACHE_BYTES] = [0; demo::CACHE_BYTES];
    static mut FLOATS: [f32; N_FLOATS] = [0.0; N_FLOATS];
    static mut CODES: [i16; N_CODES] = [0; N_CODES];
    let buffers = demo::Buffers { cache: CACHE, scratch: Scratch { floats: FLOATS, codes: CODES } };
    let mut outcome = Ok(Differences::default());
    let stack_bytes = stack::used_bytes(|| outcome = run(buffers));
    match outcome {
        Ok(Differences { tokens: 0, hashes: 0 }) => {
            defmt::info!(
                "{=usize} tokens and {=usize} cache hashes equal the host's",
                TOKENS.len(),
                HASHES.len()
            );
            log_ram(stack_bytes);
            exit::success()
        }
        Ok(Differences { tokens, hashes }) => {
            defmt::error!("{=usize} tokens and {=usize} cache hashes differ from the host's", tokens, hashes);
            exit::failure()
        }
        Err(error) => {
            defmt::error!("{}", error);
            exit::failure()
        }
    }
}

/// Tokens and hashes that are not the host's.
#[derive(Clone, Copy, Default)]
struct Differences {
    tokens: usize,
    hashes: usize,
}

fn run(buffers: demo::Buffers<'_>) -> Result<Differences, Error> {
    let image = Image::parse(IMAGE)?;
    let shape = image.shape().kv_shape();
    let backend = Backend::detect();
    defmt::info!(
        "generate on {=str}, kernels {=str}: {=usize} layers, {=usize} heads of {=usize}, image of {=usize} bytes, checksum {=u64:016x}",
        board::NAME,
        backend.name(),
        shape.n_layers,
        shape.n_kv_heads,
        shape.key_head_dim,
        IMAGE.len(),
        image.checksum()
    );
    defmt::info!("prompt: {=str}", demo::PROMPT);
    let mut differences = Differences::default();
    let (mut line, mut n_tokens, mut n_hashes) = (Line::new(), 0, 0);
    let observe = |event: demo::Event<'_>| match event {
        demo::Event::Token(token, bytes) => {
            differences.tokens += usize::from(TOKENS.get(n_tokens) != Some(&token));
            n_tokens += 1;
            line.push(bytes);
        }
        demo::Event::Hash(len, hash) => {
            differences.hashes += usize::from(HASHES.get(n_hashes) != Some(&(len, hash)));
            n_hashes += 1;
            defmt::info!("after {=usize} tokens: cache {=u64:016x}", len, hash);
        }
    };
    let mut logged = Ok(());
    let request = demo::Request::of_firmware(TOKENS.len());
    demo::generate(image, backend, request, buffers, observe, |cache| {
        log_cache(cache.len(), shape);
        log::memory(&cache.memory());
        logged = log::tiers(cache, 0);
    })?;
    logged?;
    line.flush();
    differences.tokens += TOKENS.len().abs_diff(n_tokens);
    differences.hashes += HASHES.len().abs_diff(n_hashes);
    Ok(differences)
}

fn log_cache(len: usize, shape: KvShape) {
    let fp16_bytes = len * shape.fp16_bytes_per_token();
    let fp16_tokens = demo::CACHE_BYTES / shape.fp16_bytes_per_token();
    defmt::info!(
        "{=usize} tokens in {=usize} bytes, in which fp16 holds {=usize} ({=usize}.{=usize:02}x); in fp16 these tokens take {=usize} bytes, {=usize} more than the whole RAM",
        len,
        demo::CACHE_BYTES,
        fp16_tokens,
        len / fp16_tokens,
        len % fp16_tokens * 100 / fp16_tokens,
        fp16_bytes,
        fp16_bytes.saturating_sub(board::RAM_BYTES)
    );
}

fn log_ram(stack_bytes: usize) {
    defmt::info!(
        "RAM: static ~{=usize}, stack ~{=usize}, all ~{=usize} of {=usize} bytes; flash ~{=usize} of {=usize} bytes",
        stack::static_bytes(),
        stack_bytes,
        stack::static_bytes() + stack_bytes,
        board::RAM_BYTES,
        flash::bytes(),
        board::FLASH_BYTES
    );
}

/// Text on its way to the log, a line at a time.
struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; LINE_BYTES], len: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.len == LINE_BYTES || (byte == b' ' && self.len > LINE_BYTES - 16) || byte == b'\n' {
                self.flush();
            }
            if byte != b'\n' {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
    }

    /// Logs what there is; bytes that are no UTF-8 (a token may be part of a character) as numbers.
    fn flush(&mut self) {
        let bytes = &self.bytes[..self.len];
        match core::str::from_utf8(bytes) {
            Ok("") => {}
            Ok(text) => defmt::info!("| {=str}", text),
            Err(_) => defmt::info!("| {=[u8]}", bytes),
        }
        self.len = 0;
    }
}
