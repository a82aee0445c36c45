//! One pass over what a layer holds: the sinks, each span, the recent window, segment by segment.

use core::ops::Range;

use super::Cache;
use super::arithmetic::{Arithmetic, Scored};
use super::layer::SpanHead;
use super::place::{Head, HeadPlace, Part, Place, Segment};
use super::storage::{self, NONE, Storage};
use super::tile::{SegmentWork, Tile};
use crate::block::{Layout, Rows};
use crate::bytes::{get_i16, slice};
use crate::kernel::{Backend, SEGMENT, TILE};
use crate::pack::plane_row_bytes;

/// Whether a tile's rows are folded side by side, by twos or threes, for which flash need not have room where registers have
/// none; four are more than even AVX-512 has registers for.
const FOLDS_ABREAST: bool = cfg!(target_pointer_width = "64");

impl<S: Storage> Cache<S> {
    /// Takes the rows of some tiles over everything that the layer holds, but the spans before `at`, up to position `end`;
    /// returns the first span that goes beyond.
    pub(super) fn walk<A: Arithmetic>(
        &self,
        work: &mut SegmentWork<A::Scale>,
        place: &Place<'_>,
        (mut at, end): (u32, usize),
        tiles: &mut [Tile<A>],
        out: &mut [A::Out],
    ) -> u32 {
        let heads = place.heads;
        if let Some(head) = heads.first() {
            self.prefetch_keys(at, &head.key);
        }
        place.for_each_head(tiles, out, |_, head, tiles, out| {
            self.attend_sinks(work, place, head, tiles, out);
        });
        while at != NONE {
            let record = self.record(at);
            let span = SpanHead::read(record);
            if span.start >= end {
                break;
            }
            if Backend::PREFETCHES {
                self.backend.prefetch_bytes(self.record(span.next));
            }
            if tiles.iter().any(|tile| tile.sees(span.start, span.count)) {
                place.for_each_head(tiles, out, |i, head, tiles, out| {
                    let mut segment = self.span_segment(record, &span, head, work);
                    segment.next = match (heads.get(i + 1), heads.first()) {
                        (Some(next), _) => Some((at, &next.key)),
                        (None, Some(first)) => Some((span.next, &first.key)),
                        (None, None) => None,
                    };
                    self.attend_segment(segment, work, tiles, out);
                });
            }
            if span.start + span.count > end {
                break;
            }
            at = span.next;
        }
        place.for_each_head(tiles, out, |_, head, tiles, out| {
            self.attend_hot(work, place, head, tiles, out);
        });
        at
    }

    fn attend_sinks<A: Arithmetic>(
        &self,
        work: &mut SegmentWork<A::Scale>,
        place: &Place<'_>,
        Head { key, value }: &Head<'_>,
        tiles: &mut [Tile<A>],
        out: &mut [A::Out],
    ) {
        let Place { layer, state, .. } = place;
        if !tiles.iter().any(|tile| tile.sees(0, state.n_sink)) {
            return;
        }
        let bytes = storage::layer(&self.plan, self.storage.bytes(), *layer);
        let mut first = 0;
        while first < state.n_sink {
            let n = (state.n_sink - first).min(SEGMENT);
            let tables = [key.plan.sink_exponents, value.plan.sink_exponents];
            precise_scales_into::<A>(bytes, [key, value], tables, first..first + n, work);
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

    fn attend_hot<A: Arithmetic>(
        &self,
        work: &mut SegmentWork<A::Scale>,
        place: &Place<'_>,
        Head { key, value }: &Head<'_>,
        tiles: &mut [Tile<A>],
        out: &mut [A::Out],
    ) {
        let Place { layer, state, .. } = place;
        if !tiles.iter().any(|tile| tile.sees(state.hot_start(), state.n_hot)) {
            return;
        }
        let bytes = storage::layer(&self.plan, self.storage.bytes(), *layer);
        let mut first = 0;
        self.prefetch_hot_keys(place, key, first);
        while first < state.n_hot {
            let n = (state.n_hot - first).min(self.plan.span_len);
            let start = state.hot_start() + first;
            self.prefetch_hot_keys(place, key, first + n);
            if tiles.iter().any(|tile| tile.sees(start, n)) {
                let tables = [key.plan.hot_exponents, value.plan.hot_exponents];
                precise_scales_into::<A>(bytes, [key, value], tables, first..first + n, work);
                let part = |head: &HeadPlace<'_>| {
                    let rows = self.hot_rows(place, head, first);
                    Part { row: head.row, layout: Layout::Q8, rows }
                };
                let segment =
                    Segment { start, n, key: part(key), value: part(value), center: None, next: None };
                self.attend_segment(segment, work, tiles, out);
            }
            first += n;
        }
    }

    /// A span as a segment; its scales go to `work`.
    fn span_segment<'a, A: Arithmetic>(
        &'a self,
        record: &'a [u8],
        span: &SpanHead,
        Head { key, value }: &Head<'a>,
        work: &mut SegmentWork<A::Scale>,
    ) -> Segment<'a, A> {
        let scales = |place: &HeadPlace<'_>, out: &mut [A::Scale; SEGMENT]| {
            let base = get_i16(record, place.plan.bases + 2 * place.block);
            let at = place.plan.scales + place.block * self.plan.span_len;
            A::scales_into(self.backend, base, slice(record, at, span.count), out);
        };
        scales(key, &mut work.key_scales);
        scales(value, &mut work.value_scales);
        let part = |place: &HeadPlace<'_>, tier| {
            let (layout, planes) = place.tier(tier);
            let ids = Self::id_bytes(record, place.plan);
            Part { row: place.row, layout, rows: self.rows_in(planes, ids, span.count) }
        };
        let key_part = part(key, span.key_tier);
        let center = key_part.layout.is_centered().then(|| {
            let full = plane_row_bytes(4, key.plan.heads_per_block * key.plan.head_dim);
            let row_bytes = plane_row_bytes(4, key.row.block_values);
            let row = slice(record, key.plan.center_rows + key.block * full, row_bytes);
            let exponent = get_i16(record, key.plan.center_exponents + 2 * key.block);
            (Rows::one_plane(row, Layout::S4, key.row.block_values, 1), A::scale(exponent))
        });
        Segment {
            start: span.start,
            n: span.count,
            key: key_part,
            value: part(value, span.value_tier),
            center,
            next: None,
        }
    }

    /// Asks for a span's keys before they are needed: units lie scattered, which no CPU foresees.
    fn prefetch_keys(&self, span: u32, key: &HeadPlace<'_>) {
        if span == NONE || !Backend::PREFETCHES {
            return;
        }
        let bytes = self.record(span);
        let head = SpanHead::read(bytes);
        let (_, planes) = key.tier(head.key_tier);
        self.backend.prefetch(&self.rows_in(planes, Self::id_bytes(bytes, key.plan), head.count));
    }

    /// The 8-bit rows of the recent window from the `first` on, a segment of them.
    fn hot_rows(&self, place: &Place<'_>, head: &HeadPlace<'_>, first: usize) -> Rows<'_> {
        let bytes = storage::layer(&self.plan, self.storage.bytes(), place.layer);
        let n = place.state.n_hot.saturating_sub(first).min(self.plan.span_len);
        let (skip, _) = head.plan.split_token(8, first);
        let ids = slice(bytes, head.plan.hot_ids + 4 * skip, 4 * head.plan.plane_units(8, n));
        self.rows(head.plan, Layout::Q8, head.block, ids, n)
    }

    /// As [`prefetch_keys`](Self::prefetch_keys), for the recent window from token `first` of it on.
    fn prefetch_hot_keys(&self, place: &Place<'_>, key: &HeadPlace<'_>, first: usize) {
        if first < place.state.n_hot && Backend::PREFETCHES {
            self.backend.prefetch(&self.hot_rows(place, key, first));
        }
    }

    /// Scores a segment, folds it into the running softmax of each row that sees it and adds its values.
    fn attend_segment<A: Arithmetic>(
        &self,
        mut segment: Segment<'_, A>,
        work: &mut SegmentWork<A::Scale>,
        tiles: &mut [Tile<A>],
        out: &mut [A::Out],
    ) {
        self.backend.prefetch(&segment.value.rows);
        work.forget_levels(tiles.len() > 1);
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
                self.prefetch_keys(next, key);
            }
            let steps = self.fold(&segment, work, tile);
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
            for (sums, step) in work.sums.iter().zip(steps).take(n) {
                let Some((row, tail)) = rest.split_at_mut_checked(value_dim) else { return };
                A::add(self.backend, row, step, sums);
                rest = tail;
            }
        }
    }

    /// Scores to integer weights; returns, per row, how its sums are to be added.
    fn fold<A: Arithmetic>(
        &self,
        segment: &Segment<'_, A>,
        work: &mut SegmentWork<A::Scale>,
        tile: &mut Tile<A>,
    ) -> [A::Step; TILE] {
        match tile.queries.n {
            3 if FOLDS_ABREAST => self.fold_rows::<A, 3>(segment, work, tile),
            2 | TILE if FOLDS_ABREAST => self.fold_rows::<A, 2>(segment, work, tile),
            _ => self.fold_rows::<A, 1>(segment, work, tile),
        }
    }

    /// The rows of a tile, `N` at a time.
    fn fold_rows<A: Arithmetic, const N: usize>(
        &self,
        segment: &Segment<'_, A>,
        work: &mut SegmentWork<A::Scale>,
        tile: &mut Tile<A>,
    ) -> [A::Step; TILE] {
        let SegmentWork { key_scales, value_scales, scores, center_scores, weights, .. } = work;
        let mut steps = [A::NO_STEP; TILE];
        let lines = tile.lines.get_mut(..tile.queries.n).unwrap_or(&mut []).as_chunks_mut::<N>().0;
        let scores = scores.as_chunks::<N>().0.iter().zip(center_scores.as_chunks::<N>().0);
        let out = weights.as_chunks_mut::<N>().0.iter_mut().zip(steps.as_chunks_mut::<N>().0);
        for ((lines, (scores, center_scores)), (weights, steps)) in lines.iter_mut().zip(scores).zip(out) {
            let scored = core::array::from_fn(|i| Scored {
                n: segment.n,
                scores: &scores[i],
                center: segment.center.map(|(_, scale)| (center_scores[i][0], scale)),
                key_scales,
                value_scales,
                from: lines[i].from.saturating_sub(segment.start),
                to: lines[i].to.saturating_sub(segment.start).min(segment.n),
                wide_keys: segment.key.layout == Layout::Q8,
                wide_values: segment.value.layout == Layout::Q8,
            });
            let rows = lines.each_mut().map(|line| &mut line.row);
            *steps = A::fold(self.backend, &scored, rows, weights);
        }
        steps
    }
}

/// Scales of both sides' `tokens`, whose exponents lie in tables `(tokens, n_blocks)`.
#[inline(never)]
fn precise_scales_into<A: Arithmetic>(
    bytes: &[u8],
    places: [&HeadPlace<'_>; 2],
    tables: [usize; 2],
    tokens: Range<usize>,
    work: &mut SegmentWork<A::Scale>,
) {
    let scales = [&mut work.key_scales, &mut work.value_scales];
    for ((place, table), scales) in places.into_iter().zip(tables).zip(scales) {
        for (scale, t) in scales.iter_mut().zip(tokens.clone()) {
            *scale = A::scale(get_i16(bytes, table + 2 * (t * place.plan.n_blocks + place.block)));
        }
    }
}
