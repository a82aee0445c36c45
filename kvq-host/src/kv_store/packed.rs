//! The packed store: `kvq_codec`'s cache in memory that grows with the context.

use std::any::Any;

use anyhow::{Result, anyhow, ensure};
use kvq_codec::{Backend, Cache, KvShape, MemoryReport, Policy, Storage};
use rayon::prelude::*;

use super::{KvBytes, KvStore};
use crate::measure::TierMap;

/// Heads are attended in parallel from this many query-token pairs on; below, threads cost more than they save.
const PARALLEL_PAIRS: usize = 16_384;

/// Memory for a cache: a vector that is never longer than it was asked to be.
#[derive(Debug, Default)]
pub struct GrowingMemory(Vec<u8>);

impl Storage for GrowingMemory {
    const GROWS: bool = true;

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn grow(&mut self, len: usize) -> bool {
        self.0.reserve_exact(len.saturating_sub(self.0.len()));
        self.0.resize(len, 0);
        true
    }
}

/// Packed keys and values of one sequence.
#[derive(Debug)]
pub struct PackedStore<M = GrowingMemory> {
    pub(super) cache: Cache<M>,
}

impl PackedStore {
    /// An empty store.
    ///
    /// # Errors
    /// A shape or a policy that the codec refuses.
    pub fn new(shape: KvShape, policy: Policy, backend: Backend) -> Result<Self> {
        let cache =
            Cache::new(shape, policy, backend, GrowingMemory::default()).map_err(|e| anyhow!("{e}"))?;
        Ok(Self { cache })
    }
}

impl<M: Storage + Sync> PackedStore<M> {
    /// The codec's cache.
    pub const fn cache(&self) -> &Cache<M> {
        &self.cache
    }

    /// As [`KvStore::attend_within`], which this store does not need to be changed for.
    ///
    /// # Errors
    /// As [`KvStore::attend`].
    pub fn attend_shared(
        &self,
        layer: usize,
        n_tokens: usize,
        window_len: usize,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let shape = self.cache.shape();
        let n_queries = q.len() / shape.key_head_dim;
        let per_head = q.len() / shape.n_kv_heads;
        ensure!(
            per_head > 0 && out.len() == n_queries * shape.value_head_dim,
            "query and output shapes differ"
        );
        if shape.n_kv_heads == 1
            || n_queries * self.cache.len() < PARALLEL_PAIRS
            || rayon::current_num_threads() == 1
        {
            let result = self.cache.attend_within(layer, n_tokens, window_len, q, out);
            return result.map_err(|e| anyhow!("{e}"));
        }
        let cache = &self.cache;
        let per_out = out.len() / shape.n_kv_heads;
        q.par_chunks(per_head).zip(out.par_chunks_mut(per_out)).enumerate().try_for_each(
            |(head, (q, out))| {
                cache.attend_head(layer, head, n_tokens, window_len, q, out).map_err(|e| anyhow!("{e}"))
            },
        )
    }

    /// Replaces what is held by what a snapshot of the codec holds.
    ///
    /// # Errors
    /// A snapshot that is not whole, or of another shape or policy; the store is then as it was.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        self.cache.restore(snapshot).map_err(|e| anyhow!("snapshot: {e}"))
    }
}

impl<M: Storage + Send + Sync + 'static> KvStore for PackedStore<M> {
    fn shape(&self) -> KvShape {
        self.cache.shape()
    }

    fn len(&self) -> usize {
        self.cache.len()
    }

    fn stretch(&self, layer: usize) -> usize {
        self.cache.room_before_packing(layer)
    }

    fn append(&mut self, layer: usize, n_tokens: usize, k: &[f32], v: &[f32]) -> Result<()> {
        self.cache.append(layer, n_tokens, k, v).map_err(|e| anyhow!("{e}"))
    }

    fn attend_within(
        &mut self,
        layer: usize,
        n_tokens: usize,
        window_len: usize,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        self.attend_shared(layer, n_tokens, window_len, q, out)
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

    fn packed(&self) -> Option<&PackedStore> {
        (self as &dyn Any).downcast_ref()
    }

    fn tier_map(&self) -> Option<TierMap> {
        Some(TierMap::of(&self.cache))
    }
}

impl From<MemoryReport> for KvBytes {
    fn from(report: MemoryReport) -> Self {
        Self {
            code_bytes: report.code_bytes,
            scale_bytes: report.scale_bytes,
            center_bytes: report.center_bytes,
            recent_bytes: report.recent_bytes,
            sink_bytes: report.sink_bytes,
            header_bytes: report.header_bytes,
            scratch_bytes: report.scratch_bytes,
            unused_bytes: report.unused_bytes,
        }
    }
}
