//! Records and pages: what `--json` and `--html` write, and what `report` makes of it.

#[path = "common/program.rs"]
mod program;

use std::path::Path;

use program::kvq;
use serde_json::Value;

fn success(arguments: &[&str]) -> String {
    let output = kvq(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn scratch(name: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    path.to_str().unwrap().to_owned()
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Where a value is not what a schema allows, of the keywords that ours uses.
fn schema_problems(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return schema_problems(root, root.pointer(&name[1..]).expect(name), value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let fits = |choice: &Value| schema_problems(root, choice, value, at).is_empty();
        return if choices.iter().any(fits) { Vec::new() } else { vec![format!("{at}: {value}")] };
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => vec![one.as_str().unwrap_or_else(|| panic!("{at}: a schema without a type"))],
    };
    let is_type = |name: &&str| match *name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    };
    if !types.iter().any(is_type) {
        return vec![format!("{at}: {value}")];
    }
    let mut problems = Vec::new();
    if let Some(object) = value.as_object() {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        problems
            .extend(required.filter(|key| !object.contains_key(*key)).map(|key| format!("{at}: no {key}")));
        for (key, value) in object {
            let own =
                schema["properties"].get(key).unwrap_or_else(|| panic!("{at}.{key}: not in the schema"));
            problems.extend(schema_problems(root, own, value, &format!("{at}.{key}")));
        }
    }
    for (i, value) in value.as_array().into_iter().flatten().enumerate() {
        problems.extend(schema_problems(root, &schema["items"], value, &format!("{at}.{i}")));
    }
    problems
}

/// A page that a browser shows without asking anyone for anything.
fn check_page(page: &str, charts: &[&str]) {
    assert!(page.starts_with("<!DOCTYPE html>"), "{}", &page[..80]);
    for outside in ["http:", "https:", "<script", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf\""));
    for chart in charts {
        assert!(page.contains(&format!("aria-label=\"{chart}\"")), "{chart}");
    }
}

const CHARTS: [&str; 4] = [
    "Bytes against context",
    "Decode speed against context",
    "KL divergence against bits per value",
    "Tier map",
];

#[test]
fn a_bench_of_two_contexts_gives_a_record_of_the_schema_and_a_page() {
    let (record, page) = (scratch("two.json"), scratch("two.html"));
    let sizes = ["--context", "96,160", "--new-tokens", "4", "--rounds", "1", "--windows", "1"];
    let text =
        success(&[&["bench"], &sizes[..], &["--policy", "4x", "--json", &record, "--html", &page]].concat());
    assert!(text.contains("context") && text.contains("96, 160 tokens"), "{text}");

    let found = json(&record);
    let schema = json(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/record.schema.json"));
    let problems = |record: &Value| schema_problems(&schema, &schema, record, "record");
    assert_eq!(problems(&found), Vec::<String>::new());
    let mut broken = found.clone();
    broken["runs"][0].as_object_mut().unwrap().remove("kv_bytes");
    broken["threads"] = "two".into();
    broken["machine"]["os"] = Value::Null;
    assert_eq!(
        problems(&broken),
        ["record.machine.os: null", "record.runs.0: no kv_bytes", "record.threads: \"two\""]
    );

    if cfg!(target_os = "linux") {
        assert!(found["peak_rss_bytes"].as_u64().unwrap() > 1_000_000);
    }
    let runs = found["runs"].as_array().unwrap();
    let lengths: Vec<_> = runs.iter().map(|run| run["context_tokens"].as_u64().unwrap()).collect();
    assert_eq!(lengths, [96, 96, 96, 160, 160, 160]);
    let packed = &runs[5];
    let growth = packed["growth"].as_array().unwrap();
    assert_eq!(growth.last().unwrap()["kv_bytes"], packed["kv_bytes"]);
    for side in ["key", "value"] {
        let tiers = packed["tier_map"][side].as_array().unwrap();
        assert_eq!(tiers.iter().map(|tier| tier["tokens"].as_u64().unwrap()).sum::<u64>(), 160);
    }
    assert_eq!(packed["quarters"].as_array().unwrap().len(), 4);
    assert!(runs[3]["tier_map"].is_null() && runs[3]["quarters"][0]["kld_mean"].is_null());

    let page = std::fs::read_to_string(page).unwrap();
    check_page(&page, &CHARTS);
    for expected in
        ["prefers-color-scheme", "iq4_nl", "float simulation", "bench --context 96,160", "revision"]
    {
        assert!(page.contains(expected), "{expected}");
    }
}

#[test]
fn an_eval_gives_a_page_without_a_chart_of_speed() {
    let page = scratch("eval.html");
    success(&["eval", "--context", "128", "--html", &page]);
    let page = std::fs::read_to_string(page).unwrap();
    check_page(&page, &["KL divergence against bits per value", "Bytes against context"]);
    assert!(!page.contains(CHARTS[1]));
}

#[test]
fn a_report_compares_records_and_refuses_others() {
    let (a, b, page) = (scratch("first.json"), scratch("second.json"), scratch("both.html"));
    success(&["eval", "--context", "128", "--policy", "4x", "--json", &a]);
    success(&[
        "eval",
        "--context",
        "128",
        "--policy",
        "4x",
        "--policy",
        "8bit",
        "--skip-windows",
        "1",
        "--json",
        &b,
    ]);
    let text = success(&["report", &a, &b, "--html", &page]);
    for expected in ["4x (first)", "4x (second)", "8bit", "Changes against first", "+0.0%"] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let page = std::fs::read_to_string(page).unwrap();
    check_page(&page, &[CHARTS[0], CHARTS[2], CHARTS[3]]);
    assert!(page.contains("4x (second)") && page.contains("<h3>second</h3>"));
    assert!(!success(&["report", &a]).contains("Changes"));

    let old = scratch("old.json");
    let mut record = json(&a);
    record["schema_version"] = 0.into();
    std::fs::write(&old, record.to_string()).unwrap();
    for (file, expected) in
        [(old.as_str(), "schema_version 0"), ("Cargo.toml", "no record"), ("none.json", "none.json")]
    {
        let output = kvq(&["report", file]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{file}");
    }
    assert_eq!(kvq(&["report"]).status.code(), Some(2));
    let unwritable = kvq(&["report", &a, "--html", "/no/such/folder/page.html"]);
    assert!(String::from_utf8_lossy(&unwritable.stderr).contains("--html /no/such"));
}

#[test]
fn facts_are_asked_for_at_every_depth() {
    let record = scratch("needle.json");
    let text = success(&["eval", "--context", "200", "--needle", "2", "--policy", "8bit", "--json", &record]);
    assert!(text.contains("fact found") && text.contains("at 95 %"), "{text}");
    for run in json(&record)["runs"].as_array().unwrap() {
        let needle = run["needle"].as_array().unwrap();
        let depths: Vec<_> = needle.iter().map(|needle| needle["depth_pct"].as_u64().unwrap()).collect();
        assert_eq!(depths, [5, 25, 50, 75, 95]);
        assert!(
            needle.iter().all(|needle| needle["trials"] == 2 && needle["retrieved"].as_u64().unwrap() <= 2)
        );
    }
    let output = kvq(&["eval", "--context", "40", "--needle", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--needle 1: a context of 40"));
}
