//! Tensors that are not contiguous, broadcast, transposed, or of f16 and bf16: their values count, not how they lie.

use candle_core::{DType, Tensor};

use super::tensors::{eight_bit, error, plain_attention, tensor};

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

/// Everything at once, along either axis of tokens: half precision, broadcast over the batch, every other token.
#[test]
fn half_precision_views_of_views_are_read_as_what_they_show() {
    for dim in [1, 2] {
        for dtype in [DType::F16, DType::BF16, DType::F32] {
            let whole = tensor(5, (1, 2, 2 * 24, 32)).to_dtype(dtype).unwrap();
            // (1, 2, 24, 2, 32): the first of each two tokens, and then the same for each of three rows.
            let every_other =
                whole.reshape((1, 2, 24, 2, 32)).unwrap().narrow(3, 0, 1).unwrap().squeeze(3).unwrap();
            let view = every_other.broadcast_as((3, 2, 24, 32)).unwrap();
            let view = if dim == 1 { view.transpose(1, 2).unwrap() } else { view };
            assert!(!view.is_contiguous());
            let mut cache = eight_bit(dim);
            let (k, v) = cache.append(&view, &view).unwrap();
            assert_eq!((k.dtype(), k.dims()), (dtype, view.dims()));
            for row in 0..3 {
                let want = every_other.get(0).unwrap().to_dtype(DType::F32).unwrap();
                for got in [&k, &v] {
                    let got = got.get(row).unwrap();
                    let got = if dim == 1 { got.transpose(0, 1).unwrap() } else { got };
                    let off = error(&got.to_dtype(DType::F32).unwrap(), &want);
                    assert!(off < 0.012, "dim {dim}, {dtype:?}, row {row}: {off}");
                }
            }
            // Queries from a transposed tensor.
            let q = tensor(6, (3, 32, 1, 4)).to_dtype(dtype).unwrap().transpose(1, 3).unwrap();
            let q = if dim == 1 { q.transpose(1, 2).unwrap() } else { q };
            let attended = cache.attend(&q).unwrap();
            for row in 0..3 {
                let f32s = |x: &Tensor| {
                    let x = x.get(row).unwrap().to_dtype(DType::F32).unwrap();
                    if dim == 1 {
                        x.transpose(0, 1).unwrap().contiguous().unwrap()
                    } else {
                        x.contiguous().unwrap()
                    }
                };
                let want = plain_attention(&f32s(&q), &f32s(&view), &f32s(&view)).unwrap();
                let off = error(&f32s(&attended), &want);
                assert!(off < 0.03, "attention, dim {dim}, {dtype:?}, row {row}: {off}");
            }
        }
    }
}
