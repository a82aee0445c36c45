//! A plan as Rust constants for firmware.

use kvq_codec::{KvShape, Policy, WhenFull};

use crate::policy::NamedPolicy;

/// Source with the shape, the policy, the bytes and the tokens that are sure to fit, checked where it is
/// compiled.
pub fn rust_source(
    shape: KvShape,
    named: &NamedPolicy,
    bytes: usize,
    tokens: usize,
    command: &str,
) -> String {
    let (policy, names) = policy_source(&named.policy);
    let KvShape { n_layers, n_kv_heads, key_head_dim, value_head_dim } = shape;
    let shape = if key_head_dim == value_head_dim {
        format!("KvShape::new({n_layers}, {n_kv_heads}, {key_head_dim})")
    } else {
        format!(
            "KvShape::new({n_layers}, {n_kv_heads}, {key_head_dim}).with_value_head_dim({value_head_dim})"
        )
    };
    format!(
        "// Written by `{command}`.\n\n{names}\n\
         /// {n_layers} layers, {n_kv_heads} KV heads, head_dim {key_head_dim}.\n\
         pub const SHAPE: KvShape = {shape};\n\n\
         /// `{name}` within the bytes of its buffer.\n\
         pub const POLICY: Policy = {policy};\n\n\
         /// Bytes of the cache's buffer.\n\
         pub const CACHE_BYTES: usize = {bytes};\n\n\
         /// Tokens that are sure to fit.\n\
         pub const CONTEXT_TOKENS: usize = {tokens};\n\n\
         const _: () = assert!(matches!(capacity_tokens(SHAPE, POLICY, CACHE_BYTES), Ok(CONTEXT_TOKENS)));\n",
        name = named.name,
    )
}

/// The policy as an expression, and what it must import.
fn policy_source(policy: &Policy) -> (String, String) {
    let when_full = match policy.when_full {
        WhenFull::Error => "Error",
        WhenFull::Demote => "Demote",
        WhenFull::Evict => "Evict",
    };
    let presets = [
        ("EIGHT_BIT", Policy::EIGHT_BIT),
        // The other ratios have the ladder of this one, and differ in nothing once limited by bytes.
        ("FOUR_X", Policy::FOUR_X),
        ("SIX_X", Policy::SIX_X),
    ];
    let preset = presets.iter().find(|(_, preset)| preset.with_byte_budget(policy.when_full) == *policy);
    match preset {
        Some((name, _)) => (
            format!("Policy::{name}.with_byte_budget(WhenFull::{when_full})"),
            "use kvq_codec::{KvShape, Policy, WhenFull, capacity_tokens};\n".into(),
        ),
        // The codec's own debug format is Rust once its names are in scope.
        None => (
            format!("{policy:#?}"),
            format!(
                "use kvq_codec::Budget::*;\nuse kvq_codec::Layout::*;\n{}use kvq_codec::WhenFull::*;\n\
                 use kvq_codec::{{EdgeLayers, KvShape, Policy, Tier, capacity_tokens}};\n",
                if policy.ladder[0].is_some() {
                    "use kvq_codec::Side::*;\nuse kvq_codec::Step;\n"
                } else {
                    ""
                }
            ),
        ),
    }
}
