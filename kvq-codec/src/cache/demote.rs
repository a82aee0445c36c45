//! Demoting spans to fewer bits, and dropping them.
//!
//! A demotion encodes the stored levels again: the center stays, only codes and scales change, and the
//! units that the new layout does not need are free afterwards.

use super::Cache;
use super::layer::{LayerState, SpanHead};
use super::pack::{Source, UnitIds};
use super::plan::{MAX_SPAN, SidePlan};
use super::storage::{NONE, Storage};
use crate::block::{Layout, Run, levels_into};
use crate::bytes::{get_i16, slice};
use crate::error::{Error, Side};
use crate::pack::plane_row_bytes;
use crate::policy::{MAX_TIERS, Tier};
use crate::quantize::precise::ZERO;
use crate::quantize::row::MAX_ROW;
use crate::quantize::span::{ZERO_SCALE, block_exponent, encode_again, scale_byte};

impl<S: Storage> Cache<S> {
    /// Demotes spans that have reached the age of a tier.
    pub(super) fn demote_by_age(&mut self, _layer: usize, state: &mut LayerState) -> Result<(), Error> {
        for side in [Side::Key, Side::Value] {
            // The last tier first, so that a span that has come of two ages is converted once.
            for tier in (1..MAX_TIERS).rev() {
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
                self.encode_block_again((span, &plan, block), (old, &source), (new, &target));
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

    fn encode_block_again(
        &mut self,
        (span, plan, block): (u32, &SidePlan, usize),
        (old, source): (Layout, &UnitIds),
        (new, target): (Layout, &UnitIds),
    ) {
        let n_values = plan.block_values(block);
        let base = get_i16(self.record(span), plan.bases + 2 * block);
        let mut levels = [0i8; MAX_ROW];
        let mut codes = [0u8; MAX_ROW];
        let levels = levels.get_mut(..n_values).unwrap_or(&mut []);
        let codes = codes.get_mut(..n_values).unwrap_or(&mut []);
        for t in 0..self.plan.span_len {
            let (run, token) = self.run_at(plan, old, block, source, t);
            levels_into(old, &run, token, levels);
            let byte = self.scale_byte_at(span, plan, block, t);
            let byte = match (block_exponent(base, byte), encode_again(self.backend, new, levels, codes)) {
                (Some(e), Some(change)) => scale_byte(base, e + change),
                _ => ZERO_SCALE,
            };
            self.put_scale_byte(span, plan, block, t, byte);
            self.put_codes(plan, new, block, t, codes, target);
        }
    }

    /// The run of rows that begins at token `t` (rounded down to where every plane's unit begins) and the
    /// token's place in it.
    fn run_at(
        &self,
        plan: &SidePlan,
        layout: Layout,
        block: usize,
        ids: &UnitIds,
        t: usize,
    ) -> (Run<'_>, usize) {
        let first = t & !(run_tokens(plan, layout) - 1);
        let mut run = Run::default();
        self.fill_run(plan, layout, block, ids, first, &mut run);
        (run, t - first)
    }

    /// Fills in the run of rows that begins at token `first`, where every plane's unit or run begins.
    #[inline]
    pub(super) fn fill_run<'a>(
        &'a self,
        plan: &SidePlan,
        layout: Layout,
        block: usize,
        ids: &UnitIds,
        first: usize,
        run: &mut Run<'a>,
    ) {
        let n_values = plan.block_values(block);
        let run_len = run_tokens(plan, layout);
        let mut first_unit = 0;
        for (&width, rows) in layout.planes().iter().zip(&mut run.planes) {
            let (unit, place) = plan.split_token(width, first);
            let id = ids.get(first_unit + unit).copied().unwrap_or(NONE);
            let row_bytes = plane_row_bytes(width, n_values);
            let offset = plan.block_offset(width, block) + place * row_bytes;
            let unit = super::storage::unit(&self.plan, self.storage.bytes(), id);
            *rows = slice(unit, offset, run_len * row_bytes);
            first_unit += plan.plane_units(width, self.plan.span_len);
        }
        (run.n, run.first) = (run_len, first);
    }

    /// Moves the cursors that point to `span` past every span that has reached their tier.
    fn advance_cursors(&self, state: &mut LayerState, side: Side, span: u32) {
        for tier in 1..MAX_TIERS {
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
        let mut at = state.head;
        while at != NONE {
            let head = SpanHead::read(self.record(at));
            self.offer_to_cursors(state, at, &head);
            at = head.next;
        }
    }
}

/// Tokens of a layout whose rows are neighbours in every plane: a power of two.
pub(super) fn run_tokens(plan: &SidePlan, layout: Layout) -> usize {
    layout.planes().iter().map(|&width| plan.tokens_per_unit(width)).min().unwrap_or(1)
}
