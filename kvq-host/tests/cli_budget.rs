//! `kvq bench --budget-mib`: a cache that never holds a byte more than it was given.

#[path = "common/program.rs"]
mod program;

use std::process::Output;

use serde_json::Value;

fn kvq(arguments: &[&str]) -> Output {
    let short = ["bench", "--new-tokens", "8", "--rounds", "1", "--windows", "1"];
    program::kvq(&[&short[..], arguments].concat())
}

/// The packed run, whose bytes are within the budget at every length.
fn packed(arguments: &[&str]) -> Value {
    let output = kvq(&[arguments, &["--json", "-"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let budget = record["settings"]["budget_bytes"].as_u64().unwrap();
    let run = record["runs"][2].take();
    assert!(run["name"].is_string() && run["kv_bytes"].as_u64().unwrap() <= budget);
    for key in ["growth", "quarters"] {
        let points = run[key].as_array().unwrap();
        assert!(points.iter().all(|point| point["kv_bytes"].as_u64().unwrap() <= budget), "{key}");
    }
    run
}

fn tokens(tier_map: &Value) -> u64 {
    tier_map["key"].as_array().unwrap().iter().map(|tier| tier["tokens"].as_u64().unwrap()).sum()
}

#[test]
fn a_budget_demotes_as_it_fills_and_holds_every_token() {
    let run = packed(&["--context", "800", "--budget-mib", "0.3"]);
    assert_eq!(run["name"], "6x", "the longest ladder");
    let quarters = run["quarters"].as_array().unwrap();
    let least_bits = |quarter: &Value| {
        let tiers = quarter["tier_map"]["value"].as_array().unwrap();
        tiers.iter().map(|tier| tier["code_bits"].as_u64().unwrap()).min().unwrap()
    };
    assert!(least_bits(&quarters[3]) < least_bits(&quarters[0]), "{quarters:?}");
    assert!(quarters.iter().all(|quarter| quarter["kld_mean"].as_f64().unwrap() > 0.0));
    assert_eq!(tokens(&run["tier_map"]), 800);
    let richer = packed(&["--context", "800", "--budget-mib", "0.6"]);
    assert!(richer["kld_mean"].as_f64() < run["kld_mean"].as_f64());
}

#[test]
fn eviction_reads_on_within_bytes_that_do_not_hold_the_text() {
    let run = packed(&["--context", "900", "--budget-mib", "0.15", "--when-full", "evict", "--policy", "4x"]);
    assert_eq!(run["context_tokens"], 900);
    let held = tokens(&run["tier_map"]);
    assert!(held < 800 && held > 100, "{held} tokens are left");
}

#[test]
fn the_table_shows_budget_quarters_and_tiers() {
    let output = kvq(&["--context", "400", "--budget-mib", "0.3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in ["Budget   307.2 KiB", "when full: demote", "up to token", "4b:"] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}

#[test]
fn budgets_that_cannot_be_kept_are_refused() {
    for (arguments, expected) in [
        (
            &["--context", "900", "--budget-mib", "0.15"][..],
            &["--budget-mib 0.15", "908", "allowed are", "evict"][..],
        ),
        (&["--context", "900", "--budget-mib", "0.3", "--when-full", "error"], &["--budget-mib 0.3", "908"]),
        (&["--context", "900", "--budget-mib", "0.01"], &["--budget-mib 0.01", "minimum_bytes"]),
        (&["--budget-mib", "0"], &["--budget-mib", "'0'", "0.001"]),
        (&["--when-full", "evict"], &["--budget-mib"]),
    ] {
        let output = kvq(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        for part in expected {
            assert!(error.contains(part), "{arguments:?}: no '{part}' in {error}");
        }
    }
}
