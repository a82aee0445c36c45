//! Saves a text in the middle, restores it, and goes on to the same tokens as without the break.
//!
//! `cargo run --release --example save_restore`

use anyhow::{Context, Result, ensure};
use kvq_host::codec::{Backend, Policy};
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::model::{GenerateOptions, generate, keep_prefix, load};
use kvq_host::policy;
use kvq_host::state::{Origin, State};

fn main() -> Result<()> {
    let loaded = load("builtin", 0)?;
    let (model, tokenizer) = (&*loaded.model, &loaded.tokenizer);
    let prompt = tokenizer.encode("Once upon a time, there was a little girl named Lily.", true)?;
    let open = || PackedStore::new(model.config().kv_shape(), Policy::FOUR_X, Backend::detect());
    let run = |store: &mut PackedStore, prompt: &[u32], n: usize| {
        generate(model, store, prompt, tokenizer.eos_ids(), &GenerateOptions::greedy(n), |_| Ok(true))
    };

    let whole = run(&mut open()?, &prompt, 80)?.tokens;

    // The first half, and what is needed for the second, in a file.
    let policy = policy::load("4x")?;
    let mut store = open()?;
    let mut tokens = prompt.clone();
    tokens.extend(run(&mut store, &prompt, 40)?.tokens);
    let file = std::env::temp_dir().join(format!("kvq-example-{}.state", std::process::id()));
    State::new(Origin::new(&loaded.info, &policy, Vec::new()), tokens, &store)?.write(&file)?;
    drop(store);

    // As in another process: the file, the same model and the same policy.
    let state = State::read(&file)?;
    let mut store = state.open(model, &loaded.info, &policy, Backend::detect())?;
    let held = keep_prefix(&mut store, &state.tokens, &state.tokens)?;
    let rest = run(&mut store, &state.tokens[held..], 40)?.tokens;

    let bytes = std::fs::metadata(&file).context("the state file")?.len();
    std::fs::remove_file(&file)?;
    let both = [&state.tokens[prompt.len()..], &rest].concat();
    println!("{bytes} bytes on disk for {} tokens, {held} of them not read again", state.tokens.len());
    println!("{}", tokenizer.decode(&both)?);
    ensure!(both == whole, "the break has changed the text");
    println!("The same {} tokens as without the break.", both.len());
    Ok(())
}
