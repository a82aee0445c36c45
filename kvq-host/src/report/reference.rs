//! Public cache formats, as points to compare with.

/// One public format on one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReferencePoint {
    /// The format.
    pub name: &'static str,
    /// Stored bits per value, scales included.
    pub bpv: f64,
    /// Mean KL divergence against the unquantized cache, nats.
    pub kld_mean: f64,
}

/// Where [`REFERENCE_POINTS`] come from.
pub const REFERENCE_SOURCE: &str = "public formats on SmolLM2-135M-Instruct, WikiText-2, context 2048, the last 256 \
    positions of 3 windows, every token quantized; float simulation made before this program, not a run of it";

const fn point(name: &'static str, bpv: f64, kld_mean: f64) -> ReferencePoint {
    ReferencePoint { name, bpv, kld_mean }
}

/// Formats of ggml (`q8_0` to `iq4_nl`), KIVI with groups of 32, and rotated scalar codes.
pub const REFERENCE_POINTS: [ReferencePoint; 10] = [
    point("q8_0", 8.50, 0.0003),
    point("q5_1", 6.00, 0.0103),
    point("q4_1", 5.00, 0.0465),
    point("q4_0", 4.50, 0.0924),
    point("iq4_nl", 4.50, 0.0679),
    point("KIVI 4-bit", 5.00, 0.0133),
    point("KIVI 3-bit", 4.00, 0.0618),
    point("KIVI 2-bit", 3.00, 0.4467),
    point("rotated 4-bit", 4.25, 0.0412),
    point("rotated 3-bit", 3.25, 0.1620),
];
