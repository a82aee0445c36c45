//! Integer sums of packed values.

use core::arch::x86_64::*;

use super::super::accumulate::weight_pair;
use super::super::load::{load_u32, load32, store_bytes};
use super::super::unpack::for_each_rows;
use super::bits::{Quads, turn_bytes};
use super::by_layout;
use super::load::{load_64, load_64_at, load_numbers, store_64, store_ints};
use super::turn::turn_quarters;
use super::unpack::{codebook, levels};
use crate::block::{Layout, MAX_PLANES, Rows};
use crate::kernel::simd::by_dim;
use crate::kernel::{Levels, SEGMENT, Sums, TILE, Weights};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn accumulate_rows(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    weights: (usize, &Weights),
    sums: &mut Sums,
) {
    by_layout!(sum_rows, layout, head_dim, (rows, weights, sums));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn sum_rows<const LAYOUT: u8, const D: usize>(
    rows: &Rows<'_>,
    (n_queries, weights): (usize, &Weights),
    sums: &mut Sums,
) {
    match n_queries {
        1 => sum_by::<LAYOUT, D, 1>(rows, weights, sums),
        2 => sum_by::<LAYOUT, D, 2>(rows, weights, sums),
        3 => sum_by::<LAYOUT, D, 3>(rows, weights, sums),
        _ => sum_by::<LAYOUT, D, TILE>(rows, weights, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn sum_by<const LAYOUT: u8, const D: usize, const N: usize>(
    rows: &Rows<'_>,
    weights: &Weights,
    sums: &mut Sums,
) {
    let codebook = codebook::<LAYOUT, 0>();
    let weights = Bytes::<N>::new(weights);
    for c in 0..D / 64 {
        let mut total = [[_mm512_setzero_si512(); 4]; N];
        for_each_four::<LAYOUT, D>(rows, c, codebook, |four, quads| {
            weights.multiply(&mut total, four, quads);
        });
        put(total, (c, D), sums);
    }
}

/// As [`accumulate_rows`], with interleaved levels that the next tile of queries finds in `levels`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn accumulate_shared(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    (n_queries, weights): (usize, &Weights),
    levels: &mut Levels,
    sums: &mut Sums,
) {
    let n = rows.n.next_multiple_of(4) * head_dim / 32;
    let quads = levels.get_or_unpack(n, |out| by_layout!(write_quads, layout, head_dim, (rows, out)));
    let quads = quads.as_chunks::<2>().0.as_chunks::<4>().0;
    match n_queries {
        1 => quads_by::<1>(quads, head_dim, weights, sums),
        2 => quads_by::<2>(quads, head_dim, weights, sums),
        3 => quads_by::<3>(quads, head_dim, weights, sums),
        _ => quads_by::<TILE>(quads, head_dim, weights, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn write_quads<const LAYOUT: u8, const D: usize>(rows: &Rows<'_>, out: &mut [[u8; 32]]) {
    let codebook = codebook::<LAYOUT, 0>();
    let mut out = out.as_chunks_mut::<2>().0.as_chunks_mut::<4>().0.iter_mut();
    for c in 0..D / 64 {
        for_each_four::<LAYOUT, D>(rows, c, codebook, |_, quads| {
            let Some(out) = out.next() else { return };
            out.iter_mut().zip(quads).for_each(|(to, quad)| store_64(to, quad));
        });
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn quads_by<const N: usize>(
    quads: &[[[[u8; 32]; 2]; 4]],
    head_dim: usize,
    weights: &Weights,
    sums: &mut Sums,
) {
    let weights = Bytes::<N>::new(weights);
    let chunks = (head_dim / 64).max(1);
    for (c, quads) in quads.chunks((quads.len() / chunks).max(1)).enumerate() {
        let mut total = [[_mm512_setzero_si512(); 4]; N];
        for (four, quads) in quads.iter().enumerate() {
            let [a, b, c, d] = quads;
            weights.multiply(&mut total, four, [load_64(a), load_64(b), load_64(c), load_64(d)]);
        }
        put(total, (c, head_dim), sums);
    }
}

/// Calls `f` with values `64·c ..` of each four rows, interleaved, and their place; rows past the last read as zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,gfni")]
fn for_each_four<const LAYOUT: u8, const D: usize>(
    rows: &Rows<'_>,
    c: usize,
    codebook: __m512i,
    mut f: impl FnMut(usize, [__m512i; 4]),
) {
    let mut four = 0;
    if D == 64 {
        for_each_rows::<LAYOUT, 64, 8>(rows, |planes| {
            for quads in narrow_quads::<LAYOUT>(planes, codebook) {
                f(four, quads);
                four += 1;
            }
        });
    } else {
        for_each_rows::<LAYOUT, D, 4>(rows, |planes| {
            f(four, quads::<LAYOUT, D>(planes, c, codebook));
            four += 1;
        });
    }
}

/// The first eight rows of heads of 64, interleaved by fours: a 32-bit lane of register `m` has one of the values
/// `16·m ..` of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,gfni")]
fn narrow_quads<const LAYOUT: u8>(planes: &[&[u8]; MAX_PLANES], codebook: __m512i) -> [[__m512i; 4]; 2] {
    let levels = |index| _mm512_permutexvar_epi8(index, codebook);
    if LAYOUT == Layout::S4.tag() {
        // Code `i` is in byte `i mod 32`, at bit `4·(i div 32)`.
        let four = |i: usize| {
            let (a, b) = (load_64_at(planes[0], 2 * i), load_64_at(planes[0], 2 * i + 1));
            let low = turn_bytes(_mm512_shuffle_i64x2::<0b10_00_10_00>(a, b));
            let high = turn_bytes(_mm512_shuffle_i64x2::<0b11_01_11_01>(a, b));
            [low, high, _mm512_srli_epi32::<4>(low), _mm512_srli_epi32::<4>(high)].map(levels)
        };
        return [four(0), four(1)];
    }
    Quads::<LAYOUT>::new(planes).map(|quads| [0, 1, 2, 3].map(|m| levels(quads.index(m))))
}

/// The 8-bit weights of each query.
struct Bytes<const N: usize>([[u8; SEGMENT]; N]);

impl<const N: usize> Bytes<N> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(weights: &Weights) -> Self {
        let mut bytes = [[0u8; SEGMENT]; N];
        for (bytes, weights) in bytes.iter_mut().zip(weights) {
            narrow(weights, bytes);
        }
        Self(bytes)
    }

    /// Adds the products of each query's `four`-th four weights with four interleaved rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn multiply(&self, total: &mut [[__m512i; 4]; N], four: usize, quads: [__m512i; 4]) {
        for (total, bytes) in total.iter_mut().zip(&self.0) {
            let weight = _mm512_set1_epi32(load_u32(bytes, four) as i32);
            for (total, quad) in total.iter_mut().zip(quads) {
                *total = _mm512_dpbusd_epi32(*total, weight, quad);
            }
        }
    }
}

/// Stores the sums of values `64·c ..` of heads of `head_dim`.
#[inline]
#[target_feature(enable = "avx512f")]
fn put<const N: usize>(total: [[__m512i; 4]; N], (c, head_dim): (usize, usize), sums: &mut Sums) {
    for (total, sums) in total.into_iter().zip(sums.iter_mut()) {
        let to = sums.as_chunks_mut::<16>().0.iter_mut().skip(4 * c);
        // Of wider heads, quarter `k` of register `i` lies in quarter `i` of register `k`: see `quads`.
        let total = if head_dim == 64 { total } else { turn_quarters(total) };
        to.zip(total).for_each(|(to, values)| store_ints(to, values));
    }
}

/// Values `64·c ..` of four rows of heads of 128 and more, interleaved: a 32-bit lane has one value of each row. Quarter `i` of register `k` has
/// values `16·i + 4·k .. 16·i + 4·k + 4`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
fn quads<const LAYOUT: u8, const D: usize>(
    planes: &[&[u8]; MAX_PLANES],
    c: usize,
    codebook: __m512i,
) -> [__m512i; 4] {
    let row = |r| levels::<LAYOUT, D>(planes, (r, c), codebook);
    let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
    let (a, b) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpackhi_epi8(r0, r1));
    let (c, d) = (_mm512_unpacklo_epi8(r2, r3), _mm512_unpackhi_epi8(r2, r3));
    [
        _mm512_unpacklo_epi16(a, c),
        _mm512_unpackhi_epi16(a, c),
        _mm512_unpacklo_epi16(b, d),
        _mm512_unpackhi_epi16(b, d),
    ]
}

/// 8-bit weights as bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn narrow(weights: &[i16; SEGMENT], bytes: &mut [u8; SEGMENT]) {
    for (i, weights) in weights.as_chunks::<32>().0.iter().enumerate() {
        store_bytes(bytes, 32 * i, _mm512_cvtepi16_epi8(load_numbers(weights)));
    }
}

/// 8-bit rows and 15-bit weights, two tokens at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn accumulate_precise(
    rows: &Rows<'_>,
    head_dim: usize,
    (n_queries, weights): (usize, &Weights),
    sums: &mut Sums,
) {
    by_dim!(precise, head_dim, n_queries, (rows, weights, sums));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn precise<const V: usize, const N: usize>(rows: &Rows<'_>, weights: &Weights, sums: &mut Sums) {
    for v in 0..V {
        // Quarters hold values 0-3, 8-11, 16-19 and 24-27, and 4-7 and so on.
        let mut total = [[_mm512_setzero_si512(); 2]; N];
        let mut first = 0;
        while first < rows.n {
            let run = rows.run(first);
            for two in 0..run.n.div_ceil(2) {
                let row = |t| _mm512_cvtepi8_epi16(load32(run.planes[0], t * V + v));
                let (a, b) = (row(2 * two), row(2 * two + 1));
                let pairs = [_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)];
                for (total, weights) in total.iter_mut().zip(weights) {
                    let weight = _mm512_set1_epi32(weight_pair(weights, first / 2 + two));
                    for (total, pair) in total.iter_mut().zip(pairs) {
                        *total = _mm512_dpwssd_epi32(*total, pair, weight);
                    }
                }
            }
            first += run.n.max(1);
        }
        for ([low, high], sums) in total.into_iter().zip(sums.iter_mut()) {
            let Some([a, b]) = sums.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0.get_mut(v) else { return };
            store_ints(a, _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high));
            store_ints(
                b,
                _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high),
            );
        }
    }
}
