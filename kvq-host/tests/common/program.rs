//! The `kvq` program from outside.
#![allow(dead_code)]

use std::process::{Command, Output};

use serde_json::Value;

/// Runs `kvq` with these arguments to its end.
pub fn kvq(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvq")).args(arguments).output().expect("kvq starts")
}

/// The record that a command line with `--json -` writes; nothing else may be on standard output.
pub fn record(arguments: &[&str]) -> Value {
    let output = kvq(&[arguments, &["--json", "-"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON object")
}

/// Exit code and standard error of a command line that must fail, and must not panic.
pub fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output = kvq(arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {:?}: {error}", output.status);
    assert!(!error.contains("panicked"), "{arguments:?}: {error}");
    (output.status.code(), error)
}

/// The new tokens of a run of a record.
pub fn tokens(record: &Value, run: usize) -> Vec<u64> {
    let ids = record["runs"][run]["new_token_ids"].as_array().expect("a run with tokens");
    ids.iter().map(|id| id.as_u64().unwrap()).collect()
}
