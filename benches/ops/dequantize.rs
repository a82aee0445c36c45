//! Restoring the values of one head as floats, per layout. Attention never does this; code that needs keys and
//! values themselves does.

use kvq_benches::{
    HEAD_DIM, N_KV_HEADS, Op, State, Tokens, Work, assert_close, held_bytes, packed, restored, uniform,
};
use kvq_codec::{Layout, Side};

const TOKENS: usize = 2048;

fn main() {
    let mut op = Op::new("dequantize");
    let tokens = Tokens::new(TOKENS);
    for layout in Layout::ALL {
        let cache = packed(uniform(layout, layout), 1, &tokens);
        let (mut out, mut expected) = (vec![0.0; TOKENS * HEAD_DIM], vec![0.0; TOKENS * HEAD_DIM]);
        cache.dequantize_into(0, Side::Value, 1, &mut out).expect("that many values");
        restored(&cache).dequantize_into(0, Side::Value, 1, &mut expected).expect("that many values");
        assert_close(layout.name(), &out, &expected, 1e-6);
        let work =
            Work { packed_bytes: held_bytes(&cache) / (2 * N_KV_HEADS), fp16_bytes: 2 * TOKENS * HEAD_DIM };
        op.bench(State::Warm, layout.name(), work, || {
            cache.dequantize_into(0, Side::Value, 1, &mut out).expect("that many values");
        });
    }
    op.finish();
}
