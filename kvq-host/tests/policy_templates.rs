//! The templates in docs/policies: each loads, is what its name says, and holds a context.

use std::collections::BTreeMap;
use std::path::Path;

use kvq_codec::{Backend, Budget, KvShape, Layout, Policy, WhenFull};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::{plan, policy};

fn templates() -> BTreeMap<String, Policy> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files
        .map(|path| {
            let named = policy::load(path.to_str().unwrap()).unwrap_or_else(|error| panic!("{error:#}"));
            (named.name, named.policy)
        })
        .collect()
}

#[test]
fn the_readme_lists_exactly_the_templates() {
    let readme = include_str!("../../docs/policies/README.md");
    let listed = readme.lines().filter(|line| line.starts_with("| [")).count();
    let templates = templates();
    assert_eq!(listed, templates.len());
    assert!(templates.keys().all(|name| readme.contains(&format!("[{name}]({name}.toml)"))));
}

#[test]
fn every_template_reads_a_text() {
    let shape = KvShape::new(12, 1, 64);
    for (name, policy) in templates() {
        let mut store = PackedStore::new(shape, policy, Backend::detect()).unwrap();
        let x: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
        for _ in 0..4096 {
            (0..12).for_each(|layer| store.append(layer, 1, &x, &x).unwrap());
        }
        let ratio = (4096 * shape.fp16_bytes_per_token()) as f64 / store.memory().total() as f64;
        match policy.budget {
            Budget::Compression(hundredths) => {
                assert!(ratio >= f64::from(hundredths) / 100.0, "{name}: {ratio}")
            }
            Budget::Bytes => assert!(ratio > 1.5, "{name}: {ratio}"),
        }
    }
}

#[test]
fn templates_are_what_their_comments_say() {
    let templates = templates();
    let of = |name: &str| templates[name];
    assert!(of("context-512").span_len < of("context-4096").span_len);
    assert_eq!(of("context-32768").budget, Budget::Compression(500));
    assert_eq!(of("recall").key_tiers[1], None);
    assert_eq!(of("desktop").key_tiers[0].unwrap().layout, Layout::Q8);
    // Beside a program's own data, half of the RAM is for the cache.
    for (name, shape, ram, least) in [
        ("cortex-m4-128k", KvShape::new(3, 4, 32), 128 * 1024, 140),
        ("cortex-m0-16k", KvShape::new(1, 2, 32), 16 * 1024, 90),
    ] {
        let policy = of(name);
        assert_eq!((policy.budget, policy.when_full), (Budget::Bytes, WhenFull::Evict), "{name}");
        let tokens = plan::capacity(shape, policy, ram / 2).unwrap();
        assert!(tokens >= least, "{name}: {tokens} tokens");
    }
}
