//! Where every byte goes.

use super::Cache;
use super::layer::SpanHead;
use super::storage::{NONE, Storage};
use crate::block::Layout;
use crate::error::{Error, Side};
use crate::policy::MAX_TIERS;

/// Every byte of a cache by purpose; the fields add up to the storage's length plus the struct's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MemoryReport {
    /// Codes of packed spans, in whole units.
    pub code_bytes: usize,
    /// Scale bytes and base exponents of packed spans.
    pub scale_bytes: usize,
    /// Key centers of packed spans.
    pub center_bytes: usize,
    /// Units and exponents of the recent window's tokens.
    pub recent_bytes: usize,
    /// Rows and exponents of the sinks.
    pub sink_bytes: usize,
    /// Counters, unit tables, span heads, and the struct itself.
    pub header_bytes: usize,
    /// Free units kept for the conversion of a span.
    pub scratch_bytes: usize,
    /// Everything else: free units and records, the gap between them, empty slots.
    pub unused_bytes: usize,
}

impl MemoryReport {
    /// All bytes held.
    pub const fn total(&self) -> usize {
        self.code_bytes
            + self.scale_bytes
            + self.center_bytes
            + self.recent_bytes
            + self.sink_bytes
            + self.header_bytes
            + self.scratch_bytes
            + self.unused_bytes
    }
}

/// Tokens of one layer that share a layout on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TierUse {
    /// The layout.
    pub layout: Layout,
    /// Tokens in it.
    pub tokens: usize,
}

impl<S: Storage> Cache<S> {
    /// Where every byte goes.
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Policy};
    ///
    /// let mut memory = [0; 24 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// assert_eq!(cache.memory().total(), 24 * 1024 + size_of_val(&cache));
    /// # Ok::<(), kvq_codec::Error>(())
    /// ```
    pub fn memory(&self) -> MemoryReport {
        let plan = &self.plan;
        let (k, v) = (&plan.key, &plan.value);
        let blocks = k.n_blocks + v.n_blocks;
        let rows = k.row_bytes() + v.row_bytes();
        let mut report = MemoryReport::default();
        let tables = k.hot_exponents.saturating_sub(k.hot_ids);
        let counters = k.hot_ids;
        for layer in 0..plan.shape.n_layers {
            let state = self.layer(layer);
            report.code_bytes += state.span_units * plan.unit_bytes;
            report.recent_bytes += plan.hot_units(state.n_hot) * plan.unit_bytes + 2 * state.n_hot * blocks;
            report.sink_bytes += state.n_sink * (2 * blocks + rows);
            report.header_bytes += counters + tables;
        }
        let records = self.pool.used_records();
        let scales = plan.span_len * blocks + 2 * blocks;
        let ids = 4 * (k.max_units + v.max_units);
        let head = super::plan::RECORD_HEAD_BYTES + ids;
        report.scale_bytes = records * scales;
        report.center_bytes = records * plan.record_bytes.saturating_sub(scales + head);
        report.header_bytes += records * head + size_of::<Self>();
        report.scratch_bytes = self.pool.free_units().min(plan.spare_units) * plan.unit_bytes;
        let all = self.storage.bytes().len() + size_of::<Self>();
        report.unused_bytes = all.saturating_sub(report.total());
        report
    }

    /// How many tokens of `layer` are stored in each layout, for keys or for values, oldest first: entry 0
    /// is the sinks, then the tiers from the last to the first, then the recent window.
    ///
    /// # Errors
    /// [`Error::Layer`].
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Layout, Policy, Side};
    ///
    /// let mut memory = [0; 24 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// cache.append(0, 90, &[0.5; 2 * 90 * 32], &[1.0; 2 * 90 * 32])?;
    /// let map = cache.tier_map(0, Side::Key)?;
    /// let held = map.map(|tier| (tier.layout, tier.tokens)).into_iter().filter(|(_, tokens)| *tokens > 0);
    /// // Sinks, one span, and the recent window.
    /// assert!(held.eq([(Layout::Q8, 4), (Layout::T4, 64), (Layout::Q8, 22)]));
    /// # Ok::<(), kvq_codec::Error>(())
    /// ```
    pub fn tier_map(&self, layer: usize, side: Side) -> Result<[TierUse; MAX_TIERS + 2], Error> {
        self.check_layer(layer)?;
        let state = self.layer(layer);
        let mut map = [TierUse { layout: Layout::Q8, tokens: 0 }; MAX_TIERS + 2];
        for (i, entry) in map.iter_mut().enumerate().skip(1).take(MAX_TIERS) {
            entry.layout = self.plan.layout(side, MAX_TIERS - i);
        }
        let mut at = state.head;
        while at != NONE {
            let head = SpanHead::read(self.record(at));
            if let Some(entry) = map.get_mut(MAX_TIERS.saturating_sub(head.tier(side))) {
                entry.tokens += head.count;
            }
            at = head.next;
        }
        if let Some(sinks) = map.first_mut() {
            sinks.tokens = state.n_sink;
        }
        if let Some(recent) = map.last_mut() {
            recent.tokens = state.n_hot;
        }
        Ok(map)
    }
}
