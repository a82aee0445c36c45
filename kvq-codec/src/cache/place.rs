//! What attention walks over: heads of a layer, and stretches of their tokens.

use core::ops::Range;

use super::arithmetic::Arithmetic;
use super::layer::LayerState;
use super::plan::Plan;
use super::side_plan::SidePlan;
use super::tile::Tile;
use crate::block::{Layout, Planes, Rows};
use crate::error::Side;
use crate::kernel::HeadRow;
use crate::policy::N_TIERS;

/// A stretch of tokens with one layout per side.
pub(super) struct Segment<'a, A: Arithmetic> {
    /// Position of the first token.
    pub start: usize,
    /// Tokens, at most [`SEGMENT`].
    pub n: usize,
    pub key: Part<'a>,
    pub value: Part<'a>,
    /// The center of the keys and its scale.
    pub center: Option<(Rows<'a>, A::Scale)>,
    /// The span and the head that come next, whose keys are to be fetched meanwhile.
    pub next: Option<(u32, &'a HeadPlace<'a>)>,
}

/// One side of a segment.
pub(super) struct Part<'a> {
    pub row: HeadRow,
    pub layout: Layout,
    pub rows: Rows<'a>,
}

/// What is asked of attention, over the keys and values of some heads.
pub(super) struct Asked<'a> {
    pub layer: usize,
    pub kv_heads: Range<usize>,
    /// New tokens, each with a row of queries.
    pub n_tokens: usize,
    /// The newest positions that each query sees; 0 for all.
    pub window_len: usize,
    /// The positions of each part.
    pub parts: &'a [Range<usize>],
}

impl Asked<'_> {
    /// Attention over all positions, as one part.
    pub const fn new(layer: usize, kv_heads: Range<usize>, n_tokens: usize, window_len: usize) -> Self {
        const ALL: Range<usize> = 0..usize::MAX;
        Self { layer, kv_heads, n_tokens, window_len, parts: core::slice::from_ref(&ALL) }
    }
}

/// What is attended: heads of a layer. The other fields are those of [`Asked`].
pub(super) struct Place<'a> {
    pub layer: usize,
    pub state: LayerState,
    pub n_tokens: usize,
    pub window_len: usize,
    pub parts: &'a [Range<usize>],
    pub heads: &'a [Head<'a>],
}

impl<'a> Place<'a> {
    /// What query row `row` of a head sees of `positions`: from the first, to before the second.
    pub fn visible(&self, row: usize, positions: &Range<usize>) -> (usize, usize) {
        let back = self.n_tokens - 1 - row.checked_rem(self.n_tokens).unwrap_or(0);
        let to = self.state.len - back;
        let from = if self.window_len == 0 { 0 } else { to.saturating_sub(self.window_len) };
        (from.max(positions.start), to.min(positions.end))
    }

    /// Calls `f` for each head with its place, its tiles and its rows of `out`.
    pub fn for_each_head<A: Arithmetic>(
        &self,
        tiles: &mut [Tile<A>],
        out: &mut [A::Out],
        mut f: impl FnMut(usize, &Head<'a>, &mut [Tile<A>], &mut [A::Out]),
    ) {
        let share = |len: usize| len.checked_div(self.heads.len()).unwrap_or(0).max(1);
        let (n_tiles, n_out) = (share(tiles.len()), share(out.len()));
        let parts = tiles.chunks_mut(n_tiles).zip(out.chunks_mut(n_out));
        for (i, (head, (tiles, out))) in self.heads.iter().zip(parts).enumerate() {
            f(i, head, tiles, out);
        }
    }
}

/// Where a KV head's keys and values are.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub key: HeadPlace<'a>,
    pub value: HeadPlace<'a>,
}

impl<'a> Head<'a> {
    pub fn new(plan: &'a Plan, kv_head: usize) -> Self {
        Self {
            key: HeadPlace::new(plan, Side::Key, kv_head),
            value: HeadPlace::new(plan, Side::Value, kv_head),
        }
    }
}

/// A head's block on one side.
#[derive(Clone, Copy)]
pub(super) struct HeadPlace<'a> {
    pub plan: &'a SidePlan,
    pub block: usize,
    pub row: HeadRow,
    /// The layout of each tier, and its planes.
    tiers: [(Layout, Planes); N_TIERS],
}

impl<'a> HeadPlace<'a> {
    pub fn new(cache: &'a Plan, side: Side, kv_head: usize) -> Self {
        let plan = cache.side(side);
        let block = kv_head.checked_div(plan.heads_per_block).unwrap_or(0);
        let within = kv_head.checked_rem(plan.heads_per_block).unwrap_or(0);
        let row = HeadRow {
            block_values: plan.block_values(block),
            offset: within * plan.head_dim,
            head_dim: plan.head_dim,
        };
        let tier = |layout| (layout, plan.planes(layout, block, cache.span_len));
        let mut tiers = [tier(cache.layout(side, 0)); N_TIERS];
        let others = tiers.iter_mut().zip(cache.policy.tiers(side)).enumerate().skip(1);
        for (i, (place, _)) in others.filter(|(_, (_, own))| own.is_some()) {
            *place = tier(cache.layout(side, i));
        }
        Self { plan, block, row, tiers }
    }

    /// The layout of a tier and its planes; a tier that does not exist reads as the first.
    #[inline]
    pub fn tier(&self, tier: usize) -> (Layout, Planes) {
        let [first, ..] = self.tiers;
        self.tiers.get(tier).copied().unwrap_or(first)
    }
}
