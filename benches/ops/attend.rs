//! Attention of one token's 9 query heads over one layer, by length and cache, with warm and with cold caches, and as a
//! decode finds them.
//!
//! Warm, a layer of a short context lies in the second-level cache, and a dense one may fall out of it where a
//! packed one does not; in a decode both were last read a whole token ago. So the warm figures show the kernels, the cold
//! ones what they make of memory, and those of a decode are the ones that compare.

use kvq_benches::{
    Contender, HEAD_DIM, N_HEADS, N_KV_HEADS, N_LAYERS, Op, State, Tokens, Work, assert_close, held_bytes,
    shape, uniform,
};
use kvq_codec::{Backend, Layout, Policy};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::dense::{self, DenseStore, Element};
use kvq_host::kv_store::packed::PackedStore;

const LENGTHS: [usize; 4] = [512, 2048, 8192, 32_768];

/// Those of which all layers are held at once, in each of the caches.
const DECODE_LENGTHS: [usize; 3] = [512, 2048, 8192];

fn main() {
    let mut op = Op::new("attend");
    let query = Tokens::query();
    for length in LENGTHS {
        let tokens = Tokens::new(length);
        let mut contenders = contenders(1, &tokens, &query);
        for Contender { name, work, call } in &mut contenders {
            for state in State::ALL {
                op.bench(state, &format!("{name}/{length}"), *work, || call(0));
            }
        }
        for state in State::ALL {
            op.turns(state, &length.to_string(), &mut contenders);
        }
    }
    for length in DECODE_LENGTHS {
        op.decode_turns(&length.to_string(), &mut contenders(N_LAYERS, &Tokens::new(length), &query));
    }
    op.finish();
}

fn contenders<'a>(n_layers: usize, tokens: &Tokens, query: &'a [f32]) -> [Contender<'a>; 4] {
    [
        packed_contender("s4", uniform(Layout::S4, Layout::S4), n_layers, tokens, query),
        packed_contender("4x", Policy::FOUR_X, n_layers, tokens, query),
        dense_contender::<f32>("dense-f32", n_layers, tokens, query),
        // The last one, so that the others' speed is told against it.
        dense_contender::<half::f16>("dense-f16", n_layers, tokens, query),
    ]
}

fn packed_contender<'a>(
    name: &'a str,
    policy: Policy,
    n_layers: usize,
    tokens: &Tokens,
    query: &'a [f32],
) -> Contender<'a> {
    let empty = |backend| PackedStore::new(shape(n_layers), policy, backend).expect("a sound policy");
    let (mut store, mut oracle) = (empty(Backend::detect()), empty(Backend::SCALAR));
    fill(&mut store, tokens);
    let mut snapshot = vec![0; store.cache().snapshot_bytes()];
    store.cache().snapshot_into(&mut snapshot).expect("a buffer of that length");
    oracle.restore(&snapshot).expect("a snapshot just taken");
    let (mut out, mut expected) = (vec![0.0; N_HEADS * HEAD_DIM], vec![0.0; N_HEADS * HEAD_DIM]);
    store.attend(0, 1, query, &mut out).expect("one query per head");
    oracle.attend(0, 1, query, &mut expected).expect("one query per head");
    assert_close(name, &out, &expected, 1e-4);
    let work = work(held_bytes(store.cache()) / n_layers, tokens);
    let call = move |layer| store.attend(layer, 1, query, &mut out).expect("one query per head");
    Contender { name, work, call: Box::new(call) }
}

fn dense_contender<'a, E: Element>(
    name: &'a str,
    n_layers: usize,
    tokens: &Tokens,
    query: &'a [f32],
) -> Contender<'a>
where
    DenseStore<E>: 'a,
{
    let filled = |n_layers, backend| {
        let mut store = DenseStore::<E>::with_backend(shape(n_layers), backend);
        fill(&mut store, tokens);
        store
    };
    let mut store = filled(n_layers, dense::Backend::Auto);
    let (mut out, mut expected) = (vec![0.0; N_HEADS * HEAD_DIM], vec![0.0; N_HEADS * HEAD_DIM]);
    store.attend(0, 1, query, &mut out).expect("one query per head");
    filled(1, dense::Backend::Scalar).attend(0, 1, query, &mut expected).expect("one query per head");
    assert_close(name, &out, &expected, 1e-4);
    let work = work(store.memory().code_bytes / n_layers, tokens);
    let call = move |layer| store.attend(layer, 1, query, &mut out).expect("one query per head");
    Contender { name, work, call: Box::new(call) }
}

/// Appends token by token, as a decode does.
fn fill(store: &mut impl KvStore, tokens: &Tokens) {
    for i in 0..tokens.len() {
        let (keys, values) = tokens.get(i);
        for layer in 0..store.shape().n_layers {
            store.append(layer, 1, keys, values).expect("memory grows");
        }
    }
}

fn work(packed_bytes: usize, tokens: &Tokens) -> Work {
    Work { packed_bytes, fp16_bytes: 2 * 2 * tokens.len() * N_KV_HEADS * HEAD_DIM }
}
