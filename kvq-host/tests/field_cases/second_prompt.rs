//! A second prompt on a used cache, as a program meets it: cleared, it gives the text of a fresh cache; not cleared, it
//! goes on from the first. The bytes are compared in `kvq-codec/tests/field_cases/second_prompt.rs`.

use kvq_codec::Policy;
use kvq_host::kv_store::KvStore;
use kvq_host::model::load;

use super::program::{record, tokens};
use super::{greedy, packed, story};

#[test]
fn a_cleared_store_writes_what_a_fresh_one_writes() {
    let model = load("builtin", 0).unwrap();
    let story = story(&model, 700);
    for (name, policy) in Policy::PRESETS {
        let mut used = packed(&model, policy);
        greedy(&model, &mut used, &story[..400], 60);
        used.clear();
        assert!(used.is_empty());
        let mut fresh = packed(&model, policy);
        let (again, first) =
            (greedy(&model, &mut used, &story[400..], 60), greedy(&model, &mut fresh, &story[400..], 60));
        assert_eq!(again, first, "{name}");
        let snapshot = |store: &kvq_host::kv_store::packed::PackedStore| {
            let mut bytes = vec![0; store.cache().snapshot_bytes()];
            store.cache().snapshot_into(&mut bytes).unwrap();
            bytes
        };
        assert!(snapshot(&used) == snapshot(&fresh), "{name}");
        // Not cleared, the same text is the rest of the first, and goes on as both at once do.
        used.clear();
        greedy(&model, &mut used, &story[..400], 1);
        let after = greedy(&model, &mut used, &story[400..], 60);
        fresh.clear();
        assert_eq!(after, greedy(&model, &mut fresh, &story, 60), "{name}");
        assert_eq!(used.len(), fresh.len());
    }
}

#[test]
fn several_prompts_of_a_command_line_are_each_alone() {
    let (one, two) = ("Once upon a time, there was a dog named Max. He", "The little girl was sad because");
    let both = record(&["generate", "--prompt", one, "--prompt", two, "--new-tokens", "40"]);
    for (run, prompt) in [one, two].into_iter().enumerate() {
        let alone = record(&["generate", "--prompt", prompt, "--new-tokens", "40"]);
        assert_eq!(tokens(&both, run), tokens(&alone, 0), "{prompt}");
        assert_eq!(both["runs"][run]["kv_bytes"], alone["runs"][0]["kv_bytes"]);
    }
}
