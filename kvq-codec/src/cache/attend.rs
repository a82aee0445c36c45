//! Attention on the packed bytes.
//!
//! The query rows of one KV head go over the cache together, [`TILE`] at a time ([`walk`](Cache::walk)). A segment of
//! at most 64 tokens is scored with integers, folded into the running softmax of each row, and its values summed with
//! integers; floats, or what stands for them where all is integers, appear once per segment and row ([`Arithmetic`]).

use super::Cache;
use super::append::check_length;
use super::arithmetic::{Arithmetic, Float, Integer};
use super::place::{Asked, Head, Place};
use super::storage::Storage;
use super::tile::{DECODE_TILES, Line, SegmentWork, Tile, Work};
use crate::error::{Error, figure};
use crate::fixed::{Fixed, check_fraction_bits};
use crate::kernel::TILE;

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
        self.attend_all(Float, layer, (n_tokens, window_len), queries, out)
    }

    /// As [`attend`](Self::attend), in integers from the queries to the output, with the same bits on every machine:
    /// for cores without an FPU, where floats take ten times the instructions.
    ///
    /// Shapes: as in [`attend`](Self::attend). Units: `queries` as [`Fixed`] says, `out` in `2^-out_fraction_bits`,
    /// rounded to nearest and saturated; it lies within the values that the cache holds. How close to
    /// [`attend`](Self::attend) it comes is told in `docs/NUMERICS.md`.
    ///
    /// # Errors
    /// As [`attend`](Self::attend), and [`Error::FractionBits`].
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, Fixed, KvCache, KvShape, Policy};
    ///
    /// # fn main() -> Result<(), kvq_codec::Error> {
    /// const SHAPE: KvShape = KvShape::new(1, 2, 32); // layers, KV heads, head_dim
    /// let mut memory = [0u8; 24 * 1024];
    /// let mut cache = KvCache::new(SHAPE, Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// let (key, value) = ([0x0800i16; 64], [0x40i8; 64]); // 0.5 with 12 fraction bits, 1.0 with 6
    /// cache.append_fixed(0, 1, Fixed::new(&key, 12), Fixed::new(&value, 6))?;
    /// let (query, mut out) = ([0x0199i16; 64], [0i32; 64]); // 0.1 with 12 fraction bits
    /// cache.attend_fixed(0, 1, Fixed::new(&query, 12), &mut out, 16)?;
    /// assert!((out[0] - 0x1_0000).abs() < 0x500); // 1.0 with 16
    /// # Ok(())
    /// # }
    /// ```
    pub fn attend_fixed(
        &self,
        layer: usize,
        n_tokens: usize,
        queries: Fixed<'_, i16>,
        out: &mut [i32],
        out_fraction_bits: i8,
    ) -> Result<(), Error> {
        let query_fraction_bits = check_fraction_bits(queries.fraction_bits)?;
        let out_fraction_bits = check_fraction_bits(out_fraction_bits)?;
        let arithmetic = Integer { query_fraction_bits, out_fraction_bits };
        self.attend_all(arithmetic, layer, (n_tokens, 0), queries.numbers, out)
    }

    fn attend_all<A: Arithmetic>(
        &self,
        arithmetic: A,
        layer: usize,
        (n_tokens, window_len): (usize, usize),
        queries: &[A::Query],
        out: &mut [A::Out],
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
        let asked = Asked::new(layer, 0..shape.n_kv_heads, n_tokens, window_len);
        self.attend_whole(arithmetic, asked, queries, out)
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
        let asked = Asked::new(layer, kv_head..kv_head + 1, n_tokens, window_len);
        self.attend_whole(Float, asked, queries, out)
    }

    /// Attends over all tokens.
    fn attend_whole<A: Arithmetic>(
        &self,
        arithmetic: A,
        asked: Asked<'_>,
        queries: &[A::Query],
        out: &mut [A::Out],
    ) -> Result<(), Error> {
        self.attend_heads(arithmetic, asked, queries, out, |_, _, line, out| {
            arithmetic.finish(self.backend, self.value_rotation(), &line.row, out);
        })
    }

    /// Attends the queries of KV heads, which exist. `finish(part, row, line, sums)` gets each query row when all that it
    /// sees of a part's positions is added; the next part goes on from what it leaves.
    ///
    /// Its kilobytes of buffers are on the stack of this call alone: inlined, they would lie in the caller's frame,
    /// below whatever else the caller calls.
    #[inline(never)]
    pub(super) fn attend_heads<A: Arithmetic>(
        &self,
        arithmetic: A,
        Asked { layer, kv_heads, n_tokens, window_len, parts }: Asked<'_>,
        queries: &[A::Query],
        out: &mut [A::Out],
        mut finish: impl FnMut(usize, usize, &mut Line<A::Row>, &mut [A::Out]),
    ) -> Result<(), Error> {
        self.check_layer(layer)?;
        let state = self.layer(layer);
        let held = state.n_held();
        if n_tokens == 0 || n_tokens > held {
            return Err(Error::PastEnd { len: figure(held), got: figure(n_tokens) });
        }
        let (key_dim, value_dim) = (self.plan.shape.key_head_dim, self.plan.shape.value_head_dim);
        let n_heads = kv_heads.len();
        let n_rows = queries.len().checked_div(key_dim * n_heads).unwrap_or(0);
        let whole = n_rows * key_dim * n_heads == queries.len();
        if n_rows == 0 || !whole || n_rows.checked_rem(n_tokens) != Some(0) {
            let multiple_of = figure((n_tokens * n_heads).saturating_mul(key_dim));
            return Err(Error::QueryHeads { multiple_of, got: figure(queries.len()) });
        }
        check_length("out", out.len(), n_heads * n_rows * value_dim)?;
        out.fill(A::Out::default());
        let own = self.plan.policy.window_len as usize;
        let window_len = match (own, window_len) {
            (0, len) | (len, 0) => len,
            (a, b) => a.min(b),
        };
        let mut work = Work::<A>::new();
        let (mut queries, mut out, mut head) = (queries, out, kv_heads.start);
        while !queries.is_empty() {
            // The rows of a decode step fit a tile, so that some heads may share a walk.
            let n = if n_rows <= TILE { (kv_heads.end - head).min(DECODE_TILES) } else { 1 };
            let (Some((q, q_rest)), Some((o, o_rest))) = (
                queries.split_at_checked(n * n_rows * key_dim),
                out.split_at_mut_checked(n * n_rows * value_dim),
            ) else {
                break;
            };
            let mut heads = [Head::new(&self.plan, head); DECODE_TILES];
            heads
                .iter_mut()
                .enumerate()
                .take(n)
                .skip(1)
                .for_each(|(i, place)| *place = Head::new(&self.plan, head + i));
            let heads = heads.get(..n).unwrap_or(&[]);
            let place = Place { layer, state, n_tokens, window_len, parts, heads };
            let before = (head - kv_heads.start) * n_rows;
            let mut finish = |part, row, line: &mut _, out: &mut _| finish(part, before + row, line, out);
            if n_rows <= TILE {
                let tiles = work.tiles.get_mut(..n).unwrap_or(&mut []);
                let work = (arithmetic, &mut work.segment);
                self.attend_rows(work, &place, 0, (q, n_rows), tiles, o, &mut finish);
            } else {
                self.attend_many((arithmetic, &mut work.segment), &place, q, o, &mut finish);
            }
            (queries, out, head) = (q_rest, o_rest, head + n);
        }
        Ok(())
    }

    /// Attends the many rows of one head, as many at a time as there are tiles for.
    fn attend_many<A: Arithmetic>(
        &self,
        (arithmetic, work): (A, &mut SegmentWork<A::Scale>),
        place: &Place<'_>,
        queries: &[A::Query],
        out: &mut [A::Out],
        finish: &mut impl FnMut(usize, usize, &mut Line<A::Row>, &mut [A::Out]),
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
            self.attend_rows((arithmetic, &mut *work), place, row, (q, TILE), tiles, o, finish);
            (queries, out, row) = (q_rest, o_rest, row + n);
        }
    }

    /// Attends the query rows from `first` on, which fit the tiles with `per_tile` in each; all lengths are
    /// checked.
    #[allow(clippy::too_many_arguments)]
    fn attend_rows<A: Arithmetic>(
        &self,
        (arithmetic, work): (A, &mut SegmentWork<A::Scale>),
        place: &Place<'_>,
        first: usize,
        (queries, per_tile): (&[A::Query], usize),
        tiles: &mut [Tile<A>],
        out: &mut [A::Out],
        finish: &mut impl FnMut(usize, usize, &mut Line<A::Row>, &mut [A::Out]),
    ) {
        let per_tile = (per_tile * self.plan.shape.key_head_dim).max(1);
        for (tile, queries) in tiles.iter_mut().zip(queries.chunks(per_tile)) {
            self.start_tile(arithmetic, queries, tile);
        }
        let (mut span, mut reached) = (place.state.head, 0);
        for (part, positions) in place.parts.iter().enumerate() {
            for (row, line) in (first..).zip(tiles.iter_mut().flat_map(Tile::lines_mut)) {
                (line.from, line.to) = place.visible(row, positions);
            }
            // Mostly parts follow one another.
            let from = if positions.start >= reached { span } else { place.state.head };
            (span, reached) = (self.walk(work, place, (from, positions.end), tiles, out), positions.end);
            let rows = out.chunks_mut(self.plan.shape.value_head_dim.max(1));
            for (row, (line, sums)) in (first..).zip(tiles.iter_mut().flat_map(Tile::lines_mut).zip(rows)) {
                finish(part, row, line, sums);
            }
        }
    }

    /// Rotates and quantizes query rows of a head, each in a kilobyte that is on the stack of this call alone.
    #[inline(never)]
    fn start_tile<A: Arithmetic>(&self, arithmetic: A, queries: &[A::Query], tile: &mut Tile<A>) {
        let rotation = self.key_rotation();
        tile.queries.n = 0;
        let queries = queries.chunks(self.plan.shape.key_head_dim.max(1));
        for (i, (line, query)) in tile.lines.iter_mut().zip(queries).enumerate() {
            line.row = arithmetic.start(self.backend, rotation, query, &mut tile.queries, i);
            tile.queries.n = i + 1;
        }
    }
}
