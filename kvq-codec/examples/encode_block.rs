//! One head vector in each layout: its bytes, and what its values have lost.
//!
//! `cargo run --release -p kvq-codec --example encode_block`

use kvq_codec::{Backend, Error, KvCache, KvShape, Layout, Policy, Side, Tier, WhenFull};

const HEAD_DIM: usize = 64;
const SHAPE: KvShape = KvShape::new(1, 1, HEAD_DIM);
/// One span is packed when the token behind it comes.
const SPAN: usize = 16;
const N: usize = SPAN + 1;

fn main() -> Result<(), Error> {
    let mut random = 1u32;
    let mut gaussian = || {
        let uniform = |_| {
            random = random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (random >> 8) as f32 / 16_777_216.0
        };
        (0..12).map(uniform).sum::<f32>() - 6.0
    };
    let tokens: Vec<f32> = (0..N * HEAD_DIM).map(|_| gaussian()).collect(); // (N, HEAD_DIM)

    println!("A value vector of {HEAD_DIM} values, {} bytes in fp16:\n", 2 * HEAD_DIM);
    println!("layout  code bytes  scale bytes  bits per value  error (RMS)");
    for layout in Layout::ALL {
        let tier = [Some(Tier::first(layout)), None, None, None];
        let policy = Policy {
            n_sink: 0,
            recent_len: 0,
            span_len: SPAN as u16,
            key_tiers: tier,
            value_tiers: tier,
            ..Policy::EIGHT_BIT.with_byte_budget(WhenFull::Error)
        };
        let mut memory = [0; 16 * 1024];
        let mut cache = KvCache::new(SHAPE, policy, Backend::detect(), &mut memory)?;
        cache.append(0, N, &tokens, &tokens)?;

        let mut values = [0.0; N * HEAD_DIM];
        cache.dequantize_into(0, Side::Value, 0, &mut values)?;
        let packed = ..SPAN * HEAD_DIM;
        let pairs = || tokens[packed].iter().zip(&values[packed]);
        let lost: f32 = pairs().map(|(x, y)| (x - y).powi(2)).sum();
        let error = (lost / pairs().map(|(x, _)| x * x).sum::<f32>()).sqrt();

        let (codes, scale) = (layout.row_bytes(HEAD_DIM), 1);
        let bpv = (8 * (codes + scale)) as f32 / HEAD_DIM as f32;
        let name = layout.name();
        println!("{name:<6}  {codes:>10}  {scale:>11}  {bpv:>14.3}  {:>9.1} %", 100.0 * error);
    }
    println!(
        "\ns: scalar codes; t: trellis codes, which lose less at the same bits and take longer to find."
    );
    Ok(())
}
