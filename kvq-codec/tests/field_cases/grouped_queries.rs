//! Query heads that share a KV head give what plain floats give, each with the head that is its own.

use super::common::{Sequence, aged, backends, lighter, unless_miri};
use super::{filled, worst_error};
use kvq_codec::{KvShape, Layout, Policy};

/// Query and KV heads: SmolLM2, Qwen2 0.5B, one KV head for all, and one for each.
const HEADS: &[(usize, usize)] = unless_miri(&[(9, 3), (14, 2), (8, 1), (32, 32)], &[(6, 2)]);

#[test]
fn groups_of_real_models_give_what_plain_floats_give() {
    for backend in backends() {
        for &(n_heads, n_kv_heads) in HEADS {
            let shape = KvShape::new(1, n_kv_heads, unless_miri(64, 8));
            let sequence = Sequence::new(shape, unless_miri(333, 22), n_heads as u64);
            // A step, and prompts that end within a tile of rows and beyond it.
            for &n_tokens in unless_miri(&[1, 2, 5, 70][..], &[5]) {
                let cache = filled(&sequence, Policy::EIGHT_BIT, backend);
                let error = worst_error(&sequence, &cache, n_heads / n_kv_heads, n_tokens);
                let what = format!("{} {n_heads}/{n_kv_heads}, {n_tokens} tokens", backend.name());
                assert!(error < 0.06, "{what}: {error}");
            }
            let cache = filled(&sequence, lighter(aged(&[Layout::T4], 16, 16)), backend);
            let error = worst_error(&sequence, &cache, n_heads / n_kv_heads, 3);
            assert!(error < 0.35, "{} {n_heads}/{n_kv_heads} at 4 bits: {error}", backend.name());
        }
    }
}

#[test]
fn query_groups_and_span_lengths_agree_with_the_reference() {
    for backend in backends() {
        for &group in unless_miri(&[1, 2, 3, 4, 7, 8][..], &[3]) {
            for &span_len in unless_miri(&[16, 32, 64][..], &[16]) {
                let sequence = Sequence::new(KvShape::new(1, 2, unless_miri(64, 8)), unless_miri(333, 22), 5);
                let cache = filled(&sequence, aged(&[Layout::Q8], span_len, span_len), backend);
                let error = worst_error(&sequence, &cache, group, 5);
                assert!(error < 0.06, "{} group {group} span {span_len}: {error}", backend.name());
            }
        }
    }
}
