//! Attention of one token's 9 query heads over one layer, by length and cache, with warm and with cold caches.
//!
//! Warm, a layer of a short context lies in the second-level cache, and a dense one may fall out of it where a
//! packed one does not; in a decode both were last read a whole token ago. So the cold figures are those that
//! compare, and the warm ones show the kernels.

use kvq_benches::{
    Contender, HEAD_DIM, N_HEADS, N_KV_HEADS, Op, State, Tokens, Work, assert_close, held_bytes, packed,
    restored, shape, uniform,
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
        let mut contenders = [
            packed_contender("s4", uniform(Layout::S4, Layout::S4), &tokens, &query),
            packed_contender("4x", Policy::FOUR_X, &tokens, &query),
            dense_contender::<f32>("dense-f32", &tokens, &query),
            // The last one, so that the others' speed is told against it.
            dense_contender::<half::f16>("dense-f16", &tokens, &query),
        ];
        for Contender { name, work, call } in &mut contenders {
            for state in State::ALL {
                op.bench(state, &format!("{name}/{length}"), *work, &mut *call);
            }
        }
        for state in State::ALL {
            op.turns(state, &length.to_string(), &mut contenders);
        }
    }
    op.finish();
}

fn packed_contender<'a>(name: &'a str, policy: Policy, tokens: &Tokens, query: &'a [f32]) -> Contender<'a> {
    let cache = packed(policy, 1, tokens);
    let (mut out, mut expected) = (vec![0.0; N_HEADS * HEAD_DIM], vec![0.0; N_HEADS * HEAD_DIM]);
    cache.attend(0, 1, query, &mut out).expect("one query per head");
    restored(&cache).attend(0, 1, query, &mut expected).expect("one query per head");
    assert_close(name, &out, &expected, 1e-4);
    let work = work(held_bytes(&cache), tokens);
    let call = move || cache.attend(0, 1, query, &mut out).expect("one query per head");
    Contender { name, work, call: Box::new(call) }
}

fn dense_contender<'a, E: Element>(name: &'a str, tokens: &Tokens, query: &'a [f32]) -> Contender<'a>
where
    DenseStore<E>: 'a,
{
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
    let call = move || store.attend(0, 1, query, &mut out).expect("one query per head");
    Contender { name, work, call: Box::new(call) }
}

fn work(packed_bytes: usize, tokens: &Tokens) -> Work {
    Work { packed_bytes, fp16_bytes: 2 * 2 * tokens.len() * N_KV_HEADS * HEAD_DIM }
}
