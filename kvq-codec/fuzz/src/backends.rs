//! Every backend on the same hostile codes and then the same tokens: equal bytes, and outputs that agree.

use kvq_codec::{Backend, Cache, Storage};

use super::support::*;

/// Agreement of outputs, relative to the largest one (docs/NUMERICS.md).
const TOLERANCE: f32 = 1e-4;

/// The first byte chooses the policy, the second the shape and the tokens; the rest is the payload of a snapshot.
pub fn run(data: &[u8]) {
    let [choice, how, payload @ ..] = data else { return };
    let shape = SHAPES[usize::from(how / 8) % SHAPES.len()];
    let policy = policy(*choice, Kind::Aged).0;
    let mut scalar = empty::<true>(shape, policy, Backend::SCALAR);
    let bytes = with_payload(&scalar, payload);
    let restored = scalar.restore(&bytes);
    for backend in Backend::available() {
        let mut other = empty::<true>(shape, policy, backend);
        assert_eq!(other.restore(&bytes), restored);
        let mut scalar = empty::<true>(shape, policy, Backend::SCALAR);
        let _ = scalar.restore(&bytes);
        compare(&scalar, &other);
        append(&mut scalar, *how);
        append(&mut other, *how);
        assert!(snapshot(&scalar) == snapshot(&other), "{} writes other bytes", backend.name());
        compare(&scalar, &other);
    }
}

fn append<S: Storage>(cache: &mut Cache<S>, seed: u8) {
    let shape = cache.shape();
    let mut random = Random::new(u64::from(seed));
    for _ in 0..20 {
        let mut row = |n: usize| (0..n).map(|_| random.value()).collect::<Vec<_>>();
        let keys = row(shape.n_kv_heads * shape.key_head_dim);
        let values = row(shape.n_kv_heads * shape.value_head_dim);
        for layer in 0..shape.n_layers {
            cache.append(layer, 1, &keys, &values).unwrap();
        }
    }
}

fn compare<S: Storage>(scalar: &Cache<S>, other: &Cache<S>) {
    for layer in 0..scalar.shape().n_layers {
        let map = scalar.tier_map(layer, kvq_codec::Side::Key).unwrap();
        if map.iter().all(|tier| tier.tokens == 0) {
            continue;
        }
        let (a, b) = (attend(scalar, layer, 3, 0.0), attend(other, layer, 3, f32::NAN));
        let peak = a.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
        for (x, y) in a.iter().zip(&b) {
            // Hostile scales may be as large as a float can say; what comes of that is not finite.
            let fine = (x - y).abs() <= TOLERANCE * peak || !peak.is_finite() || x.is_nan();
            assert!(fine, "{} layer {layer} of {:?}: {a:?} {b:?}", other.backend().name(), scalar.policy());
        }
    }
}
