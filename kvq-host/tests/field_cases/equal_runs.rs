//! The most likely tokens are the same from run to run, for any number of threads, and whether a prompt's beginning was
//! in the cache or not.

use kvq_codec::{Backend, KvShape, Layout, Policy, Side, Tier};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::{DenseF16, DenseF32};
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::model::{LoadedModel, keep_prefix, load, prefill};

use super::program::{record, tokens};
use super::{greedy, packed, story};

const PROMPT: &str = "Once upon a time, there was a little girl named Lily. She";

#[test]
fn greedy_text_is_the_same_from_run_to_run_and_for_any_number_of_threads() {
    for cache in [["--policy", "4x"], ["--policy", "8bit"], ["--dense", "f16"]] {
        let run = |threads: &str| {
            let arguments = ["generate", "--prompt", PROMPT, "--new-tokens", "300", "--threads", threads];
            let record = record(&[&arguments[..], &cache[..]].concat());
            assert_eq!(record["threads"].as_u64().unwrap().to_string(), threads);
            (tokens(&record, 0), record["runs"][0]["kv_bytes"].clone())
        };
        let first = run("1");
        assert!(first.0.len() > 200, "{} tokens", first.0.len());
        for threads in ["1", "2", "4", "2"] {
            assert_eq!(run(threads), first, "{cache:?}, {threads} threads");
        }
    }
}

/// By age, so that the built-in model's context reaches every tier.
fn aged() -> Policy {
    let tiers = [
        Some(Tier::first(Layout::Q8)),
        Some(Tier::from_age(Layout::T4, 64)),
        Some(Tier::from_age(Layout::T3, 200)),
        None,
    ];
    Policy {
        span_len: 16,
        recent_len: 16,
        key_tiers: tiers,
        value_tiers: tiers,
        ladder: [None; 6],
        ..Policy::EIGHT_BIT
    }
}

fn stores(model: &LoadedModel) -> Vec<(&'static str, Box<dyn KvStore>)> {
    let shape = model.model.config().kv_shape();
    let mut all: Vec<(&'static str, Box<dyn KvStore>)> =
        vec![("f32", Box::new(DenseF32::new(shape))), ("f16", Box::new(DenseF16::new(shape)))];
    all.extend(
        Policy::PRESETS.map(|(name, policy)| (name, Box::new(packed(model, policy)) as Box<dyn KvStore>)),
    );
    all.push(("aged", Box::new(packed(model, aged()))));
    all
}

/// Wherever the second prompt parts from the first: just before its end, a span or two before, far before.
#[test]
fn a_prompt_whose_beginning_was_in_the_cache_gives_the_same_text() {
    let model = load("builtin", 0).unwrap();
    let story = story(&model, 900);
    for (name, mut store) in stores(&model) {
        let mut reused = 0;
        for (first, shared) in
            [(300, 299), (300, 280), (300, 230), (300, 150), (300, 60), (300, 3), (800, 700), (800, 300)]
        {
            let second = [&story[..shared], &story[820..850]].concat();
            store.clear();
            let alone = greedy(&model, &mut *store, &second, 40);
            store.clear();
            // As one comes to be in practice: read, and then written on.
            prefill(&*model.model, &mut *store, &story[..first]).unwrap();
            let held = keep_prefix(&mut *store, &story[..first], &second).unwrap();
            assert!(held <= shared, "{name}: {held} of {shared}");
            reused += held;
            let again = greedy(&model, &mut *store, &second[held..], 40);
            // What the model computes depends a little on how many tokens it reads at once, and the 2-bit keys of 6x
            // make much of little; that the store itself is as a fresh one is asserted below, to the byte.
            let what = format!("{name}: {first} tokens, {shared} shared, {held} reused");
            assert_eq!(
                again[..if name == "6x" { 5 } else { 40 }],
                alone[..if name == "6x" { 5 } else { 40 }],
                "{what}"
            );
        }
        println!("{name}: {reused} tokens reused");
        // Dense stores reuse all that is shared, packed ones give up a recent window and a span each time, and all but
        // the sinks where older tokens were demoted since.
        let least = match name {
            "f32" | "f16" => 2022,
            "aged" => 20,
            _ => 400,
        };
        assert!(reused >= least, "{name}: {reused}");
    }
}

/// The same without a model, whose rounding depends on how many tokens it reads at once: every byte is a fresh cache's.
#[test]
fn what_is_kept_of_a_prefix_is_to_the_byte_what_a_fresh_cache_holds() {
    let shape = KvShape::new(2, 2, 32);
    let row = |t: usize, seed: f32| -> Vec<f32> {
        (0..64).map(|i| (i as f32 * seed + t as f32 * 0.37).sin()).collect()
    };
    let read = |store: &mut PackedStore, from: usize, to: usize| {
        for t in from..to {
            (0..2).for_each(|layer| store.append(layer, 1, &row(t, 0.7), &row(t, 1.3)).unwrap());
        }
    };
    let snapshot = |store: &PackedStore| {
        let mut bytes = vec![0; store.cache().snapshot_bytes()];
        store.cache().snapshot_into(&mut bytes).unwrap();
        bytes
    };
    let policies = Policy::PRESETS.into_iter().chain([("aged", aged())]);
    for (name, policy) in policies {
        let open = || PackedStore::new(shape, policy, Backend::detect()).unwrap();
        let mut reused = 0;
        for n in [50, 300, 900, 1300] {
            let mut whole = open();
            read(&mut whole, 0, n);
            for shared in [n, n - 1, n - 20, n * 3 / 4, n / 2, n / 4, 3, 0] {
                let mut store = open();
                store.restore(&snapshot(&whole)).unwrap();
                let held = store.trim_as_fresh(shared).unwrap();
                assert!(held <= shared && store.len() == held, "{name}: {held} of {shared}");
                reused += held;
                let mut fresh = open();
                read(&mut store, held, shared + 40);
                read(&mut fresh, 0, shared + 40);
                assert!(
                    snapshot(&store) == snapshot(&fresh),
                    "{name}: {n} tokens, {shared} shared, {held} kept"
                );
            }
            assert!(whole.trim_as_fresh(n + 1).is_err());
        }
        assert!(reused > 2000, "{name}: {reused}");
    }
}

/// The next turn of a conversation begins with all that is held: nothing of it is read again, whatever was demoted.
#[test]
fn what_is_held_as_a_whole_is_reused_as_a_whole() {
    let model = load("builtin", 0).unwrap();
    let story = story(&model, 900);
    for (name, mut store) in stores(&model) {
        let alone = greedy(&model, &mut *store, &story[..840], 40);
        store.clear();
        prefill(&*model.model, &mut *store, &story[..800]).unwrap();
        let held = keep_prefix(&mut *store, &story[..800], &story[..840]).unwrap();
        assert_eq!(held, 800, "{name}");
        assert_eq!(greedy(&model, &mut *store, &story[800..840], 40), alone, "{name}");
    }
    let mut aged = packed(&model, aged());
    prefill(&*model.model, &mut aged, &story[..800]).unwrap();
    let map = aged.cache().tier_map(0, Side::Key).unwrap();
    assert!(map[2].tokens > 0 && map[3].tokens > 0, "the ages were reached: {map:?}");
}

#[test]
fn a_state_file_gives_the_text_that_one_process_writes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.state");
    let file = file.to_str().unwrap();
    record(&["generate", "--prompt", PROMPT, "--new-tokens", "150", "--save-state", file]);
    for prompt in [format!("{PROMPT} went to the"), "Once upon a time, there was a dog. The".to_owned()] {
        let ask = ["generate", "--prompt", &prompt, "--new-tokens", "60"];
        let with = record(&[&ask[..], &["--load-state", file]].concat());
        assert_eq!(tokens(&with, 0), tokens(&record(&ask), 0), "{prompt}");
    }
}
