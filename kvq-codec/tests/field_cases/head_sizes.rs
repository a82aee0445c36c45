//! Head sizes that are no power of two, no multiple of 32, or differ between keys and values.
//!
//! A shape has no hidden size: what a head is wide is said, never computed. That models do so, too, is shown with
//! Qwen3 and Gemma 3 in `kvq-host/tests/family_parity.rs`.

use super::common::{Sequence, aged, backends, unless_miri};
use super::{filled, restored, worst_error};
use kvq_codec::{Backend, KvShape, Layout, Policy, Side, minimum_bytes};

const HEAD_DIMS: &[usize] =
    unless_miri(&[4, 8, 12, 16, 24, 32, 40, 48, 64, 72, 80, 96, 112, 120, 128, 160, 192, 256], &[4]);

#[test]
fn eight_bits_are_close_to_exact_for_every_head_size_and_backend() {
    for backend in backends() {
        for &head_dim in unless_miri(HEAD_DIMS, &[12]) {
            let sequence = Sequence::new(
                KvShape::new(2, unless_miri(3, 1), head_dim),
                unless_miri(200, 12),
                head_dim as u64,
            );
            let cache = filled(&sequence, Policy::EIGHT_BIT, backend);
            let error = worst_error(&sequence, &cache, 2, 3);
            assert!(error < 0.045, "{} head_dim {head_dim}: {error}", backend.name());
        }
    }
}

#[test]
fn every_layout_stays_within_its_error_for_every_head_size_and_backend() {
    for backend in backends() {
        let bounds = [0.35, 0.6, 1.1, 0.32, 0.55, 1.0];
        for (layout, bound) in Layout::ALL.into_iter().skip(1).zip(bounds) {
            for &head_dim in HEAD_DIMS {
                let (span_len, n_tokens) = unless_miri((64, 300), (16, 20));
                let sequence =
                    Sequence::new(KvShape::new(1, unless_miri(3, 1), head_dim), n_tokens, head_dim as u64);
                let cache = filled(&sequence, aged(&[layout], span_len, 0), backend);
                let error = worst_error(&sequence, &cache, 1, 1);
                assert!(error < bound, "{} {layout:?} head_dim {head_dim}: {error}", backend.name());
            }
        }
    }
}

#[test]
fn keys_and_values_may_differ_in_width() {
    const SPAN: u16 = unless_miri(32, 16);
    const RECENT: u16 = unless_miri(32, 0);
    let pairs = [(64, 128), (128, 64), (192, 128), (96, 64), (40, 72), (112, 120), (256, 160)];
    for &(key_dim, value_dim) in unless_miri(&pairs[..], &[(12, 8)]) {
        let shape = KvShape::new(1, 2, key_dim).with_value_head_dim(value_dim);
        let sequence = Sequence::new(shape, unless_miri(300, 22), 3);
        for backend in backends() {
            for policy in [Policy::EIGHT_BIT, aged(&[Layout::Q8], SPAN, RECENT)] {
                let cache = filled(&sequence, policy, backend);
                let error = worst_error(&sequence, &cache, 1, 2);
                assert!(error < 0.04, "{} {key_dim}/{value_dim}: {error}", backend.name());
            }
            let cache = filled(
                &sequence,
                aged(unless_miri(&[Layout::S4, Layout::S3, Layout::S2][..], &[Layout::S2]), SPAN, RECENT),
                backend,
            );
            assert!(worst_error(&sequence, &cache, 1, 2) < 1.0, "{} {key_dim}/{value_dim}", backend.name());
        }
        // Rows come back in their own width, each where it belongs.
        let cache = filled(&sequence, Policy::EIGHT_BIT, Backend::detect());
        for (side, dim) in [(Side::Key, key_dim), (Side::Value, value_dim)] {
            let given = sequence.slab(0, sequence.tokens.len(), side == Side::Key);
            for (head, given) in given.chunks_exact(sequence.tokens.len() * dim).enumerate() {
                for (got, given) in restored(&cache, 0, side, head).iter().zip(given) {
                    assert!((got - given).abs() < 0.3, "{key_dim}/{value_dim} {side:?}: {got} {given}");
                }
            }
        }
    }
}

/// A side may be `span_len / 8` times as wide as the other: FORMAT.md stores both in units of one size.
#[test]
fn widths_too_far_apart_for_a_span_are_refused_with_the_reason() {
    let shape = KvShape::new(1, 2, 8).with_value_head_dim(24);
    let policy = |span_len| aged(&[Layout::S4], span_len, span_len);
    let text = minimum_bytes(shape, policy(16)).unwrap_err().to_string();
    assert!(text.contains("span_len is too short for key_head_dim and value_head_dim"), "{text}");
    assert!(minimum_bytes(shape, policy(32)).is_ok());
}

/// The sizes that no block can have are refused instead of rounded: FORMAT.md stores multiples of 4 up to 256.
#[test]
fn sizes_that_cannot_be_stored_are_refused_by_field_and_value() {
    for (head_dim, field) in
        [(0, "key_head_dim"), (1, "key_head_dim"), (63, "key_head_dim"), (260, "key_head_dim")]
    {
        let text = KvShape::new(1, 1, head_dim).check().unwrap_err().to_string();
        assert!(
            text.contains(&format!("{field} is {head_dim}")) && text.contains("multiples of 4 from 4 to 256"),
            "{text}"
        );
    }
    let text = KvShape::new(1, 1, 64).with_value_head_dim(66).check().unwrap_err().to_string();
    assert!(text.contains("value_head_dim is 66"), "{text}");
}
