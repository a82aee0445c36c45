//! Every value of a policy that is read takes effect: on bytes, on tiers, or on what a query sees. What contradicts
//! itself, or could never take effect, is refused with the reason.

use kvq_codec::{Backend, KvShape, Policy, Side};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::fixed::FixedStore;
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::policy;

use super::program::{kvq, record};

const SHAPE: KvShape = KvShape::new(3, 2, 32);

/// What a store under a policy comes to: bytes, tiers of each layer, and attention.
#[derive(Debug, PartialEq)]
struct Outcome {
    appended: usize,
    bytes: usize,
    tiers: Vec<Vec<(&'static str, usize)>>,
    attended: Vec<u32>,
}

fn run(store: &mut dyn KvStore) -> Outcome {
    let row = |t: usize, seed: f32| -> Vec<f32> {
        (0..SHAPE.n_kv_heads * SHAPE.key_head_dim)
            .map(|i| (i as f32 * seed + t as f32 * 0.37).sin())
            .collect()
    };
    let mut appended = 0;
    for t in 0..1500 {
        let (k, v) = (row(t, 0.7), row(t, 1.3));
        if (0..SHAPE.n_layers).any(|layer| store.append(layer, 1, &k, &v).is_err()) {
            break;
        }
        appended += 1;
    }
    let mut attended = vec![0.0; SHAPE.n_kv_heads * SHAPE.value_head_dim];
    store.attend(1, 1, &row(3, 0.9), &mut attended).unwrap();
    Outcome {
        appended,
        bytes: store.memory().total(),
        tiers: Vec::new(),
        attended: attended.into_iter().map(f32::to_bits).collect(),
    }
}

fn maps<S: kvq_codec::Storage>(cache: &kvq_codec::Cache<S>) -> Vec<Vec<(&'static str, usize)>> {
    let layers = (0..SHAPE.n_layers).flat_map(|layer| [(layer, Side::Key), (layer, Side::Value)]);
    layers
        .map(|(layer, side)| {
            cache
                .tier_map(layer, side)
                .unwrap()
                .iter()
                .filter(|tier| tier.tokens > 0)
                .map(|tier| (tier.layout.name(), tier.tokens))
                .collect()
        })
        .collect()
}

/// In memory that grows, or within so many bytes.
fn outcome(toml: &str, bytes: Option<usize>) -> Outcome {
    let policy = policy::parse(toml).unwrap_or_else(|error| panic!("{toml}: {error:#}"));
    match bytes {
        None => {
            let mut store = PackedStore::new(SHAPE, policy, Backend::detect()).unwrap();
            let outcome = run(&mut store);
            Outcome { tiers: maps(store.cache()), ..outcome }
        }
        Some(bytes) => {
            let mut store = FixedStore::within(SHAPE, policy, Backend::detect(), bytes).unwrap();
            let outcome = run(&mut store);
            Outcome { tiers: maps(store.cache()), ..outcome }
        }
    }
}

const BASE: &str = "n_sink = 4\nrecent_len = 32\nspan_len = 32\n\
     key_tiers = [{ layout = \"q8\" }, { layout = \"s4\", from_age = 128 }, { layout = \"s3\" }]\n\
     value_tiers = [{ layout = \"q8\" }, { layout = \"t4\", from_age = 128 }, { layout = \"t3\" }]\n\
     ladder = [{ side = \"key\", to = 1 }, { side = \"key\", to = 2 }, { side = \"value\", to = 1 }, { side = \"value\", to = 2 }]\n\
     edge_layers = { first = 0, last = 0 }\ncompression = 4.40\nwhen_full = \"demote\"\nwindow_len = 0\n";

/// `BASE` with one line in the place of another.
fn with(line: &str) -> String {
    let key = line.split(' ').next().unwrap();
    let lines = BASE.lines().map(|old| if old.split(' ').next() == Some(key) { line } else { old });
    lines.filter(|line| !line.ends_with("= -")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_of_a_policy_changes_what_a_cache_does() {
    let base = outcome(BASE, None);
    assert_eq!(base, outcome(BASE, None));
    for line in [
        "n_sink = 5",
        "n_sink = 0",
        "recent_len = 64",
        "recent_len = 0",
        "span_len = 16",
        "span_len = 64",
        "key_tiers = [{ layout = \"t4\" }, { layout = \"s3\", from_age = 128 }, { layout = \"s2\" }]",
        "key_tiers = [{ layout = \"q8\" }, { layout = \"t4\", from_age = 128 }, { layout = \"s3\" }]",
        "key_tiers = [{ layout = \"q8\" }, { layout = \"s4\", from_age = 128 }, { layout = \"t3\" }]",
        "key_tiers = [{ layout = \"q8\" }, { layout = \"s4\", from_age = 600 }, { layout = \"s3\" }]",
        "key_tiers = [{ layout = \"q8\" }, { layout = \"s4\", from_age = 128 }, { layout = \"s3\", from_age = 400 }]",
        "value_tiers = [{ layout = \"q8\" }, { layout = \"s4\", from_age = 128 }, { layout = \"t3\" }]",
        "value_tiers = [{ layout = \"q8\" }, { layout = \"t4\", from_age = 128 }, { layout = \"t2\" }]",
        "value_tiers = [{ layout = \"q8\" }, { layout = \"t4\", from_age = 500 }, { layout = \"t3\" }]",
        "ladder = [{ side = \"value\", to = 1 }, { side = \"value\", to = 2 }, { side = \"key\", to = 1 }, { side = \"key\", to = 2 }]",
        "edge_layers = { first = 1, last = 0 }",
        "edge_layers = { first = 0, last = 1 }",
        "edge_layers = { first = 1, last = 1 }",
        "compression = 4.80",
        "compression = 4.10",
        "compression = -",
        "window_len = 1",
        "window_len = 300",
    ] {
        assert_ne!(outcome(&with(line), None), base, "{line}");
    }
    // What happens when bytes are used up shows where they are limited.
    let limited = |line: &str| outcome(&with(line).replace("compression = 4.40\n", ""), Some(220_000));
    let outcomes = ["error", "demote", "evict"].map(|value| limited(&format!("when_full = \"{value}\"")));
    let [error, demote, evict] = &outcomes;
    assert!(error.appended < demote.appended && demote.appended < evict.appended, "{error:?} {demote:?}");
    assert_eq!(evict.appended, 1500);
    let held: usize = evict.tiers[2].iter().map(|tier| tier.1).sum();
    assert!(held < 1500, "{held} held");
}

/// On the command line as well, where a file and a preset are told apart by what they hold.
#[test]
fn a_policy_file_on_the_command_line_takes_effect() {
    let folder = tempfile::tempdir().unwrap();
    let bench = |name: &str, toml: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, toml).unwrap();
        let path = path.to_str().unwrap().to_owned();
        let record =
            record(&["bench", "--context", "400", "--new-tokens", "1", "--rounds", "1", "--policy", &path]);
        (
            record["runs"][2]["kv_bytes"].as_u64().unwrap(),
            record["runs"][2]["tier_map"].clone(),
            record["policies"][0].clone(),
        )
    };
    let (bytes, tiers, said) = bench("a.toml", "base = \"8bit\"");
    let (fewer, other, also) = bench(
        "b.toml",
        "base = \"8bit\"\nkey_tiers = [{ layout = \"s3\" }]\nvalue_tiers = [{ layout = \"s2\" }]",
    );
    assert!(fewer * 2 < bytes, "{fewer} {bytes}");
    assert!(tiers != other && said != also);
    assert_eq!(other["value"][1]["code_bits"], 2, "{other}");
}

#[test]
fn contradictions_are_refused_with_the_reason_and_a_way_out() {
    let tier = "value_tiers = [{ layout = \"s4\" }]\n";
    for (toml, reasons) in [
        ("base = '4x'\nwhen_full = 'error'", &["compression", "when_full = demote"][..]),
        ("base = '4x'\nwhen_full = 'evict'", &["evict", "byte budget"]),
        ("base = '8bit'\ncompression = 3.0", &["compression = 3.00", "ladder", "leave compression out"]),
        ("base = '4x'\ncompression = 0.5", &["compression = 0.5", "1.0 to 8.0"]),
        ("base = '4x'\ncompression = nan", &["compression = NaN", "1.0 to 8.0"]),
        (
            "base = '8bit'\nedge_layers = { first = 2 }",
            &["edge_layers = { first = 2, last = 0 }", "one tier each"],
        ),
        ("base = '4x'\nspan_len = 20", &["span_len must be 16, 32 or 64"]),
        ("base = '4x'\nrecent_len = 3", &["recent_len must be a multiple of span_len / 8"]),
        ("base = '4x'\nn_sink = 9000", &["at most 4096"]),
        ("base = '4x'\nn_sink = -1", &["n_sink"]),
        ("base = '4x'\nn_sink = 70000", &["n_sink"]),
        ("base = '4x'\nbits = 4", &["bits"]),
        ("base = '4x'\nladder = [{ side = 'key', to = 2 }]", &["ladder step", "next tier"]),
        ("base = '4x'\nladder = [{ side = 'head', to = 1 }]", &["\"head\"", "key, value"]),
        (
            "base = '4x'\nladder = [{ side = 'value', to = 1 }]",
            &["tier 1", "never entered", "from_age", "side = \"key\", to = 1"],
        ),
        (
            &format!("key_tiers = [{{ layout = 's4' }}, {{ layout = 's3' }}]\n{tier}"),
            &["key_tiers", "tier 1 (s3)", "never entered"],
        ),
        (
            &format!("key_tiers = [{{ layout = 's3' }}, {{ layout = 's4', from_age = 9 }}]\n{tier}"),
            &["fewer bits than the one before"],
        ),
        (
            &format!(
                "key_tiers = [{{ layout = 'q8' }}, {{ layout = 's4', from_age = 9 }}, {{ layout = 's3', from_age = 8 }}]\n{tier}"
            ),
            &["greater age"],
        ),
        (&format!("key_tiers = [{{ layout = 's4', from_age = 7 }}]\n{tier}"), &["age 0"]),
        (&format!("key_tiers = []\n{tier}"), &["at least one tier"]),
        (&format!("key_tiers = [{{ layout = 'int4' }}]\n{tier}"), &["\"int4\"", "q8, s4, s3, s2"]),
    ] {
        let error = format!("{:#}", policy::parse(toml).expect_err(toml));
        for reason in reasons {
            assert!(error.contains(reason), "{toml}: no '{reason}' in: {error}");
        }
    }
    // The command line says which policy, and ends with 2.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.toml");
    std::fs::write(&path, "base = \"4x\"\nspan_len = 20\n").unwrap();
    for (spec, expected) in
        [(path.to_str().unwrap(), "span_len must be"), ("9x", "8bit, 4x, 5x, 6x"), ("no.toml", "no.toml")]
    {
        let output = kvq(&["generate", "--prompt", "a", "--policy", spec]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("--policy") && error.contains(expected), "{error}");
    }
}

/// Presets are policies like any other, and a file that names one and nothing else is that one.
#[test]
fn presets_take_effect_by_name() {
    for (name, policy) in Policy::PRESETS {
        assert_eq!(policy::parse(&format!("base = \"{name}\"")).unwrap(), policy);
        assert_eq!(policy::parse(&policy::to_toml(&policy)).unwrap(), policy, "{name}");
        assert_eq!(policy::load(name).unwrap().policy, policy);
    }
    let bytes = |name| {
        record(&["bench", "--context", "1000", "--new-tokens", "1", "--rounds", "1", "--policy", name])["runs"][2]["kv_bytes"].as_u64().unwrap()
    };
    let all: Vec<u64> = Policy::PRESETS.iter().map(|(name, _)| bytes(name)).collect();
    assert!(all.is_sorted_by(|a, b| a > b), "{all:?}");
}
