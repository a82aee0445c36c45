//! Attention on the packed bytes.
//!
//! Up to [`TILE`] query rows of one KV head go over the cache together: the sinks, each span, the recent
//! window. A segment of at most 64 tokens is scored with integers, folded into the running softmax, and
//! its values summed with integers; no row is ever restored.

use super::Cache;
use super::append::check_length;
use super::layer::{LayerState, SpanHead};
use super::pack::UnitIds;
use super::plan::{MAX_SPAN_UNITS, SidePlan};
use super::storage::{self, NONE, Storage};
use crate::block::{Layout, MAX_PLANES, Run};
use crate::bytes::{get_i16, get_u32, slice};
use crate::error::Error;
use crate::kernel::{Fold, FoldState, HeadRow, Queries, SEGMENT, Scores, Sums, TILE, Weights};
use crate::math::{exp2_8, inverse_sqrt, round_to_i32};
use crate::pack::plane_row_bytes;
use crate::quantize::precise::ZERO;
use crate::shape::MAX_HEAD_DIM;

/// Query rows on their way over the cache.
struct Tile {
    queries: Queries,
    /// Score scale of each row: its query scale over the root of the key head size.
    factors: [f32; TILE],
    states: [FoldState; TILE],
    /// Each row sees positions `from..to`.
    from: [usize; TILE],
    to: [usize; TILE],
    scores: Scores,
    center_scores: Scores,
    weights: Weights,
    sums: Sums,
}

/// A stretch of tokens with one layout per side.
struct Segment {
    start: usize,
    n: usize,
    key_scales: [f32; SEGMENT],
    value_scales: [f32; SEGMENT],
}

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
        let shape = self.plan.shape;
        let per_head = n_tokens.saturating_mul(shape.key_head_dim);
        let group = queries.len().checked_div(per_head.saturating_mul(shape.n_kv_heads)).unwrap_or(0);
        let (mut queries, mut out) = (queries, out);
        let got = queries.len();
        if group == 0 || got != group * per_head * shape.n_kv_heads {
            return Err(Error::QueryHeads { n_kv_heads: shape.n_kv_heads as u32, got: got as u32 });
        }
        check_length("out", out.len(), group * n_tokens * shape.n_kv_heads * shape.value_head_dim)?;
        for kv_head in 0..shape.n_kv_heads {
            let (Some((q, q_rest)), Some((o, o_rest))) = (
                queries.split_at_checked(group * per_head),
                out.split_at_mut_checked(group * n_tokens * shape.value_head_dim),
            ) else {
                return Ok(());
            };
            self.attend_head(layer, kv_head, n_tokens, q, o)?;
            (queries, out) = (q_rest, o_rest);
        }
        Ok(())
    }

    /// As [`attend`](Self::attend), for the query heads that read one KV head; a host may call it for
    /// several heads at once.
    ///
    /// # Errors
    /// As [`attend`](Self::attend).
    pub fn attend_head(
        &self,
        layer: usize,
        kv_head: usize,
        n_tokens: usize,
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
        let (mut queries, mut out, mut row) = (queries, out, 0);
        let mut tile = Tile::new();
        while !queries.is_empty() {
            let n = (n_rows - row).min(TILE);
            let (Some((q, q_rest)), Some((o, o_rest))) =
                (queries.split_at_checked(n * key_dim), out.split_at_mut_checked(n * value_dim))
            else {
                return Ok(());
            };
            self.start_tile(&state, n_tokens, row, q, &mut tile);
            o.fill(0.0);
            self.attend_tile(layer, kv_head, &state, &mut tile, o);
            self.finish_tile(&tile, o);
            (queries, out, row) = (q_rest, o_rest, row + n);
        }
        Ok(())
    }

    /// Rotates and quantizes query rows `first..` of a head.
    fn start_tile(
        &self,
        state: &LayerState,
        n_tokens: usize,
        first: usize,
        queries: &[f32],
        tile: &mut Tile,
    ) {
        let key_dim = self.plan.shape.key_head_dim;
        let softmax_scale = inverse_sqrt(key_dim as f32);
        tile.states = [FoldState::EMPTY; TILE];
        let mut rest = queries;
        let lines =
            tile.queries.rows.iter_mut().zip(&mut tile.factors).zip(tile.from.iter_mut().zip(&mut tile.to));
        for (i, ((codes, factor), (from, to))) in lines.enumerate() {
            let Some((query, tail)) = rest.split_at_checked(key_dim).filter(|_| key_dim > 0) else { break };
            rest = tail;
            let mut x = [0.0f32; MAX_HEAD_DIM];
            let x = x.get_mut(..key_dim).unwrap_or(&mut []);
            x.iter_mut().zip(query).for_each(|(to, from)| *to = *from);
            self.backend.rotate(self.key_rotation(), x);
            let peak = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            *factor = 0.0;
            if peak > f32::MIN_POSITIVE * 128.0 && peak < f32::MAX {
                let inverse = 127.0 / peak;
                for (code, v) in codes.iter_mut().zip(&*x) {
                    *code = round_to_i32(v * inverse) as i8;
                }
                *factor = peak / 127.0 * softmax_scale;
            }
            let back = n_tokens - 1 - (first + i).checked_rem(n_tokens).unwrap_or(0);
            *to = state.len - back;
            let window = self.plan.policy.window_len as usize;
            *from = if window == 0 { 0 } else { to.saturating_sub(window) };
            tile.queries.n = i + 1;
        }
    }

    /// Divides by the sums of weights and rotates back.
    fn finish_tile(&self, tile: &Tile, out: &mut [f32]) {
        let value_dim = self.plan.shape.value_head_dim;
        let mut rest = out;
        for state in tile.states.iter().take(tile.queries.n) {
            let Some((row, tail)) = rest.split_at_mut_checked(value_dim) else { return };
            let inverse = if state.sum > 0.0 { 1.0 / state.sum } else { 0.0 };
            row.iter_mut().for_each(|v| *v *= inverse);
            self.backend.unrotate(self.value_rotation(), row);
            rest = tail;
        }
    }

    fn attend_tile(
        &self,
        layer: usize,
        kv_head: usize,
        state: &LayerState,
        tile: &mut Tile,
        out: &mut [f32],
    ) {
        let key = HeadPlace::new(&self.plan.key, kv_head);
        let value = HeadPlace::new(&self.plan.value, kv_head);
        self.attend_sinks(layer, (&key, &value), state, tile, out);
        let mut at = state.head;
        while at != NONE {
            let head = SpanHead::read(self.record(at));
            if tile.sees(head.start, head.count) {
                self.attend_span(at, &head, (&key, &value), tile, out);
            }
            at = head.next;
        }
        self.attend_hot(layer, (&key, &value), state, tile, out);
    }

    fn attend_sinks(
        &self,
        layer: usize,
        (key, value): (&HeadPlace<'_>, &HeadPlace<'_>),
        state: &LayerState,
        tile: &mut Tile,
        out: &mut [f32],
    ) {
        let bytes = storage::layer(&self.plan, self.storage.bytes(), layer);
        let mut first = 0;
        while first < state.n_sink {
            let n = (state.n_sink - first).min(SEGMENT);
            let segment = Segment {
                start: first,
                n,
                key_scales: precise_scales(bytes, key, key.plan.sink_exponents, first, n),
                value_scales: precise_scales(bytes, value, value.plan.sink_exponents, first, n),
            };
            let rows = |place: &HeadPlace<'_>| {
                let at = place.plan.sink_row(self.plan.n_sink, place.block) + first * place.row.block_values;
                one_plane(slice(bytes, at, n * place.row.block_values), n)
            };
            self.backend.score_keys(Layout::Q8, &[rows(key)], key.row, &tile.queries, &mut tile.scores);
            self.fold_segment(&segment, Layout::Q8, None, tile, out, |tile| {
                let (n, weights) = (tile.queries.n, &tile.weights);
                self.backend.accumulate_values(
                    Layout::Q8,
                    &[rows(value)],
                    value.row,
                    n,
                    weights,
                    &mut tile.sums,
                );
            });
            first += n;
        }
    }

    fn attend_hot(
        &self,
        layer: usize,
        (key, value): (&HeadPlace<'_>, &HeadPlace<'_>),
        state: &LayerState,
        tile: &mut Tile,
        out: &mut [f32],
    ) {
        let bytes = storage::layer(&self.plan, self.storage.bytes(), layer);
        let mut first = 0;
        while first < state.n_hot {
            let n = (state.n_hot - first).min(self.plan.span_len);
            let segment = Segment {
                start: state.hot_start() + first,
                n,
                key_scales: precise_scales(bytes, key, key.plan.hot_exponents, first, n),
                value_scales: precise_scales(bytes, value, value.plan.hot_exponents, first, n),
            };
            if tile.sees(segment.start, n) {
                let key_ids = hot_ids(bytes, key.plan, first);
                let value_ids = hot_ids(bytes, value.plan, first);
                self.score(key, Layout::Q8, &key_ids, n, tile);
                self.fold_segment(&segment, Layout::Q8, None, tile, out, |tile| {
                    self.accumulate(value, Layout::Q8, &value_ids, n, tile);
                });
            }
            first += n;
        }
    }

    fn attend_span(
        &self,
        span: u32,
        head: &SpanHead,
        (key, value): (&HeadPlace<'_>, &HeadPlace<'_>),
        tile: &mut Tile,
        out: &mut [f32],
    ) {
        let bytes = self.record(span);
        let scales = |place: &HeadPlace<'_>| {
            let base = get_i16(bytes, place.plan.bases + 2 * place.block);
            let at = place.plan.scales + place.block * self.plan.span_len;
            let mut out = [0.0; SEGMENT];
            self.backend.scales_into(base, slice(bytes, at, head.count), &mut out);
            out
        };
        let segment = Segment {
            start: head.start,
            n: head.count,
            key_scales: scales(key),
            value_scales: scales(value),
        };
        let layouts = (
            self.plan.layout(crate::Side::Key, head.key_tier),
            self.plan.layout(crate::Side::Value, head.value_tier),
        );
        let center = layouts.0.is_centered().then(|| {
            let full = plane_row_bytes(4, key.plan.heads_per_block * key.plan.head_dim);
            let row_bytes = plane_row_bytes(4, key.row.block_values);
            let rows = slice(bytes, key.plan.center_rows + key.block * full, row_bytes);
            let run = one_plane(rows, 1);
            self.backend.score_keys(Layout::S4, &[run], key.row, &tile.queries, &mut tile.center_scores);
            let exponent = get_i16(bytes, key.plan.center_exponents + 2 * key.block);
            if exponent == ZERO { 0.0 } else { exp2_8(i32::from(exponent)) }
        });
        self.score(key, layouts.0, &self.ids(span, key.plan), head.count, tile);
        let value_ids = self.ids(span, value.plan);
        self.fold_segment(&segment, layouts.1, center, tile, out, |tile| {
            self.accumulate(value, layouts.1, &value_ids, head.count, tile);
        });
    }

    /// Integer scores of `n` tokens whose rows lie in units.
    fn score(&self, place: &HeadPlace<'_>, layout: Layout, ids: &UnitIds, n: usize, tile: &mut Tile) {
        self.for_runs(place, layout, ids, n, |runs| {
            self.backend.score_keys(layout, runs, place.row, &tile.queries, &mut tile.scores);
        });
    }

    /// Integer sums of `n` tokens whose rows lie in units.
    fn accumulate(&self, place: &HeadPlace<'_>, layout: Layout, ids: &UnitIds, n: usize, tile: &mut Tile) {
        self.for_runs(place, layout, ids, n, |runs| {
            let (n_queries, weights) = (tile.queries.n, &tile.weights);
            self.backend.accumulate_values(layout, runs, place.row, n_queries, weights, &mut tile.sums);
        });
    }

    /// Hands over the runs of the first `n` tokens of a span or a part of the recent window, a few at a time.
    fn for_runs(
        &self,
        place: &HeadPlace<'_>,
        layout: Layout,
        ids: &UnitIds,
        n: usize,
        mut use_runs: impl FnMut(&[Run<'_>]),
    ) {
        let step = super::demote::run_tokens(place.plan, layout).max(1);
        let mut t = 0;
        while t < n {
            let mut runs = [Run::default(); 4];
            let mut n_runs = 0;
            for slot in &mut runs {
                if t < n {
                    self.fill_run(place.plan, layout, place.block, ids, t, slot);
                    slot.n = (n - t).min(step);
                    t += step;
                    n_runs += 1;
                }
            }
            use_runs(runs.get(..n_runs).unwrap_or(&[]));
        }
    }

    /// Folds a scored segment into the running softmax of each row and adds its values.
    fn fold_segment(
        &self,
        segment: &Segment,
        value_layout: Layout,
        center_scale: Option<f32>,
        tile: &mut Tile,
        out: &mut [f32],
        accumulate: impl FnOnce(&mut Tile),
    ) {
        // 8-bit values deserve 15-bit weights; coarser ones are well served by 7 bits (docs/NUMERICS.md).
        let max_weight = if value_layout == Layout::Q8 { 32_767.0 } else { 127.0 };
        let mut scales = [(1.0f32, 0.0f32); TILE];
        let rows = tile.states.iter_mut().zip(&mut tile.weights).zip(&mut scales).take(tile.queries.n);
        for (i, ((state, weights), scale)) in rows.enumerate() {
            let (Some(scores), Some(&factor)) = (tile.scores.get(i), tile.factors.get(i)) else { return };
            let center = tile.center_scores.get(i).and_then(|s| s.first()).copied().unwrap_or(0);
            let from = tile.from.get(i).map_or(0, |f| f.saturating_sub(segment.start));
            let to = tile.to.get(i).map_or(0, |t| t.saturating_sub(segment.start)).min(segment.n);
            let fold = Fold {
                n: segment.n,
                scores,
                key_scales: &segment.key_scales,
                value_scales: &segment.value_scales,
                factor,
                bias: center_scale.map_or(0.0, |scale| center as f32 * scale * factor),
                from,
                to,
                max_weight,
            };
            *scale = self.backend.fold(&fold, state, weights);
        }
        let value_dim = self.plan.shape.value_head_dim;
        for sums in tile.sums.iter_mut().take(tile.queries.n) {
            sums.get_mut(..value_dim).unwrap_or(&mut []).fill(0);
        }
        accumulate(tile);
        let mut rest = out;
        for (sums, (rescale, scale)) in tile.sums.iter().zip(scales).take(tile.queries.n) {
            let Some((row, tail)) = rest.split_at_mut_checked(value_dim) else { return };
            self.backend.add_scaled(row, rescale, sums, scale);
            rest = tail;
        }
    }
}

impl Tile {
    const fn new() -> Self {
        Self {
            queries: Queries { rows: [[0; MAX_HEAD_DIM]; TILE], n: 0 },
            factors: [0.0; TILE],
            states: [FoldState::EMPTY; TILE],
            from: [0; TILE],
            to: [0; TILE],
            scores: [[0; SEGMENT]; TILE],
            center_scores: [[0; SEGMENT]; TILE],
            weights: [[0; SEGMENT]; TILE],
            sums: [[0; MAX_HEAD_DIM]; TILE],
        }
    }

    /// Whether any row sees some of the `n` tokens from `start` on.
    fn sees(&self, start: usize, n: usize) -> bool {
        let ranges = self.from.iter().zip(&self.to).take(self.queries.n);
        ranges.into_iter().any(|(&from, &to)| from < start + n && to > start)
    }
}

/// A head's block on one side.
struct HeadPlace<'a> {
    plan: &'a SidePlan,
    block: usize,
    row: HeadRow,
}

impl<'a> HeadPlace<'a> {
    fn new(plan: &'a SidePlan, kv_head: usize) -> Self {
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

fn one_plane(rows: &[u8], n: usize) -> Run<'_> {
    let mut planes: [&[u8]; MAX_PLANES] = [&[]; MAX_PLANES];
    planes[0] = rows;
    Run { planes, n, first: 0 }
}

/// Scales of `n` tokens whose exponents lie in a table `(tokens, n_blocks)`.
fn precise_scales(
    bytes: &[u8],
    place: &HeadPlace<'_>,
    table: usize,
    first: usize,
    n: usize,
) -> [f32; SEGMENT] {
    let mut out = [0.0; SEGMENT];
    for (t, scale) in out.iter_mut().enumerate().take(n) {
        let e = get_i16(bytes, table + 2 * ((first + t) * place.plan.n_blocks + place.block));
        *scale = if e == ZERO { 0.0 } else { exp2_8(i32::from(e)) };
    }
    out
}

/// The unit ids of the recent window from slot `first` on.
fn hot_ids(bytes: &[u8], plan: &SidePlan, first: usize) -> UnitIds {
    let mut ids = [NONE; MAX_SPAN_UNITS];
    let (skip, _) = plan.split_token(8, first);
    for (i, id) in ids.iter_mut().enumerate() {
        *id = get_u32(bytes, plan.hot_ids + 4 * (skip + i));
    }
    ids
}
