//! Every flag of the verbs that run a model changes what they say.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin");

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// What a command line records, without what differs from run to run.
fn said(verb: &str, flags: &[(&str, &str)]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvq"));
    command.arg(verb);
    for (flag, value) in flags {
        command.arg(flag).args(Some(value).filter(|value| !value.is_empty()));
    }
    let output = command.args(["--json", "-"]).output().expect("kvq starts");
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    let mut record: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    forget_times(&mut record);
    record
}

fn forget_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let varies = |key: &str| {
                ["tokens_per_s", "ms_per_token", "speed", "rss", "seconds", "command_line", "machine"]
                    .iter()
                    .any(|part| key.contains(part))
            };
            // Lines of validate.
            if matches!(
                map.get("name").and_then(Value::as_str),
                Some("decode speed" | "peak resident memory")
            ) {
                map.remove("figure");
            }
            map.retain(|key, _| !varies(key));
            map.values_mut().for_each(forget_times);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// Flags that `--help` of a verb names.
fn flags_of(verb: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_kvq")).args([verb, "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let starts = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    starts
        .filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")))
        .map(|flag| flag.trim_end_matches("...").to_owned())
        .filter(|flag| flag != "--help" && flag != "--json")
        .collect()
}

/// `base` with `flag` set to `value`.
fn with<'a>(base: &[(&'a str, &'a str)], flag: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    base.iter().copied().filter(|(other, _)| *other != flag).chain([(flag, value)]).collect()
}

fn check(verb: &str, base: &[(&str, &str)], changes: &[(&str, &str)], elsewhere: &[&str]) {
    let before = said(verb, base);
    assert_eq!(said(verb, base), before, "{verb}: the same command line says the same");
    for (flag, value) in changes {
        assert_ne!(said(verb, &with(base, flag, value)), before, "{verb} {flag} {value}");
    }
    for flag in flags_of(verb) {
        let is_tried = changes.iter().any(|(tried, _)| *tried == flag) || elsewhere.contains(&flag.as_str());
        assert!(is_tried, "{verb} {flag} is tried nowhere");
    }
}

/// A text of the built-in model's kind that is not the built-in one.
fn other_text(name: &str) -> String {
    let path = scratch(name);
    let story = "One day, a little dog named Max went to the park with his mom. He saw a big red ball. ";
    std::fs::write(&path, story.repeat(30)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn of_bench() {
    let text = other_text("flags-bench.txt");
    let base = [("--context", "64"), ("--new-tokens", "4"), ("--rounds", "1"), ("--policy", "4x")];
    let changes = [
        ("--model", MODEL),
        ("--threads", "1"),
        ("--seed", "7"),
        ("--backend", "scalar"),
        ("--policy", "8bit"),
        ("--context", "80"),
        ("--new-tokens", "5"),
        ("--text", &text),
        ("--rounds", "2"),
        ("--windows", "2"),
        ("--recall", ""),
    ];
    // cli_budget has the budgets, cli_report the page.
    check("bench", &base, &changes, &["--budget-mib", "--when-full", "--html", "--shape"]);
    let short = [("--context", "16"), ("--new-tokens", "1"), ("--rounds", "1"), ("--policy", "8bit")];
    let shaped = said("bench", &with(&short, "--shape", "distilgpt2"));
    assert_eq!(shaped["model"]["random_weights"], true);
    assert_ne!(shaped, said("bench", &short));
}

#[test]
fn of_eval() {
    let text = other_text("flags-eval.txt");
    let base = [("--context", "64"), ("--policy", "4x")];
    let changes = [
        ("--model", MODEL),
        ("--threads", "1"),
        ("--seed", "7"),
        ("--backend", "scalar"),
        ("--policy", "8bit"),
        ("--context", "80"),
        ("--text", &text),
        ("--windows", "2"),
        ("--skip-windows", "1"),
        ("--recall", ""),
    ];
    // cli_report asks for facts and for the page.
    check("eval", &base, &changes, &["--needle", "--html"]);
}

#[test]
fn of_generate() {
    let text = other_text("flags-generate.txt");
    let base = [("--prompt", "One day, a"), ("--new-tokens", "8"), ("--temperature", "1.5")];
    let changes = [
        ("--model", MODEL),
        ("--threads", "1"),
        ("--seed", "7"),
        ("--backend", "scalar"),
        ("--prompt", "The cat"),
        ("--chat", ""),
        ("--policy", "8bit"),
        ("--dense", "f16"),
        ("--context", "8"),
        ("--new-tokens", "9"),
        ("--temperature", "0"),
        ("--top-p", "0.1"),
    ];
    // cli_state saves and loads; image.rs runs images; a file instead of a prompt follows.
    check("generate", &base, &changes, &["--prompt-file", "--load-state", "--save-state", "--image"]);
    let of_file = said("generate", &[("--prompt-file", &text), ("--new-tokens", "8")]);
    assert_ne!(of_file, said("generate", &[("--prompt", "One day, a"), ("--new-tokens", "8")]));
    let long = "Once there was a cat. ".repeat(400);
    let output =
        Command::new(env!("CARGO_BIN_EXE_kvq")).args(["generate", "--prompt", &long]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("no room in the model's 1024"), "{error}");
}

#[test]
fn of_validate() {
    let text = other_text("flags-validate.txt");
    // Portable kernels beside dense ones with vectors, for a few tokens: how fast is not the subject.
    let base = [
        ("--context", "256"),
        ("--new-tokens", "4"),
        ("--rounds", "1"),
        ("--min-compression", "1"),
        ("--min-speed", "0.001"),
    ];
    let changes = [
        ("--model", MODEL),
        ("--threads", "1"),
        ("--seed", "7"),
        ("--backend", "scalar"),
        ("--policy", "8bit"),
        ("--context", "300"),
        ("--new-tokens", "5"),
        ("--rounds", "2"),
        ("--text", &text),
        ("--max-attention-error", "0.9"),
        ("--min-compression", "1.5"),
        ("--min-speed", "0.01"),
        ("--max-rss-mib", "5000"),
        ("--max-kld", "0.5"),
        ("--max-perplexity-pct", "5"),
        ("--min-top1-pct", "50"),
    ];
    check("validate", &base, &changes, &[]);
}

#[test]
fn of_export() {
    let image = |model: &str, name: &str| {
        let path = scratch(name);
        let arguments = ["export", "--model", model, "--out", path.to_str().unwrap()];
        let output = Command::new(env!("CARGO_BIN_EXE_kvq")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(path).unwrap()
    };
    assert_eq!(image("builtin", "flags-a.image"), image(MODEL, "flags-b.image"));
    // llama_image.rs has a tokenizer of its own.
    assert_eq!(flags_of("export"), ["--model", "--tokenizer", "--out"]);
}
