//! Chooses the board, links for it, and has this host compute what the firmware must arrive at.
//!
//! `KVQ_BOARD` names a folder of `boards/`. Linker arguments are given here, not in a configuration file,
//! since `RUSTFLAGS` would replace those.

use std::path::Path;
use std::{env, fs};

use kvq_replay::saved::{self, Text};
use kvq_tiny::{Image, Scratch, Tokenizer, demo};

fn main() {
    println!("cargo:rerun-if-env-changed=KVQ_BOARD");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=boards");
    let boards = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("boards");
    let names = board_names(&boards);
    let board =
        env::var("KVQ_BOARD").unwrap_or_else(|_| panic!("KVQ_BOARD must name a board: {}", names.join(", ")));
    assert!(names.contains(&board), "KVQ_BOARD={board} is none of the boards: {}", names.join(", "));
    let script = fs::read_to_string(boards.join(&board).join("memory.x")).unwrap();
    println!("cargo:rustc-link-search={}", boards.join(&board).display());
    for argument in ["-Tlink.x", "-Tdefmt.x", "--nmagic"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-env=KVQ_BOARD={board}");
    println!("cargo:rustc-env=KVQ_FLASH_BYTES={}", region_bytes(&script, "FLASH"));
    let ram_bytes = region_bytes(&script, "RAM");
    println!("cargo:rustc-env=KVQ_RAM_BYTES={ram_bytes}");

    let host = kvq_replay::small(kvq_codec::Backend::detect(), &mut [0; kvq_replay::SMALL_BYTES]).unwrap();
    let scalar = kvq_replay::small(kvq_codec::Backend::SCALAR, &mut [0; kvq_replay::SMALL_BYTES]).unwrap();
    assert_eq!(host.cache, scalar.cache, "the host's backends disagree about the cache's bytes");
    println!("cargo:rustc-env=KVQ_SMALL_CACHE={}", scalar.cache);
    println!("cargo:rustc-env=KVQ_SMALL_OUTPUTS={}", scalar.outputs);

    let stream = kvq_replay::stream::Stream::for_ram(ram_bytes);
    let mut memory = vec![0; stream.budget_bytes];
    let outputs = stream.read(kvq_codec::Backend::SCALAR, &mut memory, |_| {}).unwrap();
    println!("cargo:rustc-env=KVQ_STREAM_CACHE={}", kvq_replay::Hash::of(&memory).value());
    println!("cargo:rustc-env=KVQ_STREAM_OUTPUTS={outputs}");
    write_snapshot();
    if env::var_os("CARGO_FEATURE_GENERATE").is_some() {
        run_model();
    }
}

/// Puts a cache into `$OUT_DIR/snapshot.bin`, and tells what attention gives after it, and in the other text.
fn write_snapshot() {
    let path = Path::new(&env::var("OUT_DIR").unwrap()).join("snapshot.bin");
    let outputs = |text: Text| {
        let mut memory = [0; saved::SAVED_BYTES];
        let mut cache = saved::cache(kvq_codec::Backend::SCALAR, &mut memory).unwrap();
        saved::read(&mut cache, text, saved::N_BEFORE).unwrap();
        if text == Text::Saved {
            let mut bytes = vec![0; cache.snapshot_bytes()];
            cache.snapshot_into(&mut bytes).unwrap();
            fs::write(&path, bytes).unwrap();
        }
        saved::read(&mut cache, text, saved::N_AFTER).unwrap()
    };
    println!("cargo:rustc-env=KVQ_SAVED_OUTPUTS={}", outputs(Text::Saved));
    println!("cargo:rustc-env=KVQ_PRESENT_OUTPUTS={}", outputs(Text::Present));
    println!("cargo:rustc-env=KVQ_SNAPSHOT_PATH={}", path.display());
}

/// Generates here what the firmware is to generate, and hands it over: tokens and hashes in
/// `$OUT_DIR/expected.rs`, sizes of buffers as variables.
fn run_model() {
    println!("cargo:rerun-if-env-changed=KVQ_IMAGE");
    let path = env::var("KVQ_IMAGE").unwrap_or_else(|_| {
        panic!("KVQ_IMAGE must name a model image: cargo run --release -- export --model builtin --out FILE")
    });
    println!("cargo:rerun-if-changed={path}");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("KVQ_IMAGE={path}: {error}"));
    let image = Image::parse(&bytes).unwrap_or_else(|error| panic!("KVQ_IMAGE={path}: {error}"));
    let shape = image.shape();
    let capacity = kvq_codec::capacity_tokens(shape.kv_shape(), demo::POLICY, demo::CACHE_BYTES).unwrap();
    let mut prompt = [0; demo::MAX_PROMPT];
    let n_prompt = Tokenizer::new(image).encode_into(demo::PROMPT, &mut prompt).unwrap();
    let n_new = capacity.min(shape.n_positions) - n_prompt + 1;
    let (mut tokens, mut hashes) = (Vec::new(), Vec::new());
    let (mut cache, mut floats, mut codes) = (
        vec![0; demo::CACHE_BYTES],
        vec![0.0; Scratch::floats_needed(shape)],
        vec![0; Scratch::codes_needed(shape)],
    );
    let buffers =
        demo::Buffers { cache: &mut cache, scratch: Scratch { floats: &mut floats, codes: &mut codes } };
    let observe = |event: demo::Event<'_>| match event {
        demo::Event::Token(token, _) => tokens.push(token),
        demo::Event::Hash(len, hash) => hashes.push((len, hash)),
    };
    let backend = kvq_codec::Backend::SCALAR;
    demo::generate(image, backend, demo::Request::of_firmware(n_new), buffers, observe, |_| {}).unwrap();
    let expected = format!(
        "const TOKENS: [u32; {n_new}] = {tokens:?};\nconst HASHES: [(usize, u64); {}] = {hashes:?};\n",
        hashes.len()
    );
    fs::write(Path::new(&env::var("OUT_DIR").unwrap()).join("expected.rs"), expected).unwrap();
    println!("cargo:rustc-env=KVQ_IMAGE_PATH={}", Path::new(&path).canonicalize().unwrap().display());
    println!("cargo:rustc-env=KVQ_SCRATCH_FLOATS={}", floats.len());
    println!("cargo:rustc-env=KVQ_SCRATCH_CODES={}", codes.len());
}

fn board_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The length of a memory region of the linker script, in bytes.
fn region_bytes(script: &str, region: &str) -> usize {
    let line = script.lines().find(|line| line.trim_start().starts_with(region)).unwrap();
    let length = line.rsplit('=').next().unwrap().trim();
    let (digits, unit) = length.split_at(length.len() - 1);
    let unit = match unit {
        "K" => 1024,
        "M" => 1024 * 1024,
        _ => panic!("length {length} of {region} must end in K or M"),
    };
    digits.parse::<usize>().unwrap() * unit
}
