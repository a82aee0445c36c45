//! Encoding per layout: a span of 64 tokens goes through rotation, 8-bit rows and packing into that layout.
//!
//! The cache evicts, so that each call packs one span and drops one, however often it is called. `q8` is the
//! same path with nothing to re-encode: what a layout costs beyond it is its packing.

use kvq_benches::{HEAD_DIM, N_KV_HEADS, Op, State, Tokens, Work, assert_same_snapshot, shape, uniform};
use kvq_codec::{Backend, KvCache, Layout, Policy, WhenFull, minimum_bytes};

/// Tokens per call: one span.
const SPAN: usize = 64;

/// Spans of different tokens, one per call in turn.
const SPANS: usize = 8;

fn main() {
    let mut op = Op::new("encode");
    let tokens = Tokens::new(SPANS * SPAN);
    for layout in Layout::ALL {
        let policy = Policy { when_full: WhenFull::Evict, ..uniform(layout, layout) };
        let least = minimum_bytes(shape(1), policy).expect("a sound policy");
        let mut memory = vec![0; 2 * least];
        let mut cache =
            KvCache::new(shape(1), policy, Backend::detect(), &mut memory).expect("enough memory");
        let mut oracle_memory = vec![0; 2 * least];
        let mut oracle =
            KvCache::new(shape(1), policy, Backend::SCALAR, &mut oracle_memory).expect("enough memory");
        for span in 0..SPANS {
            append_span(&mut cache, &tokens, span);
            append_span(&mut oracle, &tokens, span);
        }
        assert!(cache.n_held(0).expect("layer 0") < cache.len(), "{layout:?}: nothing was evicted");
        assert_same_snapshot(layout.name(), &cache, &oracle);

        let values = 2 * SPAN * N_KV_HEADS * HEAD_DIM;
        let codes = layout.row_bytes(HEAD_DIM) * 2 * SPAN * N_KV_HEADS;
        let work = Work { packed_bytes: codes, fp16_bytes: 2 * values };
        let mut span = 0;
        op.bench(State::Warm, layout.name(), work, || {
            append_span(&mut cache, &tokens, span % SPANS);
            span += 1;
        });
    }
    op.finish();
}

fn append_span(cache: &mut KvCache<'_>, tokens: &Tokens, span: usize) {
    for i in span * SPAN..(span + 1) * SPAN {
        let (keys, values) = tokens.get(i);
        cache.append(0, 1, keys, values).expect("the oldest span is dropped");
    }
}
