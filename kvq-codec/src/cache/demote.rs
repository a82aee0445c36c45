//! Demoting spans to fewer bits, and dropping them.
//!
//! A demotion encodes the stored levels again: the center stays, only codes and scales change, and the
//! units that the new layout does not need are free afterwards.

use super::Cache;
use super::layer::{LayerState, SpanHead};
use super::pack::{Source, UnitIds};
use super::plan::MAX_SPAN;
use super::side_plan::SidePlan;
use super::storage::{self, NONE, Storage};
use crate::block::{Layout, Planes, Rows, levels_into};
use crate::bytes::{get_i16, slice};
use crate::error::{Error, Side};
use crate::policy::{N_TIERS, Tier};
use crate::quantize::precise::ZERO;
use crate::quantize::row::MAX_ROW;
use crate::quantize::span::{ZERO_SCALE, block_exponent, encode_again, scale_byte};

impl<S: Storage> Cache<S> {
    /// Demotes spans that have reached the age of a tier.
    pub(super) fn demote_by_age(&mut self, layer: usize, state: &mut LayerState) -> Result<(), Error> {
        if N_TIERS == 1 || self.plan.is_edge(layer) {
            return Ok(());
        }
        for side in [Side::Key, Side::Value] {
            // The last tier first, so that a span that has come of two ages is converted once.
            for tier in (1..N_TIERS).rev() {
                let Some(Some(Tier { from_age, .. })) = self.plan.policy.tiers(side).get(tier).copied()
                else {
                    continue;
                };
                if from_age == Tier::UNDER_PRESSURE {
                    continue;
                }
                loop {
                    let span = state.cursor(side, tier);
                    if span == NONE {
                        break;
                    }
                    let head = SpanHead::read(self.record(span));
                    if state.len.saturating_sub(head.start + head.count) < from_age as usize {
                        break;
                    }
                    self.demote_span(state, span, side, tier)?;
                }
            }
        }
        Ok(())
    }

    /// Demotes one side of a span to tier `to`.
    pub(super) fn demote_span(
        &mut self,
        state: &mut LayerState,
        span: u32,
        side: Side,
        to: usize,
    ) -> Result<(), Error> {
        let mut head = SpanHead::read(self.record(span));
        let from = head.tier(side);
        let (old, new) = (self.plan.layout(side, from), self.plan.layout(side, to));
        let plan = *self.plan.side(side);
        let source = self.ids(span, &plan);
        let target = self.take_units(plan.units(new, self.plan.span_len))?;
        for block in 0..plan.n_blocks {
            if old == Layout::Q8 {
                let mut exponents = [ZERO; MAX_SPAN];
                let base = get_i16(self.record(span), plan.bases + 2 * block);
                for (t, e) in exponents.iter_mut().enumerate().take(self.plan.span_len) {
                    let byte = self.scale_byte_at(span, &plan, block, t);
                    *e = block_exponent(base, byte).map_or(ZERO, |e| e as i16);
                }
                let source = Source { ids: &source, exponents: &exponents };
                self.pack_block(side, new, block, &source, span, &target);
            } else {
                #[cfg(test)]
                super::encodings::note_span(self.record(span), self.plan.span_len, side, new, block);
                self.encode_block_again((span, &plan, block), old, (new, &target));
            }
        }
        self.give_units(&source);
        self.put_ids(span, &plan, &target);
        head.set_tier(side, to);
        head.write(self.record_mut(span));
        state.span_units =
            state.span_units + self.plan.tier_units(side, to) - self.plan.tier_units(side, from);
        self.advance_cursors(state, side, span);
        Ok(())
    }

    /// Encodes one block of a span again; the record still names the units of the old layout.
    fn encode_block_again(
        &mut self,
        (span, plan, block): (u32, &SidePlan, usize),
        old: Layout,
        (new, target): (Layout, &UnitIds),
    ) {
        let n_values = plan.block_values(block);
        let base = get_i16(self.record(span), plan.bases + 2 * block);
        let mut levels = [0i8; MAX_ROW];
        let mut codes = [0u8; MAX_ROW];
        let levels = levels.get_mut(..n_values).unwrap_or(&mut []);
        let codes = codes.get_mut(..n_values).unwrap_or(&mut []);
        for t in 0..self.plan.span_len {
            let ids = Self::id_bytes(self.record(span), plan);
            let row = self.rows(plan, old, block, ids, self.plan.span_len).row(t);
            levels_into(old, &row, 0, levels);
            let byte = self.scale_byte_at(span, plan, block, t);
            let byte = match (block_exponent(base, byte), encode_again(self.backend, new, levels, codes)) {
                (Some(e), Some(change)) => scale_byte(base, e + change),
                _ => ZERO_SCALE,
            };
            self.put_scale_byte(span, plan, block, t, byte);
            self.put_codes(plan, new, block, t, codes, target);
        }
    }

    /// The rows of the first `n` tokens of a span or a part of the recent window, whose units are `ids`.
    #[cfg_attr(kvq_small, inline(never))]
    #[cfg_attr(not(kvq_small), inline(always))]
    pub(super) fn rows<'a>(
        &'a self,
        plan: &SidePlan,
        layout: Layout,
        block: usize,
        ids: &'a [u8],
        n: usize,
    ) -> Rows<'a> {
        self.rows_in(plan.planes(layout, block, self.plan.span_len), ids, n)
    }

    /// As [`rows`](Self::rows), in planes that are known.
    #[inline]
    pub(super) fn rows_in<'a>(&'a self, planes: Planes, ids: &'a [u8], n: usize) -> Rows<'a> {
        let units = storage::units(&self.plan, self.storage.bytes());
        Rows::in_units(units, self.plan.unit_bytes, ids, planes, n)
    }

    /// The ids of one side's units in a span record.
    #[inline]
    pub(super) fn id_bytes<'a>(record: &'a [u8], plan: &SidePlan) -> &'a [u8] {
        slice(record, plan.ids, 4 * plan.max_units)
    }

    /// Moves the cursors that point to `span` past every span that has reached their tier.
    fn advance_cursors(&self, state: &mut LayerState, side: Side, span: u32) {
        for tier in (0..N_TIERS).skip(1) {
            let mut at = state.cursor(side, tier);
            if at != span {
                continue;
            }
            while at != NONE {
                let head = SpanHead::read(self.record(at));
                if head.tier(side) < tier {
                    break;
                }
                at = head.next;
            }
            state.set_cursor(side, tier, at);
        }
    }

    /// Drops the oldest span.
    pub(super) fn evict_oldest(&mut self, state: &mut LayerState) {
        let span = state.head;
        let head = SpanHead::read(self.record(span));
        self.free_span(state, span, &head);
        state.head = head.next;
        if state.head == NONE {
            state.tail = NONE;
        }
        state.n_evicted += head.count;
        for cursor in state.cursors.iter_mut().flatten().filter(|c| **c == span) {
            *cursor = NONE;
        }
        self.reset_cursors(state);
    }

    /// Gives back a span's units and record.
    pub(super) fn free_span(&mut self, state: &mut LayerState, span: u32, head: &SpanHead) {
        for side in [Side::Key, Side::Value] {
            let plan = *self.plan.side(side);
            let ids = self.ids(span, &plan);
            self.give_units(&ids);
            let units = self.plan.tier_units(side, head.tier(side));
            state.span_units = state.span_units.saturating_sub(units);
        }
        self.pool.give_record(&self.plan, self.storage.bytes_mut(), span);
        state.n_spans = state.n_spans.saturating_sub(1);
    }

    /// Finds the cursors that have run out anew.
    pub(super) fn reset_cursors(&self, state: &mut LayerState) {
        let mut at = if N_TIERS == 1 { NONE } else { state.head };
        while at != NONE {
            let head = SpanHead::read(self.record(at));
            self.offer_to_cursors(state, at, &head);
            at = head.next;
        }
    }
}
