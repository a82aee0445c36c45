//! What broke other systems does not break this one: a module per kind of public report, named after it.
//!
//! Here is what is met around a model, in files and on the command line. Numbers, head sizes, grouped queries, beams,
//! sinks, conversions, rollback and windows are in `kvq-codec/tests/field_cases`. Tests that begin with `slow_` need a
//! real model and run with `cargo xtask test --slow`.

#[path = "../common/gguf.rs"]
mod gguf;
#[path = "../common/program.rs"]
mod program;
#[path = "../common/tensors.rs"]
mod tensors;

mod bad_input;
mod equal_runs;
mod long_context;
mod policy_values;
mod ragged_batches;
mod reported_bytes;
mod second_prompt;
mod state_files;
mod tensor_layouts;

use std::alloc::System;
use std::process::Command;

use kvq_codec::{Backend, Policy};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::model::{GenerateOptions, LoadedModel, generate};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts over the whole process: a test that reads it runs [`alone`].
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs an ignored test of this program in a process of its own, and shows what it says if it fails.
fn alone(test: &str) {
    let program = std::env::current_exe().unwrap();
    let arguments = ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"];
    let output = Command::new(program).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{test}: {text}");
    print!("{text}");
}

/// A packed store for a model.
fn packed(model: &LoadedModel, policy: Policy) -> PackedStore {
    PackedStore::new(model.model.config().kv_shape(), policy, Backend::detect()).unwrap()
}

/// The first `n` tokens of a text that the built-in model has not seen.
fn story(model: &LoadedModel, n: usize) -> Vec<u32> {
    let text = include_str!("../../assets/text/heldout-stories.txt");
    model.tokenizer.encode(text, false).unwrap()[..n].to_vec()
}

/// The most likely tokens behind a prompt.
fn greedy(model: &LoadedModel, store: &mut dyn KvStore, prompt: &[u32], n: usize) -> Vec<u32> {
    generate(&*model.model, store, prompt, &[], &GenerateOptions::greedy(n), |_| Ok(true)).unwrap().tokens
}
