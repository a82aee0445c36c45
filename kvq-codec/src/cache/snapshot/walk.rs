//! Where the parts of a snapshot lie in a cache's storage, in the snapshot's order.
//!
//! Writing and restoring walk the same way, so they cannot disagree. Rows go plane by plane and block by
//! block, all tokens of a block one after the other: which units they lie in, and how many of them a unit
//! holds, is not in the snapshot.

use crate::block::Layout;
use crate::bytes::{get_u32, put, slice, slice_mut};
use crate::cache::plan::Plan;
use crate::cache::side_plan::SidePlan;
use crate::cache::storage::{record_offset, unit_offset};
use crate::error::Side;
use crate::pack::plane_row_bytes;

pub(super) const SIDES: [Side; 2] = [Side::Key, Side::Value];

/// Moves bytes between a cache's storage and a snapshot.
pub(super) trait Transfer {
    /// The storage.
    fn storage(&self) -> &[u8];

    /// Moves the next `len` bytes of the snapshot from or to `offset` of the storage.
    fn piece(&mut self, offset: usize, len: usize);
}

/// From the storage to the snapshot.
pub(super) struct Writer<'a> {
    pub storage: &'a [u8],
    pub out: &'a mut [u8],
    /// Bytes written.
    pub at: usize,
}

impl Writer<'_> {
    /// Appends bytes that are not in the storage as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        put(self.out, self.at, bytes);
        self.at += bytes.len();
    }
}

impl Transfer for Writer<'_> {
    fn storage(&self) -> &[u8] {
        self.storage
    }

    fn piece(&mut self, offset: usize, len: usize) {
        put(self.out, self.at, slice(self.storage, offset, len));
        self.at += len;
    }
}

/// From the snapshot to the storage.
pub(super) struct Loader<'a> {
    pub storage: &'a mut [u8],
    pub snapshot: &'a [u8],
    /// Bytes read.
    pub at: usize,
}

impl Transfer for Loader<'_> {
    fn storage(&self) -> &[u8] {
        self.storage
    }

    fn piece(&mut self, offset: usize, len: usize) {
        let source = slice(self.snapshot, self.at, len);
        put(slice_mut(self.storage, offset, len), 0, source);
        self.at += len;
    }
}

/// The `n_sink` sinks of a layer.
pub(super) fn sinks(plan: &Plan, to: &mut impl Transfer, layer: usize, n_sink: usize) {
    let base = layer * plan.layer_bytes;
    for side in SIDES.map(|side| plan.side(side)) {
        to.piece(base + side.sink_exponents, 2 * n_sink * side.n_blocks);
    }
    for side in SIDES.map(|side| plan.side(side)) {
        for block in 0..side.n_blocks {
            to.piece(base + side.sink_row(plan.n_sink, block), n_sink * side.block_values(block));
        }
    }
}

/// A span whose record and units are `record`'s.
pub(super) fn span(plan: &Plan, to: &mut impl Transfer, record: u32, layouts: [Layout; 2]) {
    let base = record_offset(plan, to.storage().len(), record);
    let at = |offset: usize| base.wrapping_add(offset);
    let n_blocks = plan.key.n_blocks + plan.value.n_blocks;
    to.piece(at(plan.key.bases), 2 * n_blocks);
    if layouts[0].is_centered() {
        to.piece(at(plan.key.center_exponents), 2 * plan.key.n_blocks + plan.key.token_bytes(4));
    }
    to.piece(at(plan.key.scales), plan.span_len * n_blocks);
    for (side, layout) in SIDES.into_iter().zip(layouts) {
        let side = plan.side(side);
        let mut ids = at(side.ids);
        for &width in layout.planes() {
            rows(plan, to, side, width, ids, plan.span_len);
            ids = ids.wrapping_add(4 * side.plane_units(width, plan.span_len));
        }
    }
}

/// The `n_hot` tokens of a layer's recent window.
pub(super) fn recent(plan: &Plan, to: &mut impl Transfer, layer: usize, n_hot: usize) {
    let base = layer * plan.layer_bytes;
    for side in SIDES.map(|side| plan.side(side)) {
        to.piece(base + side.hot_exponents, 2 * n_hot * side.n_blocks);
    }
    for side in SIDES.map(|side| plan.side(side)) {
        rows(plan, to, side, 8, base + side.hot_ids, n_hot);
    }
}

/// `n` tokens of a plane whose unit ids lie at `ids` in the storage.
fn rows(plan: &Plan, to: &mut impl Transfer, side: &SidePlan, width: u8, ids: usize, n: usize) {
    let per_unit = side.tokens_per_unit(width);
    for block in 0..side.n_blocks {
        let row_bytes = plane_row_bytes(width, side.block_values(block));
        let (mut first, mut id_at) = (0, ids);
        while first < n {
            let id = get_u32(to.storage(), id_at);
            let offset = unit_offset(plan, id).saturating_add(side.block_offset(width, block));
            to.piece(offset, per_unit.min(n - first) * row_bytes);
            first += per_unit;
            id_at = id_at.wrapping_add(4);
        }
    }
}
