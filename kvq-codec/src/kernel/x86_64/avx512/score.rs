//! Integer scores of packed keys.

use core::arch::x86_64::*;

use super::super::load::{load32, store_four};
use super::super::unpack::for_each_rows;
use super::bits::Columns;
use super::by_layout;
use super::load::{load_64, load_ints, load_numbers, load_query, store_64, store_ints};
use super::turn::{turn, turn_halves};
use super::unpack::{codebook, levels};
use crate::block::{Layout, Rows};
use crate::kernel::simd::by_dim;
use crate::kernel::{Levels, Queries, Scores, TILE};

/// What makes a level a byte without sign.
const BIAS: u8 = 128;

/// 4-bit rows of heads of 64, whose codes are turned before they are unpacked: half as many bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn score_s4(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    match queries.n {
        1 => turned_codes::<1>(rows, queries, scores),
        2 => turned_codes::<2>(rows, queries, scores),
        3 => turned_codes::<3>(rows, queries, scores),
        _ => turned_codes::<TILE>(rows, queries, scores),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn turned_codes<const N: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    let codebook = codebook::<{ Layout::S4.tag() }, BIAS>();
    let queries = Chunk::<N>::new(queries, 0);
    for_each_sixteen(rows, |sixteen, rows| {
        let queries = queries.in_memory();
        let mut sums = queries.start();
        for (two, codes) in turn_halves(rows).as_chunks::<2>().0.iter().enumerate() {
            let low = codes.map(|codes| _mm512_permutexvar_epi8(codes, codebook));
            let high = codes.map(|codes| _mm512_permutexvar_epi8(_mm512_srli_epi32::<4>(codes), codebook));
            queries.multiply(&mut sums, two, low);
            queries.multiply(&mut sums, two + 4, high);
        }
        // Token `4·k + i` came out at place `4·i + k`.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        for ([a, b], scores) in sums.into_iter().zip(scores.iter_mut()) {
            if let Some(to) = scores.as_chunks_mut::<16>().0.get_mut(sixteen) {
                store_ints(to, _mm512_permutexvar_epi32(order, _mm512_add_epi32(a, b)));
            }
        }
    });
}

/// Calls `f` with each sixteen rows and their place; rows past the last read as zeros.
#[inline(always)]
fn for_each_sixteen(rows: &Rows<'_>, mut f: impl FnMut(usize, &[[u8; 32]; 16])) {
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        let (whole, rest) = run.planes[0].as_chunks::<32>().0.as_chunks::<16>();
        for (i, sixteen) in whole.iter().enumerate() {
            f(first / 16 + i, sixteen);
        }
        if !rest.is_empty() {
            let mut padded = [[0; 32]; 16];
            padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            f(first / 16 + whole.len(), &padded);
        }
        first += run.n.max(1);
    }
}

/// Rows of heads of 64 whose codes lie in planes of one and two bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn score_bits(layout: Layout, rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    match layout {
        Layout::Q8 | Layout::S4 => {}
        Layout::S3 => columns_of_bits::<{ Layout::S3.tag() }>(rows, queries, scores),
        Layout::S2 => columns_of_bits::<{ Layout::S2.tag() }>(rows, queries, scores),
        Layout::T4 => columns_of_bits::<{ Layout::T4.tag() }>(rows, queries, scores),
        Layout::T3 => columns_of_bits::<{ Layout::T3.tag() }>(rows, queries, scores),
        Layout::T2 => columns_of_bits::<{ Layout::T2.tag() }>(rows, queries, scores),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn columns_of_bits<const LAYOUT: u8>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    match queries.n {
        1 => bits_by::<LAYOUT, 1>(rows, queries, scores),
        2 => bits_by::<LAYOUT, 2>(rows, queries, scores),
        3 => bits_by::<LAYOUT, 3>(rows, queries, scores),
        _ => bits_by::<LAYOUT, TILE>(rows, queries, scores),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn bits_by<const LAYOUT: u8, const N: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    let codebook = codebook::<LAYOUT, BIAS>();
    let chunk = Chunk::<N>::new(queries, 0);
    let (even, odd) = (
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31),
    );
    let mut sixteen = 0;
    for_each_rows::<LAYOUT, 64, 16>(rows, |planes| {
        let chunk = chunk.in_memory();
        let mut sums = [[_mm512_setzero_si512(); 2]; N];
        for eight in 0..2 {
            let columns = Columns::<LAYOUT>::new(planes, eight);
            let mut of_eight = [_mm512_setzero_si512(); N];
            for (sum, excess) in of_eight.iter_mut().zip(chunk.excess) {
                *sum = _mm512_maskz_set1_epi32(0x5555, -excess);
            }
            macro_rules! columns {
                ($($c:literal)*) => {$(
                    let levels = _mm512_permutexvar_epi8(columns.index($c), codebook);
                    for (sum, codes) in of_eight.iter_mut().zip(chunk.codes) {
                        let codes = codes.as_chunks::<8>().0[$c].map(|code| code as u8);
                        *sum = _mm512_dpbusd_epi32(*sum, levels, _mm512_set1_epi64(i64::from_le_bytes(codes)));
                    }
                )*};
            }
            columns!(0 1 2 3 4 5 6 7);
            for (sums, sum) in sums.iter_mut().zip(of_eight) {
                sums[eight] = sum;
            }
        }
        for ([a, b], scores) in sums.into_iter().zip(scores.iter_mut()) {
            let both = [even, odd].map(|half| _mm512_permutex2var_epi32(a, half, b));
            if let Some(to) = scores.as_chunks_mut::<16>().0.get_mut(sixteen) {
                store_ints(to, _mm512_add_epi32(both[0], both[1]));
            }
        }
        sixteen += 1;
    });
}

/// Rows of any coarse layout, unpacked and then turned.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn score_rows(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    queries: &Queries,
    scores: &mut Scores,
) {
    by_layout!(turned_levels, layout, head_dim, (rows, queries, scores));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn turned_levels<const LAYOUT: u8, const D: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    match queries.n {
        1 => turned_by::<LAYOUT, D, 1>(rows, queries, scores),
        2 => turned_by::<LAYOUT, D, 2>(rows, queries, scores),
        3 => turned_by::<LAYOUT, D, 3>(rows, queries, scores),
        _ => turned_by::<LAYOUT, D, TILE>(rows, queries, scores),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn turned_by<const LAYOUT: u8, const D: usize, const N: usize>(
    rows: &Rows<'_>,
    queries: &Queries,
    scores: &mut Scores,
) {
    for c in 0..D / 64 {
        let queries = Chunk::<N>::new(queries, c);
        for_each_column::<LAYOUT, D>(rows, c, |sixteen, columns| {
            let queries = queries.in_memory();
            let mut sums = queries.start();
            for (two, columns) in columns.as_chunks::<2>().0.iter().enumerate() {
                queries.multiply(&mut sums, two, *columns);
            }
            put(sums, scores, sixteen, c > 0);
        });
    }
}

/// Calls `f` with values `64·c ..` of each sixteen rows, turned, and their place; rows past the last are zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn for_each_column<const LAYOUT: u8, const D: usize>(
    rows: &Rows<'_>,
    c: usize,
    mut f: impl FnMut(usize, [__m512i; 16]),
) {
    let codebook = codebook::<LAYOUT, BIAS>();
    let mut block = [_mm512_setzero_si512(); 16];
    let mut four = 0;
    for_each_rows::<LAYOUT, D, 4>(rows, |planes| {
        for (r, row) in block.iter_mut().skip(4 * (four % 4)).take(4).enumerate() {
            *row = levels::<LAYOUT, D>(planes, (r, c), codebook);
        }
        four += 1;
        if four % 4 == 0 || 4 * four >= rows.n {
            f((four - 1) / 4, turn(&block));
        }
    });
}

/// As [`score_rows`], with turned levels that the next tile of queries finds in `levels`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn score_shared(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    queries: &Queries,
    levels: &mut Levels,
    scores: &mut Scores,
) {
    let n = rows.n.next_multiple_of(16) * head_dim / 32;
    let columns = levels.get_or_unpack(n, |out| by_layout!(write_columns, layout, head_dim, (rows, out)));
    let columns = columns.as_chunks::<2>().0.as_chunks::<16>().0;
    match queries.n {
        1 => columns_by::<1>(columns, head_dim, queries, scores),
        2 => columns_by::<2>(columns, head_dim, queries, scores),
        3 => columns_by::<3>(columns, head_dim, queries, scores),
        _ => columns_by::<TILE>(columns, head_dim, queries, scores),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn write_columns<const LAYOUT: u8, const D: usize>(rows: &Rows<'_>, out: &mut [[u8; 32]]) {
    let mut out = out.as_chunks_mut::<2>().0.as_chunks_mut::<16>().0.iter_mut();
    for c in 0..D / 64 {
        for_each_column::<LAYOUT, D>(rows, c, |_, columns| {
            let Some(out) = out.next() else { return };
            out.iter_mut().zip(columns).for_each(|(to, column)| store_64(to, column));
        });
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn columns_by<const N: usize>(
    columns: &[[[[u8; 32]; 2]; 16]],
    head_dim: usize,
    queries: &Queries,
    scores: &mut Scores,
) {
    let chunks = (head_dim / 64).max(1);
    for (c, columns) in columns.chunks((columns.len() / chunks).max(1)).enumerate() {
        let queries = Chunk::<N>::new(queries, c);
        for (sixteen, columns) in columns.iter().enumerate() {
            let queries = queries.in_memory();
            let mut sums = queries.start();
            for (two, [a, b]) in columns.as_chunks::<2>().0.iter().enumerate() {
                queries.multiply(&mut sums, two, [load_64(a), load_64(b)]);
            }
            put(sums, scores, sixteen, c > 0);
        }
    }
}

/// One row: the center of a span.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn score_one(
    layout: Layout,
    rows: &Rows<'_>,
    head_dim: usize,
    queries: &Queries,
    scores: &mut Scores,
) {
    by_layout!(one, layout, head_dim, (rows, queries, scores));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn one<const LAYOUT: u8, const D: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    let (run, codebook, biases) = (rows.run(0), codebook::<LAYOUT, BIAS>(), _mm512_set1_epi8(BIAS as i8));
    for (query, scores) in queries.rows.iter().zip(scores.iter_mut()).take(queries.n) {
        let (mut sum, mut excess) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for (c, codes) in query.as_chunks::<64>().0.iter().enumerate().take(D / 64) {
            let codes = load_query(codes);
            sum = _mm512_dpbusd_epi32(sum, levels::<LAYOUT, D>(&run.planes, (0, c), codebook), codes);
            excess = _mm512_dpbusd_epi32(excess, biases, codes);
        }
        scores[0] = _mm512_reduce_add_epi32(_mm512_sub_epi32(sum, excess));
    }
}

/// 64 codes of each query, and what the bias of the levels adds to their products.
struct Chunk<'a, const N: usize> {
    codes: [&'a [i8; 64]; N],
    excess: [i32; N],
}

impl<'a, const N: usize> Chunk<'a, N> {
    /// Codes `64·c ..`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn new(queries: &'a Queries, c: usize) -> Self {
        let mut chunk = Self { codes: [&[0; 64]; N], excess: [0; N] };
        for ((to, excess), row) in chunk.codes.iter_mut().zip(&mut chunk.excess).zip(&queries.rows) {
            let Some(codes) = row.as_chunks::<64>().0.get(c) else { break };
            let biases = _mm512_set1_epi8(BIAS as i8);
            let products = _mm512_dpbusd_epi32(_mm512_setzero_si512(), biases, load_query(codes));
            *excess = _mm512_reduce_add_epi32(products);
            *to = codes;
        }
        chunk
    }

    /// The same, of which the compiler does not know that it is: it would spread all codes over registers before a loop
    /// over tokens, more than there are, where a multiplication spreads four codes as it reads them.
    #[inline(always)]
    fn in_memory(&self) -> &Self {
        core::hint::black_box(self)
    }

    /// Two sums for each query: an addition waits for the one before.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn start(&self) -> [[__m512i; 2]; N] {
        let mut sums = [[_mm512_setzero_si512(); 2]; N];
        for (sums, excess) in sums.iter_mut().zip(self.excess) {
            sums[0] = _mm512_set1_epi32(-excess);
        }
        sums
    }

    /// Adds the products of each query's codes `8·two ..` with those of sixteen tokens, in columns of four codes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn multiply(&self, sums: &mut [[__m512i; 2]; N], two: usize, columns: [__m512i; 2]) {
        for (sums, codes) in sums.iter_mut().zip(&self.codes) {
            for (i, (sum, levels)) in sums.iter_mut().zip(columns).enumerate() {
                let four = codes.as_chunks::<4>().0[(2 * two + i) & 15].map(|code| code as u8);
                *sum = _mm512_dpbusd_epi32(*sum, levels, _mm512_set1_epi32(i32::from_le_bytes(four)));
            }
        }
    }
}

/// Writes the scores of sixteen tokens, or adds them to what is there.
#[inline]
#[target_feature(enable = "avx512f")]
fn put<const N: usize>(sums: [[__m512i; 2]; N], scores: &mut Scores, sixteen: usize, add: bool) {
    for ([a, b], scores) in sums.into_iter().zip(scores.iter_mut()) {
        if let Some(to) = scores.as_chunks_mut::<16>().0.get_mut(sixteen) {
            let before = if add { load_ints(to) } else { _mm512_setzero_si512() };
            store_ints(to, _mm512_add_epi32(before, _mm512_add_epi32(a, b)));
        }
    }
}

/// The sums over four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn sum_all([a, b, c, d]: [__m512i; 4]) -> __m128i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let four = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64::<1>(four));
    _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
}

/// 8-bit rows and 16-bit queries.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn score_precise(rows: &Rows<'_>, head_dim: usize, queries: &Queries, scores: &mut Scores) {
    by_dim!(precise, head_dim, queries.n, (rows, queries, scores));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn precise<const V: usize, const N: usize>(rows: &Rows<'_>, queries: &Queries, scores: &mut Scores) {
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        for four in 0..run.n.div_ceil(4) {
            let mut sums = [[_mm512_setzero_si512(); 4]; N];
            for r in 0..4 {
                for v in 0..V {
                    let row = _mm512_cvtepi8_epi16(load32(run.planes[0], (4 * four + r) * V + v));
                    for (sums, query) in sums.iter_mut().zip(&queries.wide_rows) {
                        let Some(codes) = query.as_chunks::<32>().0.get(v) else { return };
                        sums[r] = _mm512_dpwssd_epi32(sums[r], row, load_numbers(codes));
                    }
                }
            }
            for (sums, scores) in sums.into_iter().zip(scores.iter_mut()) {
                if let Some(to) = scores.as_chunks_mut::<4>().0.get_mut(first / 4 + four) {
                    store_four(to, sum_all(sums));
                }
            }
        }
        first += run.n.max(1);
    }
}
