//! The `kvq` program from outside: what it prints, what it records, how it ends.

#[path = "common/program.rs"]
mod program;

use program::{kvq, record};
use serde_json::Value;

/// The keys that every run of every record has.
const RUN_KEYS: [&str; 26] = [
    "name",
    "policy",
    "context_tokens",
    "kv_bytes",
    "kv_fp16_bytes",
    "compression_vs_fp16",
    "effective_bpv",
    "code_bytes",
    "scale_bytes",
    "center_bytes",
    "recent_bytes",
    "sink_bytes",
    "header_bytes",
    "scratch_bytes",
    "unused_bytes",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "speed_vs_dense_f16",
    "speed_vs_dense_f32",
    "perplexity",
    "perplexity_delta_pct",
    "kld_mean",
    "kld_p99",
    "top1_agreement_pct",
    "recall_kld_mean",
    "peak_rss_bytes",
];

fn runs(record: &Value) -> &Vec<Value> {
    record["runs"].as_array().expect("runs")
}

/// What holds for the bytes of every run.
fn check_bytes(record: &Value) {
    for run in runs(record) {
        let bytes = |key: &str| run[key].as_u64().unwrap_or_else(|| panic!("{key} of {}", run["name"]));
        for key in RUN_KEYS {
            assert!(run.get(key).is_some(), "{key} of {}", run["name"]);
        }
        let parts = ["code", "scale", "center", "recent", "sink", "header", "scratch", "unused"];
        assert_eq!(parts.iter().map(|part| bytes(&format!("{part}_bytes"))).sum::<u64>(), bytes("kv_bytes"));
        let per_token = record["model"]["kv_fp16_bytes_per_token"].as_u64().unwrap();
        assert_eq!(bytes("kv_fp16_bytes"), bytes("context_tokens") * per_token);
        let ratio = bytes("kv_fp16_bytes") as f64 / bytes("kv_bytes") as f64;
        assert!((run["compression_vs_fp16"].as_f64().unwrap() - ratio).abs() < 1e-12);
        assert!((run["effective_bpv"].as_f64().unwrap() - 16.0 / ratio).abs() < 1e-9);
    }
}

#[test]
fn bench_without_a_verb_records_every_key() {
    let record =
        record(&["--context", "200", "--new-tokens", "4", "--rounds", "1", "--windows", "1", "--recall"]);
    assert_eq!(record["verb"], "bench");
    assert_eq!(record["schema_version"], 1);
    for key in ["kvq_version", "git_revision", "command_line", "machine", "threads", "backend", "policies"] {
        assert!(record.get(key).is_some(), "{key}");
    }
    assert_eq!(record["model"]["random_weights"], false);
    assert_eq!(record["model"]["sha256"].as_str().unwrap().len(), 64);
    assert!(record["text"]["tokens"].as_u64().unwrap() > 4000);
    let names: Vec<&str> = runs(&record).iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dense-f32", "dense-f16", "8bit", "4x", "5x", "6x"]);
    check_bytes(&record);
    for run in runs(&record) {
        for key in [
            "prefill_tokens_per_s",
            "decode_tokens_per_s",
            "attention_ms_per_token",
            "speed_vs_dense_f16",
            "perplexity",
        ] {
            assert!(run[key].as_f64().unwrap() > 0.0, "{key}");
        }
        let is_reference = run["name"] == "dense-f32";
        for key in ["perplexity_delta_pct", "kld_mean", "kld_p99", "top1_agreement_pct", "recall_kld_mean"] {
            assert_eq!(run[key].is_null(), is_reference, "{key}");
        }
        assert!(run["peak_rss_bytes"].is_null());
        assert_eq!(run["new_token_ids"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn bench_shows_a_table_and_the_text_of_each_cache() {
    let output = kvq(&["bench", "--context", "64", "--new-tokens", "8", "--rounds", "1", "--policy", "4x"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in
        ["builtin", "64 tokens", "compression", "dense-f16", "KL div.", "What each cache writes next"]
    {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    assert!(output.stderr.is_empty(), "no progress bar where there is no terminal");
}

#[test]
fn eval_scores_every_prediction_and_the_dense_caches_agree() {
    let policies = ["--policy", "8bit", "--policy", "4x"];
    let record = record(
        &[&["eval", "--context", "160", "--windows", "2", "--skip-windows", "1"], &policies[..]].concat(),
    );
    assert_eq!(record["settings"]["scored_tokens"], 2 * 159);
    check_bytes(&record);
    let figure =
        |i: usize, key: &str| runs(&record)[i][key].as_f64().unwrap_or_else(|| panic!("{key} of {i}"));
    assert!(figure(1, "kld_mean") < 1e-4, "dense f16 against dense f32: {}", figure(1, "kld_mean"));
    assert!(figure(1, "kld_mean") < figure(3, "kld_mean"));
    assert!(figure(2, "kld_mean") < figure(3, "kld_mean"), "8bit is closer than 4x");
    let delta = 100.0 * (figure(3, "perplexity") / figure(0, "perplexity") - 1.0);
    assert!((figure(3, "perplexity_delta_pct") - delta).abs() < 1e-6);
    assert!(figure(3, "kld_mean_standard_error") > 0.0);
    assert!(runs(&record)[3]["decode_tokens_per_s"].is_null());
}

#[test]
fn generate_streams_the_text_that_it_records() {
    let prompt = "Once upon a time, there was a little";
    let arguments = ["generate", "--prompt", prompt, "--new-tokens", "12"];
    let output = kvq(&arguments);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let record = record(&arguments);
    check_bytes(&record);
    let run = &runs(&record)[0];
    assert!(text.starts_with(&format!("{prompt}{}", run["new_text"].as_str().unwrap())), "{text}");
    assert_eq!(run["policy"], "4x");
    assert_eq!(run["new_token_ids"].as_array().unwrap().len(), 12);
    if cfg!(target_os = "linux") {
        assert!(run["peak_rss_bytes"].as_u64().unwrap() > 1_000_000);
    }
}

#[test]
fn a_seed_repeats_and_one_thread_is_one_thread() {
    let generate = |seed: &str| {
        let sampling = ["--temperature", "1", "--top-p", "0.9", "--seed", seed, "--threads", "1"];
        let record = record(
            &[&["generate", "--prompt", "One day,", "--new-tokens", "16", "--dense", "f16"], &sampling[..]]
                .concat(),
        );
        assert_eq!(record["threads"], 1);
        assert!(runs(&record)[0]["policy"].is_null());
        runs(&record)[0]["new_token_ids"].clone()
    };
    assert_eq!(generate("5"), generate("5"));
    assert_ne!(generate("5"), generate("6"));
}

#[test]
fn bad_values_name_the_flag_the_value_and_what_is_allowed() {
    for (arguments, expected) in [
        (&["bench", "--policy", "7x"][..], &["--policy 7x", "8bit, 4x, 5x, 6x"][..]),
        (&["bench", "--policy", "4x", "--policy", "4x"], &["--policy 4x", "twice"]),
        (&["bench", "--context", "5000"], &["--context 5000", "allowed are 2 to 960"]),
        (&["bench", "--threads", "0"], &["--threads", "'0'", "allowed are 1 to 1024"]),
        (&["bench", "--context", "100", "--windows", "999"], &["--windows 999", "allowed are 0 to"]),
        (&["bench", "--shape", "gpt9"], &["--shape", "gpt9", "distilgpt2"]),
        (&["--backend", "neon"], &["--backend", "neon", "scalar"]),
        (&["eval", "--windows", "999"], &["--windows 999", "the text has"]),
        (&["eval", "--context", "1"], &["--context 1", "allowed are 2 to 1024"]),
        (&["generate", "--prompt", "a", "--temperature", "-1"], &["--temperature", "-1"]),
        (&["generate", "--prompt", "a", "--top-p", "0"], &["--top-p", "'0'", "up to 1"]),
        (&["generate", "--prompt", "a", "--context", "9999"], &["--context 9999", "allowed are"]),
        (&["generate"], &["--prompt"]),
    ] {
        let output = kvq(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        for part in expected {
            assert!(error.contains(part), "{arguments:?}: no '{part}' in {error}");
        }
    }
    let output = kvq(&["bench", "--model", "no-such-model"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-model"));
}

#[test]
fn policies_with_two_bit_keys_come_with_a_warning() {
    let warned = |policy: &str| {
        let record = record(&["eval", "--context", "64", "--policy", policy]);
        record["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("far back"))
    };
    assert!(warned("6x") && !warned("4x"));
    let help = String::from_utf8(kvq(&["eval", "--help"]).stdout).unwrap();
    assert!(help.contains("loses what lies far back"), "{help}");
}
