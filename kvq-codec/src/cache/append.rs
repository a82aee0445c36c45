//! Appending: checks first, then rotation and 8-bit rows into the sinks or the recent window.

use super::Cache;
use super::encode::View;
use super::layer::{LayerState, SpanHead};
use super::side_plan::SidePlan;
use super::storage::{self, Storage};
use super::threads::{OneThread, Threads};
use super::vectors::{EncodedRows, Heads, Vectors};
use crate::bytes::{get_u32, put, put_i16, put_u32};
use crate::error::{Error, Side, figure};
use crate::fixed::{Fixed, check_fraction_bits};
use crate::policy::{Budget, N_TIERS, WhenFull};
use crate::quantize::row::MAX_ROW;

/// 2^100: larger inputs could overflow while they are rotated.
const LARGEST: f32 = 1.267_650_6e30;

/// What becomes of a token's row in a block: its exponent and codes. `dyn`, so that its producer is compiled once.
type PutBlock<'a, S> = &'a mut dyn FnMut(&mut Cache<S>, &SidePlan, usize, i16, &[u8]);

impl<S: Storage> Cache<S> {
    /// Appends `n_tokens` to `layer`.
    ///
    /// Shapes: `keys (n_kv_heads, n_tokens, key_head_dim)`, `values (n_kv_heads, n_tokens, value_head_dim)`.
    /// Every layer is to be given the same tokens before the next call for the first layer.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::Length`], [`Error::NotFinite`], [`Error::Full`], or [`Error::Grow`]
    /// where memory that should grow does not; the cache is as before.
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Policy};
    ///
    /// let mut memory = [0; 24 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// // (n_kv_heads, n_tokens, head_dim): all tokens of the first head come first.
    /// let prompt = [0.5; 2 * 10 * 32];
    /// cache.append(0, 10, &prompt, &prompt)?;
    /// assert_eq!(cache.len(), 10);
    /// assert!(cache.append(0, 1, &[f32::NAN; 64], &[0.0; 64]).is_err());
    /// assert_eq!(cache.len(), 10);
    /// # Ok::<(), kvq_codec::Error>(())
    /// ```
    pub fn append(
        &mut self,
        layer: usize,
        n_tokens: usize,
        keys: &[f32],
        values: &[f32],
    ) -> Result<(), Error> {
        self.append_with(layer, n_tokens, keys, values, &OneThread)
    }

    /// As [`append`](Self::append), with the help of other threads where there is enough to encode; the same bytes.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    ///
    /// # Examples
    /// See [`Threads`].
    pub fn append_with(
        &mut self,
        layer: usize,
        n_tokens: usize,
        keys: &[f32],
        values: &[f32],
        threads: &impl Threads,
    ) -> Result<(), Error> {
        let state = self.check_lengths(layer, n_tokens, keys.len(), values.len())?;
        self.check_finite(Side::Key, keys, n_tokens, state.len)?;
        self.check_finite(Side::Value, values, n_tokens, state.len)?;
        let Some((parts, part_bytes)) = self.encode_rows(n_tokens, [keys, values], threads) else {
            return self.append_all(layer, n_tokens, [&keys, &values], threads);
        };
        let plan = self.plan;
        let n_key_bytes = plan.key.n_blocks * part_bytes;
        let (keys, values) = parts.as_ref().split_at_checked(n_key_bytes).unwrap_or_default();
        let rows = |plan, parts| EncodedRows { plan, n_tokens, parts, part_bytes };
        self.append_all(layer, n_tokens, [&rows(&plan.key, keys), &rows(&plan.value, values)], threads)
    }

    /// Has `threads` encode the 8-bit rows of all tokens, keys and then values, unless they leave it to the caller;
    /// returns them and the bytes of a part.
    #[inline(always)]
    fn encode_rows<T: Threads>(
        &self,
        n_tokens: usize,
        [keys, values]: [&[f32]; 2],
        threads: &T,
    ) -> Option<(T::Parts, usize)> {
        let View { plan, backend, .. } = self.view();
        let part_bytes = EncodedRows::part_bytes(n_tokens, plan.most_block_values());
        let n_parts = plan.key.n_blocks + plan.value.n_blocks;
        let parts = threads.share_out(n_parts, part_bytes, &|part, bytes| {
            let (side, block) = plan.split_block(part);
            let x = if side == Side::Key { keys } else { values };
            EncodedRows::fill_part(x, (backend, plan.side(side), block), n_tokens, bytes);
        })?;
        (parts.as_ref().len() == n_parts.saturating_mul(part_bytes)).then_some((parts, part_bytes))
    }

    /// As [`append`](Self::append), from fixed-point numbers and without a float operation: for cores without an FPU.
    ///
    /// The bytes are those of the same format, so that [`append`](Self::append) and [`attend`](Self::attend) go with
    /// them; a code may differ from that of the same numbers as floats by one (`docs/NUMERICS.md`).
    ///
    /// Shapes: as in [`append`](Self::append). Units: as [`Fixed`] says, of its own for keys and values. Numbers may be
    /// `i16` or whatever fits it, as `i8` does: only 8 bits of the rotated ones are kept.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::Length`], [`Error::FractionBits`], [`Error::Full`] or [`Error::Grow`]; the cache is
    /// as before.
    ///
    /// # Examples
    /// See [`attend_fixed`](Self::attend_fixed).
    pub fn append_fixed<K, V>(
        &mut self,
        layer: usize,
        n_tokens: usize,
        keys: Fixed<'_, K>,
        values: Fixed<'_, V>,
    ) -> Result<(), Error>
    where
        K: Copy + Into<i16>,
        V: Copy + Into<i16>,
    {
        self.check_lengths(layer, n_tokens, keys.numbers.len(), values.numbers.len())?;
        check_fraction_bits(keys.fraction_bits)?;
        check_fraction_bits(values.fraction_bits)?;
        self.append_all(layer, n_tokens, [&keys, &values], &OneThread)
    }

    fn check_lengths(
        &self,
        layer: usize,
        n_tokens: usize,
        n_keys: usize,
        n_values: usize,
    ) -> Result<LayerState, Error> {
        self.check_layer(layer)?;
        check_length("keys", n_keys, n_tokens.saturating_mul(self.plan.key.row_bytes()))?;
        check_length("values", n_values, n_tokens.saturating_mul(self.plan.value.row_bytes()))?;
        Ok(self.layer(layer))
    }

    /// Appends what was checked, all tokens of it or, where there is no room, none.
    fn append_all(
        &mut self,
        layer: usize,
        n_tokens: usize,
        sides: [&dyn Vectors; 2],
        threads: &impl Threads,
    ) -> Result<(), Error> {
        self.check_room(layer, &self.layer(layer), n_tokens)?;
        for token in 0..n_tokens {
            self.append_one(layer, sides, token, n_tokens, threads)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn check_finite(&self, side: Side, x: &[f32], n_tokens: usize, len: usize) -> Result<(), Error> {
        // As integers, NaN is above the infinities, and these above every other magnitude: what is too large leaves a
        // sign when it is taken from the largest.
        if x.iter().fold(0, |signs, v| signs | LARGEST.to_bits().wrapping_sub(v.abs().to_bits())) >> 31 == 0 {
            return Ok(());
        }
        let head_dim = self.plan.side(side).head_dim;
        let at = x.iter().position(|v| v.abs().partial_cmp(&LARGEST).is_none_or(|o| o.is_gt())).unwrap_or(0);
        let row = at.checked_div(head_dim).unwrap_or(0);
        let head = row.checked_div(n_tokens).unwrap_or(0);
        let pos = len + row.checked_rem(n_tokens).unwrap_or(0);
        Err(Error::NotFinite { side, head: figure(head), pos: figure(pos) })
    }

    /// Units that `layer` may hold when it has `len` tokens in `n_spans` spans and the rest.
    pub(super) fn quota(&self, layer: usize, len: usize, n_spans: usize) -> usize {
        let bytes = self.storage.bytes().len();
        let fixed = if S::GROWS { usize::MAX } else { self.plan.fixed_quota(layer, bytes) };
        match self.plan.policy.budget {
            Budget::Compression(_) if N_TIERS > 1 => {
                fixed.min(self.plan.compression_quota(layer, len, n_spans))
            }
            _ => fixed,
        }
    }

    /// Whether the budget can hold `n_tokens` more, with everything demoted that may be.
    fn check_room(&self, layer: usize, state: &LayerState, n_tokens: usize) -> Result<(), Error> {
        if S::GROWS || self.plan.policy.when_full == WhenFull::Evict {
            return Ok(());
        }
        let bytes = self.storage.bytes().len();
        let len = state.len.saturating_add(n_tokens);
        let quota = self.plan.fixed_quota(layer, bytes);
        let max_spans = self.plan.reserved_records(layer, bytes);
        let new = n_tokens.saturating_sub(self.plan.n_sink.saturating_sub(state.n_sink));
        let hot = state.n_hot + new;
        let packed = hot.saturating_sub(self.plan.hot_len).div_ceil(self.plan.span_len.max(1));
        let n_spans = state.n_spans + packed;
        let left = hot.saturating_sub(packed * self.plan.span_len);
        let needed = self.least_units(layer, state)
            + packed * self.plan.floor_units(layer)
            + self.plan.hot_units(left);
        // No layer may take a token that another one then has no room for.
        let fits_all = !self.plan.has_unequal_layers() || len <= self.plan.capacity(bytes);
        if n_spans <= max_spans && needed <= quota && fits_all {
            return Ok(());
        }
        Err(Error::Full { needed: figure(len), capacity: figure(self.plan.capacity(bytes)) })
    }

    /// Units of the layer's spans once all are demoted as far as the ladder goes (age may have taken them further).
    fn least_units(&self, layer: usize, state: &LayerState) -> usize {
        if N_TIERS == 1
            || self
                .plan
                .policy
                .key_tiers
                .iter()
                .chain(&self.plan.policy.value_tiers)
                .flatten()
                .all(|t| t.from_age == 0 || t.from_age == crate::policy::Tier::UNDER_PRESSURE)
        {
            return state.n_spans * self.plan.floor_units(layer);
        }
        let (mut at, mut units) = (state.head, 0);
        while at != storage::NONE {
            let head = SpanHead::read(self.record(at));
            for side in [Side::Key, Side::Value] {
                let tier = head.tier(side).max(self.plan.floor(layer, side));
                units += self.plan.tier_units(side, tier);
            }
            at = head.next;
        }
        units
    }

    /// Not inlined, for the buffers of its callees are not to lie in the caller's frame.
    #[inline(never)]
    fn append_one(
        &mut self,
        layer: usize,
        [keys, values]: [&dyn Vectors; 2],
        token: usize,
        n_tokens: usize,
        threads: &impl Threads,
    ) -> Result<(), Error> {
        let mut state = self.layer(layer);
        #[cfg(test)]
        super::encodings::note_token(state.len);
        if state.n_sink < self.plan.n_sink && state.len == state.n_sink {
            self.put_sink(layer, Side::Key, state.n_sink, (keys, token, n_tokens));
            self.put_sink(layer, Side::Value, state.n_sink, (values, token, n_tokens));
            state.n_sink += 1;
        } else {
            if state.n_hot >= self.plan.hot_len {
                self.pack_oldest(layer, &mut state, threads)?;
                self.put_layer(layer, &state);
            }
            self.claim_hot_unit(layer, Side::Key, state.n_hot)?;
            self.claim_hot_unit(layer, Side::Value, state.n_hot)?;
            self.put_hot(layer, Side::Key, state.n_hot, (keys, token, n_tokens));
            self.put_hot(layer, Side::Value, state.n_hot, (values, token, n_tokens));
            state.n_hot += 1;
        }
        state.len += 1;
        self.put_layer(layer, &state);
        Ok(())
    }

    /// Takes a unit for the recent window where slot `at` is the first of one.
    fn claim_hot_unit(&mut self, layer: usize, side: Side, at: usize) -> Result<(), Error> {
        let plan = self.plan.side(side);
        let (unit, place) = plan.split_token(8, at);
        if place != 0 {
            return Ok(());
        }
        let slot = plan.hot_ids + 4 * unit;
        let id = self.pool.take_unit(&self.plan, &mut self.storage);
        let id = id.ok_or_else(|| self.grow_error(self.plan.unit_bytes))?;
        put_u32(storage::layer_mut(&self.plan, self.storage.bytes_mut(), layer), slot, id);
        Ok(())
    }

    pub(super) fn grow_error(&self, more: usize) -> Error {
        let got = self.storage.bytes().len();
        Error::Grow { needed: figure(got.saturating_add(more)), got: figure(got) }
    }

    /// The 8-bit rows of one token, block by block: has each encoded and hands it to `put`.
    #[inline(never)]
    fn encode_token(
        &mut self,
        side: Side,
        (x, token, n_tokens): (&dyn Vectors, usize, usize),
        put_block: PutBlock<'_, S>,
    ) {
        let plan = *self.plan.side(side);
        for block in 0..plan.n_blocks {
            let mut codes = [0u8; MAX_ROW];
            let codes = codes.get_mut(..plan.block_values(block)).unwrap_or(&mut []);
            let exponent = x.encode(self.backend, &Heads::new(&plan, block, (token, n_tokens)), codes);
            put_block(self, &plan, block, exponent, codes);
        }
    }

    fn put_sink(&mut self, layer: usize, side: Side, at: usize, input: (&dyn Vectors, usize, usize)) {
        self.encode_token(side, input, &mut |cache, side, block, exponent, codes| {
            let bytes = storage::layer_mut(&cache.plan, cache.storage.bytes_mut(), layer);
            put_i16(bytes, side.sink_exponents + 2 * (at * side.n_blocks + block), exponent);
            put(bytes, side.sink_row(cache.plan.n_sink, block) + at * codes.len(), codes);
        });
    }

    fn put_hot(&mut self, layer: usize, side: Side, at: usize, input: (&dyn Vectors, usize, usize)) {
        self.encode_token(side, input, &mut |cache, side, block, exponent, codes| {
            let (unit, place) = side.split_token(8, at);
            let bytes = storage::layer_mut(&cache.plan, cache.storage.bytes_mut(), layer);
            put_i16(bytes, side.hot_exponents + 2 * (at * side.n_blocks + block), exponent);
            let id = get_u32(bytes, side.hot_ids + 4 * unit);
            let unit = storage::unit_mut(&cache.plan, cache.storage.bytes_mut(), id);
            put(unit, side.block_offset(8, block) + place * codes.len(), codes);
        });
    }
}

pub(super) fn check_length(argument: &'static str, got: usize, needed: usize) -> Result<(), Error> {
    if got == needed {
        Ok(())
    } else {
        Err(Error::Length { argument, needed: figure(needed), got: figure(got) })
    }
}
