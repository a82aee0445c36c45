//! What the plan says of one side: blocks, planes, units, and where its parts lie in states and records.

use super::plan::max;
use crate::block::{Layout, MAX_PLANES, PlanePlace, Planes};
use crate::pack::plane_row_bytes;
use crate::policy::{MAX_TIERS, N_TIERS};

/// The fewest values that share a scale; narrower heads are stored several to a block.
const MIN_BLOCK_VALUES: usize = 32;

/// One side (keys or values) of the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SidePlan {
    pub head_dim: usize,
    pub heads_per_block: usize,
    pub n_blocks: usize,
    n_heads: usize,
    /// `log2` of the tokens whose rows fit a unit, for planes of width 1, 2, 4 and 8.
    tokens_log2: [u32; 4],
    /// Units that a span takes at the most.
    pub max_units: usize,
    /// Unit ids and 8-bit exponents of the recent window, and the sinks, within a layer state.
    pub hot_ids: usize,
    pub hot_exponents: usize,
    pub sink_exponents: usize,
    pub sink_rows: usize,
    /// Unit ids, base exponents, centers and scale bytes within a span record.
    pub ids: usize,
    pub bases: usize,
    pub center_exponents: usize,
    pub center_rows: usize,
    pub scales: usize,
}

/// Index of a plane width in per-width tables.
const fn width_index(width: u8) -> usize {
    width.trailing_zeros() as usize
}

impl SidePlan {
    pub const fn new(n_heads: usize, head_dim: usize) -> Self {
        let heads_per_block = max(MIN_BLOCK_VALUES.div_ceil(max(head_dim, 1)), 1);
        Self {
            head_dim,
            heads_per_block,
            n_blocks: n_heads.div_ceil(heads_per_block),
            n_heads,
            tokens_log2: [0; 4],
            max_units: 0,
            hot_ids: 0,
            hot_exponents: 0,
            sink_exponents: 0,
            sink_rows: 0,
            ids: 0,
            bases: 0,
            center_exponents: 0,
            center_rows: 0,
            scales: 0,
        }
    }

    /// Values in block `block`; the last may hold fewer heads.
    #[cfg_attr(kvq_small, inline(never))]
    pub const fn block_values(&self, block: usize) -> usize {
        let first = block * self.heads_per_block;
        let heads = if first + self.heads_per_block <= self.n_heads {
            self.heads_per_block
        } else {
            self.n_heads.saturating_sub(first)
        };
        heads * self.head_dim
    }

    /// Bytes of one token's row of a plane, all blocks.
    pub const fn token_bytes(&self, width: u8) -> usize {
        let full = plane_row_bytes(width, self.heads_per_block * self.head_dim);
        let last = plane_row_bytes(width, self.block_values(self.n_blocks - 1));
        (self.n_blocks - 1) * full + last
    }

    /// Tokens whose rows of a plane fit a unit.
    pub const fn tokens_per_unit(&self, width: u8) -> usize {
        1 << self.tokens_log2[width_index(width) & 3]
    }

    /// The unit of a plane that holds token `t` of a span, and the token's place in it.
    pub const fn split_token(&self, width: u8, t: usize) -> (usize, usize) {
        let log2 = self.tokens_log2[width_index(width) & 3];
        (t >> log2, t & ((1 << log2) - 1))
    }

    /// Units of a plane's `n` tokens.
    pub const fn plane_units(&self, width: u8, n: usize) -> usize {
        let log2 = self.tokens_log2[width_index(width) & 3];
        (n + (1 << log2) - 1) >> log2
    }

    /// Where the rows of `block` begin within a unit.
    pub const fn block_offset(&self, width: u8, block: usize) -> usize {
        block * self.tokens_per_unit(width) * plane_row_bytes(width, self.heads_per_block * self.head_dim)
    }

    /// Where the planes of `layout` lie, for `block`.
    #[inline]
    pub fn planes(&self, layout: Layout, block: usize, span_len: usize) -> Planes {
        let n_values = self.block_values(block);
        let mut planes = [PlanePlace::default(); MAX_PLANES];
        let mut first_unit = 0;
        for (&width, place) in layout.planes().iter().zip(&mut planes) {
            *place = PlanePlace {
                offset: self.block_offset(width, block) as u32,
                row_bytes: plane_row_bytes(width, n_values) as u16,
                first_unit: first_unit as u8,
                tokens_log2: self.tokens_log2[width_index(width) & 3] as u8,
            };
            first_unit += self.plane_units(width, span_len);
        }
        Planes::new(planes, layout.planes().len())
    }

    /// Units that a span takes in `layout`.
    #[inline(never)]
    pub const fn units(&self, layout: Layout, span_len: usize) -> usize {
        let planes = layout.planes();
        let mut units = 0;
        let mut p = 0;
        while p < planes.len() {
            units += self.plane_units(planes[p], span_len);
            p += 1;
        }
        units
    }

    /// Chooses how many tokens share a unit, and counts the units of the widest tier.
    pub const fn fit_units(
        &mut self,
        unit_bytes: usize,
        span_len: usize,
        tiers: &[Option<crate::Tier>; MAX_TIERS],
    ) {
        let mut i = 0;
        while i < 4 {
            let mut tokens = span_len;
            while tokens > 1 && tokens * self.token_bytes(1 << i) > unit_bytes {
                tokens /= 2;
            }
            self.tokens_log2[i] = tokens.trailing_zeros();
            i += 1;
        }
        let mut t = 0;
        while t < N_TIERS {
            if let Some(tier) = tiers[t] {
                let units = self.units(tier.layout, span_len);
                if units > self.max_units {
                    self.max_units = units;
                }
            }
            t += 1;
        }
    }

    /// Where the 8-bit rows of the sinks of `block` begin within a layer state.
    pub const fn sink_row(&self, n_sink: usize, block: usize) -> usize {
        self.sink_rows + n_sink * block * self.heads_per_block * self.head_dim
    }

    /// Where the scale byte of token `t` in `block` lies within a span record.
    pub const fn scale(&self, span_len: usize, block: usize, t: usize) -> usize {
        self.scales + block * span_len + t
    }

    /// Bytes of a row of 8-bit codes, all blocks.
    pub const fn row_bytes(&self) -> usize {
        self.n_heads * self.head_dim
    }
}
