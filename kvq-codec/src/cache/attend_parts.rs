//! Attention in parts of the tokens, and the parts joined.
//!
//! Each part keeps the largest score, the sum of weights and the sums of values of its own tokens; two such are one of
//! both, once the weights of one are rescaled to the other's largest score (as flash-decoding splits a context: Dao,
//! Haziza, Massa and Sizov, 2023).

use core::ops::Range;

use super::Cache;
use super::append::check_length;
use super::arithmetic::{Float, finish};
use super::place::Asked;
use super::storage::Storage;
use crate::error::{Error, figure};
use crate::kernel::FoldState;
use crate::math::{exp_nonpositive, larger};

/// Values of a query row besides its sums in a part: its largest score, its sum of weights.
const STATE: usize = 2;

impl<S: Storage> Cache<S> {
    /// As [`attend_within`](Self::attend_within), over the tokens at some positions and for the query heads that read
    /// `kv_heads`, and unfinished: [`join_parts`](Self::join_parts) makes attention of parts that share no position and
    /// have all of them together. Several calls may be made at once, where KV heads are fewer than threads or a context is
    /// long; which call computes a part changes none of its bits.
    ///
    /// Shapes: `queries (heads that read kv_heads, n_tokens, key_head_dim)`, `parts (positions.len(),`
    /// [`part_len`](Self::part_len)`)`, which only `join_parts` reads. Positions that begin at a multiple of the policy's
    /// `span_len` beyond its sinks cut no span, which would be read twice.
    ///
    /// # Errors
    /// As [`attend`](Self::attend), and [`Error::KvHead`].
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Policy};
    ///
    /// # fn main() -> Result<(), kvq_codec::Error> {
    /// let mut memory = [0; 96 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// for i in 0..4 {
    ///     cache.append(0, 64, &[0.5; 2 * 64 * 32], &[i as f32; 2 * 64 * 32])?;
    /// }
    /// let (queries, mut out) = ([0.1; 4 * 32], [0.0; 4 * 32]);
    /// let mut parts = [0.0; 2 * 4 * (32 + 2)];
    /// let (first, second) = parts.split_at_mut(cache.part_len(queries.len()));
    /// cache.attend_parts(0, 0..2, &[0..132], (1, 0), &queries, first)?; // on one thread,
    /// cache.attend_parts(0, 0..2, &[132..256], (1, 0), &queries, second)?; // and on another
    /// cache.join_parts(2, &parts, &mut out)?;
    /// assert!(out.iter().all(|value| (value - 1.5).abs() < 0.05));
    /// # Ok(())
    /// # }
    /// ```
    pub fn attend_parts(
        &self,
        layer: usize,
        kv_heads: Range<usize>,
        positions: &[Range<usize>],
        (n_tokens, window_len): (usize, usize),
        queries: &[f32],
        parts: &mut [f32],
    ) -> Result<(), Error> {
        let n_kv_heads = self.plan.shape.n_kv_heads;
        if kv_heads.is_empty() || kv_heads.end > n_kv_heads {
            let got = figure(kv_heads.end.saturating_sub(1).max(kv_heads.start));
            return Err(Error::KvHead { n_kv_heads: figure(n_kv_heads), got });
        }
        let part_len = self.part_len(queries.len());
        check_length("parts", parts.len(), positions.len().saturating_mul(part_len))?;
        if positions.is_empty() {
            return Ok(());
        }
        // Each part is summed up in the place of the last, whose values stay there.
        let (before, last) =
            parts.split_at_mut_checked(parts.len().saturating_sub(part_len)).unwrap_or_default();
        let value_dim = self.plan.shape.value_head_dim;
        let n_rows = last.len().checked_div(value_dim + STATE).unwrap_or(0);
        let (sums, last_states) = last.split_at_mut_checked(n_rows * value_dim).unwrap_or_default();
        let asked = Asked { layer, kv_heads, n_tokens, window_len, parts: positions };
        self.attend_heads(Float, asked, queries, sums, |part, row, line, sums| {
            let earlier = before.chunks_mut(part_len.max(1)).nth(part);
            let states = match earlier.and_then(|part| part.split_at_mut_checked(n_rows * value_dim)) {
                Some((rows, states)) => {
                    let to = rows.chunks_mut(value_dim.max(1)).nth(row).unwrap_or_default();
                    to.iter_mut().zip(&*sums).for_each(|(to, sum)| *to = *sum);
                    sums.fill(0.0);
                    states
                }
                None => &mut *last_states,
            };
            if let Some([max, sum]) = states.as_chunks_mut().0.get_mut(row) {
                FoldState { max: *max, sum: *sum } =
                    core::mem::replace(&mut line.row.state, FoldState::EMPTY);
            }
        })
    }

    /// Values of an unfinished part for this many values of queries.
    pub const fn part_len(&self, queries_len: usize) -> usize {
        let shape = &self.plan.shape;
        match queries_len.checked_div(shape.key_head_dim) {
            Some(n_rows) => n_rows.saturating_mul(shape.value_head_dim + STATE),
            None => 0,
        }
    }

    /// Joins the `n_parts` of one layer's attention, of the same queries each, that lie one after the other in `parts`.
    ///
    /// Shapes: `parts (n_parts, part_len)`, `out (heads, n_tokens, value_head_dim)`. A row that sees nothing becomes 0.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn join_parts(&self, n_parts: usize, parts: &[f32], out: &mut [f32]) -> Result<(), Error> {
        let value_dim = self.plan.shape.value_head_dim;
        let n_rows = out.len().checked_div(value_dim).unwrap_or(0);
        check_length("out", out.len(), n_rows * value_dim)?;
        let part_len = n_rows * (value_dim + STATE);
        check_length("parts", parts.len(), n_parts.saturating_mul(part_len))?;
        let rows_of = |part| rows(part, n_rows, value_dim);
        for (row, out) in out.chunks_mut(value_dim.max(1)).enumerate() {
            let of_row = || parts.chunks(part_len.max(1)).filter_map(|part| rows_of(part).nth(row));
            let max = of_row().fold(f32::NEG_INFINITY, |max, ([of_part, _], _)| larger(max, *of_part));
            let mut sum = 0.0;
            out.fill(0.0);
            for ([of_part, weights], values) in of_row().filter(|([_, weights], _)| *weights > 0.0) {
                let rescale = exp_nonpositive(of_part - max);
                sum += weights * rescale;
                out.iter_mut().zip(values).for_each(|(out, value)| *out += value * rescale);
            }
            finish(self.backend, self.value_rotation(), sum, out);
        }
        Ok(())
    }
}

/// The states and the sums of a part's rows.
fn rows(part: &[f32], n_rows: usize, value_dim: usize) -> impl Iterator<Item = (&[f32; STATE], &[f32])> {
    let (sums, states) = part.split_at_checked(n_rows * value_dim).unwrap_or_default();
    states.as_chunks().0.iter().zip(sums.chunks(value_dim.max(1)))
}
