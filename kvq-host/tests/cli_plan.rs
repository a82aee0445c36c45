//! `kvq plan`: tokens of a budget, bytes of a context, and constants that compile.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// What `plan --rust` printed, compiled here: each file checks itself.
#[allow(dead_code)]
mod preset {
    include!("data/plan/preset.rs");
}

/// The same of a policy that is no preset.
#[allow(dead_code)]
mod own_policy {
    include!("data/plan/own_policy.rs");
}

fn kvq(arguments: &[&str]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/plan");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvq"));
    command.args(arguments).current_dir(folder).output().expect("kvq starts")
}

fn plan(arguments: &[&str]) -> Value {
    let output = kvq(&[&["plan"], arguments, &["--json", "-"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn row<'a>(plan: &'a Value, name: &str) -> &'a Value {
    plan["rows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == name)
        .unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn constants_for_firmware_are_those_that_are_compiled_here() {
    let shape = ["--shape", "3,4,32"];
    for (file, more) in [
        ("preset.rs", &["--budget-kib", "96", "--policy", "4x"][..]),
        ("own_policy.rs", &["--context", "512", "--policy", "long-values.toml", "--when-full", "evict"]),
    ] {
        let output = kvq(&[&["plan", "--rust"], &shape[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/plan").join(file);
        if std::env::var_os("KVQ_BLESS").is_some() {
            std::fs::write(&path, &printed).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), printed, "KVQ_BLESS=1 writes {file} anew");
    }
    assert_eq!((preset::CACHE_BYTES, own_policy::CONTEXT_TOKENS >= 512), (96 * 1024, true));
}

#[test]
fn a_budget_gives_tokens_and_those_tokens_give_the_budget() {
    let of_budget = plan(&["--shape", "smollm2-135m", "--budget-mib", "8"]);
    let four = row(&of_budget, "4x");
    let (at_ratio, most) =
        (four["tokens_at_ratio"].as_u64().unwrap(), four["capacity_tokens"].as_u64().unwrap());
    assert_eq!(at_ratio, 8 * 1_048_576 * 4 / (2 * 30 * 3 * 128));
    assert!(most > at_ratio);
    assert_eq!(row(&of_budget, "dense-f16")["capacity_tokens"], 8 * 1_048_576 / (2 * 30 * 3 * 128));
    let of_context = plan(&["--shape", "30,3,64", "--context", &most.to_string()]);
    let bytes = row(&of_context, "4x")["kv_bytes"].as_u64().unwrap();
    assert!(bytes <= 8 * 1_048_576 && bytes > 7 * 1_048_576, "{bytes}");
}

#[test]
fn every_flag_changes_the_plan() {
    let tokens = |arguments: &[&str]| {
        let plan = plan(arguments);
        row(&plan, "4x")["capacity_tokens"].as_u64()
    };
    let base = tokens(&["--budget-kib", "256"]);
    assert_eq!(tokens(&["--model", "builtin", "--budget-mib", "0.25"]), base);
    assert!(tokens(&["--budget-kib", "512"]) > base);
    assert!(tokens(&["--shape", "6,4,32", "--budget-kib", "256"]) < base);
    assert!(tokens(&["--budget-kib", "256", "--when-full", "error"]) < base);
    assert_eq!(tokens(&["--budget-kib", "1"]), None);
    let one = plan(&["--budget-kib", "256", "--policy", "4x"]);
    assert_eq!(one["rows"].as_array().unwrap().len(), 3);
}

#[test]
fn a_plan_is_a_table_and_a_page() {
    let page = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plan.html");
    let output = kvq(&["plan", "--context", "900", "--html", page.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in ["900 tokens of 3 layers", "least bytes", "dense-f16", "6x"] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.contains("least bytes") && !page.contains("NaN"));
    assert!(!page.contains("http") && !page.contains("<script"));
}

#[test]
fn bad_values_name_the_flag_the_value_and_what_is_allowed() {
    for (arguments, expected) in [
        (&["plan"][..], &["--context"][..]),
        (&["plan", "--shape", "9,9"], &["--shape", "9,9", "LAYERS", "smollm2-135m"]),
        (&["plan", "--budget-mib", "none"], &["--budget-mib", "none", "0.001"]),
        (&["plan", "--budget-kib", "0"], &["--budget-kib", "'0'", "allowed are 1"]),
        (&["plan", "--budget-kib", "9", "--context", "9"], &["--budget-kib", "--context"]),
        (&["plan", "--context", "9", "--rust"], &["--rust", "one --policy", "4"]),
        (&["plan", "--context", "9", "--when-full", "panic"], &["--when-full", "panic", "evict"]),
        (&["plan", "--rust", "--policy", "4x", "--budget-kib", "1"], &["--budget-kib 1", "minimum_bytes"]),
    ] {
        let output = kvq(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        for part in expected {
            assert!(error.contains(part), "{arguments:?}: no '{part}' in {error}");
        }
    }
    let output = kvq(&["plan", "--model", "no-such", "--context", "9"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--shape"));
}
