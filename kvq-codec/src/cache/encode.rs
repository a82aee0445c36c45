//! Encoding one block of a span: from 8-bit rows or from the levels of an earlier tier to center, scales and codes.
//!
//! What is encoded goes to where the cache keeps it, row by row, or to bytes apart, which are copied there later: so
//! several blocks can be encoded at the same time while the cache stays as it is.

use super::Cache;
use super::pack::UnitIds;
use super::plan::{MAX_SPAN, Plan};
use super::side_plan::SidePlan;
use super::storage::{self, NONE, Storage};
use super::threads::Threads;
use crate::block::{Layout, Rows, levels_into};
use crate::bytes::{get_i16, get_u8, get_u32, put, put_i16, put_u8, slice, slice_mut};
use crate::error::Side;
use crate::kernel::Backend;
use crate::pack::plane_row_bytes;
use crate::quantize::precise::ZERO;
use crate::quantize::row::MAX_ROW;
use crate::quantize::span::{
    Center, ZERO_SCALE, base_exponent, block_exponent, encode_again, encode_plain, scale_byte,
};

/// The block of a span that is encoded, and what in.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub side: Side,
    pub plan: &'a SidePlan,
    pub block: usize,
    pub layout: Layout,
}

/// 8-bit rows of one block: the ids of the units they lie in, and the exponent of each token.
pub(super) struct Source<'a> {
    pub ids: &'a UnitIds,
    pub exponents: [i16; MAX_SPAN],
}

/// A cache that is read only, by several threads perhaps.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub plan: &'a Plan,
    pub bytes: &'a [u8],
    pub backend: Backend,
}

/// Where an encoded block goes.
pub(super) trait Sink<'a> {
    /// Which block it is.
    fn at(&self) -> Block<'a>;

    /// The cache, as it is now.
    fn view(&self) -> View<'_>;

    /// Takes the center's exponent and codes, before any row.
    fn put_center(&mut self, exponent: i16, codes: &[u8]);

    /// Takes the scale byte and the codes of token `t`.
    fn put_row(&mut self, t: usize, scale: u8, codes: &[u8]);
}

/// Places in the cache: what is encoded replaces what is there.
pub(super) struct InPlace<'a, S> {
    pub cache: &'a mut Cache<S>,
    pub at: Block<'a>,
    pub record: u32,
    pub target: &'a UnitIds,
}

/// Bytes apart from the cache: the center's exponent and codes, then scale byte and codes of each row.
pub(super) struct Apart<'a> {
    pub view: View<'a>,
    pub at: Block<'a>,
    pub bytes: &'a mut [u8],
}

impl<'a> View<'a> {
    /// The units of the oldest span of a layer's recent window.
    pub fn recent_ids(self, layer: usize, plan: &SidePlan) -> UnitIds {
        let mut ids = [NONE; _];
        let state = storage::layer(self.plan, self.bytes, layer);
        for (i, id) in ids.iter_mut().enumerate().take(plan.units(Layout::Q8, self.plan.span_len)) {
            *id = get_u32(state, plan.hot_ids + 4 * i);
        }
        ids
    }

    /// One block of that span, whose units are `ids`.
    pub fn recent<'i>(self, layer: usize, plan: &SidePlan, block: usize, ids: &'i UnitIds) -> Source<'i> {
        let mut source = Source { ids, exponents: [ZERO; _] };
        let state = storage::layer(self.plan, self.bytes, layer);
        for (t, e) in source.exponents.iter_mut().enumerate().take(self.plan.span_len) {
            *e = get_i16(state, plan.hot_exponents + 2 * (t * plan.n_blocks + block));
        }
        source
    }

    /// One block of a span that is stored in 8-bit rows, in units `ids`.
    pub fn precise_span<'i>(self, span: u32, plan: &SidePlan, block: usize, ids: &'i UnitIds) -> Source<'i> {
        let mut source = Source { ids, exponents: [ZERO; _] };
        let record = storage::record(self.plan, self.bytes, span);
        let base = get_i16(record, plan.bases + 2 * block);
        for (t, e) in source.exponents.iter_mut().enumerate().take(self.plan.span_len) {
            let byte = get_u8(record, plan.scale(self.plan.span_len, block, t));
            *e = block_exponent(base, byte).map_or(ZERO, |e| e as i16);
        }
        source
    }

    /// The 8-bit row of token `t` in `block`.
    #[cfg_attr(kvq_small, inline(never))]
    fn precise_row(self, plan: &SidePlan, block: usize, ids: &UnitIds, t: usize) -> &'a [u8] {
        let (unit, place) = plan.split_token(8, t);
        let id = ids.get(unit).copied().unwrap_or(NONE);
        let n_values = plan.block_values(block);
        let offset = plan.block_offset(8, block) + place * n_values;
        slice(storage::unit(self.plan, self.bytes, id), offset, n_values)
    }
}

impl Source<'_> {
    /// The base exponent of the block in a span of `span_len` tokens.
    pub fn base(&self, span_len: usize) -> i16 {
        base_exponent(self.exponents.iter().copied().take(span_len))
    }
}

/// Encodes a block from 8-bit rows.
pub(super) fn encode_block<'a>(sink: &mut impl Sink<'a>, source: &Source<'_>) {
    let Block { side, plan, block, layout } = sink.at();
    let span_len = sink.view().plan.span_len;
    let base = source.base(span_len);
    let mut codes = [0u8; MAX_ROW];
    let codes = codes.get_mut(..plan.block_values(block)).unwrap_or(&mut []);
    let center = (side == Side::Key).then(|| {
        let view = sink.view();
        let mut center = Center::new(base);
        for (t, &e) in source.exponents.iter().enumerate().take(span_len) {
            center.add(view.backend, view.precise_row(plan, block, source.ids, t), e);
        }
        let exponent = center.encode(view.backend, span_len.trailing_zeros(), codes);
        sink.put_center(exponent, codes);
        center
    });
    for (t, &e) in source.exponents.iter().enumerate().take(span_len) {
        let view = sink.view();
        let row = view.precise_row(plan, block, source.ids, t);
        let exponent = match &center {
            Some(center) => center.encode_residual(view.backend, layout, (row, e), codes),
            None => encode_plain(view.backend, layout, (row, e), codes),
        };
        sink.put_row(t, exponent.map_or(ZERO_SCALE, |e| scale_byte(base, e)), codes);
    }
}

/// Encodes a block again from the levels of layout `old`, whose units the record still names. The center stays.
pub(super) fn encode_block_again<'a>(sink: &mut impl Sink<'a>, span: u32, old: Layout) {
    let Block { plan, block, layout, .. } = sink.at();
    let n_values = plan.block_values(block);
    let mut levels = [0i8; MAX_ROW];
    let mut codes = [0u8; MAX_ROW];
    let levels = levels.get_mut(..n_values).unwrap_or(&mut []);
    let codes = codes.get_mut(..n_values).unwrap_or(&mut []);
    for t in 0..sink.view().plan.span_len {
        let view = sink.view();
        let span_len = view.plan.span_len;
        let record = storage::record(view.plan, view.bytes, span);
        let units = storage::units(view.plan, view.bytes);
        let planes = plan.planes(old, block, span_len);
        let ids = slice(record, plan.ids, 4 * plan.max_units);
        let row = Rows::in_units(units, view.plan.unit_bytes, ids, planes, span_len).row(t);
        levels_into(old, &row, 0, levels);
        let base = get_i16(record, plan.bases + 2 * block);
        let byte = get_u8(record, plan.scale(span_len, block, t));
        let byte = match (block_exponent(base, byte), encode_again(view.backend, layout, levels, codes)) {
            (Some(e), Some(change)) => scale_byte(base, e + change),
            _ => ZERO_SCALE,
        };
        sink.put_row(t, byte, codes);
    }
}

impl<'a, S: Storage> Sink<'a> for InPlace<'a, S> {
    fn at(&self) -> Block<'a> {
        self.at
    }

    fn view(&self) -> View<'_> {
        self.cache.view()
    }

    fn put_center(&mut self, exponent: i16, codes: &[u8]) {
        let Block { plan, block, .. } = self.at;
        let backend = self.cache.backend;
        let bytes = self.cache.record_mut(self.record);
        put_i16(bytes, plan.center_exponents + 2 * block, exponent);
        let row_bytes = plane_row_bytes(4, codes.len());
        let full = plane_row_bytes(4, plan.heads_per_block * plan.head_dim);
        backend.put_plane(4, 0, codes, slice_mut(bytes, plan.center_rows + block * full, row_bytes));
    }

    fn put_row(&mut self, t: usize, scale: u8, codes: &[u8]) {
        let Block { plan, block, layout, .. } = self.at;
        self.cache.put_scale_byte(self.record, plan, block, t, scale);
        self.cache.put_codes(plan, layout, block, t, codes, self.target);
    }
}

impl<'a> Sink<'a> for Apart<'a> {
    fn at(&self) -> Block<'a> {
        self.at
    }

    fn view(&self) -> View<'_> {
        self.view
    }

    fn put_center(&mut self, exponent: i16, codes: &[u8]) {
        put_i16(self.bytes, 0, exponent);
        put(self.bytes, 2, codes);
    }

    fn put_row(&mut self, t: usize, scale: u8, codes: &[u8]) {
        let at = row_apart(self.at.plan.block_values(self.at.block), t);
        put_u8(self.bytes, at, scale);
        put(self.bytes, at + 1, codes);
    }
}

/// Where the row of token `t` begins in a block [`Apart`], and with it the bytes of a center and `t` rows.
const fn row_apart(n_values: usize, t: usize) -> usize {
    2 + n_values + t * (1 + n_values)
}

impl<S: Storage> InPlace<'_, S> {
    /// Takes a block that was encoded apart.
    pub fn take(&mut self, bytes: &[u8], has_center: bool) {
        let n_values = self.at.plan.block_values(self.at.block);
        if has_center {
            self.put_center(get_i16(bytes, 0), slice(bytes, 2, n_values));
        }
        for t in 0..self.cache.plan.span_len {
            let at = row_apart(n_values, t);
            self.put_row(t, get_u8(bytes, at), slice(bytes, at + 1, n_values));
        }
    }
}

impl<S: Storage> Cache<S> {
    pub(super) fn view(&self) -> View<'_> {
        View { plan: &self.plan, bytes: self.storage.bytes(), backend: self.backend }
    }

    /// Bytes of any block [`Apart`].
    pub(super) fn part_bytes(&self) -> usize {
        row_apart(self.plan.most_block_values(), self.plan.span_len)
    }

    /// Has `threads` encode `n_parts` blocks apart, unless they leave it to the caller.
    #[inline(always)]
    pub(super) fn encode_apart<T: Threads>(
        &self,
        threads: &T,
        n_parts: usize,
        encode: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Option<T::Parts> {
        let parts = threads.share_out(n_parts, self.part_bytes(), &encode)?;
        (parts.as_ref().len() == n_parts * self.part_bytes()).then_some(parts)
    }

    /// One block of those that were encoded apart.
    pub(super) fn part<'a>(&self, parts: Option<&'a [u8]>, block: usize) -> Option<&'a [u8]> {
        Some(slice(parts?, block * self.part_bytes(), self.part_bytes()))
    }

    /// Writes the codes of token `t` in `block` into the planes of `layout`.
    #[inline(never)]
    fn put_codes(
        &mut self,
        plan: &SidePlan,
        layout: Layout,
        block: usize,
        t: usize,
        codes: &[u8],
        ids: &UnitIds,
    ) {
        let backend = self.backend;
        let mut first_unit = 0;
        let mut shift = 0;
        for &width in layout.planes() {
            let (unit, place) = plan.split_token(width, t);
            let id = ids.get(first_unit + unit).copied().unwrap_or(NONE);
            let row_bytes = plane_row_bytes(width, codes.len());
            let offset = plan.block_offset(width, block) + place * row_bytes;
            let unit = storage::unit_mut(&self.plan, self.storage.bytes_mut(), id);
            backend.put_plane(width, shift, codes, slice_mut(unit, offset, row_bytes));
            first_unit += plan.plane_units(width, self.plan.span_len);
            shift += u32::from(width);
        }
    }

    /// Writes the scale byte of one block of a span.
    pub(super) fn put_scale_byte(&mut self, record: u32, plan: &SidePlan, block: usize, t: usize, byte: u8) {
        let at = plan.scale(self.plan.span_len, block, t);
        put_u8(self.record_mut(record), at, byte);
    }
}
