//! Rolling back to an earlier length.

use super::Cache;
use super::layer::{LayerState, SpanHead};
use super::plan::MAX_SPAN;
use super::storage::{self, NONE, Storage};
use crate::bytes::{get_u32, put_u32};
use crate::error::{Error, Side, figure};
use crate::policy::MAX_TIERS;

impl<S: Storage> Cache<S> {
    /// Forgets every token of every layer from position `len` on. What remains is not touched: it attends
    /// exactly as before, in whatever tier it is.
    ///
    /// # Errors
    /// [`Error::PastEnd`] where a layer has fewer tokens, [`Error::Evicted`] where those before `len` were evicted.
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Policy};
    ///
    /// let mut memory = [0; 24 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// cache.append(0, 5, &[0.5; 2 * 5 * 32], &[1.0; 2 * 5 * 32])?;
    /// cache.trim(3)?; // the last two were guesses, and wrong
    /// assert_eq!(cache.len(), 3);
    /// assert!(cache.trim(4).is_err());
    /// # Ok::<(), kvq_codec::Error>(())
    /// ```
    pub fn trim(&mut self, len: usize) -> Result<(), Error> {
        for layer in 0..self.plan.shape.n_layers {
            let state = self.layer(layer);
            if len > state.len {
                return Err(Error::PastEnd { len: figure(state.len), got: figure(len) });
            }
            let first = self.first_span_start(&state);
            if state.n_evicted > 0 && len > self.plan.n_sink && len < first {
                return Err(Error::Evicted { needed: figure(first), got: figure(len) });
            }
        }
        for layer in 0..self.plan.shape.n_layers {
            self.trim_layer(layer, len);
        }
        Ok(())
    }

    fn first_span_start(&self, state: &LayerState) -> usize {
        if state.head == NONE { state.hot_start() } else { SpanHead::read(self.record(state.head)).start }
    }

    fn trim_layer(&mut self, layer: usize, len: usize) {
        let mut state = self.layer(layer);
        let hot_start = state.hot_start();
        let keep = len.saturating_sub(hot_start).min(state.n_hot);
        self.free_hot(layer, Side::Key, keep, state.n_hot);
        self.free_hot(layer, Side::Value, keep, state.n_hot);
        state.n_hot = keep;
        if len < hot_start {
            self.trim_spans(&mut state, len);
        }
        if len <= state.n_sink {
            state.n_sink = len;
            state.n_evicted = 0;
        }
        state.len = len;
        self.put_layer(layer, &state);
    }

    fn free_hot(&mut self, layer: usize, side: Side, keep: usize, n_hot: usize) {
        let plan = *self.plan.side(side);
        for slot in plan.plane_units(8, keep)..plan.plane_units(8, n_hot) {
            let id =
                get_u32(storage::layer(&self.plan, self.storage.bytes(), layer), plan.hot_ids + 4 * slot);
            self.pool.give_unit(&self.plan, self.storage.bytes_mut(), id);
        }
    }

    /// Drops the spans that begin at `len` or later and shortens the one that contains it.
    fn trim_spans(&mut self, state: &mut LayerState, len: usize) {
        let (mut at, mut last) = (state.head, NONE);
        while at != NONE {
            let mut head = SpanHead::read(self.record(at));
            if head.start >= len {
                self.free_span(state, at, &head);
            } else {
                head.count = head.count.min(len - head.start).min(MAX_SPAN);
                head.write(self.record_mut(at));
                last = at;
            }
            at = head.next;
        }
        state.tail = last;
        if last == NONE {
            state.head = NONE;
        } else {
            put_u32(self.record_mut(last), 0, NONE);
        }
        state.cursors = [[NONE; MAX_TIERS]; 2];
        self.reset_cursors(state);
    }
}
