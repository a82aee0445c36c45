//! Synthetic workloads: exact bytes, and the error of attention against floats, without a model.
//!
//! Keys are a mean per head, which turns with the position, a few channels that are eight times as large, and
//! noise: what makes real keys hard. Values are noise of a scale per head. Queries look for the key of one
//! past token, some of the newest and some of any, so that attention is neither flat nor on one token alone.

mod random;
mod workload;

use anyhow::{Result, anyhow};
use kvq_codec::{Backend, KvShape, WhenFull};

use crate::kv_store::KvStore;
use crate::measure::{CacheChoice, Held};
use crate::plan;
use crate::policy::NamedPolicy;
use random::Source;
pub use workload::{Turn, WORKLOADS, Workload};

/// Tokens appended at a time, at the most.
const CHUNK_TOKENS: usize = 32;

/// Queries per layer and query head, at the end of a workload.
const N_QUERIES: usize = 16;

/// What a workload said about one cache.
#[derive(Clone, Debug)]
pub struct Found {
    /// The cache.
    pub cache: CacheChoice,
    /// What it held along the way.
    pub held: Vec<Held>,
    /// `‖attention − attention of dense-f32‖ / ‖attention of dense-f32‖` over all queries of all layers.
    pub attention_error: f64,
}

/// Runs a workload over dense caches and policies; dense-f32 comes first and has no error.
///
/// # Errors
/// A policy that cannot serve the shape.
pub fn run(workload: &Workload, policies: &[NamedPolicy], backend: Backend, seed: u64) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut expected = Vec::new();
    for cache in caches(workload, policies)? {
        let mut store = cache.open(workload.shape, backend)?;
        let mut source = Source::new(workload, seed);
        let held = fill(workload, &mut *store, &mut source)?;
        let got = attention(workload, &mut *store, &mut source)?;
        if expected.is_empty() {
            expected.clone_from(&got);
        }
        found.push(Found { cache, held, attention_error: relative_error(&expected, &got) });
    }
    Ok(found)
}

/// Both dense caches and the policies; a fixed buffer has the least bytes that are sure to hold the tokens.
fn caches(workload: &Workload, policies: &[NamedPolicy]) -> Result<Vec<CacheChoice>> {
    let packed = |named: &NamedPolicy| -> Result<CacheChoice> {
        if !workload.is_fixed {
            return Ok(CacheChoice::Packed(named.clone()));
        }
        let policy = named.policy.with_byte_budget(WhenFull::Demote);
        let struct_bytes = crate::kv_store::fixed::STRUCT_BYTES;
        let bytes = plan::least_bytes(workload.shape, policy, workload.most_tokens())? + struct_bytes;
        Ok(CacheChoice::Fixed(NamedPolicy { name: named.name.clone(), policy }, bytes))
    };
    let dense = [CacheChoice::DenseF32, CacheChoice::DenseF16];
    dense.into_iter().map(Ok).chain(policies.iter().map(packed)).collect()
}

fn fill(workload: &Workload, store: &mut dyn KvStore, source: &mut Source) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    for turn in workload.turns {
        let goal = store.len() + turn.append_tokens;
        while store.len() < goal {
            let n = CHUNK_TOKENS.min(goal - store.len()).min(store.stretch(0).max(1));
            append(workload.shape, store, source, n)?;
            held.push(Held::of(store));
        }
        if turn.retract_tokens > 0 {
            store.trim(goal - turn.retract_tokens)?;
        }
    }
    held.push(Held::of(store));
    // Retracting makes lengths come twice: what is shown is the way up.
    let mut longest = 0;
    let last = held.len() - 1;
    let rising = held.into_iter().enumerate().filter(|(i, held)| {
        let is_new = held.tokens > longest && *i < last;
        longest = longest.max(held.tokens);
        is_new || *i == last
    });
    Ok(rising.map(|(_, held)| held).collect())
}

fn append(shape: KvShape, store: &mut dyn KvStore, source: &mut Source, n_tokens: usize) -> Result<()> {
    let pos = store.len();
    for layer in 0..shape.n_layers {
        let (keys, values) = source.keys_and_values(layer, pos, n_tokens);
        store.append(layer, n_tokens, &keys, &values)?;
    }
    Ok(())
}

/// Attention of every query of every layer, from the newest token.
fn attention(workload: &Workload, store: &mut dyn KvStore, source: &mut Source) -> Result<Vec<f32>> {
    let shape = workload.shape;
    let mut all = Vec::new();
    let mut out = vec![0.0; workload.n_heads * shape.value_head_dim];
    for layer in 0..shape.n_layers {
        for i in 0..N_QUERIES {
            let query = source.query(layer, i, store.len());
            store.attend(layer, 1, &query, &mut out).map_err(|e| anyhow!("{}: {e}", workload.name))?;
            all.extend_from_slice(&out);
        }
    }
    Ok(all)
}

fn relative_error(expected: &[f32], got: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = expected.iter().zip(got).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = expected.iter().map(|a| square(*a)).sum();
    (error / norm).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;

    #[test]
    fn errors_rise_as_bits_fall_and_bytes_repeat() {
        let policies: Vec<_> = ["8bit", "4x", "6x"].iter().map(|name| policy::load(name).unwrap()).collect();
        let workload = WORKLOADS.iter().find(|workload| workload.name == "tool-agent").unwrap();
        let found = run(workload, &policies, Backend::SCALAR, 1).unwrap();
        let errors: Vec<f64> = found.iter().map(|found| found.attention_error).collect();
        assert_eq!(errors[0], 0.0);
        assert!(errors[1] < errors[2] && errors[2] < errors[3] && errors[3] < errors[4], "{errors:?}");
        assert!(errors[4] < 0.5, "{errors:?}");
        let lengths: Vec<usize> = found.iter().map(|found| found.held.last().unwrap().tokens).collect();
        assert!(lengths.iter().all(|len| *len == workload.end_tokens()), "{lengths:?}");
        let bytes = |found: &[Found]| -> Vec<usize> {
            found.iter().map(|found| found.held.last().unwrap().bytes.total()).collect()
        };
        let other_seed = run(workload, &policies, Backend::SCALAR, 2).unwrap();
        assert_eq!(bytes(&found), bytes(&other_seed), "bytes do not depend on the values");
        assert_ne!(errors[3], other_seed[3].attention_error);
    }

    #[test]
    fn a_fixed_buffer_holds_its_tokens_and_never_grows() {
        let policies = [policy::load("4x").unwrap()];
        let workload = WORKLOADS.iter().find(|workload| workload.is_fixed).unwrap();
        let found = run(workload, &policies, Backend::SCALAR, 0).unwrap();
        let packed = found.last().unwrap();
        let CacheChoice::Fixed(_, budget) = packed.cache else { panic!("{:?}", packed.cache) };
        assert!(packed.held.iter().all(|held| held.bytes.total() == budget));
        assert!(budget * 3 < workload.end_tokens() * workload.shape.fp16_bytes_per_token());
    }
}
