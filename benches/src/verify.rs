//! The answer of a bench against that of the portable code.

use kvq_codec::{Cache, Storage};

/// Panics unless the two agree to `bound` times the oracle's largest magnitude.
pub fn assert_close(what: &str, got: &[f32], oracle: &[f32], bound: f32) {
    assert_eq!(got.len(), oracle.len(), "{what}: length");
    let scale = oracle.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(scale > 0.0, "{what}: the oracle is all zeros");
    for (i, (g, o)) in got.iter().zip(oracle).enumerate() {
        assert!(
            (g - o).abs() <= bound * scale,
            "{what}: value {i} is {g}, the oracle has {o}, scale {scale}"
        );
    }
}

/// Panics unless both hold the same tokens in the same bytes.
pub fn assert_same_snapshot<A: Storage, B: Storage>(what: &str, got: &Cache<A>, oracle: &Cache<B>) {
    let (mut a, mut b) = (vec![0; got.snapshot_bytes()], vec![0; oracle.snapshot_bytes()]);
    got.snapshot_into(&mut a).expect("a buffer of that length");
    oracle.snapshot_into(&mut b).expect("a buffer of that length");
    assert!(a == b, "{what}: {} and {} bytes differ", a.len(), b.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "value 1")]
    fn a_wrong_value_is_noticed() {
        assert_close("sample", &[1.0, 0.5], &[1.0, 0.501], 1e-4);
    }
}
