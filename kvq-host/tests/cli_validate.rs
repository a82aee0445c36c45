//! `kvq validate`: passes with its default limits, and fails on the line whose limit is tightened.

#[path = "common/program.rs"]
mod program;

use std::process::Output;

use serde_json::Value;

fn validate(arguments: &[&str]) -> Output {
    let short = ["validate", "--new-tokens", "16"];
    program::kvq(&[&short[..], arguments].concat())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_built_in_model_passes_every_line() {
    let output = validate(&[]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for line in [
        "synthetic fixed buffer",
        "synthetic bytes",
        "synthetic error",
        "real model",
        "bytes of the real run",
        "KL divergence",
        "perplexity change",
        "same top token",
        "decode speed",
        "snapshot",
        "rollback of a draft",
        "peak resident memory",
    ] {
        assert!(text.contains(&format!("pass  {line} ")), "{line} in\n{text}");
    }
    assert!(text.contains("all 12 lines passed"), "{text}");
}

#[test]
fn a_tightened_limit_fails_its_own_line_alone() {
    for (flag, value, line) in [
        ("--max-attention-error", "0.0001", "synthetic error"),
        ("--min-compression", "99", "bytes of the real run"),
        ("--max-kld", "0", "KL divergence"),
        ("--max-perplexity-pct", "0", "perplexity change"),
        ("--min-top1-pct", "100", "same top token"),
        ("--min-speed", "1000", "decode speed"),
        ("--max-rss-mib", "1", "peak resident memory"),
    ] {
        let output = validate(&["--context", "512", flag, value]);
        assert_eq!(output.status.code(), Some(1), "{flag}");
        let text = text(&output);
        let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert_eq!(failed.len(), 1, "{flag}: {text}");
        assert!(failed[0].contains(line), "{flag}: {text}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(&format!("1 of 12 lines failed: {line}")), "{error}");
    }
}

#[test]
fn the_record_has_the_lines_and_bad_values_are_named() {
    let output = validate(&["--context", "256", "--json", "-", "--max-kld", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["passed"], false);
    let lines = record["lines"].as_array().unwrap();
    let kld = lines.iter().find(|line| line["name"] == "KL divergence").unwrap();
    assert_eq!((kld["passed"].as_bool(), kld["limit"]["at_most"].as_f64()), (Some(false), Some(0.0)));
    for (arguments, expected) in [
        (&["--context", "80"][..], &["--context 80", "allowed are 96 to 1024"][..]),
        (&["--max-kld", "-1"], &["--max-kld"]),
        (&["--min-speed", "fast"], &["--min-speed", "fast", "from 0"]),
        (&["--policy", "9x"], &["--policy 9x"]),
    ] {
        let output = validate(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
}
