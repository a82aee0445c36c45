//! The dense stores against a naive reference in f64, over head widths, GQA groups and chunkings.

use kvq_codec::KvShape;
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::{BLOCK, Backend, DenseF16, DenseF32};

/// Reproducible values around 0, of the size that keys and queries have.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
    }

    fn fill(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// Keys or values of one layer as they were appended, `(n_kv_heads, len, dim)` per head.
#[derive(Clone)]
struct Plane {
    heads: Vec<Vec<f32>>,
    dim: usize,
}

impl Plane {
    fn new(n_heads: usize, dim: usize) -> Self {
        Self { heads: vec![Vec::new(); n_heads], dim }
    }

    fn append(&mut self, n_tokens: usize, rows: &[f32]) {
        for (head, rows) in self.heads.iter_mut().zip(rows.chunks(n_tokens * self.dim)) {
            head.extend_from_slice(rows);
        }
    }

    fn row(&self, head: usize, pos: usize) -> &[f32] {
        &self.heads[head][pos * self.dim..][..self.dim]
    }
}

/// Softmax attention, one query at a time, in f64. Shapes as in [`KvStore::attend_within`].
fn reference(
    keys: &Plane,
    values: &Plane,
    n_heads: usize,
    n_tokens: usize,
    window_len: usize,
    q: &[f32],
) -> Vec<f32> {
    let len = keys.heads[0].len() / keys.dim;
    let group = n_heads / keys.heads.len();
    let mut out = Vec::new();
    for (row, q) in q.chunks(keys.dim).enumerate() {
        let (head, seen) = (row / n_tokens / group, len - n_tokens + row % n_tokens + 1);
        let score = |pos: usize| -> f64 {
            let dot: f64 = keys.row(head, pos).iter().zip(q).map(|(k, q)| *k as f64 * *q as f64).sum();
            dot / (keys.dim as f64).sqrt()
        };
        let from = if window_len == 0 { 0 } else { seen.saturating_sub(window_len) };
        let scores: Vec<f64> = (from..seen).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        for column in 0..values.dim {
            let sum: f64 =
                (from..seen).map(|pos| weights[pos - from] * values.row(head, pos)[column] as f64).sum();
            out.push((sum / total) as f32);
        }
    }
    out
}

/// Appends and attends in `chunks` and checks every output of every store: f32 and f16, all backends.
fn check(shape: KvShape, group: usize, chunks: &[usize], windows: &[usize]) {
    let mut random = Random(7);
    let mut stores: [(Box<dyn KvStore>, f32, &str); 6] = [
        (Box::new(DenseF32::new(shape)), 5e-6, "f32"),
        (Box::new(DenseF32::with_backend(shape, Backend::Avx2)), 5e-6, "f32 avx2"),
        (Box::new(DenseF16::with_backend(shape, Backend::Avx2)), 4e-3, "f16 avx2"),
        (Box::new(DenseF32::with_backend(shape, Backend::Scalar)), 5e-6, "f32 scalar"),
        (Box::new(DenseF16::new(shape)), 4e-3, "f16"),
        (Box::new(DenseF16::with_backend(shape, Backend::Scalar)), 4e-3, "f16 scalar"),
    ];
    let mut keys = Plane::new(shape.n_kv_heads, shape.key_head_dim);
    let mut values = Plane::new(shape.n_kv_heads, shape.value_head_dim);
    let n_heads = shape.n_kv_heads * group;
    for &n in chunks {
        let k = random.fill(shape.n_kv_heads * n * shape.key_head_dim);
        let v = random.fill(shape.n_kv_heads * n * shape.value_head_dim);
        let q = random.fill(n_heads * n * shape.key_head_dim);
        keys.append(n, &k);
        values.append(n, &v);
        for (store, ..) in &mut stores {
            store.append(0, n, &k, &v).unwrap();
        }
        for window_len in windows {
            let want = reference(&keys, &values, n_heads, n, *window_len, &q);
            for (store, bound, name) in &mut stores {
                let mut out = vec![f32::NAN; want.len()];
                store.attend_within(0, n, *window_len, &q, &mut out).unwrap();
                for (got, want) in out.iter().zip(&want) {
                    let error = (got - want).abs();
                    assert!(
                        error < *bound,
                        "{name}, {shape:?}, group {group}, window {window_len}: {got} for {want}"
                    );
                }
            }
        }
    }
}

/// Single tokens, chunks on both sides of a block's end and of the prefill threshold.
const CHUNKS: [usize; 7] = [1, 7, 1, 40, BLOCK - 60, 15, 1];

#[test]
fn attention_is_right_for_every_head_width_and_group() {
    for head_dim in [8, 12, 16, 24, 32, 40, 64, 80, 96, 112, 128, 256] {
        for group in [1, 2, 3, 4, 7, 8] {
            check(KvShape::new(1, 2, head_dim), group, &CHUNKS, &[0]);
        }
    }
}

/// Windows of one token, inside a block, across its end, and longer than the sequence.
#[test]
fn windows_hide_what_is_older() {
    for group in [1, 3] {
        check(KvShape::new(1, 2, 32), group, &CHUNKS, &[1, 5, 64, BLOCK, BLOCK + 3, 10_000]);
        check(KvShape::new(1, 2, 32), group, &[600, 1, 90], &[30, BLOCK + 1]);
    }
}

#[test]
fn key_and_value_widths_may_differ() {
    check(KvShape::new(1, 2, 64).with_value_head_dim(96), 3, &CHUNKS, &[0]);
}

#[test]
fn long_contexts_run_in_parallel_and_stay_right() {
    check(KvShape::new(1, 3, 64), 3, &[512, 512, 1, 3], &[0]);
}

/// Few new tokens attend in parts of the others, which a window may leave nothing to see of.
#[test]
fn few_tokens_over_many_attend_in_parts() {
    check(KvShape::new(1, 3, 8).with_value_head_dim(12), 2, &[2300, 1, 15, 1], &[0, 2100, 40]);
}

/// All backends read the same stored bits, so they agree to float rounding for f16 too.
#[test]
fn backends_agree_on_the_same_rows() {
    let shape = KvShape::new(1, 2, 64);
    let (n, n_heads) = (300, 6);
    let mut random = Random(3);
    let rows = random.fill(2 * n * 64);
    let q = random.fill(n_heads * n * 64);
    let run = |backend| {
        let mut store = DenseF16::with_backend(shape, backend);
        store.append(0, n, &rows, &rows).unwrap();
        let mut out = vec![0.0; n_heads * n * 64];
        store.attend(0, n, &q, &mut out).unwrap();
        out
    };
    let scalar = run(Backend::Scalar);
    for backend in [Backend::Auto, Backend::Avx2] {
        for (got, scalar) in run(backend).iter().zip(&scalar) {
            assert!((got - scalar).abs() < 5e-6, "{backend:?}: {got} {scalar}");
        }
    }
}

/// Scores far apart: the softmax must neither overflow nor divide by zero.
#[test]
fn extreme_scores_stay_finite() {
    for backend in [Backend::Auto, Backend::Avx2, Backend::Scalar] {
        let mut store = DenseF32::with_backend(KvShape::new(1, 1, 8), backend);
        let keys: Vec<f32> = (0..600).flat_map(|t| [if t % 2 == 0 { -3e4 } else { 3e4 }; 8]).collect();
        let values: Vec<f32> = (0..600).flat_map(|t| [(t % 2) as f32; 8]).collect();
        store.append(0, 600, &keys, &values).unwrap();
        let mut out = [0.0; 8];
        store.attend(0, 1, &[100.0; 8], &mut out).unwrap();
        assert_eq!(out, [1.0; 8]);
        store.attend(0, 1, &[-100.0; 8], &mut out).unwrap();
        assert!(out.iter().all(|value| value.abs() < 1e-30));
    }
}

#[test]
fn trim_is_an_exact_rollback() {
    let shape = KvShape::new(2, 2, 16);
    let mut random = Random(11);
    let rows = random.fill(2 * 200 * 16);
    let mut store = DenseF32::new(shape);
    for layer in 0..2 {
        store.append(layer, 200, &rows, &rows).unwrap();
    }
    let (next, q) = (random.fill(2 * 16), random.fill(4 * 16));
    let attend = |store: &mut DenseF32| {
        store.append(1, 1, &next, &next).unwrap();
        let mut out = vec![0.0; 4 * 16];
        store.attend(1, 1, &q, &mut out).unwrap();
        out
    };
    let before = attend(&mut store);
    let garbage = random.fill(2 * 30 * 16);
    for layer in 0..2 {
        store.append(layer, 30, &garbage, &garbage).unwrap();
    }
    store.trim(200).unwrap();
    assert_eq!(store.len(), 200);
    assert_eq!(attend(&mut store), before);
    assert!(store.trim(201).is_err());
    store.clear();
    assert!(store.is_empty());
}

#[test]
fn memory_counts_every_row_and_the_unused_tail() {
    let shape = KvShape::new(2, 3, 32);
    let mut store = DenseF16::new(shape);
    assert_eq!(store.memory().code_bytes + store.memory().unused_bytes, 0);
    let rows = vec![0.5; 3 * 32];
    for _ in 0..BLOCK + 1 {
        for layer in 0..2 {
            store.append(layer, 1, &rows, &rows).unwrap();
        }
    }
    let memory = store.memory();
    assert_eq!(memory.code_bytes, (BLOCK + 1) * shape.fp16_bytes_per_token());
    assert_eq!(memory.unused_bytes, (BLOCK - 1) * shape.fp16_bytes_per_token());
    assert!(memory.header_bytes > 0 && memory.scratch_bytes == 0);
    store.clear();
    assert_eq!(store.memory().unused_bytes, 2 * BLOCK * shape.fp16_bytes_per_token());
}

#[test]
fn wrong_sizes_are_errors() {
    let mut store = DenseF32::new(KvShape::new(1, 2, 8));
    let rows = [0.0; 16];
    assert!(store.append(1, 1, &rows, &rows).is_err());
    assert!(store.append(0, 2, &rows, &rows).is_err());
    assert!(store.append(0, 0, &[], &[]).is_err());
    assert!(store.attend(0, 1, &rows, &mut [0.0; 16]).is_err());
    store.append(0, 1, &rows, &rows).unwrap();
    assert!(store.attend(0, 1, &rows, &mut [0.0; 8]).is_err());
    assert!(store.attend(0, 1, &[0.0; 24], &mut [0.0; 24]).is_err());
    assert!(store.attend(0, 2, &[0.0; 32], &mut [0.0; 32]).is_err());
    assert_eq!(store.len(), 1);
}
