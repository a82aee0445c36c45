//! Restoring hostile bytes: refused, and then nothing has changed; or taken, and then they are exactly what the
//! cache writes again, and the cache goes on working.

use kvq_codec::{Backend, Cache, SnapshotInfo, Storage};

use super::support::*;

/// The first byte chooses the policy, the second the shape and what is hostile: all of it, or the payload behind a
/// header and checksums that are right.
pub fn run(data: &[u8]) {
    let [choice, how, rest @ ..] = data else { return };
    let shape = SHAPES[usize::from(how / 8) % SHAPES.len()];
    if how & 1 == 0 {
        check(empty::<true>(shape, policy(*choice, Kind::Aged).0, Backend::detect()), how & 2 == 0, rest);
    } else {
        check(empty::<false>(shape, policy(*choice, Kind::Pressed).0, Backend::detect()), how & 2 == 0, rest);
    }
}

fn check<S: Storage>(mut cache: Cache<S>, sealed: bool, rest: &[u8]) {
    let shape = cache.shape();
    let (keys, values) = (
        vec![0.5; shape.n_kv_heads * shape.key_head_dim],
        vec![0.25; shape.n_kv_heads * shape.value_head_dim],
    );
    for layer in 0..shape.n_layers {
        cache.append(layer, 1, &keys, &values).unwrap();
    }
    let before = snapshot(&cache);
    let bytes = if sealed { with_payload(&cache, rest) } else { rest.to_vec() };
    let info = SnapshotInfo::read(&bytes);
    if let Err(error) = cache.restore(&bytes) {
        assert!(snapshot(&cache) == before, "{error}");
        return;
    }
    let info = info.unwrap();
    assert_eq!((info.shape, &info.policy, info.len), (shape, cache.policy(), cache.len()));
    assert!(snapshot(&cache) == bytes, "what was restored is written otherwise");
    check_books(&cache);
    for layer in 0..shape.n_layers {
        let held: usize = cache.tier_map(layer, kvq_codec::Side::Key).unwrap().iter().map(|t| t.tokens).sum();
        if held > 0 {
            attend(&cache, layer, 1, 0.0);
        }
        for _ in 0..20 {
            cache.append(layer, 1, &keys, &values).unwrap();
        }
    }
    check_books(&cache);
    let _ = cache.trim(cache.len() / 2);
    check_books(&cache);
    cache.clear();
    assert!(cache.is_empty());
}
