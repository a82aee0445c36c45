//! Attention on the packed bytes.
//!
//! The query rows of one KV head go over the cache together, [`TILE`] at a time: the sinks, each span, the
//! recent window. A segment of at most 64 tokens is scored with integers, folded into the running softmax of
//! each row, and its values summed with integers; floats appear once per segment and row.

use super::Cache;
use super::append::check_length;
use super::layer::{LayerState, SpanHead};
use super::plan::SidePlan;
use super::storage::{self, NONE, Storage};
use super::tile::{SegmentWork, Tile, Work};
use crate::block::{Layout, Rows};
use crate::bytes::{get_i16, slice};
use crate::error::{Error, Side};
use crate::kernel::{Fold, FoldState, HeadRow, SEGMENT, TILE, WIDE_QUERY_UNIT};
use crate::math::{exp2_8, inverse_sqrt};
use crate::pack::plane_row_bytes;
use crate::quantize::precise::ZERO;
use crate::shape::MAX_HEAD_DIM;

/// Tiles that share one pass in a prefill, where a stack has room for their queries.
const PREFILL_TILES: usize = if cfg!(target_pointer_width = "64") { 16 } else { 1 };

impl<S: Storage> Cache<S> {
    /// Causal attention of the newest `n_tokens` positions of `layer` over all that it holds, scores
    /// scaled by `1/sqrt(key_head_dim)`.
    ///
    /// Shapes: `queries (n_heads, n_tokens, key_head_dim)`, `out (n_heads, n_tokens, value_head_dim)`,
    /// where `n_heads` is a multiple of `n_kv_heads` and query head `h` reads KV head
    /// `h / (n_heads / n_kv_heads)`.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::PastEnd`] where fewer than `n_tokens` are held, [`Error::QueryHeads`]
    /// or [`Error::Length`].
    pub fn attend(
        &self,
        layer: usize,
        n_tokens: usize,
        queries: &[f32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.attend_within(layer, n_tokens, 0, queries, out)
    }

    /// As [`attend`](Self::attend), where each query sees the newest `window_len` positions only, its own among
    /// them: for models some of whose layers have a window. 0 stands for no limit but the policy's own
    /// `window_len`, which holds as well.
    ///
    /// # Errors
    /// As [`attend`](Self::attend).
    pub fn attend_within(
        &self,
        layer: usize,
        n_tokens: usize,
        window_len: usize,
        queries: &[f32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        let shape = self.plan.shape;
        let per_head = n_tokens.saturating_mul(shape.key_head_dim);
        let group = queries.len().checked_div(per_head.saturating_mul(shape.n_kv_heads)).unwrap_or(0);
        let (mut queries, mut out) = (queries, out);
        let got = queries.len();
        if group == 0 || got != group * per_head * shape.n_kv_heads {
            return Err(Error::QueryHeads { n_kv_heads: shape.n_kv_heads as u32, got: got as u32 });
        }
        check_length("out", out.len(), group * n_tokens * shape.n_kv_heads * shape.value_head_dim)?;
        let mut work = Work::new();
        for kv_head in 0..shape.n_kv_heads {
            let (Some((q, q_rest)), Some((o, o_rest))) = (
                queries.split_at_checked(group * per_head),
                out.split_at_mut_checked(group * n_tokens * shape.value_head_dim),
            ) else {
                return Ok(());
            };
            self.attend_with(&mut work, layer, kv_head, (n_tokens, window_len), q, o)?;
            (queries, out) = (q_rest, o_rest);
        }
        Ok(())
    }

    /// As [`attend_within`](Self::attend_within), for the query heads that read one KV head; a host may call it
    /// for several heads at once.
    ///
    /// # Errors
    /// As [`attend`](Self::attend).
    pub fn attend_head(
        &self,
        layer: usize,
        kv_head: usize,
        n_tokens: usize,
        window_len: usize,
        queries: &[f32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.attend_with(&mut Work::new(), layer, kv_head, (n_tokens, window_len), queries, out)
    }

    fn attend_with(
        &self,
        work: &mut Work,
        layer: usize,
        kv_head: usize,
        (n_tokens, window_len): (usize, usize),
        queries: &[f32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.check_layer(layer)?;
        let state = self.layer(layer);
        let held = state.n_held();
        if n_tokens == 0 || n_tokens > held {
            return Err(Error::PastEnd { len: held as u32, got: n_tokens as u32 });
        }
        let (key_dim, value_dim) = (self.plan.shape.key_head_dim, self.plan.shape.value_head_dim);
        let n_rows = queries.len().checked_div(key_dim).unwrap_or(0);
        if n_rows == 0 || n_rows * key_dim != queries.len() || n_rows.checked_rem(n_tokens) != Some(0) {
            return Err(Error::QueryHeads { n_kv_heads: 1, got: queries.len() as u32 });
        }
        if kv_head >= self.plan.shape.n_kv_heads {
            return Err(Error::QueryHeads {
                n_kv_heads: self.plan.shape.n_kv_heads as u32,
                got: kv_head as u32,
            });
        }
        check_length("out", out.len(), n_rows * value_dim)?;
        out.fill(0.0);
        let own = self.plan.policy.window_len as usize;
        let place = Place {
            layer,
            state,
            window_len: match (own, window_len) {
                (0, len) | (len, 0) => len,
                (a, b) => a.min(b),
            },
            key: HeadPlace::new(&self.plan.key, kv_head),
            value: HeadPlace::new(&self.plan.value, kv_head),
        };
        if n_rows <= TILE {
            let tiles = core::slice::from_mut(&mut work.tile);
            self.attend_rows(&mut work.segment, &place, (n_tokens, 0), queries, tiles, out);
            return Ok(());
        }
        let (mut queries, mut out, mut row) = (queries, out, 0);
        while !queries.is_empty() {
            let n = (n_rows - row).min(PREFILL_TILES * TILE);
            let (Some((q, q_rest)), Some((o, o_rest))) =
                (queries.split_at_checked(n * key_dim), out.split_at_mut_checked(n * value_dim))
            else {
                break;
            };
            let mut tiles = [const { Tile::EMPTY }; PREFILL_TILES];
            let tiles = tiles.get_mut(..n.div_ceil(TILE)).unwrap_or(&mut []);
            self.attend_rows(&mut work.segment, &place, (n_tokens, row), q, tiles, o);
            (queries, out, row) = (q_rest, o_rest, row + n);
        }
        Ok(())
    }

    /// Attends the query rows from `first` on, which fit the tiles; all lengths are checked.
    fn attend_rows(
        &self,
        work: &mut SegmentWork,
        place: &Place<'_>,
        (n_tokens, first): (usize, usize),
        queries: &[f32],
        tiles: &mut [Tile],
        out: &mut [f32],
    ) {
        let (mut rest, mut row) = (queries, first);
        for tile in tiles.iter_mut() {
            rest = self.start_tile(place, n_tokens, row, rest, tile);
            row += tile.queries.n;
        }
        self.walk(work, place, tiles, out);
        self.finish(tiles, out);
    }

    /// Rotates and quantizes query rows `first..` of a head; returns the queries that did not fit the tile.
    fn start_tile<'q>(
        &self,
        place: &Place<'_>,
        n_tokens: usize,
        first: usize,
        queries: &'q [f32],
        tile: &mut Tile,
    ) -> &'q [f32] {
        let key_dim = self.plan.shape.key_head_dim;
        let softmax_scale = inverse_sqrt(key_dim as f32);
        let mut rest = queries;
        tile.queries.n = 0;
        for (i, line) in tile.lines.iter_mut().enumerate() {
            let Some((query, tail)) = rest.split_at_checked(key_dim).filter(|_| key_dim > 0) else { break };
            rest = tail;
            let mut x = [0.0f32; MAX_HEAD_DIM];
            let x = x.get_mut(..key_dim).unwrap_or(&mut []);
            x.copy_from_slice(query);
            self.backend.rotate(self.key_rotation(), x);
            line.factor = tile.queries.quantize(i, x) * softmax_scale;
            line.state = FoldState::EMPTY;
            let back = n_tokens - 1 - (first + i).checked_rem(n_tokens).unwrap_or(0);
            line.to = place.state.len - back;
            line.from = if place.window_len == 0 { 0 } else { line.to.saturating_sub(place.window_len) };
            tile.queries.n = i + 1;
        }
        rest
    }

    /// Divides by the sums of weights and rotates back.
    fn finish(&self, tiles: &[Tile], out: &mut [f32]) {
        let value_dim = self.plan.shape.value_head_dim;
        let mut rest = out;
        for line in tiles.iter().flat_map(Tile::lines) {
            let Some((row, tail)) = rest.split_at_mut_checked(value_dim) else { return };
            let inverse = if line.state.sum > 0.0 { 1.0 / line.state.sum } else { 0.0 };
            row.iter_mut().for_each(|v| *v *= inverse);
            self.backend.unrotate(self.value_rotation(), row);
            rest = tail;
        }
    }

    /// Takes the rows of some tiles over everything that the layer holds.
    fn walk(&self, work: &mut SegmentWork, place: &Place<'_>, tiles: &mut [Tile], out: &mut [f32]) {
        let Place { state, key, value, .. } = place;
        let mut at = state.head;
        self.prefetch_keys(at, key);
        self.attend_sinks(work, place, tiles, out);
        while at != NONE {
            let record = self.record(at);
            let head = SpanHead::read(record);
            self.backend.prefetch_bytes(self.record(head.next));
            if tiles.iter().any(|tile| tile.sees(head.start, head.count)) {
                let segment = self.span_segment(record, &head, (key, value), work);
                self.attend_segment(segment, work, tiles, out);
            }
            at = head.next;
        }
        self.attend_hot(work, place, tiles, out);
    }

    fn attend_sinks(&self, work: &mut SegmentWork, place: &Place<'_>, tiles: &mut [Tile], out: &mut [f32]) {
        let Place { layer, state, key, value, .. } = place;
        let bytes = storage::layer(&self.plan, self.storage.bytes(), *layer);
        let mut first = 0;
        while first < state.n_sink {
            let n = (state.n_sink - first).min(SEGMENT);
            precise_scales_into(bytes, key, key.plan.sink_exponents, first, &mut work.key_scales, n);
            precise_scales_into(bytes, value, value.plan.sink_exponents, first, &mut work.value_scales, n);
            let part = |place: &HeadPlace<'_>| {
                let at = place.plan.sink_row(self.plan.n_sink, place.block) + first * place.row.block_values;
                let rows = slice(bytes, at, n * place.row.block_values);
                let rows = Rows::one_plane(rows, Layout::Q8, place.row.block_values, n);
                Part { row: place.row, layout: Layout::Q8, rows }
            };
            let segment =
                Segment { start: first, n, key: part(key), value: part(value), center: None, next: None };
            self.attend_segment(segment, work, tiles, out);
            first += n;
        }
    }

    fn attend_hot(&self, work: &mut SegmentWork, place: &Place<'_>, tiles: &mut [Tile], out: &mut [f32]) {
        let Place { layer, state, key, value, .. } = place;
        let bytes = storage::layer(&self.plan, self.storage.bytes(), *layer);
        let mut first = 0;
        while first < state.n_hot {
            let n = (state.n_hot - first).min(self.plan.span_len);
            let start = state.hot_start() + first;
            if tiles.iter().any(|tile| tile.sees(start, n)) {
                precise_scales_into(bytes, key, key.plan.hot_exponents, first, &mut work.key_scales, n);
                precise_scales_into(bytes, value, value.plan.hot_exponents, first, &mut work.value_scales, n);
                let part = |place: &HeadPlace<'_>| {
                    let (skip, _) = place.plan.split_token(8, first);
                    let ids = slice(bytes, place.plan.hot_ids + 4 * skip, 4 * place.plan.plane_units(8, n));
                    let rows = self.rows(place.plan, Layout::Q8, place.block, ids, n);
                    Part { row: place.row, layout: Layout::Q8, rows }
                };
                let segment =
                    Segment { start, n, key: part(key), value: part(value), center: None, next: None };
                self.attend_segment(segment, work, tiles, out);
            }
            first += n;
        }
    }

    /// A span as a segment; its scales go to `work`.
    fn span_segment<'a>(
        &'a self,
        record: &'a [u8],
        head: &SpanHead,
        (key, value): (&HeadPlace<'a>, &HeadPlace<'a>),
        work: &mut SegmentWork,
    ) -> Segment<'a> {
        let scales = |place: &HeadPlace<'_>, out: &mut [f32; SEGMENT]| {
            let base = get_i16(record, place.plan.bases + 2 * place.block);
            let at = place.plan.scales + place.block * self.plan.span_len;
            self.backend.scales_into(base, slice(record, at, head.count), out);
        };
        scales(key, &mut work.key_scales);
        scales(value, &mut work.value_scales);
        let part = |place: &HeadPlace<'_>, layout| {
            let ids = Self::id_bytes(record, place.plan);
            Part { row: place.row, layout, rows: self.rows(place.plan, layout, place.block, ids, head.count) }
        };
        let key_part = part(key, self.plan.layout(Side::Key, head.key_tier));
        let center = key_part.layout.is_centered().then(|| {
            let full = plane_row_bytes(4, key.plan.heads_per_block * key.plan.head_dim);
            let row_bytes = plane_row_bytes(4, key.row.block_values);
            let row = slice(record, key.plan.center_rows + key.block * full, row_bytes);
            let exponent = get_i16(record, key.plan.center_exponents + 2 * key.block);
            let scale = if exponent == ZERO { 0.0 } else { exp2_8(i32::from(exponent)) };
            (Rows::one_plane(row, Layout::S4, key.row.block_values, 1), scale)
        });
        Segment {
            start: head.start,
            n: head.count,
            key: key_part,
            value: part(value, self.plan.layout(Side::Value, head.value_tier)),
            center,
            next: Some((head.next, *key)),
        }
    }

    /// Asks for a span's keys before they are needed: units lie scattered, which no CPU foresees.
    fn prefetch_keys(&self, span: u32, key: &HeadPlace<'_>) {
        if span == NONE {
            return;
        }
        let bytes = self.record(span);
        let head = SpanHead::read(bytes);
        let layout = self.plan.layout(Side::Key, head.key_tier);
        let ids = Self::id_bytes(bytes, key.plan);
        self.backend.prefetch(&self.rows(key.plan, layout, key.block, ids, head.count));
    }

    /// Scores a segment, folds it into the running softmax of each row that sees it and adds its values.
    fn attend_segment(
        &self,
        mut segment: Segment<'_>,
        work: &mut SegmentWork,
        tiles: &mut [Tile],
        out: &mut [f32],
    ) {
        self.backend.prefetch(&segment.value.rows);
        work.forget_levels();
        let value_dim = self.plan.shape.value_head_dim;
        let mut rest = out;
        for tile in tiles {
            let n = tile.queries.n;
            let Some((rows, tail)) = rest.split_at_mut_checked(n * value_dim) else { return };
            rest = tail;
            if !tile.sees(segment.start, segment.n) {
                continue;
            }
            if let Some((row, _)) = &segment.center {
                let head = segment.key.row;
                let (levels, scores) = (&mut work.center_levels, &mut work.center_scores);
                self.backend.score_keys(Layout::S4, row, head, &tile.queries, levels, scores);
            }
            let Part { row, layout, rows: keys } = &segment.key;
            self.backend.score_keys(
                *layout,
                keys,
                *row,
                &tile.queries,
                &mut work.key_levels,
                &mut work.scores,
            );
            if let Some((next, key)) = segment.next.take() {
                self.prefetch_keys(next, &key);
            }
            let scales = self.fold(&segment, work, tile);
            for sums in work.sums.iter_mut().take(n) {
                sums.get_mut(..value_dim).unwrap_or(&mut []).fill(0);
            }
            let Part { row, layout, rows: values } = &segment.value;
            let weights = (n, &work.weights);
            self.backend.accumulate_values(
                *layout,
                values,
                *row,
                weights,
                &mut work.value_levels,
                &mut work.sums,
            );
            let mut rest = rows;
            for (sums, (rescale, scale)) in work.sums.iter().zip(scales).take(n) {
                let Some((row, tail)) = rest.split_at_mut_checked(value_dim) else { return };
                self.backend.add_scaled(row, rescale, sums, scale);
                rest = tail;
            }
        }
    }

    /// Scores to integer weights; returns, per row, the factor for what was summed before and the value of one
    /// unit of weight.
    fn fold(&self, segment: &Segment<'_>, work: &mut SegmentWork, tile: &mut Tile) -> [(f32, f32); TILE] {
        // 8-bit values deserve 15-bit weights; coarser ones are well served by 7 bits (docs/NUMERICS.md).
        let max_weight = if segment.value.layout == Layout::Q8 { 32_767.0 } else { 127.0 };
        let query_unit = if segment.key.layout == Layout::Q8 { WIDE_QUERY_UNIT } else { 1.0 };
        let mut scales = [(1.0f32, 0.0f32); TILE];
        let rows = work.scores.iter().zip(&work.center_scores).zip(&mut work.weights).zip(&mut scales);
        for (line, (((scores, center_scores), weights), scale)) in
            tile.lines.iter_mut().take(tile.queries.n).zip(rows)
        {
            let center = center_scores.first().copied().unwrap_or(0) as f32;
            let fold = Fold {
                n: segment.n,
                scores,
                key_scales: &work.key_scales,
                value_scales: &work.value_scales,
                factor: line.factor * query_unit,
                bias: segment.center.map_or(0.0, |(_, scale)| center * scale * line.factor),
                from: line.from.saturating_sub(segment.start),
                to: line.to.saturating_sub(segment.start).min(segment.n),
                max_weight,
            };
            *scale = self.backend.fold(&fold, &mut line.state, weights);
        }
        scales
    }
}

/// A stretch of tokens with one layout per side.
struct Segment<'a> {
    /// Position of the first token.
    start: usize,
    /// Tokens, at most [`SEGMENT`].
    n: usize,
    key: Part<'a>,
    value: Part<'a>,
    /// The center of the keys and its scale.
    center: Option<(Rows<'a>, f32)>,
    /// The span after it, whose keys are to be fetched meanwhile.
    next: Option<(u32, HeadPlace<'a>)>,
}

/// One side of a segment.
struct Part<'a> {
    row: HeadRow,
    layout: Layout,
    rows: Rows<'a>,
}

/// What is attended: a layer's head.
struct Place<'a> {
    layer: usize,
    state: LayerState,
    /// Positions that a query sees; 0 for all.
    window_len: usize,
    key: HeadPlace<'a>,
    value: HeadPlace<'a>,
}

/// A head's block on one side.
#[derive(Clone, Copy)]
pub(super) struct HeadPlace<'a> {
    pub plan: &'a SidePlan,
    pub block: usize,
    pub row: HeadRow,
}

impl<'a> HeadPlace<'a> {
    pub fn new(plan: &'a SidePlan, kv_head: usize) -> Self {
        let block = kv_head.checked_div(plan.heads_per_block).unwrap_or(0);
        let within = kv_head.checked_rem(plan.heads_per_block).unwrap_or(0);
        let row = HeadRow {
            block_values: plan.block_values(block),
            offset: within * plan.head_dim,
            head_dim: plan.head_dim,
        };
        Self { plan, block, row }
    }
}

/// Scales of `n` tokens whose exponents lie in a table `(tokens, n_blocks)`.
fn precise_scales_into(
    bytes: &[u8],
    place: &HeadPlace<'_>,
    table: usize,
    first: usize,
    out: &mut [f32; SEGMENT],
    n: usize,
) {
    for (t, scale) in out.iter_mut().enumerate().take(n) {
        let e = get_i16(bytes, table + 2 * ((first + t) * place.plan.n_blocks + place.block));
        *scale = if e == ZERO { 0.0 } else { exp2_8(i32::from(e)) };
    }
}
