//! The cache for candle code: fused attention, and refusals. Batches and kinds of tensors: `field_cases`.

#[path = "common/tensors.rs"]
mod tensors;

use candle_core::{DType, Result, Tensor};
use kvq_codec::Policy;
use kvq_host::kv_store::candle::CompressedDynamicCache;
use tensors::{eight_bit, error, plain_attention, tensor};

#[test]
fn fused_attention_is_that_over_the_tensors() {
    let (k, v, q) = (tensor(1, (2, 2, 300, 64)), tensor(2, (2, 2, 300, 64)), tensor(3, (2, 8, 4, 64)));
    for (policy, bound) in [(Policy::EIGHT_BIT, 0.02), (Policy::FOUR_X, 0.12)] {
        let mut cache = CompressedDynamicCache::new(2, policy).unwrap();
        cache.append(&k, &v).unwrap();
        let got = cache.attend(&q).unwrap();
        for row in 0..2 {
            let of = |x: &Tensor| x.get(row).unwrap();
            let error = error(&of(&got), &plain_attention(&of(&q), &of(&k), &of(&v)).unwrap());
            assert!(error < bound, "{error}");
        }
    }
    // The other order of axes, and values of another size.
    let mut cache = eight_bit(1);
    let (k, v, q) = (tensor(1, (1, 50, 2, 64)), tensor(2, (1, 50, 2, 32)), tensor(3, (1, 3, 4, 64)));
    cache.append(&k, &v).unwrap();
    let got = cache.attend(&q).unwrap();
    assert_eq!(got.dims(), [1, 3, 4, 32]);
    let of = |x: &Tensor| x.get(0).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
    assert!(error(&of(&got), &plain_attention(&of(&q), &of(&k), &of(&v)).unwrap()) < 0.02);
}

#[test]
fn refusals_leave_the_cache_as_it_was() {
    assert!(CompressedDynamicCache::new(3, Policy::FOUR_X).is_err());
    let mut cache = eight_bit(2);
    assert!(
        cache.attend(&tensor(1, (2, 4, 1, 16))).unwrap_err().to_string().contains("nothing was appended")
    );
    let k = tensor(1, (2, 2, 10, 16));
    cache.append(&k, &k).unwrap();
    let before = cache.k().unwrap().unwrap();
    // The first row of this is fine, the second is not.
    let bad =
        Tensor::cat(&[tensor(2, (1, 2, 3, 16)), (tensor(3, (1, 2, 3, 16)) * f64::NAN).unwrap()], 0).unwrap();
    let error_of = |result: Result<(Tensor, Tensor)>| result.unwrap_err().to_string();
    let message = error_of(cache.append(&bad, &bad));
    assert!(message.contains("sequence 1"), "{message}");
    let other = tensor(1, (3, 2, 1, 16));
    assert!(error_of(cache.append(&other, &other)).contains("reset"));
    let other = tensor(1, (2, 2, 1, 8));
    assert!(error_of(cache.append(&other, &other)).contains("reset"));
    assert!(error_of(cache.append(&k, &other)).contains("do not belong together"));
    let integers = k.to_dtype(DType::U32).unwrap();
    assert!(error_of(cache.append(&integers, &integers)).contains("allowed are f32, f16 and bf16"));
    for lengths in [&[1][..], &[11, 1]] {
        assert!(cache.append_ragged(&k, &k, lengths).unwrap_err().to_string().contains("lengths"));
        let q = tensor(1, (2, 4, 10, 16));
        assert!(cache.attend_ragged(&q, lengths).unwrap_err().to_string().contains("lengths"));
    }
    for q in [
        tensor(1, (2, 4, 11, 16)),
        tensor(1, (1, 4, 1, 16)),
        tensor(1, (2, 3, 1, 16)),
        tensor(1, (2, 4, 1, 8)),
    ] {
        assert!(cache.attend(&q).is_err(), "{q:?}");
    }
    assert_eq!(cache.seq_lens(), [10, 10]);
    assert_eq!(error(&cache.k().unwrap().unwrap(), &before), 0.0);
    cache.trim(1, 4).unwrap();
    assert_eq!(cache.seq_lens(), [10, 4]);
    assert!(cache.trim(1, 5).is_err() && cache.trim(2, 0).is_err());
    let held = before.get(1).unwrap().narrow(1, 0, 4).unwrap();
    assert_eq!(error(&cache.k().unwrap().unwrap().get(1).unwrap().narrow(1, 0, 4).unwrap(), &held), 0.0);
}
