//! Batches of sequences that differ in length: the second and every later one is as right as the first.

use candle_core::{DType, Tensor};
use candle_nn::kv_cache::KvCache;
use kvq_codec::Policy;
use kvq_host::kv_store::candle::CompressedDynamicCache;

use super::tensors::{eight_bit, error, plain_attention, tensor};

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

/// Not only like a cache of its own: each sequence gives what plain attention over its own floats gives.
#[test]
fn every_sequence_of_a_batch_gives_what_plain_attention_gives() {
    for (batch, lengths) in [(1, &[70][..]), (2, &[3, 150]), (5, &[150, 1, 33, 97, 64])] {
        let shape = |heads| (batch, heads, 150, 64);
        let (k, v, q) = (tensor(1, shape(3)), tensor(2, shape(3)), tensor(3, shape(9)));
        let mut cache = eight_bit(2);
        cache.append_ragged(&k, &v, lengths).unwrap();
        let attended = cache.attend_ragged(&q, lengths).unwrap();
        let (keys, values) = (cache.k().unwrap().unwrap(), cache.v().unwrap().unwrap());
        for (i, &n) in lengths.iter().enumerate() {
            let of = |x: &Tensor| x.get(i).unwrap().narrow(1, 0, n).unwrap().contiguous().unwrap();
            let want = plain_attention(&of(&q), &of(&k), &of(&v)).unwrap();
            let off = error(&of(&attended), &want);
            assert!(off < 0.03, "sequence {i} of {batch}, {n} tokens: {off}");
            assert!(error(&of(&keys), &of(&k)) < 0.01 && error(&of(&values), &of(&v)) < 0.01, "sequence {i}");
            // Sequences are not each other's: the comparison would not hold with a neighbour.
            if batch > 1 && n > 1 {
                let other = (i + 1) % batch;
                let of_other = k.get(other).unwrap().narrow(1, 0, n).unwrap().contiguous().unwrap();
                assert!(error(&of(&keys), &of_other) > 0.5, "sequence {i}");
            }
        }
        // A step later, with one more token each.
        let next = |heads, seed| tensor(seed, (batch, heads, 1, 64));
        let (k1, v1, q1) = (next(3, 4), next(3, 5), next(9, 6));
        cache.append_ragged(&k1, &v1, &[]).unwrap();
        let step = cache.attend(&q1).unwrap();
        for (i, &n) in lengths.iter().enumerate() {
            let all = |x: &Tensor, more: &Tensor| {
                let held = x.get(i).unwrap().narrow(1, 0, n).unwrap();
                Tensor::cat(&[&held, &more.get(i).unwrap()], 1).unwrap()
            };
            let want = plain_attention(&q1.get(i).unwrap(), &all(&k, &k1), &all(&v, &v1)).unwrap();
            let off = error(&step.get(i).unwrap().to_dtype(DType::F32).unwrap(), &want);
            assert!(off < 0.03, "step of sequence {i} of {batch}: {off}");
        }
    }
}
