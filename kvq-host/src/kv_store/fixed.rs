//! The packed store in memory of a fixed length: nothing is allocated after it was opened.

use anyhow::{Result, anyhow, ensure};
use kvq_codec::{Backend, Cache, KvShape, Policy, Storage};
use rayon::prelude::*;

use super::packed::PARALLEL_PAIRS;
use super::{KvBytes, KvStore};
use crate::measure::TierMap;

/// Memory that never changes its length.
#[derive(Debug)]
pub struct FixedMemory(Box<[u8]>);

impl Storage for FixedMemory {
    const GROWS: bool = false;

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn grow(&mut self, _len: usize) -> bool {
        false
    }
}

/// Packed keys and values of one sequence within a budget of bytes.
#[derive(Debug)]
pub struct FixedStore {
    cache: Cache<FixedMemory>,
}

/// What the store's own struct takes of a budget.
pub const STRUCT_BYTES: usize = size_of::<Cache<FixedMemory>>();

impl FixedStore {
    /// An empty store of exactly `budget_bytes`, its own struct counted.
    ///
    /// # Errors
    /// A shape or a policy that the codec refuses, or a budget under its least bytes.
    pub fn new(shape: KvShape, policy: Policy, backend: Backend, budget_bytes: usize) -> Result<Self> {
        let memory = vec![0; budget_bytes.saturating_sub(STRUCT_BYTES)].into_boxed_slice();
        let cache = Cache::new(shape, policy, backend, FixedMemory(memory)).map_err(|e| anyhow!("{e}"))?;
        Ok(Self { cache })
    }
}

impl KvStore for FixedStore {
    fn shape(&self) -> KvShape {
        self.cache.shape()
    }

    fn len(&self) -> usize {
        self.cache.len()
    }

    fn max_chunk(&self) -> usize {
        self.cache.room_before_packing(0)
    }

    fn append(&mut self, layer: usize, n_tokens: usize, k: &[f32], v: &[f32]) -> Result<()> {
        self.cache.append(layer, n_tokens, k, v).map_err(|e| anyhow!("{e}"))
    }

    fn attend(&mut self, layer: usize, n_tokens: usize, q: &[f32], out: &mut [f32]) -> Result<()> {
        let shape = self.cache.shape();
        let n_queries = q.len() / shape.key_head_dim;
        if n_queries * self.len() < PARALLEL_PAIRS || rayon::current_num_threads() == 1 {
            return self.cache.attend(layer, n_tokens, q, out).map_err(|e| anyhow!("{e}"));
        }
        let (per_head, per_out) = (q.len() / shape.n_kv_heads, out.len() / shape.n_kv_heads);
        ensure!(out.len() == n_queries * shape.value_head_dim, "query and output shapes differ");
        let cache = &self.cache;
        q.par_chunks(per_head).zip(out.par_chunks_mut(per_out)).enumerate().try_for_each(
            |(head, (q, out))| cache.attend_head(layer, head, n_tokens, q, out).map_err(|e| anyhow!("{e}")),
        )
    }

    fn trim(&mut self, len: usize) -> Result<()> {
        self.cache.trim(len).map_err(|e| anyhow!("{e}"))
    }

    fn clear(&mut self) {
        self.cache.clear();
    }

    fn memory(&self) -> KvBytes {
        self.cache.memory().into()
    }

    fn tier_map(&self) -> Option<TierMap> {
        Some(TierMap::of(&self.cache))
    }
}
