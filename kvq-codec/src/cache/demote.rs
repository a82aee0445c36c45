//! Demoting spans to fewer bits, and dropping them.
//!
//! A demotion encodes the stored levels again: the center stays, only codes and scales change, and the
//! units that the new layout does not need are free afterwards.

use super::Cache;
use super::encode::{Apart, Block, InPlace, encode_block, encode_block_again};
use super::layer::{LayerState, SpanHead};
use super::side_plan::SidePlan;
use super::storage::{self, NONE, Storage};
use super::threads::Threads;
use crate::block::{Layout, Planes, Rows};
use crate::bytes::slice;
use crate::error::{Error, Side};
use crate::policy::{N_TIERS, Tier};

impl<S: Storage> Cache<S> {
    /// Demotes spans that have reached the age of a tier.
    pub(super) fn demote_by_age(
        &mut self,
        layer: usize,
        state: &mut LayerState,
        threads: &impl Threads,
    ) -> Result<(), Error> {
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
                    self.demote_span(state, span, side, tier, threads)?;
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
        threads: &impl Threads,
    ) -> Result<(), Error> {
        let mut head = SpanHead::read(self.record(span));
        let from = head.tier(side);
        let (old, new) = (self.plan.layout(side, from), self.plan.layout(side, to));
        let plan = *self.plan.side(side);
        let source = self.ids(span, &plan);
        let target = self.take_units(plan.units(new, self.plan.span_len))?;
        let view = self.view();
        let parts = self.encode_apart(threads, plan.n_blocks, |block, bytes| {
            let mut apart = Apart { view, at: Block { side, plan: &plan, block, layout: new }, bytes };
            if old == Layout::Q8 {
                encode_block(&mut apart, &view.precise_span(span, &plan, block, &source));
            } else {
                encode_block_again(&mut apart, span, old);
            }
        });
        for block in 0..plan.n_blocks {
            let part = self.part(parts.as_ref().map(AsRef::as_ref), block);
            let at = Block { side, plan: &plan, block, layout: new };
            if old == Layout::Q8 {
                let source = self.view().precise_span(span, &plan, block, &source);
                self.pack_block(at, &source, span, &target, part);
                continue;
            }
            #[cfg(test)]
            super::encodings::note_span(self.record(span), self.plan.span_len, side, new, block);
            let mut sink = InPlace { cache: self, at, record: span, target: &target };
            match part {
                Some(part) => sink.take(part, false),
                None => encode_block_again(&mut sink, span, old),
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
