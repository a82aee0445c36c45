//! `kvq synth`: figures without a model.

#[path = "common/program.rs"]
mod program;

use std::process::Output;

use serde_json::Value;

fn kvq(arguments: &[&str]) -> Output {
    program::kvq(&[&["synth"][..], arguments].concat())
}

fn workloads(arguments: &[&str]) -> Vec<Value> {
    let output = kvq(&[arguments, &["--json", "-"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    record["workloads"].as_array().unwrap().clone()
}

#[test]
fn every_workload_keeps_the_ratio_and_states_an_error() {
    let found = workloads(&["--policy", "4x"]);
    let names: Vec<_> = found.iter().map(|workload| workload["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["long-context", "tool-agent", "tiny-firmware"]);
    for workload in &found {
        let runs = workload["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 3);
        assert!(runs[0]["attention_error"].is_null());
        let error = |i: usize| runs[i]["attention_error"].as_f64().unwrap();
        assert!(error(1) < 2e-3 && error(2) > error(1) && error(2) < 0.3, "{} {}", error(1), error(2));
        let ratio = runs[2]["compression_vs_fp16"].as_f64().unwrap();
        let least = if workload["name"] == "tiny-firmware" { 3.0 } else { 4.0 };
        assert!(ratio >= least, "{}: {ratio}", workload["name"]);
    }
    assert_eq!(found[0]["runs"][2]["context_tokens"], 8192);
}

#[test]
fn every_flag_changes_the_figures_and_bytes_repeat() {
    let run = |arguments: &[&str]| {
        let base = ["--workload", "tiny-firmware", "--policy", "4x"];
        workloads(&[&base[..], arguments].concat())[0]["runs"][2].clone()
    };
    let base = run(&[]);
    assert_eq!(base, run(&[]));
    let seeded = run(&["--seed", "1"]);
    assert_eq!(base["kv_bytes"], seeded["kv_bytes"]);
    assert_ne!(base["attention_error"], seeded["attention_error"]);
    let scalar = run(&["--backend", "scalar"]);
    assert_eq!(base["kv_bytes"], scalar["kv_bytes"]);
    let two = workloads(&["--workload", "tiny-firmware", "--policy", "8bit", "--policy", "6x"]);
    let bytes = |i: usize| two[0]["runs"][i]["kv_bytes"].as_u64().unwrap();
    assert!(bytes(2) > bytes(3));
}

#[test]
fn it_prints_a_table_and_refuses_what_is_not_there() {
    let output = kvq(&["--workload", "tool-agent", "--policy", "5x"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in ["tool-agent: a prompt", "2 layers", "attention", "5x"] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let output = kvq(&["--workload", "chat"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error.contains("--workload") && error.contains("chat") && error.contains("tiny-firmware"),
        "{error}"
    );
}
