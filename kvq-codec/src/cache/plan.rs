//! The storage plan: how many bytes each thing takes and where in the buffer it lies.
//!
//! ```text
//! layer states | storage units, growing up → …  … ← span records, growing down
//! ```
//!
//! A *storage unit* has room for one bit of every key (or value) of one span in one layer; a plane of
//! width `w` takes `w` units, each with the rows of consecutive tokens, block by block. Spans, the recent
//! window and free space are all made of units, so that a demoted span gives back whole units and nothing
//! ever has to be moved. A *span record* holds what a span keeps whatever its tier: which units, scales, centers.

use super::side_plan::SidePlan;
use crate::block::Layout;
use crate::error::{Error, Side, figure};
use crate::policy::{Budget, EdgeLayers, MAX_TIERS, N_TIERS, Policy};
use crate::shape::KvShape;

/// The most storage units of one side of a span.
pub(crate) const MAX_SPAN_UNITS: usize = 16;

/// The most tokens in a span.
pub(crate) const MAX_SPAN: usize = 64;

/// Bytes of a layer's counters: eight numbers and a cursor per side and tier.
const COUNTER_BYTES: usize = 4 * (8 + 2 * MAX_TIERS);

/// Bytes at the start of a span record: next, start, count, tiers.
pub(crate) const RECORD_HEAD_BYTES: usize = 12;

/// What a compression budget sets aside for the cache's struct. Its size differs with the width of a pointer,
/// and spans must be demoted at the same lengths everywhere.
const STRUCT_BYTES: usize = 512;
const _: () = assert!(size_of::<super::KvCache<'static>>() <= STRUCT_BYTES);

/// Length from which a compression budget holds; up to it, the bytes of this length may be used.
pub const COMPRESSION_FROM_TOKENS: usize = 1024;

/// All sizes and offsets that follow from a shape and a policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub shape: KvShape,
    pub policy: Policy,
    pub span_len: usize,
    /// Tokens that the recent window holds before the oldest span of it is packed.
    pub hot_len: usize,
    pub n_sink: usize,
    pub key: SidePlan,
    pub value: SidePlan,
    pub unit_bytes: usize,
    pub record_bytes: usize,
    pub layer_bytes: usize,
    /// Units kept free for a span's conversion.
    pub spare_units: usize,
}

const UNEQUAL_WIDTHS: &str = "span_len is too short for key_head_dim and value_head_dim so far apart";

const TOO_LARGE: &str = "n_sink, recent_len and the shape need more bytes than this machine can address";

/// Whether what does not grow with the length takes `most` bytes at the most. Sizes are computed in the machine's
/// words, where 32 bits would not hold the largest shapes.
const fn fits(shape: &KvShape, policy: &Policy, most: u64) -> bool {
    let values = shape.n_kv_heads as u64 * (shape.key_head_dim + shape.value_head_dim) as u64;
    let tokens = policy.n_sink as u64 + policy.recent_len as u64 + 4 * policy.span_len as u64;
    // 8-bit rows, exponents, and units of which half may be empty: less than four bytes per value.
    4 * values * tokens * shape.n_layers as u64 <= most
}

/// Takes `bytes` at `*at`.
const fn take(at: &mut usize, bytes: usize) -> usize {
    let offset = *at;
    *at += bytes;
    offset
}

impl Plan {
    pub const fn new(shape: KvShape, policy: Policy) -> Result<Self, Error> {
        if let Err(e) = shape.check() {
            return Err(e);
        }
        if let Err(e) = policy.check() {
            return Err(e);
        }
        if !fits(&shape, &policy, isize::MAX as u64) {
            return Err(Error::Policy(TOO_LARGE));
        }
        let span_len = policy.span_len as usize;
        let mut key = SidePlan::new(shape.n_kv_heads, shape.key_head_dim);
        let mut value = SidePlan::new(shape.n_kv_heads, shape.value_head_dim);
        let (k, v) = (key.token_bytes(1), value.token_bytes(1));
        let unit_bytes = span_len * if k < v { k } else { v };
        // A free unit links to the next one, and 8-bit rows of both sides must fit.
        if unit_bytes < 4 || key.token_bytes(8) > unit_bytes || value.token_bytes(8) > unit_bytes {
            return Err(Error::Policy(UNEQUAL_WIDTHS));
        }
        key.fit_units(unit_bytes, span_len, &policy.key_tiers);
        value.fit_units(unit_bytes, span_len, &policy.value_tiers);
        if key.max_units > MAX_SPAN_UNITS || value.max_units > MAX_SPAN_UNITS {
            return Err(Error::Policy(UNEQUAL_WIDTHS));
        }
        let mut plan = Self {
            shape,
            policy,
            span_len,
            hot_len: policy.recent_len as usize + span_len,
            n_sink: policy.n_sink as usize,
            key,
            value,
            unit_bytes,
            record_bytes: 0,
            layer_bytes: 0,
            spare_units: 0,
        };
        plan.lay_out();
        Ok(plan)
    }

    const fn lay_out(&mut self) {
        let mut at = COUNTER_BYTES;
        self.key.hot_ids = take(&mut at, 4 * self.hot_units_of(&self.key, self.hot_len));
        self.value.hot_ids = take(&mut at, 4 * self.hot_units_of(&self.value, self.hot_len));
        self.key.hot_exponents = take(&mut at, 2 * self.hot_len * self.key.n_blocks);
        self.value.hot_exponents = take(&mut at, 2 * self.hot_len * self.value.n_blocks);
        self.key.sink_exponents = take(&mut at, 2 * self.n_sink * self.key.n_blocks);
        self.value.sink_exponents = take(&mut at, 2 * self.n_sink * self.value.n_blocks);
        self.key.sink_rows = take(&mut at, self.n_sink * self.key.row_bytes());
        self.value.sink_rows = take(&mut at, self.n_sink * self.value.row_bytes());
        self.layer_bytes = at;

        let mut at = RECORD_HEAD_BYTES;
        self.key.ids = take(&mut at, 4 * self.key.max_units);
        self.value.ids = take(&mut at, 4 * self.value.max_units);
        self.key.bases = take(&mut at, 2 * self.key.n_blocks);
        self.value.bases = take(&mut at, 2 * self.value.n_blocks);
        if self.has_centers() {
            self.key.center_exponents = take(&mut at, 2 * self.key.n_blocks);
            self.key.center_rows = take(&mut at, self.key.token_bytes(4));
        }
        self.key.scales = take(&mut at, self.span_len * self.key.n_blocks);
        self.value.scales = take(&mut at, self.span_len * self.value.n_blocks);
        self.record_bytes = at;

        let mut t = 0;
        while t < N_TIERS {
            self.spare_units = max(self.spare_units, self.spare_for(self.policy.key_tiers[t], &self.key));
            self.spare_units = max(self.spare_units, self.spare_for(self.policy.value_tiers[t], &self.value));
            t += 1;
        }
    }

    /// Units that a conversion into `tier` needs before it gives any back; 8-bit spans keep theirs.
    const fn spare_for(&self, tier: Option<crate::Tier>, side: &SidePlan) -> usize {
        match tier {
            Some(tier) if !matches!(tier.layout, Layout::Q8) => side.units(tier.layout, self.span_len),
            _ => 0,
        }
    }

    /// Whether any key tier stores residuals of a center.
    pub const fn has_centers(&self) -> bool {
        let mut t = 0;
        while t < N_TIERS {
            if let Some(tier) = self.policy.key_tiers[t]
                && tier.layout.is_centered()
            {
                return true;
            }
            t += 1;
        }
        false
    }

    pub const fn side(&self, side: Side) -> &SidePlan {
        match side {
            Side::Key => &self.key,
            Side::Value => &self.value,
        }
    }

    /// Which block of which side is number `part` of all, keys first.
    pub fn split_block(&self, part: usize) -> (Side, usize) {
        part.checked_sub(self.key.n_blocks).map_or((Side::Key, part), |block| (Side::Value, block))
    }

    /// Values of the widest block.
    pub const fn most_block_values(&self) -> usize {
        max(self.key.heads_per_block * self.key.head_dim, self.value.heads_per_block * self.value.head_dim)
    }

    /// The layout of a tier; tiers that do not exist read as the first.
    pub const fn layout(&self, side: Side, tier: usize) -> Layout {
        let tiers = self.policy.tiers(side);
        match tiers[if tier < N_TIERS { tier } else { 0 }] {
            Some(tier) => tier.layout.available(),
            None => match tiers[0] {
                Some(first) => first.layout.available(),
                None => Layout::Q8,
            },
        }
    }

    pub const fn tier_units(&self, side: Side, tier: usize) -> usize {
        self.side(side).units(self.layout(side, tier), self.span_len)
    }

    const fn edge_layers(&self) -> EdgeLayers {
        if N_TIERS > 1 { self.policy.edge_layers } else { EdgeLayers::NONE }
    }

    /// Whether the spans of `layer` stay in their first tiers.
    pub const fn is_edge(&self, layer: usize) -> bool {
        let EdgeLayers { first, last } = self.edge_layers();
        layer < first as usize || layer >= self.shape.n_layers.saturating_sub(last as usize)
    }

    /// How many layers are such.
    const fn n_edge(&self) -> usize {
        let EdgeLayers { first, last } = self.edge_layers();
        let n = first as usize + last as usize;
        if n < self.shape.n_layers { n } else { self.shape.n_layers }
    }

    /// The last tier that pressure may move spans of `layer` into.
    pub const fn floor(&self, layer: usize, side: Side) -> usize {
        if self.is_edge(layer) { 0 } else { self.policy.floor(side) }
    }

    /// Units of a span of `layer` whose two sides are as far down as they go.
    pub const fn floor_units(&self, layer: usize) -> usize {
        self.tier_units(Side::Key, self.floor(layer, Side::Key))
            + self.tier_units(Side::Value, self.floor(layer, Side::Value))
    }

    /// Bytes of such a span and its record.
    const fn floor_bytes(&self, layer: usize) -> usize {
        self.floor_units(layer) * self.unit_bytes + self.record_bytes
    }

    /// The same of one span in every layer.
    const fn all_floor_bytes(&self) -> usize {
        let (mut bytes, mut layer) = (0, 0);
        while layer < self.shape.n_layers {
            bytes += self.floor_bytes(layer);
            layer += 1;
        }
        bytes
    }

    /// Bytes of a full recent window's units.
    const fn hot_bytes(&self) -> usize {
        self.hot_units(self.hot_len) * self.unit_bytes
    }

    const fn hot_units_of(&self, side: &SidePlan, n: usize) -> usize {
        side.plane_units(8, n)
    }

    /// Units of a recent window of `n` tokens.
    pub const fn hot_units(&self, n: usize) -> usize {
        self.hot_units_of(&self.key, n) + self.hot_units_of(&self.value, n)
    }

    /// Bytes before the first unit.
    pub const fn fixed_bytes(&self) -> usize {
        self.shape.n_layers * self.layer_bytes
    }

    /// Bytes that `layer` may use for units and records, of a buffer of `bytes`: the same for every layer, or,
    /// beside edge layers, room for as many spans in each, and an equal part of the rest.
    pub const fn layer_share(&self, layer: usize, bytes: usize) -> usize {
        let n_layers = max(self.shape.n_layers, 1);
        let shared = bytes.saturating_sub(self.fixed_bytes() + self.spare_units * self.unit_bytes);
        if self.n_edge() == 0 {
            return shared / n_layers;
        }
        let rest = shared.saturating_sub(n_layers * self.base_bytes());
        let all = max(self.all_floor_bytes(), 1);
        self.base_bytes() + rest / all * self.floor_bytes(layer) + rest % all / n_layers
    }

    /// Bytes of a layer without spans, beside edge layers: a full recent window, and what rounding takes.
    const fn base_bytes(&self) -> usize {
        self.hot_bytes() + self.record_bytes + self.unit_bytes
    }

    /// Bytes of a buffer of which `layer` may use `share`.
    pub const fn bytes_for_share(&self, layer: usize, share: u64) -> u64 {
        let fixed = (self.fixed_bytes() + self.spare_units * self.unit_bytes) as u64;
        let n_layers = self.shape.n_layers as u64;
        if self.n_edge() == 0 {
            return fixed.saturating_add(share.saturating_mul(n_layers));
        }
        let base = self.base_bytes() as u64;
        let n_spans = share.saturating_sub(base).div_ceil(max(self.floor_bytes(layer), 1) as u64);
        let spans = n_spans.saturating_mul(self.all_floor_bytes() as u64);
        fixed.saturating_add(n_layers.saturating_mul(base)).saturating_add(spans)
    }

    /// Span records of `layer` for which a buffer of fixed length keeps room.
    pub const fn reserved_records(&self, layer: usize, bytes: usize) -> usize {
        let share = self.layer_share(layer, bytes).saturating_sub(self.hot_bytes());
        share / max(self.floor_bytes(layer), 1) + 1
    }

    /// Units that `layer` may hold in a buffer of fixed length.
    pub const fn fixed_quota(&self, layer: usize, bytes: usize) -> usize {
        let records = self.reserved_records(layer, bytes) * self.record_bytes;
        self.layer_share(layer, bytes).saturating_sub(records) / max(self.unit_bytes, 1)
    }

    /// Units that `layer` may hold at `len` tokens with `n_spans` spans, for a compression budget: edge layers
    /// what they need, the others equal parts of what that leaves.
    pub const fn compression_quota(&self, layer: usize, len: usize, n_spans: usize) -> usize {
        let Budget::Compression(hundredths) = self.policy.budget else { return usize::MAX };
        if self.is_edge(layer) {
            return usize::MAX;
        }
        // What is demoted stays demoted: a short context must not be squeezed for a ratio promised later.
        let len = max(len, COMPRESSION_FROM_TOKENS);
        // Records take their room from units, which do not shrink: count all that there will be by then.
        let n_spans = max(
            n_spans,
            COMPRESSION_FROM_TOKENS.saturating_sub(self.policy.recent_len as usize) / max(self.span_len, 1),
        );
        let fp16 = len as u64 * self.shape.fp16_bytes_per_token() as u64;
        let allowed = divide(fp16 * 100, hundredths);
        // Storage grows in steps of 1/512, and units freed by a demotion may wait for the next span: leave
        // room for both.
        let allowed = allowed - allowed / 256;
        // As much as a machine of 32 bits can hold, where fp16 would need more.
        let allowed = if allowed > usize::MAX as u64 { usize::MAX } else { allowed as usize };
        let allowed = allowed.saturating_sub(STRUCT_BYTES);
        let shared = allowed.saturating_sub(self.fixed_bytes() + self.spare_units * self.unit_bytes);
        let edge_span = self.tier_units(Side::Key, 0) + self.tier_units(Side::Value, 0);
        let edge = self.hot_bytes() + n_spans * (edge_span * self.unit_bytes + self.record_bytes);
        let left = shared.saturating_sub(self.n_edge().saturating_mul(edge));
        let share = left / max(self.shape.n_layers - self.n_edge(), 1);
        share.saturating_sub(n_spans * self.record_bytes) / max(self.unit_bytes, 1)
    }

    /// The most tokens that every layer can hold in a buffer of `bytes`, everything at the floor.
    pub const fn capacity(&self, bytes: usize) -> usize {
        let (mut least, mut layer) = (usize::MAX, 0);
        while layer < self.shape.n_layers {
            let tokens = self.layer_capacity(layer, bytes);
            if tokens < least {
                least = tokens;
            }
            // All alike: one is as good as any.
            layer += if self.n_edge() == 0 { self.shape.n_layers } else { 1 };
        }
        least
    }

    const fn layer_capacity(&self, layer: usize, bytes: usize) -> usize {
        let (quota, max_spans) = (self.fixed_quota(layer, bytes), self.reserved_records(layer, bytes));
        let hot_full = self.hot_units(self.hot_len);
        if quota < hot_full {
            return self.n_sink + self.hot_capacity(quota);
        }
        // What evicts drops a span rather than let the window behind a new one be short of room.
        let last = if matches!(self.policy.when_full, crate::WhenFull::Evict) { 0 } else { 1 };
        let mut spans = (quota - hot_full) / max(self.floor_units(layer), 1) + last;
        if spans > max_spans {
            spans = max_spans;
        }
        let left = quota.saturating_sub(spans * self.floor_units(layer));
        self.n_sink + spans * self.span_len + self.hot_capacity(left)
    }

    /// Whether layers of different capacity hold no more tokens than the least of them.
    pub const fn has_unequal_layers(&self) -> bool {
        self.n_edge() > 0 && self.n_edge() < self.shape.n_layers
    }

    /// Tokens of the recent window that fit in `units`.
    const fn hot_capacity(&self, units: usize) -> usize {
        let mut n = self.hot_len;
        while n > 0 && self.hot_units(n) > units {
            n -= 1;
        }
        n
    }

    pub const fn minimum_bytes(&self) -> usize {
        let (mut least, mut layer) = (0, 0);
        while layer < self.shape.n_layers {
            // What evicts must hold the span that it packs, beside the window that is full again by the next one.
            let span = match self.policy.when_full {
                crate::WhenFull::Evict => self.floor_units(layer) * self.unit_bytes,
                _ => 0,
            };
            let share = self.hot_bytes() + span + 2 * self.record_bytes + self.unit_bytes;
            let bytes = self.bytes_for_share(layer, share as u64);
            if bytes > least {
                least = bytes;
            }
            // All alike: one is as good as any.
            layer += if self.n_edge() == 0 { self.shape.n_layers } else { 1 };
        }
        if least > usize::MAX as u64 { usize::MAX } else { least as usize }
    }
}

/// `x / divisor`, where a divisor of 0 counts as 1. A 64-bit division takes 900 bytes of flash on a machine of 32 bits.
const fn divide(x: u64, divisor: u16) -> u64 {
    let divisor = if divisor == 0 { 1 } else { divisor as u32 };
    let (mut quotient, mut rest, mut shift) = (0, 0, 64);
    while shift > 0 {
        shift -= 16;
        let part = rest << 16 | (x >> shift) as u32 & 0xffff;
        quotient = quotient << 16 | (part / divisor) as u64;
        rest = part % divisor;
    }
    quotient
}

pub(crate) const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// The least bytes with which a cache of this shape and policy works: the fixed parts and one full
/// recent window in every layer, and one span where the policy evicts.
///
/// # Errors
/// [`Error::Shape`], [`Error::Policy`] or [`Error::Feature`].
///
/// # Examples
/// ```
/// use kvq_codec::{Backend, KvCache, KvShape, Policy, minimum_bytes};
///
/// const SHAPE: KvShape = KvShape::new(1, 1, 32);
/// const BYTES: usize = match minimum_bytes(SHAPE, Policy::EIGHT_BIT) {
///     Ok(bytes) => bytes,
///     Err(_) => panic!("shape or policy"),
/// };
/// assert!(KvCache::new(SHAPE, Policy::EIGHT_BIT, Backend::SCALAR, &mut [0; BYTES]).is_ok());
/// assert!(KvCache::new(SHAPE, Policy::EIGHT_BIT, Backend::SCALAR, &mut [0; BYTES - 1]).is_err());
/// ```
pub const fn minimum_bytes(shape: KvShape, policy: Policy) -> Result<usize, Error> {
    match Plan::new(shape, policy) {
        Ok(plan) => Ok(plan.minimum_bytes()),
        Err(e) => Err(e),
    }
}

/// The most tokens that a buffer of `bytes` is sure to hold, with every span demoted as far as the ladder goes.
/// Tiers that are entered by age alone may make room for more.
///
/// # Errors
/// [`Error::Shape`], [`Error::Policy`], [`Error::Feature`], or [`Error::BufferTooSmall`] below [`minimum_bytes`].
///
/// # Examples
/// ```
/// use kvq_codec::{KvShape, Policy, WhenFull, capacity_tokens};
///
/// const SHAPE: KvShape = KvShape::new(3, 4, 32);
/// const POLICY: Policy = Policy::FOUR_X.with_byte_budget(WhenFull::Evict);
/// const CONTEXT: usize = match capacity_tokens(SHAPE, POLICY, 256 * 1024) {
///     Ok(tokens) => tokens,
///     Err(_) => panic!("see minimum_bytes"),
/// };
/// assert!(CONTEXT >= 4 * (256 * 1024 / SHAPE.fp16_bytes_per_token()));
/// ```
pub const fn capacity_tokens(shape: KvShape, policy: Policy, bytes: usize) -> Result<usize, Error> {
    match Plan::new(shape, policy) {
        Ok(plan) if bytes < plan.minimum_bytes() => {
            Err(Error::BufferTooSmall { needed: figure(plan.minimum_bytes()), got: figure(bytes) })
        }
        Ok(plan) => Ok(plan.capacity(bytes)),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_is_that_of_the_machine() {
        for x in [0, 1, 99, 65_535, 65_536, 0x1234_5678_9abc_def0, u64::MAX] {
            for divisor in [1, 2, 3, 100, 400, 433, 65_535] {
                assert_eq!(divide(x, divisor), x / u64::from(divisor), "{x} / {divisor}");
            }
            assert_eq!(divide(x, 0), x);
        }
    }

    #[test]
    fn what_32_bits_cannot_address_is_refused() {
        let most = i32::MAX as u64;
        let policy = Policy { n_sink: 4096, recent_len: 4096, ..Policy::FOUR_X };
        assert!(!fits(&KvShape::new(u16::MAX as usize, u16::MAX as usize, 256), &policy, most));
        assert!(fits(&KvShape::new(80, 8, 128), &Policy::FOUR_X, most));
        // More than the plan counts, but not much more.
        for (shape, policy) in [
            (KvShape::new(1, 1, 4), policy),
            (KvShape::new(3, 70, 12), Policy::SIX_X),
            (KvShape::new(2, 9, 128).with_value_head_dim(64), Policy { n_sink: 9, ..Policy::EIGHT_BIT }),
        ] {
            if matches!(policy.check(), Err(Error::Feature(_))) {
                continue;
            }
            let bytes = Plan::new(shape, policy).unwrap().minimum_bytes() as u64;
            assert!(fits(&shape, &policy, 16 * bytes), "{shape:?} is refused too early");
            assert!(!fits(&shape, &policy, bytes), "{shape:?} needs more than was thought");
        }
    }
}
