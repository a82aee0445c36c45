//! Forking: a second cache with the same tokens, from which each goes its own way.

use super::Cache;
use super::layer::SpanHead;
use super::snapshot::Header;
use super::storage::{self, NONE, Storage};
use super::take_over::LayerNeed;
use crate::bytes::{get_u32, put, slice};
use crate::error::{Error, Side};

impl<S: Storage> Cache<S> {
    /// Replaces what `other` holds by a copy of what this cache holds. Neither notices what the other does
    /// afterwards; `other` keeps its backend and its storage, whose length may be another one.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where shape or policy differ, [`Error::Room`] where the other buffer is too short,
    /// [`Error::Grow`] where the other storage cannot grow; `other` is then as it was.
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Policy};
    ///
    /// let mut memory = [0; 24 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// cache.append(0, 5, &[0.5; 2 * 5 * 32], &[1.0; 2 * 5 * 32])?;
    /// let mut more = [0; 24 * 1024];
    /// let mut other = KvCache::new(cache.shape(), *cache.policy(), Backend::detect(), &mut more)?;
    /// cache.fork_into(&mut other)?;
    /// other.trim(2)?;
    /// assert_eq!((cache.len(), other.len()), (5, 2));
    /// # Ok::<(), kvq_codec::Error>(())
    /// ```
    pub fn fork_into<T: Storage>(&self, other: &mut Cache<T>) -> Result<(), Error> {
        Header::of(&self.plan, 0, 0).compare(&Header::of(&other.plan, 0, 0))?;
        let mut room = other.room(&self.plan);
        for layer in 0..self.plan.shape.n_layers {
            room.add(&self.layer_need(layer));
        }
        other.start_over(&room)?;
        for layer in 0..self.plan.shape.n_layers {
            if let Err(error) = self.fork_layer(layer, other) {
                // Cannot be: the room was counted. An empty cache is a sound one.
                other.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    /// What `layer` would need elsewhere.
    fn layer_need(&self, layer: usize) -> LayerNeed {
        let state = self.layer(layer);
        let mut need = LayerNeed::new(layer, state.n_hot);
        let mut at = state.head;
        while at != NONE {
            let head = SpanHead::read(self.record(at));
            need.add_span(&self.plan, [head.key_tier, head.value_tier]);
            at = head.next;
        }
        need
    }

    fn fork_layer<T: Storage>(&self, layer: usize, other: &mut Cache<T>) -> Result<(), Error> {
        let (plan, state) = (&self.plan, self.layer(layer));
        let mut copy = other.claim_recent(layer, state.n_hot)?;
        (copy.len, copy.n_sink, copy.n_evicted) = (state.len, state.n_sink, state.n_evicted);
        // Exponents and sinks lie behind the unit ids.
        let from = storage::layer(plan, self.storage.bytes(), layer);
        let to = storage::layer_mut(plan, other.storage.bytes_mut(), layer);
        let tables = plan.key.hot_exponents;
        put(to, tables, slice(from, tables, plan.layer_bytes.saturating_sub(tables)));
        for side in [&plan.key, &plan.value] {
            for slot in 0..side.plane_units(8, state.n_hot) {
                let at = side.hot_ids + 4 * slot;
                let from = get_u32(from, at);
                let to = get_u32(storage::layer(plan, other.storage.bytes(), layer), at);
                self.copy_unit(from, other, to);
            }
        }
        let mut at = state.head;
        while at != NONE {
            let head = SpanHead::read(self.record(at));
            let record =
                other.claim_span(&mut copy, head.start, head.count, [head.key_tier, head.value_tier])?;
            // What a span keeps whatever its tier lies behind the unit ids.
            let tables = plan.key.bases;
            let from = slice(self.record(at), tables, plan.record_bytes.saturating_sub(tables));
            put(other.record_mut(record), tables, from);
            for side in [Side::Key, Side::Value] {
                let side = plan.side(side);
                for (from, to) in self.ids(at, side).into_iter().zip(other.ids(record, side)) {
                    if to != NONE {
                        self.copy_unit(from, other, to);
                    }
                }
            }
            at = head.next;
        }
        other.put_layer(layer, &copy);
        Ok(())
    }

    fn copy_unit<T: Storage>(&self, from: u32, other: &mut Cache<T>, to: u32) {
        let source = storage::unit(&self.plan, self.storage.bytes(), from);
        put(storage::unit_mut(&self.plan, other.storage.bytes_mut(), to), 0, source);
    }
}
