//! The rotation of head vectors, for widths of one and of two passes.

use std::hint::black_box;

use kvq_benches::{Op, State, Work, assert_close};
use kvq_codec::Rotation;

/// Vectors per call, so that a call is long against the clock.
const VECTORS: usize = 64;

fn main() {
    let mut op = Op::new("rotate");
    for head_dim in [32, 64, 80, 96, 128, 256] {
        let rotation = Rotation::new(head_dim);
        let vectors: Vec<f32> = (0..VECTORS * head_dim).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        verify(rotation, head_dim, &vectors);
        let mut x = vectors;
        let bytes = 4 * x.len();
        let work = Work { packed_bytes: bytes, fp16_bytes: bytes / 2 };
        // Orthonormal, so that the values stay in range however often they are rotated.
        op.bench(State::Warm, &format!("forward/{head_dim}"), work, || {
            for vector in black_box(&mut x).chunks_exact_mut(head_dim) {
                rotation.forward(vector);
            }
        });
    }
    op.finish();
}

/// The inverse gives the vector back, and every length is kept.
fn verify(rotation: Rotation, head_dim: usize, vectors: &[f32]) {
    for vector in vectors.chunks_exact(head_dim) {
        let mut x = vector.to_vec();
        rotation.forward(&mut x);
        let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        assert!((norm(&x) / norm(vector) - 1.0).abs() < 1e-5, "head_dim {head_dim}: the length changed");
        assert_ne!(x, vector, "head_dim {head_dim}: nothing was rotated");
        rotation.inverse(&mut x);
        assert_close("rotated back", &x, vector, 1e-5);
    }
}
