//! Attention over one packed span: the kernels `score_keys` and `accumulate_values` as nearly alone as the
//! codec's public functions allow.
//!
//! `keys-L` has keys in layout L and values of 8 bits, `values-L` the other way round. `q8` is both at 8 bits:
//! what a layout adds to it or takes away is the difference of one kernel. Each call also reads the one 8-bit
//! token that does not fill a span.

use kvq_benches::{
    HEAD_DIM, N_HEADS, N_KV_HEADS, Op, State, Tokens, Work, assert_close, held_bytes, packed, restored,
    uniform,
};
use kvq_codec::Layout;

/// A span, and the token that had it packed.
const TOKENS: usize = 65;

fn main() {
    let mut op = Op::new("span");
    let (tokens, query) = (Tokens::new(TOKENS), Tokens::query());
    bench(&mut op, "q8", (Layout::Q8, Layout::Q8), &tokens, &query);
    for layout in Layout::ALL.into_iter().skip(1) {
        let name = layout.name();
        bench(&mut op, &format!("keys-{name}"), (layout, Layout::Q8), &tokens, &query);
        bench(&mut op, &format!("values-{name}"), (Layout::Q8, layout), &tokens, &query);
    }
    op.finish();
}

fn bench(op: &mut Op, case: &str, (keys, values): (Layout, Layout), tokens: &Tokens, query: &[f32]) {
    let cache = packed(uniform(keys, values), 1, tokens);
    let (mut out, mut expected) = (vec![0.0; N_HEADS * HEAD_DIM], vec![0.0; N_HEADS * HEAD_DIM]);
    cache.attend(0, 1, query, &mut out).expect("one query per head");
    restored(&cache).attend(0, 1, query, &mut expected).expect("one query per head");
    assert_close(case, &out, &expected, 1e-4);
    let fp16_bytes = 2 * 2 * TOKENS * N_KV_HEADS * HEAD_DIM;
    let work = Work { packed_bytes: held_bytes(&cache), fp16_bytes };
    op.bench(State::Warm, case, work, || {
        cache.attend(0, 1, query, &mut out).expect("one query per head");
    });
}
