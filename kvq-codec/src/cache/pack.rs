//! Packing the oldest span of the recent window, after making the demotions that the budget asks for.
//!
//! The budget is looked at here only, once per span: what is given up now makes room for the whole time
//! until the next span is packed. So between two packings nothing that is settled changes.

use super::Cache;
use super::layer::{LayerState, SpanHead};
use super::plan::{MAX_SPAN, MAX_SPAN_UNITS};
use super::side_plan::SidePlan;
use super::storage::{self, NONE, Storage};
use crate::block::Layout;
use crate::bytes::{get_i16, get_u8, get_u32, put_i16, put_u8, put_u32, shift_down, slice, slice_mut};
use crate::error::{Error, Side};
use crate::pack::plane_row_bytes;
use crate::policy::{N_TIERS, WhenFull};
use crate::quantize::precise::ZERO;
use crate::quantize::row::MAX_ROW;
use crate::quantize::span::{Center, ZERO_SCALE, base_exponent, encode_plain, scale_byte};

/// Units of one side of a span that is being written.
pub(super) type UnitIds = [u32; MAX_SPAN_UNITS];

/// 8-bit rows to be packed: where their unit ids lie, and the exponent of each token in one block.
pub(super) struct Source<'a> {
    pub ids: &'a UnitIds,
    pub exponents: &'a [i16; MAX_SPAN],
}

impl<S: Storage> Cache<S> {
    /// Packs the oldest `span_len` tokens of the recent window, which is full.
    pub(super) fn pack_oldest(&mut self, layer: usize, state: &mut LayerState) -> Result<(), Error> {
        let tiers = self.make_way(layer, state)?;
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
        for (side, tier) in [(Side::Key, tiers[0]), (Side::Value, tiers[1])] {
            if let Err(error) = self.pack_side(layer, side, tier, record) {
                self.pool.give_record(&self.plan, self.storage.bytes_mut(), record);
                return Err(error);
            }
            self.drop_hot_span(layer, side);
        }
        state.n_hot -= self.plan.span_len.min(state.n_hot);
        state.span_units +=
            self.plan.tier_units(Side::Key, tiers[0]) + self.plan.tier_units(Side::Value, tiers[1]);
        self.link_newest(state, record, &head);
        self.demote_by_age(layer, state)
    }

    /// Demotes (or, if the policy says so, evicts) until the budget lasts to the next packing; returns the
    /// tiers that the span to be packed enters.
    fn make_way(&mut self, layer: usize, state: &mut LayerState) -> Result<[usize; 2], Error> {
        let mut tiers = [0usize; 2];
        // The recent window is full, in units, from here on.
        let len = state.len + self.plan.span_len + 1 - self.plan.key.tokens_per_unit(8);
        let hot = self.plan.hot_units(self.plan.hot_len);
        loop {
            let new = self.plan.tier_units(Side::Key, tiers[0]) + self.plan.tier_units(Side::Value, tiers[1]);
            if state.span_units + new + hot <= self.quota(layer, len, state.n_spans + 1) {
                return Ok(tiers);
            }
            if !self.plan.is_edge(layer) && self.take_step(state, &mut tiers)? {
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
    fn take_step(&mut self, state: &mut LayerState, new: &mut [usize; 2]) -> Result<bool, Error> {
        if N_TIERS == 1 || self.plan.policy.when_full == WhenFull::Error {
            return Ok(false);
        }
        for step in self.plan.policy.ladder.into_iter().flatten() {
            let to = usize::from(step.to);
            let span = state.cursor(step.side, to);
            if span != NONE {
                self.demote_span(state, span, step.side, to)?;
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

    /// Packs one side of the oldest span of the recent window into `record`.
    fn pack_side(&mut self, layer: usize, side: Side, tier: usize, record: u32) -> Result<(), Error> {
        let layout = self.plan.layout(side, tier);
        let plan = *self.plan.side(side);
        let mut source = [NONE; MAX_SPAN_UNITS];
        let n_source = plan.units(Layout::Q8, self.plan.span_len);
        let hot = storage::layer(&self.plan, self.storage.bytes(), layer);
        for (i, id) in source.iter_mut().enumerate().take(n_source) {
            *id = get_u32(hot, plan.hot_ids + 4 * i);
        }
        let target = if layout == Layout::Q8 {
            source
        } else {
            self.take_units(plan.units(layout, self.plan.span_len))?
        };
        self.put_ids(record, &plan, &target);
        for block in 0..plan.n_blocks {
            let mut exponents = [ZERO; MAX_SPAN];
            let hot = storage::layer(&self.plan, self.storage.bytes(), layer);
            for (t, e) in exponents.iter_mut().enumerate().take(self.plan.span_len) {
                *e = get_i16(hot, plan.hot_exponents + 2 * (t * plan.n_blocks + block));
            }
            let source = Source { ids: &source, exponents: &exponents };
            self.pack_block(side, layout, block, &source, record, &target);
        }
        if layout != Layout::Q8 {
            for id in source.into_iter().take(n_source) {
                self.pool.give_unit(&self.plan, self.storage.bytes_mut(), id);
            }
        }
        Ok(())
    }

    /// Encodes one block of a span from 8-bit rows: center, scales and codes.
    pub(super) fn pack_block(
        &mut self,
        side: Side,
        layout: Layout,
        block: usize,
        source: &Source<'_>,
        record: u32,
        target: &UnitIds,
    ) {
        #[cfg(test)]
        if layout != Layout::Q8 {
            super::encodings::note_span(self.record(record), self.plan.span_len, side, layout, block);
        }
        let plan = *self.plan.side(side);
        let span_len = self.plan.span_len;
        let n_values = plan.block_values(block);
        let exponents = source.exponents.iter().copied().take(span_len);
        let base = base_exponent(exponents);
        put_i16(self.record_mut(record), plan.bases + 2 * block, base);
        if layout == Layout::Q8 {
            for (t, &e) in source.exponents.iter().enumerate().take(span_len) {
                let byte = if e == ZERO { ZERO_SCALE } else { scale_byte(base, i32::from(e)) };
                self.put_scale_byte(record, &plan, block, t, byte);
            }
            return;
        }
        let mut codes = [0u8; MAX_ROW];
        let codes = codes.get_mut(..n_values).unwrap_or(&mut []);
        let center = (side == Side::Key).then(|| {
            let mut center = Center::new(base);
            for (t, &e) in source.exponents.iter().enumerate().take(span_len) {
                center.add(self.backend, self.precise_row(&plan, block, source.ids, t), e);
            }
            let exponent = center.encode(self.backend, span_len.trailing_zeros(), codes);
            let backend = self.backend;
            let bytes = self.record_mut(record);
            put_i16(bytes, plan.center_exponents + 2 * block, exponent);
            let row_bytes = plane_row_bytes(4, n_values);
            let full = plane_row_bytes(4, plan.heads_per_block * plan.head_dim);
            let center_row = slice_mut(bytes, plan.center_rows + block * full, row_bytes);
            backend.put_plane(4, 0, codes, center_row);
            center
        });
        for (t, &e) in source.exponents.iter().enumerate().take(span_len) {
            let row = self.precise_row(&plan, block, source.ids, t);
            let exponent = match &center {
                Some(center) => center.encode_residual(self.backend, layout, (row, e), codes),
                None => encode_plain(self.backend, layout, (row, e), codes),
            };
            let byte = exponent.map_or(ZERO_SCALE, |e| scale_byte(base, e));
            self.put_scale_byte(record, &plan, block, t, byte);
            self.put_codes(&plan, layout, block, t, codes, target);
        }
    }

    /// The 8-bit row of token `t` in `block`.
    #[cfg_attr(kvq_small, inline(never))]
    fn precise_row(&self, plan: &SidePlan, block: usize, ids: &UnitIds, t: usize) -> &[u8] {
        let (unit, place) = plan.split_token(8, t);
        let id = ids.get(unit).copied().unwrap_or(NONE);
        let n_values = plan.block_values(block);
        let offset = plan.block_offset(8, block) + place * n_values;
        slice(storage::unit(&self.plan, self.storage.bytes(), id), offset, n_values)
    }

    /// Writes the codes of token `t` in `block` into the planes of `layout`.
    #[inline(never)]
    pub(super) fn put_codes(
        &mut self,
        plan: &SidePlan,
        layout: Layout,
        block: usize,
        t: usize,
        codes: &[u8],
        ids: &UnitIds,
    ) {
        let backend = self.backend;
        let mut first_unit = 0;
        let mut shift = 0;
        for &width in layout.planes() {
            let (unit, place) = plan.split_token(width, t);
            let id = ids.get(first_unit + unit).copied().unwrap_or(NONE);
            let row_bytes = plane_row_bytes(width, codes.len());
            let offset = plan.block_offset(width, block) + place * row_bytes;
            let unit = storage::unit_mut(&self.plan, self.storage.bytes_mut(), id);
            backend.put_plane(width, shift, codes, slice_mut(unit, offset, row_bytes));
            first_unit += plan.plane_units(width, self.plan.span_len);
            shift += u32::from(width);
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

    /// The scale bytes of one block of a span.
    pub(super) fn scale_byte_at(&self, record: u32, plan: &SidePlan, block: usize, t: usize) -> u8 {
        get_u8(self.record(record), plan.scales + block * self.plan.span_len + t)
    }

    /// Writes the scale byte of one block of a span.
    pub(super) fn put_scale_byte(&mut self, record: u32, plan: &SidePlan, block: usize, t: usize, byte: u8) {
        let at = plan.scales + block * self.plan.span_len + t;
        put_u8(self.record_mut(record), at, byte);
    }
}
