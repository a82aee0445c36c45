//! Packing the oldest span of the recent window, after making the demotions that the budget asks for.
//!
//! The budget is looked at here only, once per span: what is given up now makes room for the whole time
//! until the next span is packed. So between two packings nothing that is settled changes.

use super::Cache;
use super::encode::{Apart, Block, InPlace, Source, encode_block};
use super::layer::{LayerState, SpanHead};
use super::plan::MAX_SPAN_UNITS;
use super::side_plan::SidePlan;
use super::storage::{self, NONE, Storage};
use super::threads::Threads;
use crate::block::Layout;
use crate::bytes::{get_u32, put_i16, put_u32, shift_down};
use crate::error::{Error, Side};
use crate::policy::{N_TIERS, WhenFull};
use crate::quantize::precise::ZERO;
use crate::quantize::span::{ZERO_SCALE, scale_byte};

/// Units of one side of a span that is being written.
pub(super) type UnitIds = [u32; MAX_SPAN_UNITS];

impl<S: Storage> Cache<S> {
    /// Packs the oldest `span_len` tokens of the recent window, which is full.
    pub(super) fn pack_oldest(
        &mut self,
        layer: usize,
        state: &mut LayerState,
        threads: &impl Threads,
    ) -> Result<(), Error> {
        let tiers = self.make_way(layer, state, threads)?;
        let start = state.hot_start();
        let record = self.pool.take_record(&self.plan, &mut self.storage);
        let record = record.ok_or_else(|| self.grow_error(self.plan.record_bytes))?;
        let head = SpanHead {
            next: NONE,
            start,
            count: self.plan.span_len,
            key_tier: tiers[0],
            value_tier: tiers[1],
        };
        head.write(storage::record_mut(&self.plan, self.storage.bytes_mut(), record));
        let parts = self.encode_oldest(layer, tiers, threads);
        let parts = parts.as_ref().map(|parts| {
            let parts = parts.as_ref();
            parts.split_at_checked(self.plan.key.n_blocks * self.part_bytes()).unwrap_or((parts, &[]))
        });
        for (side, tier, parts) in
            [(Side::Key, tiers[0], parts.map(|p| p.0)), (Side::Value, tiers[1], parts.map(|p| p.1))]
        {
            if let Err(error) = self.pack_side(layer, side, tier, record, parts) {
                self.pool.give_record(&self.plan, self.storage.bytes_mut(), record);
                return Err(error);
            }
            self.drop_hot_span(layer, side);
        }
        state.n_hot -= self.plan.span_len.min(state.n_hot);
        state.span_units +=
            self.plan.tier_units(Side::Key, tiers[0]) + self.plan.tier_units(Side::Value, tiers[1]);
        self.link_newest(state, record, &head);
        self.demote_by_age(layer, state, threads)
    }

    /// Demotes (or, if the policy says so, evicts) until the budget lasts to the next packing; returns the
    /// tiers that the span to be packed enters.
    fn make_way(
        &mut self,
        layer: usize,
        state: &mut LayerState,
        threads: &impl Threads,
    ) -> Result<[usize; 2], Error> {
        let mut tiers = [0usize; 2];
        // The recent window is full, in units, from here on.
        let len = state.len + self.plan.span_len + 1 - self.plan.key.tokens_per_unit(8);
        let hot = self.plan.hot_units(self.plan.hot_len);
        loop {
            let new = self.plan.tier_units(Side::Key, tiers[0]) + self.plan.tier_units(Side::Value, tiers[1]);
            if state.span_units + new + hot <= self.quota(layer, len, state.n_spans + 1) {
                return Ok(tiers);
            }
            if !self.plan.is_edge(layer) && self.take_step(state, &mut tiers, threads)? {
                continue;
            }
            if self.plan.policy.when_full == WhenFull::Evict && state.n_spans > 0 {
                self.evict_oldest(state);
                continue;
            }
            // At the floor: the room that is left holds part of the next window.
            return Ok(tiers);
        }
    }

    /// Takes the first step of the ladder that some span has not taken; `false` if there is none.
    fn take_step(
        &mut self,
        state: &mut LayerState,
        new: &mut [usize; 2],
        threads: &impl Threads,
    ) -> Result<bool, Error> {
        if N_TIERS == 1 || self.plan.policy.when_full == WhenFull::Error {
            return Ok(false);
        }
        for step in self.plan.policy.ladder.into_iter().flatten() {
            let to = usize::from(step.to);
            let span = state.cursor(step.side, to);
            if span != NONE {
                self.demote_span(state, span, step.side, to, threads)?;
                return Ok(true);
            }
            let tier = match step.side {
                Side::Key => &mut new[0],
                Side::Value => &mut new[1],
            };
            if *tier < to {
                *tier = to;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Appends the span to the layer's list.
    pub(super) fn link_newest(&mut self, state: &mut LayerState, record: u32, head: &SpanHead) {
        if state.tail == NONE {
            state.head = record;
        } else {
            let tail = storage::record_mut(&self.plan, self.storage.bytes_mut(), state.tail);
            put_u32(tail, 0, record);
        }
        state.tail = record;
        state.n_spans += 1;
        self.offer_to_cursors(state, record, head);
    }

    /// Lets cursors that have run out point to this span where it is still to pass their tier.
    pub(super) fn offer_to_cursors(&self, state: &mut LayerState, record: u32, head: &SpanHead) {
        for side in [Side::Key, Side::Value] {
            for tier in head.tier(side) + 1..N_TIERS {
                if state.cursor(side, tier) == NONE {
                    state.set_cursor(side, tier, record);
                }
            }
        }
    }

    /// Encodes the oldest span of the recent window apart from the cache, where `threads` help: keys, then values.
    fn encode_oldest<T: Threads>(&self, layer: usize, tiers: [usize; 2], threads: &T) -> Option<T::Parts> {
        let view = self.view();
        let key = self.plan.layout(Side::Key, tiers[0]);
        let value = self.plan.layout(Side::Value, tiers[1]);
        if key == Layout::Q8 && value == Layout::Q8 {
            return None;
        }
        self.encode_apart(threads, self.plan.key.n_blocks + self.plan.value.n_blocks, |part, bytes| {
            let (side, block) = view.plan.split_block(part);
            let layout = if side == Side::Key { key } else { value };
            let at = Block { side, plan: view.plan.side(side), block, layout };
            if at.layout != Layout::Q8 {
                let ids = view.recent_ids(layer, at.plan);
                encode_block(&mut Apart { view, at, bytes }, &view.recent(layer, at.plan, block, &ids));
            }
        })
    }

    /// Packs one side of the oldest span of the recent window into `record`.
    fn pack_side(
        &mut self,
        layer: usize,
        side: Side,
        tier: usize,
        record: u32,
        parts: Option<&[u8]>,
    ) -> Result<(), Error> {
        let layout = self.plan.layout(side, tier);
        let plan = *self.plan.side(side);
        let source = self.view().recent_ids(layer, &plan);
        let target = if layout == Layout::Q8 {
            source
        } else {
            self.take_units(plan.units(layout, self.plan.span_len))?
        };
        self.put_ids(record, &plan, &target);
        for block in 0..plan.n_blocks {
            let recent = self.view().recent(layer, &plan, block, &source);
            let at = Block { side, plan: &plan, block, layout };
            self.pack_block(at, &recent, record, &target, self.part(parts, block));
        }
        if layout != Layout::Q8 {
            self.give_units(&source);
        }
        Ok(())
    }

    /// Packs one block of a span from 8-bit rows: base exponent, scales and codes, these from `part` if they were
    /// encoded before.
    pub(super) fn pack_block(
        &mut self,
        at: Block<'_>,
        source: &Source<'_>,
        record: u32,
        target: &UnitIds,
        part: Option<&[u8]>,
    ) {
        #[cfg(test)]
        if at.layout != Layout::Q8 {
            super::encodings::note_span(
                self.record(record),
                self.plan.span_len,
                at.side,
                at.layout,
                at.block,
            );
        }
        let span_len = self.plan.span_len;
        let base = source.base(span_len);
        put_i16(self.record_mut(record), at.plan.bases + 2 * at.block, base);
        if at.layout == Layout::Q8 {
            for (t, &e) in source.exponents.iter().enumerate().take(span_len) {
                let byte = if e == ZERO { ZERO_SCALE } else { scale_byte(base, i32::from(e)) };
                self.put_scale_byte(record, at.plan, at.block, t, byte);
            }
            return;
        }
        let mut sink = InPlace { cache: self, at, record, target };
        match part {
            Some(part) => sink.take(part, at.side == Side::Key),
            None => encode_block(&mut sink, source),
        }
    }

    /// Takes `n` units, or none.
    pub(super) fn take_units(&mut self, n: usize) -> Result<UnitIds, Error> {
        let mut ids = [NONE; MAX_SPAN_UNITS];
        for i in 0..n.min(MAX_SPAN_UNITS) {
            match self.pool.take_unit(&self.plan, &mut self.storage) {
                Some(id) => {
                    if let Some(slot) = ids.get_mut(i) {
                        *slot = id;
                    }
                }
                None => {
                    self.give_units(&ids);
                    return Err(self.grow_error(self.plan.unit_bytes * (n - i)));
                }
            }
        }
        Ok(ids)
    }

    /// Gives back every unit in `ids`.
    #[inline(never)]
    pub(super) fn give_units(&mut self, ids: &UnitIds) {
        for &id in ids.iter().filter(|&&id| id != NONE) {
            self.pool.give_unit(&self.plan, self.storage.bytes_mut(), id);
        }
    }

    pub(super) fn record_mut(&mut self, record: u32) -> &mut [u8] {
        storage::record_mut(&self.plan, self.storage.bytes_mut(), record)
    }

    pub(super) fn record(&self, record: u32) -> &[u8] {
        storage::record(&self.plan, self.storage.bytes(), record)
    }

    #[inline(never)]
    pub(super) fn put_ids(&mut self, record: u32, plan: &SidePlan, ids: &UnitIds) {
        let bytes = self.record_mut(record);
        for (i, &id) in ids.iter().enumerate().take(plan.max_units) {
            put_u32(bytes, plan.ids + 4 * i, id);
        }
    }

    #[inline(never)]
    pub(super) fn ids(&self, record: u32, plan: &SidePlan) -> UnitIds {
        let bytes = self.record(record);
        let mut ids = [NONE; MAX_SPAN_UNITS];
        for (i, id) in ids.iter_mut().enumerate().take(plan.max_units) {
            *id = get_u32(bytes, plan.ids + 4 * i);
        }
        ids
    }

    /// Moves the recent window's tables up by the span that was packed.
    fn drop_hot_span(&mut self, layer: usize, side: Side) {
        let plan = *self.plan.side(side);
        let span_len = self.plan.span_len;
        let (n, all) = (plan.units(Layout::Q8, span_len), self.plan.hot_len);
        let n_all = plan.plane_units(8, all);
        let bytes = storage::layer_mut(&self.plan, self.storage.bytes_mut(), layer);
        shift_down(bytes, plan.hot_ids + 4 * n, plan.hot_ids, 4 * n_all.saturating_sub(n));
        let row = 2 * plan.n_blocks;
        let at = plan.hot_exponents;
        shift_down(bytes, at + span_len * row, at, all.saturating_sub(span_len) * row);
    }
}
