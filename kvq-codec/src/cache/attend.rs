//! Attention on the packed bytes.
//!
//! The query rows of one KV head go over the cache together, [`TILE`] at a time: the sinks, each span, the
//! recent window. A segment of at most 64 tokens is scored with integers, folded into the running softmax of
//! each row, and its values summed with integers; floats appear once per segment and row.

use super::Cache;
use super::append::check_length;
use super::layer::SpanHead;
use super::place::{Head, HeadPlace, Part, Place, Segment};
use super::storage::{self, NONE, Storage};
use super::tile::{DECODE_TILES, SegmentWork, Tile, Work};
use crate::block::{Layout, Rows};
use crate::bytes::{get_i16, slice};
use crate::error::{Error, Side, figure};
use crate::kernel::{Fold, FoldState, SEGMENT, TILE, WIDE_QUERY_UNIT};
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
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Policy};
    ///
    /// let mut memory = [0; 24 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// cache.append(0, 3, &[0.5; 2 * 3 * 32], &[1.0; 2 * 3 * 32])?;
    /// // Four query heads over two KV heads: (n_heads, n_tokens, head_dim), here the newest token's.
    /// let (queries, mut out) = ([0.1; 4 * 32], [0.0; 4 * 32]);
    /// cache.attend(0, 1, &queries, &mut out)?;
    /// assert!(out.iter().all(|value| (value - 1.0).abs() < 0.05));
    /// # Ok::<(), kvq_codec::Error>(())
    /// ```
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
        let got = queries.len();
        if group == 0 || got != group * per_head * shape.n_kv_heads {
            let multiple_of = figure(per_head.saturating_mul(shape.n_kv_heads));
            return Err(Error::QueryHeads { multiple_of, got: figure(got) });
        }
        check_length("out", out.len(), group * n_tokens * shape.n_kv_heads * shape.value_head_dim)?;
        self.attend_heads(layer, (0, shape.n_kv_heads), (n_tokens, window_len), queries, out)
    }

    /// As [`attend_within`](Self::attend_within), for the query heads that read one KV head; a host may call it
    /// for several heads at once.
    ///
    /// # Errors
    /// As [`attend`](Self::attend), and [`Error::KvHead`].
    pub fn attend_head(
        &self,
        layer: usize,
        kv_head: usize,
        n_tokens: usize,
        window_len: usize,
        queries: &[f32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        let n_kv_heads = self.plan.shape.n_kv_heads;
        if kv_head >= n_kv_heads {
            return Err(Error::KvHead { n_kv_heads: figure(n_kv_heads), got: figure(kv_head) });
        }
        self.attend_heads(layer, (kv_head, 1), (n_tokens, window_len), queries, out)
    }

    /// Attends the queries of `n_heads` KV heads from `first_head` on, which exist.
    ///
    /// Its kilobytes of buffers are on the stack of this call alone: inlined, they would lie in the caller's frame,
    /// below whatever else the caller calls.
    #[inline(never)]
    fn attend_heads(
        &self,
        layer: usize,
        (first_head, n_heads): (usize, usize),
        (n_tokens, window_len): (usize, usize),
        queries: &[f32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.check_layer(layer)?;
        let state = self.layer(layer);
        let held = state.n_held();
        if n_tokens == 0 || n_tokens > held {
            return Err(Error::PastEnd { len: figure(held), got: figure(n_tokens) });
        }
        let (key_dim, value_dim) = (self.plan.shape.key_head_dim, self.plan.shape.value_head_dim);
        let n_rows = queries.len().checked_div(key_dim * n_heads).unwrap_or(0);
        let whole = n_rows * key_dim * n_heads == queries.len();
        if n_rows == 0 || !whole || n_rows.checked_rem(n_tokens) != Some(0) {
            let multiple_of = figure((n_tokens * n_heads).saturating_mul(key_dim));
            return Err(Error::QueryHeads { multiple_of, got: figure(queries.len()) });
        }
        check_length("out", out.len(), n_heads * n_rows * value_dim)?;
        out.fill(0.0);
        let own = self.plan.policy.window_len as usize;
        let window_len = match (own, window_len) {
            (0, len) | (len, 0) => len,
            (a, b) => a.min(b),
        };
        let mut work = Work::new();
        let (mut queries, mut out, mut head) = (queries, out, first_head);
        while !queries.is_empty() {
            // The rows of a decode step fit a tile, so that some heads may share a walk.
            let n = if n_rows <= TILE { (first_head + n_heads - head).min(DECODE_TILES) } else { 1 };
            let (Some((q, q_rest)), Some((o, o_rest))) = (
                queries.split_at_checked(n * n_rows * key_dim),
                out.split_at_mut_checked(n * n_rows * value_dim),
            ) else {
                break;
            };
            let mut heads = [Head::new(&self.plan, head); DECODE_TILES];
            heads.iter_mut().enumerate().for_each(|(i, place)| *place = Head::new(&self.plan, head + i));
            let place = Place { layer, state, window_len, heads: heads.get(..n).unwrap_or(&[]) };
            if n_rows <= TILE {
                let tiles = work.tiles.get_mut(..n).unwrap_or(&mut []);
                self.attend_rows(&mut work.segment, &place, (n_tokens, 0), (q, n_rows), tiles, o);
            } else {
                self.attend_many(&mut work.segment, &place, n_tokens, q, o);
            }
            (queries, out, head) = (q_rest, o_rest, head + n);
        }
        Ok(())
    }

    /// Attends the many rows of one head, as many at a time as there are tiles for.
    fn attend_many(
        &self,
        work: &mut SegmentWork,
        place: &Place<'_>,
        n_tokens: usize,
        queries: &[f32],
        out: &mut [f32],
    ) {
        let (key_dim, value_dim) = (self.plan.shape.key_head_dim, self.plan.shape.value_head_dim);
        let (mut queries, mut out, mut row) = (queries, out, 0);
        while !queries.is_empty() {
            let n = queries.len().checked_div(key_dim).unwrap_or(0).min(PREFILL_TILES * TILE);
            let (Some((q, q_rest)), Some((o, o_rest))) =
                (queries.split_at_checked(n * key_dim), out.split_at_mut_checked(n * value_dim))
            else {
                break;
            };
            let mut tiles = [const { Tile::EMPTY }; PREFILL_TILES];
            let tiles = tiles.get_mut(..n.div_ceil(TILE)).unwrap_or(&mut []);
            self.attend_rows(work, place, (n_tokens, row), (q, TILE), tiles, o);
            (queries, out, row) = (q_rest, o_rest, row + n);
        }
    }

    /// Attends the query rows from `first` on, which fit the tiles with `per_tile` in each; all lengths are
    /// checked.
    fn attend_rows(
        &self,
        work: &mut SegmentWork,
        place: &Place<'_>,
        (n_tokens, first): (usize, usize),
        (queries, per_tile): (&[f32], usize),
        tiles: &mut [Tile],
        out: &mut [f32],
    ) {
        let per_tile = (per_tile * self.plan.shape.key_head_dim).max(1);
        let mut row = first;
        for (tile, queries) in tiles.iter_mut().zip(queries.chunks(per_tile)) {
            self.start_tile(place, n_tokens, row, queries, tile);
            row += tile.queries.n;
        }
        self.walk(work, place, tiles, out);
        self.finish(tiles, out);
    }

    /// Rotates and quantizes query rows `first..` of a head.
    fn start_tile(&self, place: &Place<'_>, n_tokens: usize, first: usize, queries: &[f32], tile: &mut Tile) {
        let key_dim = self.plan.shape.key_head_dim;
        let softmax_scale = inverse_sqrt(key_dim as f32);
        tile.queries.n = 0;
        for (i, (line, query)) in tile.lines.iter_mut().zip(queries.chunks(key_dim.max(1))).enumerate() {
            let mut x = [0.0f32; MAX_HEAD_DIM];
            let x = x.get_mut(..key_dim).unwrap_or(&mut []);
            for (to, from) in x.iter_mut().zip(query) {
                *to = *from;
            }
            self.backend.rotate(self.key_rotation(), x);
            line.factor = tile.queries.quantize(i, x) * softmax_scale;
            line.state = FoldState::EMPTY;
            let back = n_tokens - 1 - (first + i).checked_rem(n_tokens).unwrap_or(0);
            line.to = place.state.len - back;
            line.from = if place.window_len == 0 { 0 } else { line.to.saturating_sub(place.window_len) };
            tile.queries.n = i + 1;
        }
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
        let Place { state, heads, .. } = place;
        let mut at = state.head;
        if let Some(head) = heads.first() {
            self.prefetch_keys(at, &head.key);
        }
        place.for_each_head(tiles, out, |_, head, tiles, out| {
            self.attend_sinks(work, place, head, tiles, out);
        });
        while at != NONE {
            let record = self.record(at);
            let span = SpanHead::read(record);
            self.backend.prefetch_bytes(self.record(span.next));
            if tiles.iter().any(|tile| tile.sees(span.start, span.count)) {
                place.for_each_head(tiles, out, |i, head, tiles, out| {
                    let mut segment = self.span_segment(record, &span, head, work);
                    segment.next = match (heads.get(i + 1), heads.first()) {
                        (Some(next), _) => Some((at, next.key)),
                        (None, Some(first)) => Some((span.next, first.key)),
                        (None, None) => None,
                    };
                    self.attend_segment(segment, work, tiles, out);
                });
            }
            at = span.next;
        }
        place.for_each_head(tiles, out, |_, head, tiles, out| {
            self.attend_hot(work, place, head, tiles, out);
        });
    }

    fn attend_sinks(
        &self,
        work: &mut SegmentWork,
        place: &Place<'_>,
        Head { key, value }: &Head<'_>,
        tiles: &mut [Tile],
        out: &mut [f32],
    ) {
        let Place { layer, state, .. } = place;
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

    fn attend_hot(
        &self,
        work: &mut SegmentWork,
        place: &Place<'_>,
        Head { key, value }: &Head<'_>,
        tiles: &mut [Tile],
        out: &mut [f32],
    ) {
        let Place { layer, state, .. } = place;
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
        span: &SpanHead,
        Head { key, value }: &Head<'a>,
        work: &mut SegmentWork,
    ) -> Segment<'a> {
        let scales = |place: &HeadPlace<'_>, out: &mut [f32; SEGMENT]| {
            let base = get_i16(record, place.plan.bases + 2 * place.block);
            let at = place.plan.scales + place.block * self.plan.span_len;
            self.backend.scales_into(base, slice(record, at, span.count), out);
        };
        scales(key, &mut work.key_scales);
        scales(value, &mut work.value_scales);
        let part = |place: &HeadPlace<'_>, layout| {
            let ids = Self::id_bytes(record, place.plan);
            Part { row: place.row, layout, rows: self.rows(place.plan, layout, place.block, ids, span.count) }
        };
        let key_part = part(key, self.plan.layout(Side::Key, span.key_tier));
        let center = key_part.layout.is_centered().then(|| {
            let full = plane_row_bytes(4, key.plan.heads_per_block * key.plan.head_dim);
            let row_bytes = plane_row_bytes(4, key.row.block_values);
            let row = slice(record, key.plan.center_rows + key.block * full, row_bytes);
            let exponent = get_i16(record, key.plan.center_exponents + 2 * key.block);
            let scale = if exponent == ZERO { 0.0 } else { exp2_8(i32::from(exponent)) };
            (Rows::one_plane(row, Layout::S4, key.row.block_values, 1), scale)
        });
        Segment {
            start: span.start,
            n: span.count,
            key: key_part,
            value: part(value, self.plan.layout(Side::Value, span.value_tier)),
            center,
            next: None,
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

/// Scales of `n` tokens whose exponents lie in a table `(tokens, n_blocks)`.
#[inline(never)]
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
