//! Attention of one token's 9 query heads over one layer, by length and cache, with warm and with cold caches.
//!
//! Warm, a layer of a short context lies in the second-level cache, and a dense one may fall out of it where a
//! packed one does not; in a decode both were last read a whole token ago. So the cold figures are those that
//! compare, and the warm ones show the kernels.

use kvq_benches::{
    HEAD_DIM, N_HEADS, N_KV_HEADS, Op, State, Tokens, Work, assert_close, held_bytes, packed, restored,
    shape, uniform,
};
use kvq_codec::{Layout, Policy};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::{Backend, DenseStore, Element};

const LENGTHS: [usize; 4] = [512, 2048, 8192, 32_768];

fn main() {
    let mut op = Op::new("attend");
    let query = Tokens::query();
    for length in LENGTHS {
        let tokens = Tokens::new(length);
        for (name, policy) in [("s4", uniform(Layout::S4, Layout::S4)), ("4x", Policy::FOUR_X)] {
            bench_packed(&mut op, name, policy, &tokens, &query);
        }
        bench_dense::<half::f16>(&mut op, "dense-f16", &tokens, &query);
        bench_dense::<f32>(&mut op, "dense-f32", &tokens, &query);
    }
    op.finish();
}

fn bench_packed(op: &mut Op, name: &str, policy: Policy, tokens: &Tokens, query: &[f32]) {
    let cache = packed(policy, 1, tokens);
    let (mut out, mut expected) = (vec![0.0; N_HEADS * HEAD_DIM], vec![0.0; N_HEADS * HEAD_DIM]);
    cache.attend(0, 1, query, &mut out).expect("one query per head");
    restored(&cache).attend(0, 1, query, &mut expected).expect("one query per head");
    assert_close(name, &out, &expected, 1e-4);
    let work = work(held_bytes(&cache), tokens);
    for state in State::ALL {
        op.bench(state, &format!("{name}/{}", tokens.len()), work, || {
            cache.attend(0, 1, query, &mut out).expect("one query per head");
        });
    }
}

fn bench_dense<E: Element>(op: &mut Op, name: &str, tokens: &Tokens, query: &[f32]) {
    let filled = |backend| {
        let mut store = DenseStore::<E>::with_backend(shape(1), backend);
        for i in 0..tokens.len() {
            let (keys, values) = tokens.get(i);
            store.append(0, 1, keys, values).expect("memory grows");
        }
        store
    };
    let mut store = filled(Backend::Auto);
    let (mut out, mut expected) = (vec![0.0; N_HEADS * HEAD_DIM], vec![0.0; N_HEADS * HEAD_DIM]);
    store.attend(0, 1, query, &mut out).expect("one query per head");
    filled(Backend::Scalar).attend(0, 1, query, &mut expected).expect("one query per head");
    assert_close(name, &out, &expected, 1e-4);
    let work = work(store.memory().code_bytes, tokens);
    for state in State::ALL {
        op.bench(state, &format!("{name}/{}", tokens.len()), work, || {
            store.attend(0, 1, query, &mut out).expect("one query per head");
        });
    }
}

fn work(packed_bytes: usize, tokens: &Tokens) -> Work {
    Work { packed_bytes, fp16_bytes: 2 * 2 * tokens.len() * N_KV_HEADS * HEAD_DIM }
}
