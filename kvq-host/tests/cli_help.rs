//! Every verb's help: its examples run.

#[path = "common/program.rs"]
mod program;

use std::process::Command;

const VERBS: [&str; 11] = [
    "bench", "eval", "export", "generate", "inspect", "models", "plan", "report", "synth", "tune", "validate",
];

fn help(arguments: &[&str]) -> String {
    let output = program::kvq(&[arguments, &["--help"]].concat());
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Lines after "Example:" or "Examples:" that call the program.
fn examples(help: &str) -> Vec<String> {
    let (_, after) = help.split_once("\nExample").expect("an example");
    let lines = after.lines().map(|line| line.trim_start_matches([':', 's', ' ']));
    lines.filter(|line| line.starts_with("kvq ")).map(str::to_owned).collect()
}

#[test]
fn these_are_all_verbs() {
    let text = help(&[]);
    let listed: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, VERBS);
}

#[test]
fn examples_run() {
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_kvq")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    for verb in VERBS {
        let examples = examples(&help(&[verb]));
        assert!(!examples.is_empty(), "{verb} has no example");
        let scratch = tempfile::tempdir().unwrap();
        for example in examples {
            let output = Command::new("sh")
                .args(["-ec", &example])
                .current_dir(&scratch)
                .env("PATH", &path)
                .output()
                .unwrap();
            assert!(output.status.success(), "{example}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// A reader that goes away ends the program, without a panic.
#[test]
fn a_closed_pipe_is_no_panic() {
    let kvq = env!("CARGO_BIN_EXE_kvq");
    let script = format!("'{kvq}' plan --shape 3,4,32 --budget-kib 96 --rust --policy 4x | true");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    let script = format!("'{kvq}' bench --context 64 --new-tokens 4 --json - | head -c 1");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
}
