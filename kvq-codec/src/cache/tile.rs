//! What attention keeps while its query rows go over a layer, and what it writes on the way.

use crate::kernel::{FoldState, Levels, Queries, SEGMENT, Scores, Sums, TILE, Weights};
use crate::shape::MAX_HEAD_DIM;

/// KV heads that share one walk over the spans in a decode step, one tile each, where a stack has room.
pub(super) const DECODE_TILES: usize = if cfg!(target_pointer_width = "64") { 4 } else { 1 };

/// Query rows that are scored together.
pub(super) struct Tile {
    pub queries: Queries,
    pub lines: [Line; TILE],
}

/// What belongs to one query row.
pub(super) struct Line {
    /// The scale of its 8-bit query over the root of the key head size.
    pub factor: f32,
    pub state: FoldState,
    /// The row sees positions `from..to`.
    pub from: usize,
    pub to: usize,
}

impl Tile {
    /// Nothing but zeros, which take no room in flash; `attend` starts every line before it is used.
    pub const EMPTY: Self = Self {
        queries: Queries::EMPTY,
        lines: [const { Line { factor: 0.0, state: FoldState { max: 0.0, sum: 0.0 }, from: 0, to: 0 } };
            TILE],
    };

    /// The rows in use.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().take(self.queries.n)
    }

    /// Whether any row sees some of the `n` tokens from `start` on.
    pub fn sees(&self, start: usize, n: usize) -> bool {
        self.lines().any(|line| line.from < start + n && line.to > start)
    }
}

/// What one call needs; shared by its heads, since it takes as long to clear as to attend over a few tokens.
pub(super) struct Work {
    /// The query rows of a decode step, which fit one tile for each head.
    pub tiles: [Tile; DECODE_TILES],
    pub segment: SegmentWork,
}

/// A segment's scales, levels, scores, weights and sums, written anew for each.
pub(super) struct SegmentWork {
    pub key_scales: [f32; SEGMENT],
    pub value_scales: [f32; SEGMENT],
    pub scores: Scores,
    pub center_scores: Scores,
    pub weights: Weights,
    pub sums: Sums,
    pub key_levels: Levels,
    pub value_levels: Levels,
    pub center_levels: Levels,
}

impl Work {
    #[inline]
    pub fn new() -> Self {
        Self {
            tiles: [const { Tile::EMPTY }; DECODE_TILES],
            segment: SegmentWork {
                key_scales: [0.0; SEGMENT],
                value_scales: [0.0; SEGMENT],
                scores: [[0; SEGMENT]; TILE],
                center_scores: [[0; SEGMENT]; TILE],
                weights: [[0; SEGMENT]; TILE],
                sums: [[0; MAX_HEAD_DIM]; TILE],
                key_levels: Levels::new(),
                value_levels: Levels::new(),
                center_levels: Levels::new(),
            },
        }
    }
}

impl SegmentWork {
    /// Has the kernels unpack the next segment's levels anew.
    pub fn forget_levels(&mut self) {
        self.key_levels.forget();
        self.value_levels.forget();
        self.center_levels.forget();
    }
}
