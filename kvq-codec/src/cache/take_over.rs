//! Taking over the tokens of another cache or of a snapshot: room first, then units and records.
//!
//! The room asked for is what the cache would have kept itself: in a buffer of fixed length every layer
//! must stay within its share, or the next append would run out of units in the middle of its work.

use super::Cache;
use super::layer::{LayerState, SpanHead};
use super::plan::{MAX_SPAN_UNITS, Plan};
use super::storage::{self, NONE, Storage};
use crate::bytes::put_u32;
use crate::error::{Error, Side, figure};

/// What one layer takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerNeed {
    layer: usize,
    n_hot: usize,
    n_spans: usize,
    span_units: usize,
    /// Units of the spans once all are as far down as the ladder goes.
    floor_units: usize,
}

impl LayerNeed {
    /// `layer` with a recent window of `n_hot` tokens and no spans.
    pub const fn new(layer: usize, n_hot: usize) -> Self {
        Self { layer, n_hot, n_spans: 0, span_units: 0, floor_units: 0 }
    }

    pub fn add_span(&mut self, plan: &Plan, tiers: [usize; 2]) {
        self.n_spans += 1;
        for (side, tier) in [(Side::Key, tiers[0]), (Side::Value, tiers[1])] {
            self.span_units += plan.tier_units(side, tier);
            self.floor_units += plan.tier_units(side, tier.max(plan.floor(self.layer, side)));
        }
    }
}

/// The room that a number of layers need, and whether a storage has it.
#[derive(Debug)]
pub(super) struct Room<'a> {
    plan: &'a Plan,
    /// Bytes of a storage of fixed length; `None` for one that grows.
    fixed: Option<usize>,
    /// Bytes of a storage that grows.
    held: usize,
    /// Bytes of a buffer of fixed length in which the layer that lacked the most room fits; 0 where all do.
    needed: u64,
}

impl Room<'_> {
    /// Adds a layer.
    pub fn add(&mut self, need: &LayerNeed) {
        let plan = self.plan;
        let used = need.span_units + plan.hot_units(need.n_hot);
        let held = used.saturating_mul(plan.unit_bytes).saturating_add(need.n_spans * plan.record_bytes);
        self.held = self.held.saturating_add(held);
        let Some(bytes) = self.fixed else { return };
        // While spans can still be demoted, the budget leaves room for the whole recent window.
        let units = if need.span_units > need.floor_units {
            need.span_units + plan.hot_units(plan.hot_len)
        } else {
            used
        };
        let held = units * plan.unit_bytes + need.n_spans * plan.record_bytes;
        if units > plan.fixed_quota(need.layer, bytes) || held > plan.layer_share(need.layer, bytes) {
            self.needed =
                self.needed.max(bytes_for(plan, need.layer, units, need.n_spans)).max(bytes as u64 + 1);
        }
    }
}

/// Bytes of a buffer in which `layer` may hold `units` units and `n_spans` records.
fn bytes_for(plan: &Plan, layer: usize, units: usize, n_spans: usize) -> u64 {
    let [unit, record, floor] =
        [plan.unit_bytes, plan.record_bytes, plan.floor_units(layer) * plan.unit_bytes].map(|n| n as u64);
    let hot = plan.hot_units(plan.hot_len) as u64 * unit;
    let units = units as u64 * unit;
    // With a share of x, records are kept for (x - hot)/(floor + record) + 1 spans at the most; the rest
    // must be enough for the units.
    let share = (units + record).saturating_mul(floor + record).saturating_sub(hot.saturating_mul(record));
    let share = share.div_ceil(floor.max(1)).max(units + record).max(hot);
    let share = share.max(units + n_spans as u64 * record);
    plan.bytes_for_share(layer, share).max(plan.minimum_bytes() as u64)
}

impl<S: Storage> Cache<S> {
    /// This cache's room, nothing being in it.
    pub(super) fn room<'a>(&self, plan: &'a Plan) -> Room<'a> {
        let fixed = (!S::GROWS).then_some(self.storage.bytes().len());
        Room { plan, fixed, held: plan.fixed_bytes(), needed: 0 }
    }

    /// Empties the cache if `room` is there or can be made; leaves it as it is if not.
    pub(super) fn start_over(&mut self, room: &Room<'_>) -> Result<(), Error> {
        let got = self.storage.bytes().len();
        if room.needed > 0 {
            return Err(Error::Room { needed: room.needed, got: got as u64 });
        }
        if got < room.held {
            let more = room.held.saturating_sub(self.pool.used_bytes(&self.plan));
            if !self.pool.make_room(&self.plan, &mut self.storage, more) {
                return Err(Error::Grow { needed: figure(room.held), got: figure(got) });
            }
        }
        self.clear();
        Ok(())
    }

    /// Takes the units of a recent window of `n_hot` tokens; the rest of the layer's state is empty.
    pub(super) fn claim_recent(&mut self, layer: usize, n_hot: usize) -> Result<LayerState, Error> {
        let plan = self.plan;
        for side in [&plan.key, &plan.value] {
            for slot in 0..side.plane_units(8, n_hot) {
                let id = self.pool.take_unit(&plan, &mut self.storage);
                let id = id.ok_or_else(|| self.grow_error(plan.unit_bytes))?;
                let bytes = storage::layer_mut(&plan, self.storage.bytes_mut(), layer);
                put_u32(bytes, side.hot_ids + 4 * slot, id);
            }
        }
        Ok(LayerState { n_hot, ..LayerState::EMPTY })
    }

    /// Takes the record and the units of the layer's next newer span.
    pub(super) fn claim_span(
        &mut self,
        state: &mut LayerState,
        start: usize,
        count: usize,
        tiers: [usize; 2],
    ) -> Result<u32, Error> {
        let plan = self.plan;
        let record = self.pool.take_record(&plan, &mut self.storage);
        let record = record.ok_or_else(|| self.grow_error(plan.record_bytes))?;
        let head = SpanHead { next: NONE, start, count, key_tier: tiers[0], value_tier: tiers[1] };
        head.write(self.record_mut(record));
        for side in [Side::Key, Side::Value] {
            let n_units = plan.tier_units(side, head.tier(side));
            let ids = self.take_units(n_units.min(MAX_SPAN_UNITS))?;
            self.put_ids(record, plan.side(side), &ids);
            state.span_units += n_units;
        }
        self.link_newest(state, record, &head);
        Ok(record)
    }
}
