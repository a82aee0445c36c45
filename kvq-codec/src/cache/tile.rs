//! What attention keeps while its query rows go over a layer, and what it writes on the way.

use super::arithmetic::Arithmetic;
use crate::kernel::{Levels, Queries, SEGMENT, Scores, Sums, TILE, Weights};
use crate::shape::MAX_HEAD_DIM;

/// KV heads that share one walk over the spans in a decode step, one tile each, where a stack has room.
pub(super) const DECODE_TILES: usize = if cfg!(target_pointer_width = "64") { 4 } else { 1 };

/// Query rows that are scored together.
pub(super) struct Tile<A: Arithmetic> {
    pub queries: Queries,
    pub lines: [Line<A::Row>; TILE],
}

/// What belongs to one query row.
pub(super) struct Line<R> {
    /// The scale of its query and its running softmax.
    pub row: R,
    /// The row sees positions `from..to`.
    pub from: usize,
    pub to: usize,
}

impl<A: Arithmetic> Tile<A> {
    /// Nothing but zeros, which take no room in flash; `attend` starts every line before it is used.
    pub const EMPTY: Self =
        Self { queries: Queries::EMPTY, lines: [const { Line { row: A::NO_ROW, from: 0, to: 0 } }; TILE] };

    /// The rows in use.
    pub fn lines(&self) -> impl Iterator<Item = &Line<A::Row>> {
        self.lines.iter().take(self.queries.n)
    }

    /// As [`lines`](Self::lines), to be written.
    pub fn lines_mut(&mut self) -> impl Iterator<Item = &mut Line<A::Row>> {
        self.lines.iter_mut().take(self.queries.n)
    }

    /// Whether any row sees some of the `n` tokens from `start` on.
    pub fn sees(&self, start: usize, n: usize) -> bool {
        self.lines().any(|line| line.from < start + n && line.to > start)
    }
}

/// What one call needs; shared by its heads, since it takes as long to clear as to attend over a few tokens.
pub(super) struct Work<A: Arithmetic> {
    /// The query rows of a decode step, which fit one tile for each head.
    pub tiles: [Tile<A>; DECODE_TILES],
    pub segment: SegmentWork<A::Scale>,
}

/// A segment's scales, levels, scores, weights and sums, written anew for each.
pub(super) struct SegmentWork<S> {
    pub key_scales: [S; SEGMENT],
    pub value_scales: [S; SEGMENT],
    pub scores: Scores,
    pub center_scores: Scores,
    pub weights: Weights,
    pub sums: Sums,
    pub key_levels: Levels,
    pub value_levels: Levels,
    pub center_levels: Levels,
}

impl<A: Arithmetic> Work<A> {
    #[inline]
    pub fn new() -> Self {
        Self {
            tiles: [const { Tile::EMPTY }; DECODE_TILES],
            segment: SegmentWork {
                key_scales: [A::NO_SCALE; SEGMENT],
                value_scales: [A::NO_SCALE; SEGMENT],
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

impl<S> SegmentWork<S> {
    /// Has the kernels unpack the next segment's levels anew, for several tiles or for one.
    pub fn forget_levels(&mut self, shared: bool) {
        self.key_levels.forget(shared);
        self.value_levels.forget(shared);
        self.center_levels.forget(shared);
    }
}
