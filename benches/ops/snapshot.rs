//! Writing a snapshot of a whole model's cache to memory, and restoring it. Both include the checksums, a restore
//! also every check of what it reads.

use kvq_benches::{
    HEAD_DIM, N_HEADS, N_KV_HEADS, N_LAYERS, Op, State, Tokens, Work, assert_same_snapshot, packed, restored,
};
use kvq_codec::Policy;

const TOKENS: usize = 1024;

fn main() {
    let mut op = Op::new("snapshot");
    let (tokens, query) = (Tokens::new(TOKENS), Tokens::query());
    let mut cache = packed(Policy::FOUR_X, N_LAYERS, &tokens);
    assert_same_snapshot("through the portable kernels", &restored(&cache), &cache);

    let mut snapshot = vec![0; cache.snapshot_bytes()];
    let fp16_bytes = 2 * 2 * N_LAYERS * TOKENS * N_KV_HEADS * HEAD_DIM;
    let work = Work { packed_bytes: snapshot.len(), fp16_bytes };
    op.bench(State::Warm, &format!("write/{TOKENS}"), work, || {
        cache.snapshot_into(&mut snapshot).expect("a buffer of that length");
    });

    let attended = |cache: &mut kvq_codec::Cache<_>| {
        let mut out = vec![0.0; N_HEADS * HEAD_DIM];
        cache.attend(N_LAYERS - 1, 1, &query, &mut out).expect("one query per head");
        out
    };
    // Here as well, for a filter may leave out the bench above.
    cache.snapshot_into(&mut snapshot).expect("a buffer of that length");
    let before = attended(&mut cache);
    cache.clear();
    cache.restore(&snapshot).expect("a snapshot just taken");
    assert_eq!(attended(&mut cache), before, "a restored cache attends to the same bits");
    op.bench(State::Warm, &format!("restore/{TOKENS}"), work, || {
        cache.restore(&snapshot).expect("a snapshot just taken");
    });
    op.finish();
}
