//! Restoring what is held as floats: for code that needs keys and values themselves.
//!
//! Attention never comes here. Each call costs a pass over the packed bytes of a head and an inverse rotation
//! per token.

use super::Cache;
use super::append::check_length;
use super::layer::SpanHead;
use super::place::HeadPlace;
use super::storage::{self, NONE, Storage};
use crate::block::{Layout, Rows, levels_into};
use crate::bytes::{get_i16, get_u8, slice};
use crate::error::{Error, Side};
use crate::math::exp2_8;
use crate::pack::plane_row_bytes;
use crate::quantize::precise::ZERO;
use crate::quantize::row::MAX_ROW;
use crate::quantize::span::block_exponent;
use crate::rotate::Rotation;

impl<S: Storage> Cache<S> {
    /// Tokens that `layer` holds: all that were appended and neither trimmed nor evicted.
    ///
    /// # Errors
    /// [`Error::Layer`].
    pub fn n_held(&self, layer: usize) -> Result<usize, Error> {
        self.check_layer(layer)?;
        Ok(self.layer(layer).n_held())
    }

    /// Writes the keys or the values of one KV head as floats, in the order of their positions.
    ///
    /// Shape: `out (n_held, head_dim)`, with [`n_held`](Self::n_held) and the head size of that side. Sinks come
    /// first; where tokens were evicted, those behind them follow at once.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::KvHead`] for a head that is not there, or [`Error::Length`].
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Policy, Side};
    ///
    /// let mut memory = [0; 24 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// cache.append(0, 3, &[0.5; 2 * 3 * 32], &[1.0; 2 * 3 * 32])?;
    /// let mut values = [0.0; 3 * 32]; // (n_held, head_dim)
    /// cache.dequantize_into(0, Side::Value, 1, &mut values)?;
    /// assert!(values.iter().all(|value| (value - 1.0).abs() < 0.05));
    /// # Ok::<(), kvq_codec::Error>(())
    /// ```
    pub fn dequantize_into(
        &self,
        layer: usize,
        side: Side,
        kv_head: usize,
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.check_layer(layer)?;
        let (state, plan) = (self.layer(layer), self.plan.side(side));
        if kv_head >= self.plan.shape.n_kv_heads {
            let n_kv_heads = self.plan.shape.n_kv_heads as u32;
            return Err(Error::KvHead { n_kv_heads, got: kv_head as u32 });
        }
        check_length("out", out.len(), state.n_held().saturating_mul(plan.head_dim))?;
        let place = HeadPlace::new(&self.plan, side, kv_head);
        let (block, n_values) = (place.block, place.row.block_values);
        let bytes = storage::layer(&self.plan, self.storage.bytes(), layer);
        let precise = |table: usize, t: usize| {
            let e = get_i16(bytes, table + 2 * (t * plan.n_blocks + block));
            (e != ZERO).then_some(i32::from(e))
        };
        let mut vectors = out.chunks_exact_mut(plan.head_dim.max(1));
        let rows = slice(bytes, plan.sink_row(self.plan.n_sink, block), state.n_sink * n_values);
        let rows = Rows::one_plane(rows, Layout::Q8, n_values, state.n_sink);
        for (t, vector) in vectors.by_ref().take(state.n_sink).enumerate() {
            self.restore_vector(
                &place,
                (Layout::Q8, &rows, t),
                precise(plan.sink_exponents, t),
                None,
                vector,
            );
        }
        let mut at = state.head;
        while at != NONE {
            let record = self.record(at);
            let head = SpanHead::read(record);
            let (layout, planes) = place.tier(head.tier(side));
            let rows = self.rows_in(planes, Self::id_bytes(record, plan), head.count);
            let base = get_i16(record, plan.bases + 2 * block);
            let center = (side == Side::Key && layout.is_centered()).then(|| self.center(record, &place));
            for (t, vector) in vectors.by_ref().take(head.count).enumerate() {
                let exponent = block_exponent(base, get_u8(record, plan.scale(self.plan.span_len, block, t)));
                self.restore_vector(&place, (layout, &rows, t), exponent, center.as_ref(), vector);
            }
            at = head.next;
        }
        let ids = slice(bytes, plan.hot_ids, 4 * plan.plane_units(8, state.n_hot));
        let rows = self.rows(plan, Layout::Q8, block, ids, state.n_hot);
        for (t, vector) in vectors.enumerate() {
            self.restore_vector(&place, (Layout::Q8, &rows, t), precise(plan.hot_exponents, t), None, vector);
        }
        Ok(())
    }

    /// The center of a span's keys in one block, rotated.
    fn center(&self, record: &[u8], place: &HeadPlace<'_>) -> [f32; MAX_ROW] {
        let (plan, n_values) = (place.plan, place.row.block_values);
        let full = plane_row_bytes(4, plan.heads_per_block * plan.head_dim);
        let row = slice(record, plan.center_rows + place.block * full, plane_row_bytes(4, n_values));
        let exponent = get_i16(record, plan.center_exponents + 2 * place.block);
        let scale = if exponent == ZERO { 0.0 } else { exp2_8(i32::from(exponent)) };
        let mut levels = [0i8; MAX_ROW];
        let levels = levels.get_mut(..n_values).unwrap_or(&mut []);
        levels_into(Layout::S4, &Rows::one_plane(row, Layout::S4, n_values, 1).row(0), 0, levels);
        let mut center = [0.0; MAX_ROW];
        center.iter_mut().zip(levels).for_each(|(c, &mut level)| *c = f32::from(level) * scale);
        center
    }

    /// Token `t` of some rows: levels times scale, plus the center, rotated back.
    fn restore_vector(
        &self,
        place: &HeadPlace<'_>,
        (layout, rows, t): (Layout, &Rows<'_>, usize),
        exponent: Option<i32>,
        center: Option<&[f32; MAX_ROW]>,
        vector: &mut [f32],
    ) {
        let mut levels = [0i8; MAX_ROW];
        let levels = levels.get_mut(..place.row.block_values).unwrap_or(&mut []);
        levels_into(layout, &rows.row(t), 0, levels);
        let scale = exponent.map_or(0.0, exp2_8);
        // A block may hold several heads.
        for (v, &level) in vector.iter_mut().zip(levels.iter().skip(place.row.offset)) {
            *v = f32::from(level) * scale;
        }
        if let Some(center) = center {
            for (v, c) in vector.iter_mut().zip(center.iter().skip(place.row.offset)) {
                *v += c;
            }
        }
        self.backend.unrotate(Rotation::new(place.plan.head_dim), vector);
    }
}
