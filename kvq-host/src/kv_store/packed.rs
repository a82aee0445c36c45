//! The packed store: `kvq_codec`'s cache in memory that grows with the context.

use std::any::Any;
use std::ops::Range;
use std::sync::OnceLock;

use anyhow::{Result, anyhow, ensure};
use kvq_codec::{
    Backend, Cache, Error, KvCache, KvShape, MAX_TIERS, MemoryReport, Policy, Side, Storage, TierUse,
};

use super::memory::GrowingMemory;
use super::parts::{self, PREFILL_TOKENS, PoolThreads, Split};
use super::{KvBytes, KvStore};
use crate::measure::TierMap;

/// Spans that the newest part of a long context takes longer than its tokens tell.
const EXTRA_SPANS: usize = 2;

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
        let KvShape { n_kv_heads, key_head_dim, value_head_dim, .. } = self.cache.shape();
        let group = q.len() / (n_kv_heads * n_tokens * key_head_dim).max(1);
        let n_rows = group * n_kv_heads * n_tokens;
        if n_rows > 0
            && n_tokens < PREFILL_TOKENS
            && (q.len(), out.len()) == (n_rows * key_head_dim, n_rows * value_head_dim)
        {
            let positions = self.token_parts(layer, n_tokens, window_len)?;
            if positions.len() > 1 {
                let split = Split::new(&positions, n_kv_heads);
                return self.attend_token_parts(layer, &split, (n_tokens, window_len), q, out);
            }
        }
        let n_parts = if n_tokens < PREFILL_TOKENS { n_kv_heads } else { n_kv_heads * group };
        if n_parts > 1
            && parts::pay(n_rows * self.cache.len(), n_tokens)
            && (q.len(), out.len()) == (n_rows * key_head_dim, n_rows * value_head_dim)
        {
            return self.attend_parts(layer, n_parts, (n_tokens, window_len), q, out);
        }
        let result = self.cache.attend_within(layer, n_tokens, window_len, q, out);
        result.map_err(|e| anyhow!("{e}"))
    }

    /// The positions of `layer` that its few newest tokens see, in parts of whole spans.
    fn token_parts(&self, layer: usize, n_tokens: usize, window_len: usize) -> Result<Vec<Range<usize>>> {
        let (policy, len) = (self.cache.policy(), self.cache.layer_len(layer).map_err(|e| anyhow!("{e}"))?);
        let windows =
            [window_len, policy.window_len as usize].into_iter().filter(|&window_len| window_len > 0);
        let seen = parts::seen(len, n_tokens, windows.min().unwrap_or(0));
        let (n_sink, span_len) = (policy.n_sink.into(), policy.span_len.into());
        // Whole spans on either side; the newest part has the recent window too, at 8 bits, and begins a little later.
        Ok(parts::of_tokens(seen, (n_sink, span_len), EXTRA_SPANS * span_len))
    }

    /// Attends over the tokens of each of `split`, and joins what comes of it.
    fn attend_token_parts(
        &self,
        layer: usize,
        split: &Split<'_>,
        tokens: (usize, usize),
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let failed = OnceLock::new();
        let check = |result: Result<(), Error>| {
            if let Err(error) = result {
                // Where several fail, one error is as good as another.
                let _ = failed.set(error);
            }
        };
        let part_len = self.cache.part_len(q.len() / split.n_kv_heads);
        parts::attend_split(
            split,
            part_len,
            (q, out),
            |kv_heads, positions, q, sums| {
                check(self.cache.attend_parts(layer, kv_heads, positions, tokens, q, sums));
            },
            |sums, out| check(self.cache.join_parts(split.positions.len(), sums, out)),
        );
        failed.into_inner().map_or(Ok(()), |e| Err(anyhow!("{e}")))
    }

    /// Attends queries and outputs of matching lengths, in parts that lie within one KV head each.
    fn attend_parts(
        &self,
        layer: usize,
        n_parts: usize,
        (n_tokens, window_len): (usize, usize),
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let per_kv_head = n_parts / self.cache.shape().n_kv_heads;
        let failed = OnceLock::new();
        parts::attend(n_parts, q, out, |part, q, out| {
            let attended = self.cache.attend_head(layer, part / per_kv_head, n_tokens, window_len, q, out);
            if let Err(error) = attended {
                // Where several fail, one error is as good as another.
                let _ = failed.set(error);
            }
        });
        failed.into_inner().map_or(Ok(()), |e| Err(anyhow!("{e}")))
    }

    /// Replaces what is held by what a snapshot of the codec holds.
    ///
    /// # Errors
    /// A snapshot that is not whole, or of another shape or policy; the store is then as it was.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        self.cache.restore(snapshot).map_err(|e| anyhow!("snapshot: {e}"))
    }
}

/// What one layer holds on one side: sinks, tiers from the last to the first, recent window.
type Held = [TierUse; MAX_TIERS + 2];

impl<M: Storage> PackedStore<M> {
    /// How many of the first `len` tokens are held as by an empty store that has read `len` tokens: all of them, or
    /// those that it would have packed; none where older ones were demoted or dropped since.
    fn as_fresh(&self, len: usize) -> Result<Option<usize>> {
        let (shape, policy) = (self.cache.shape(), *self.cache.policy());
        // All layers but those at the edges are alike, and those are never demoted.
        let layer = usize::from(policy.edge_layers.first).min(shape.n_layers - 1);
        let maps = |map: Result<[Held; 2], Error>| map.map_err(|e| anyhow!("{e}"));
        let own = maps(held(&self.cache, layer))?;
        let fresh = if M::GROWS {
            let memory = GrowingMemory::default();
            maps(
                Cache::new(shape, policy, self.cache.backend(), memory)
                    .and_then(|cache| read(cache, layer, len)),
            )?
        } else {
            let mut memory = vec![0; self.cache.storage_bytes()];
            let cache = KvCache::new(shape, policy, self.cache.backend(), &mut memory);
            maps(cache.and_then(|cache| read(cache, layer, len)))?
        };
        let recent = |map: &Held| map.last().map_or(0, |tier| tier.tokens);
        let (packed, own_packed) = (len - recent(&fresh[0]).min(len), self.cache.len() - recent(&own[0]));
        let first_of = |map: &Held| {
            let mut left = packed;
            map.map(|tier| {
                let n = tier.tokens.min(left);
                left -= n;
                n
            })
        };
        let alike = own.iter().zip(&fresh).all(|(own, fresh)| first_of(own) == first_of(fresh));
        let spans = own_packed - own[0][0].tokens;
        Ok(match alike && spans.is_multiple_of(usize::from(policy.span_len)) {
            false => None,
            true if own_packed == packed => Some(len),
            true => Some(packed),
        })
    }
}

fn held<S: Storage>(cache: &Cache<S>, layer: usize) -> Result<[Held; 2], Error> {
    Ok([cache.tier_map(layer, Side::Key)?, cache.tier_map(layer, Side::Value)?])
}

/// What a layer holds after `len` tokens: it depends on lengths alone, so zeros tell, in one layer.
fn read<S: Storage>(mut cache: Cache<S>, layer: usize, len: usize) -> Result<[Held; 2], Error> {
    let KvShape { n_kv_heads, key_head_dim, value_head_dim, .. } = cache.shape();
    let (keys, values) = (vec![0.0; n_kv_heads * key_head_dim], vec![0.0; n_kv_heads * value_head_dim]);
    (0..len).try_for_each(|_| cache.append(layer, 1, &keys, &values))?;
    held(&cache, layer)
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
        let appended = if M::GROWS {
            self.cache.append_with(layer, n_tokens, k, v, &PoolThreads)
        } else {
            // What threads encode apart would need bytes beside those of the budget.
            self.cache.append(layer, n_tokens, k, v)
        };
        appended.map_err(|e| anyhow!("{e}"))
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

    /// Trimming leaves packed what was packed, and demoted what was demoted, since the store was `len` tokens long; an
    /// empty store that reads `len` tokens would still hold the newest of them at 8 bits. So the store is trimmed to
    /// where that one would have packed up to. Where older tokens were demoted since, only the sinks are as they would be.
    fn trim_as_fresh(&mut self, len: usize) -> Result<usize> {
        ensure!(len <= self.len(), "{len} tokens asked for, {} held", self.len());
        let sinks = usize::from(self.cache.policy().n_sink).min(len);
        let keep = if len == self.len() { len } else { self.as_fresh(len)?.unwrap_or(sinks) };
        self.trim(keep).map(|()| keep)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_attended_by_several_threads_make_up_the_whole() {
        let shape = KvShape::new(1, 2, 32);
        let mut store = PackedStore::new(shape, Policy::FOUR_X, Backend::detect()).unwrap();
        let rows = |heads: usize, n: usize, step: f32| -> Vec<f32> {
            (0..heads * n * 32).map(|i| (i as f32 * step).sin()).collect()
        };
        for i in 0..40 {
            store.append(0, 64, &rows(2, 64, 0.37 + i as f32), &rows(2, 64, 0.11 + i as f32)).unwrap();
        }
        // Six query heads; few new tokens, in parts of a KV head, and many, in parts of a query head.
        for (n_parts, n, window_len) in [(2, 3, 0), (6, 20, 0), (6, 64, 0), (6, 64, 300)] {
            let q = rows(6, n, 0.23);
            let (mut whole, mut parts) = (vec![0.0; q.len()], vec![1.0; q.len()]);
            store.cache.attend_within(0, n, window_len, &q, &mut whole).unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            pool.install(|| store.attend_parts(0, n_parts, (n, window_len), &q, &mut parts)).unwrap();
            assert_eq!(whole, parts, "{n} new tokens, window {window_len}");
        }

        // Few new tokens over many: the same bits for any number of threads, and close to those of the whole.
        for (n, window_len) in [(1, 0), (3, 0), (9, 2200)] {
            let q = rows(6, n, 0.23);
            let (mut whole, mut one_thread) = (vec![0.0; q.len()], vec![0.0; q.len()]);
            store.cache.attend_within(0, n, window_len, &q, &mut whole).unwrap();
            store.attend_shared(0, n, window_len, &q, &mut one_thread).unwrap();
            assert!(whole != one_thread && whole.iter().zip(&one_thread).all(|(a, b)| (a - b).abs() < 0.003));
            let positions = store.token_parts(0, n, window_len).unwrap();
            assert_eq!(positions.len(), 2);
            for n_threads in [1, 2, 3, 4, 100] {
                let (mut out, tokens) = (vec![1.0; q.len()], (n, window_len));
                let split = Split { positions: &positions, n_kv_heads: 2, n_threads };
                store.attend_token_parts(0, &split, tokens, &q, &mut out).unwrap();
                assert_eq!(out, one_thread, "{n} new tokens, {n_threads} threads");
            }
        }
    }

    /// In a prefill the first layer is ahead: a window ends where the layer's own tokens do.
    #[test]
    fn parts_are_those_of_the_layer() {
        let mut store =
            PackedStore::new(KvShape::new(2, 1, 32), Policy::EIGHT_BIT, Backend::detect()).unwrap();
        let rows = |step: f32| -> Vec<f32> { (0..64 * 32).map(|i| (i as f32 * step).sin()).collect() };
        for i in 0..48 {
            for layer in 0..if i < 40 { 2 } else { 1 } {
                store.append(layer, 64, &rows(0.37 + i as f32), &rows(0.11 + i as f32)).unwrap();
            }
        }
        let (q, mut whole, mut parts) = (&rows(0.23)[..3 * 32], [0.0; 96], [0.0; 96]);
        store.cache.attend_within(1, 3, 2100, q, &mut whole).unwrap();
        store.attend_shared(1, 3, 2100, q, &mut parts).unwrap();
        for (whole, parts) in whole.iter().zip(&parts) {
            assert!((whole - parts).abs() < 1e-4, "{parts} for {whole}");
        }
    }
}
