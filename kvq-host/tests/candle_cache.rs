//! The cache for candle code against candle's own, for every kind of tensor and batch.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::kv_cache::KvCache;
use kvq_codec::Policy;
use kvq_host::kv_store::candle::CompressedDynamicCache;

const CPU: Device = Device::Cpu;

/// Reproducible values around one common part, `(batch, heads, tokens, dim)`.
fn tensor(seed: u64, (batch, heads, tokens, dim): (usize, usize, usize, usize)) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..batch * heads * tokens * dim).map(|_| next()).collect();
    Tensor::from_vec(values, (batch, heads, tokens, dim), &CPU).unwrap()
}

/// Root of the relative squared difference.
fn error(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let f32s = |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (got, want) = (f32s(got), f32s(want));
    let difference: f32 = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / want.iter().map(|x| x * x).sum::<f32>()).sqrt()
}

/// Plain attention of the newest tokens, `q (heads, n, dim)` over `k`, `v (kv_heads, len, dim)`.
fn plain_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (heads, n, dim) = q.dims3()?;
    let (kv_heads, len, _) = k.dims3()?;
    let group = heads / kv_heads;
    let repeat = |x: &Tensor| -> Result<Tensor> {
        let (_, len, dim) = x.dims3()?;
        x.unsqueeze(1)?.broadcast_as((kv_heads, group, len, dim))?.reshape((heads, len, dim))
    };
    let (k, v) = (repeat(k)?, repeat(v)?);
    let hidden: Vec<f32> =
        (0..n * len).map(|i| if i % len > len - n + i / len { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(hidden, (1, n, len), q.device())?;
    let scores = (q.matmul(&k.t()?.contiguous()?)? / (dim as f64).sqrt())?.broadcast_add(&mask)?;
    candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
}

fn eight_bit(dim: usize) -> CompressedDynamicCache {
    CompressedDynamicCache::new(dim, Policy::EIGHT_BIT).unwrap()
}

#[test]
fn appended_tensors_come_back_as_from_candles_own_cache() {
    for batch in [1, 2, 5] {
        for dim in [1, 2] {
            let (mut packed, mut own) = (eight_bit(dim), KvCache::new(dim, 512));
            for (i, n) in [130, 1, 1, 40].into_iter().enumerate() {
                let shape = if dim == 2 { (batch, 3, n, 32) } else { (batch, n, 3, 32) };
                let (k, v) = (tensor(2 * i as u64 + 1, shape), tensor(2 * i as u64 + 2, shape));
                let (got_k, got_v) = packed.append(&k, &v).unwrap();
                let (want_k, want_v) = own.append(&k, &v).unwrap();
                assert!(error(&got_k, &want_k) < 0.01 && error(&got_v, &want_v) < 0.01);
                assert_eq!(packed.current_seq_len(), own.current_seq_len());
            }
            let f16_bytes = batch * 2 * 172 * 3 * 32 * 2;
            assert!(packed.memory().total() < f16_bytes, "{} {f16_bytes}", packed.memory().total());
            packed.reset();
            assert_eq!((packed.current_seq_len(), packed.memory().total()), (0, 0));
            assert!(packed.k().unwrap().is_none());
            // Another batch, and no trace of the last one.
            let one = if dim == 2 { (1, 2, 1, 16) } else { (1, 1, 2, 16) };
            let k = tensor(9, one);
            assert!(error(&packed.append(&k, &k).unwrap().0, &k) < 0.01);
        }
    }
}

/// A tensor's values do not depend on how it lies in memory.
#[test]
fn strides_and_dtypes_do_not_matter() {
    let plain = tensor(1, (2, 3, 20, 16));
    let transposed = plain.transpose(1, 2).unwrap().contiguous().unwrap().transpose(1, 2).unwrap();
    let narrowed = Tensor::cat(&[&plain, &plain], 2).unwrap().narrow(2, 20, 20).unwrap();
    let one = tensor(2, (1, 1, 20, 16));
    let broadcast = one.broadcast_as((2, 3, 20, 16)).unwrap();
    assert!(!transposed.is_contiguous() && !narrowed.is_contiguous() && !broadcast.is_contiguous());
    for (name, given, want) in [
        ("transposed", &transposed, &plain),
        ("narrowed", &narrowed, &plain),
        ("broadcast", &broadcast, &broadcast),
    ] {
        let (mut a, mut b) = (eight_bit(2), eight_bit(2));
        let (k, v) = a.append(given, given).unwrap();
        let (want_k, want_v) = b.append(&want.contiguous().unwrap(), &want.contiguous().unwrap()).unwrap();
        assert_eq!((error(&k, &want_k), error(&v, &want_v)), (0.0, 0.0), "{name}");
        let q = tensor(3, (2, 16, 20, 6)).transpose(1, 3).unwrap();
        let attended = a.attend(&q).unwrap();
        assert_eq!(error(&attended, &b.attend(&q.contiguous().unwrap()).unwrap()), 0.0, "{name}");
    }
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let (mut cache, given) = (eight_bit(2), plain.to_dtype(dtype).unwrap());
        let (k, v) = cache.append(&given, &given).unwrap();
        assert_eq!((k.dtype(), v.dtype()), (dtype, dtype));
        assert!(error(&k, &given) < 0.01 && error(&v, &given) < 0.01, "{dtype:?}");
        let q = tensor(3, (2, 6, 1, 16)).to_dtype(dtype).unwrap();
        let attended = cache.attend(&q).unwrap();
        assert_eq!(attended.dtype(), dtype);
        for row in 0..2 {
            let f32s = |x: &Tensor| x.get(row).unwrap().to_dtype(DType::F32).unwrap();
            let want = plain_attention(&f32s(&q), &f32s(&given), &f32s(&given)).unwrap();
            assert!(error(&f32s(&attended), &want) < 0.03, "{dtype:?}");
        }
    }
}

/// Sequences of different lengths attend as if each were alone.
#[test]
fn ragged_batches_are_as_many_single_sequences() {
    for batch in [1usize, 2, 5] {
        let lengths: Vec<usize> = [70, 3, 130, 0, 41].into_iter().take(batch).collect();
        let (k, v, q) =
            (tensor(1, (batch, 2, 130, 32)), tensor(2, (batch, 2, 130, 32)), tensor(3, (batch, 6, 130, 32)));
        let (k1, v1, q1) =
            (tensor(4, (batch, 2, 1, 32)), tensor(5, (batch, 2, 1, 32)), tensor(6, (batch, 6, 1, 32)));
        let mut together = CompressedDynamicCache::new(2, Policy::FOUR_X).unwrap();
        together.append_ragged(&k, &v, &lengths).unwrap();
        assert_eq!(together.seq_lens(), lengths);
        let prompt = together.attend_ragged(&q, &lengths).unwrap();
        together.append_ragged(&k1, &v1, &[]).unwrap();
        let step = together.attend(&q1).unwrap();
        let keys = together.k().unwrap().unwrap();
        for (i, &n) in lengths.iter().enumerate() {
            let row = |x: &Tensor| x.narrow(0, i, 1).unwrap();
            let mut alone = CompressedDynamicCache::new(2, Policy::FOUR_X).unwrap();
            if n > 0 {
                let first = |x: &Tensor| row(x).narrow(2, 0, n).unwrap();
                alone.append(&first(&k), &first(&v)).unwrap();
                assert_eq!(error(&first(&prompt), &alone.attend(&first(&q)).unwrap()), 0.0, "sequence {i}");
            }
            let rest = row(&prompt).narrow(2, n, 130 - n).unwrap();
            assert_eq!(rest.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
            let (alone_keys, _) = alone.append(&row(&k1), &row(&v1)).unwrap();
            assert_eq!(error(&row(&step), &alone.attend(&row(&q1)).unwrap()), 0.0, "sequence {i}");
            assert_eq!(error(&row(&keys).narrow(2, 0, n + 1).unwrap(), &alone_keys), 0.0, "sequence {i}");
        }
    }
}

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
