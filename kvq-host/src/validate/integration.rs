//! Checks that the parts work together: a snapshot comes back, and a draft can be taken back.

use anyhow::{Result, anyhow, ensure};
use kvq_codec::Cache;

use super::{Limit, Line, Subject, open};
use crate::kv_store::KvStore;
use crate::kv_store::{memory::GrowingMemory, packed::PackedStore};
use crate::model::{Logits, prefill};

/// Draft tokens that are taken back.
const DRAFT_TOKENS: usize = 4;

/// A snapshot of what the model wrote restores into another cache, which attends to the bit alike.
pub(super) fn snapshot(subject: &Subject<'_>) -> Result<Vec<Line>> {
    let shape = subject.model.config().kv_shape();
    let mut store = PackedStore::new(shape, subject.policy.policy, subject.backend)?;
    prefill(subject.model, &mut store, &subject.tokens[..subject.context / 2])?;
    let cache = store.cache();
    let mut bytes = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut bytes).map_err(|e| anyhow!("{e}"))?;
    let mut other = Cache::new(shape, subject.policy.policy, subject.backend, GrowingMemory::default())
        .map_err(|e| anyhow!("{e}"))?;
    other.restore(&bytes).map_err(|e| anyhow!("{e}"))?;
    let query: Vec<f32> = (0..shape.n_kv_heads * shape.key_head_dim).map(|i| (i as f32).sin()).collect();
    let mut differing = 0;
    for layer in 0..shape.n_layers {
        let mut out = vec![0.0; shape.n_kv_heads * shape.value_head_dim];
        let mut expected = out.clone();
        cache.attend(layer, 1, &query, &mut expected).map_err(|e| anyhow!("{e}"))?;
        other.attend(layer, 1, &query, &mut out).map_err(|e| anyhow!("{e}"))?;
        differing += out.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    }
    Ok(vec![Line::new("snapshot", differing as f64, "values differ", Limit::AtMost(0.0))])
}

/// After a draft was appended and trimmed, the next token's logits are those of a cache that never saw it.
pub(super) fn rollback(subject: &Subject<'_>) -> Result<Vec<Line>> {
    let mut store = open(subject)?;
    let mut plain = open(subject)?;
    let (text, rest) = subject.tokens.split_at(subject.context / 2);
    prefill(subject.model, &mut *store, text)?;
    prefill(subject.model, &mut *plain, text)?;
    let mut rest = rest.iter();
    // What is demoted stays demoted: the draft must end before the next span is packed.
    while store.stretch(0) <= DRAFT_TOKENS {
        let next = [*rest.next().ok_or_else(|| anyhow!("the text is too short"))?];
        subject.model.forward(&next, &mut *store, Logits::None)?;
        subject.model.forward(&next, &mut *plain, Logits::None)?;
    }
    let draft: Vec<u32> = rest.clone().rev().take(DRAFT_TOKENS).copied().collect();
    let next = [*rest.next().ok_or_else(|| anyhow!("the text is too short"))?];
    ensure!(draft.len() == DRAFT_TOKENS, "the text is too short");
    let len = store.len();
    subject.model.forward(&draft, &mut *store, Logits::None)?;
    store.trim(len)?;
    let logits = |store: &mut dyn KvStore| -> Result<Vec<f32>> {
        Ok(subject.model.forward(&next, store, Logits::Last)?.flatten_all()?.to_vec1()?)
    };
    let (got, expected) = (logits(&mut *store)?, logits(&mut *plain)?);
    let differing = got.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    Ok(vec![Line::new("rollback of a draft", differing as f64, "logits differ", Limit::AtMost(0.0))])
}
