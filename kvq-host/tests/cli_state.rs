//! `kvq generate` over several processes: saved, loaded, talked to.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn kvq(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvq"))
        .arg("generate")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kvq starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The record of a command line.
fn record(arguments: &[&str], input: &str) -> Value {
    let output = kvq(&[arguments, &["--json", "-"]].concat(), input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON object")
}

fn tokens(record: &Value, run: usize) -> Vec<u64> {
    let ids = record["runs"][run]["new_token_ids"].as_array().expect("a run with tokens");
    ids.iter().map(|id| id.as_u64().unwrap()).collect()
}

fn notes(record: &Value) -> String {
    record["notes"].to_string()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const PROMPT: &str = "Once upon a time, there was a little girl named Lily. She";

#[test]
fn a_saved_text_goes_on_as_if_it_had_not_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.state");
    for policy in ["4x", "8bit"] {
        let common = ["--policy", policy, "--threads", "1"];
        let whole = record(&[&common[..], &["--prompt", PROMPT, "--new-tokens", "220"]].concat(), "");
        let first = ["--prompt", PROMPT, "--new-tokens", "120", "--save-state", text(&file)];
        let first = record(&[&common[..], &first[..]].concat(), "");
        // 100 tokens more, whose first comes from the token that was generated last.
        let rest = record(&[&common[..], &["--load-state", text(&file), "--new-tokens", "100"]].concat(), "");
        let both = [tokens(&first, 0), tokens(&rest, 0)].concat();
        assert_eq!(both.len(), 220, "the model must not have ended its text for this test");
        assert_eq!(both, tokens(&whole, 0), "{policy}");
        assert_eq!(rest["runs"][0]["kv_bytes"].as_u64(), whole["runs"][0]["kv_bytes"].as_u64());
    }
}

#[test]
fn a_prompt_that_begins_as_the_saved_text_is_read_from_where_it_parts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.state");
    record(&["--prompt", PROMPT, "--new-tokens", "1", "--save-state", text(&file)], "");
    let longer = format!("{PROMPT} was very sad because");
    let arguments = ["--prompt", longer.as_str(), "--new-tokens", "30"];
    let fresh = record(&arguments, "");
    let reused = record(&[&arguments[..], &["--load-state", text(&file)]].concat(), "");
    assert_eq!(tokens(&reused, 0), tokens(&fresh, 0));
    let held = notes(&reused);
    assert!(held.contains("tokens of the prompt were in the cache"), "{held}");
    assert!(!notes(&fresh).contains("were in the cache"));
    // Another text shares next to nothing, and is not disturbed.
    let other = ["--prompt", "The dog ran home. He", "--new-tokens", "20"];
    let over_state = record(&[&other[..], &["--load-state", text(&file)]].concat(), "");
    assert_eq!(tokens(&over_state, 0), tokens(&record(&other, ""), 0));
}

#[test]
fn a_conversation_goes_on_in_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.state");
    let turns = ["Once upon a time there was a cat.", "The cat was hungry.", "Then a dog came."];
    let chat = |turns: &[&str], more: &[&str]| {
        let mut arguments = vec!["--chat", "--new-tokens", "24"];
        turns.iter().for_each(|turn| arguments.extend(["--prompt", turn]));
        arguments.extend(more);
        record(&arguments, "")
    };
    let whole = chat(&turns, &[]);
    chat(&turns[..2], &["--save-state", text(&file)]);
    let third = chat(&turns[2..], &["--load-state", text(&file), "--save-state", text(&file)]);
    assert_eq!(whole["runs"].as_array().unwrap().len(), 3);
    assert_eq!(tokens(&third, 0), tokens(&whole, 2));
    // Without the turns before it the answer is another one.
    assert_ne!(tokens(&chat(&turns[2..], &[]), 0), tokens(&whole, 2));
    for record in [&whole, &third] {
        assert!(notes(record).contains("no chat template"), "{}", notes(record));
        assert!(notes(record).contains("were in the cache"), "{}", notes(record));
    }
    // The file now holds three turns: a fourth reads only what is new.
    let fourth = chat(&["The end."], &["--load-state", text(&file)]);
    assert!(fourth["settings"]["context_tokens"].as_u64() > whole["settings"]["context_tokens"].as_u64());
}

#[test]
fn lines_of_standard_input_are_turns() {
    let arguments = ["--chat", "--new-tokens", "8"];
    let typed = record(&arguments, "One day, a bird sang.\n\nIt was happy.\n");
    let given = ["--prompt", "One day, a bird sang.", "--prompt", "It was happy."];
    let given = record(&[&arguments[..], &given[..]].concat(), "");
    assert_eq!(typed["runs"].as_array().unwrap().len(), 2);
    for run in 0..2 {
        assert_eq!(tokens(&typed, run), tokens(&given, run));
    }
    let shown = kvq(&arguments, "One day, a bird sang.\nIt was happy.\n");
    let (shown, error) = (String::from_utf8(shown.stdout).unwrap(), String::from_utf8(shown.stderr).unwrap());
    let answer = typed["runs"][1]["new_text"].as_str().unwrap();
    assert!(shown.contains(&format!("> It was happy.\n{answer}\n")), "{shown}");
    assert!(error.contains("no chat template"), "{error}");
    let silent = kvq(&arguments, "\n");
    assert_eq!(silent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&silent.stderr).contains("nothing was said"));
}

#[test]
fn several_prompts_are_as_many_runs() {
    let prompts = ["The dog", "Once upon a time, there was a little girl named", "One day, Tom and his mom"];
    let arguments = |prompts: &[&'static str]| {
        let mut arguments = vec!["--new-tokens", "40", "--policy", "4x"];
        prompts.iter().for_each(|prompt| arguments.extend(["--prompt", prompt]));
        record(&arguments, "")
    };
    let batch = arguments(&prompts);
    assert_eq!(batch["runs"].as_array().unwrap().len(), 3);
    for (i, prompt) in prompts.iter().enumerate() {
        let alone = arguments(&[prompt]);
        assert_eq!(tokens(&batch, i), tokens(&alone, 0), "{prompt}");
        assert_eq!(batch["runs"][i]["kv_bytes"], alone["runs"][0]["kv_bytes"], "{prompt}");
    }
}

#[test]
fn what_cannot_be_saved_or_loaded_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.state");
    let save = ["--prompt", PROMPT, "--new-tokens", "4", "--save-state", text(&file)];
    record(&save, "");
    for (arguments, code, expected) in [
        (
            &["--load-state", text(&file), "--policy", "8bit"][..],
            1,
            &["--load-state", "policy `4x`", "`8bit`"][..],
        ),
        (
            &["--load-state", text(&file), "--model", "random:distilgpt2"],
            1,
            &["saved with the model `builtin`"],
        ),
        (&["--load-state", "no-such.state"], 1, &["--load-state", "no-such.state", "cannot open"]),
        (&["--load-state", text(&file), "--dense", "f16"], 2, &["--load-state", "--dense"]),
        (&["--save-state", text(&file), "--dense", "f16", "--prompt", "a"], 2, &["--save-state", "--dense"]),
        (&["--save-state", text(&file), "--prompt", "a", "--prompt", "b"], 2, &["--save-state", "2 prompts"]),
        (&["--save-state", text(folder.path()), "--prompt", "a"], 1, &["--save-state", "folder"]),
        (&["--chat", "--prompt-file", text(&file)], 2, &["--prompt-file", "--chat"]),
    ] {
        let output = kvq(arguments, "");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        for part in expected {
            assert!(error.contains(part), "{arguments:?}: no '{part}' in {error}");
        }
    }
    // All of that has left the file as it was.
    assert_eq!(tokens(&record(&["--load-state", text(&file), "--new-tokens", "2"], ""), 0).len(), 2);
}
