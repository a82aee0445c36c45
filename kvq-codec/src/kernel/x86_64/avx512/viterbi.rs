//! The search for trellis codes, a lane for each state of both rows.
//!
//! A step is two permutes of the metrics, two of the costs, two additions, a minimum and a comparison, for both rows at
//! once. Which level of its label a value takes is asked for the cheapest path alone.

use core::arch::x86_64::*;

use super::super::load::{load_vector, store_vector};
use super::load::{load_ints, load_numbers, store_ints};
use super::turn::turn_lanes;
use crate::block::Layout;
use crate::quantize::codebook;
use crate::quantize::trellis::{
    LABELS, LEAD, Row, STATES, Search, UNREACHED, WITHOUT_UPPER, cheaper, entry_state, trace,
};
use crate::shape::MAX_HEAD_DIM;

/// Values at a time.
const STEP: usize = 32;

/// The search with AVX-512.
pub(super) struct Avx512Search;

impl Search for Avx512Search {
    #[inline]
    fn search(&self, layout: Layout, rows: &[Row; 2], weights: [u64; 2], codes: &mut [u8]) -> usize {
        // SAFETY: this type is used by functions that enable AVX-512 alone, which an `Avx512` allowed.
        unsafe { search_layout(layout, rows, weights, codes) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn search_layout(layout: Layout, rows: &[Row; 2], weights: [u64; 2], codes: &mut [u8]) -> usize {
    let t2 = const { &Levels::<2>::new(&codebook::T2) };
    let t3 = const { &Levels::<4>::new(&codebook::T3) };
    let t4 = const { &Levels::<8>::new(&codebook::T4) };
    match (layout, codes.len()) {
        (Layout::T2, ..=64) => search::<2, 64>(t2, rows, weights, codes),
        (Layout::T2, _) => search::<2, MAX_HEAD_DIM>(t2, rows, weights, codes),
        (Layout::T3, ..=64) => search::<4, 64>(t3, rows, weights, codes),
        (Layout::T3, _) => search::<4, MAX_HEAD_DIM>(t3, rows, weights, codes),
        (_, ..=64) => search::<8, 64>(t4, rows, weights, codes),
        _ => search::<8, MAX_HEAD_DIM>(t4, rows, weights, codes),
    }
}

/// Costs of the four labels by position, in the order of [`place`].
type Costs<const N: usize> = [[i32; 4]; N];

/// Where the costs of position `i` are: a register holds those of positions eight apart.
#[inline(always)]
const fn place(i: usize) -> usize {
    i & !(STEP - 1) | (i & 7) << 2 | i >> 3 & 3
}

/// `UPPERS` levels carry each label; the rows have at most `N` values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn search<const UPPERS: usize, const N: usize>(
    levels: &Levels<UPPERS>,
    rows: &[Row; 2],
    weights: [u64; 2],
    codes: &mut [u8],
) -> usize {
    let n = codes.len().min(N);
    let mut costs = [[[0; 4]; N]; 2];
    for (costs, row) in costs.iter_mut().zip(rows) {
        levels.find_costs(row, n, costs);
    }
    let mut choices = [[0; N]; 2];
    let lead = LEAD.min(n / 2);
    let mut metrics = walk(_mm512_setzero_si512(), &costs, &mut choices, n - lead, n);
    metrics = walk(metrics, &costs, &mut choices, 0, lead);
    let ends = by_row(metrics);
    let (mut entries, mut starts) = ([0; 2], [UNREACHED; 2 * STATES]);
    for (row, entry) in entries.iter_mut().enumerate() {
        *entry = entry_state(&ends[row], &choices[row], lead);
        if let Some(start) = starts.get_mut(row * STATES + *entry) {
            *start = 0;
        }
    }
    let ends = by_row(walk(load_ints(&starts), &costs, &mut choices, 0, n));
    let error = |row: usize| ends[row].get(entries[row]).copied().unwrap_or(UNREACHED);
    let best = cheaper([error(0), error(1)], weights) & 1;
    trace(entries[best], &choices[best], codes, |_, history| WITHOUT_UPPER[history & 15]);
    levels.find_uppers(&rows[best], codes);
    best
}

/// Metrics of each row.
#[inline]
#[target_feature(enable = "avx512f")]
fn by_row(metrics: __m512i) -> [[i32; STATES]; 2] {
    let mut ends = [0; 2 * STATES];
    store_ints(&mut ends, metrics);
    let (rows, _) = ends.as_chunks::<STATES>();
    [rows[0], rows[1]]
}

/// Steps over positions `from..to` of both rows.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn walk<const N: usize>(
    mut metrics: __m512i,
    [costs_a, costs_b]: &[Costs<N>; 2],
    [choices_a, choices_b]: &mut [[u8; N]; 2],
    from: usize,
    to: usize,
) -> __m512i {
    // Lane `8·row + state`: both states before it, and the labels of the two ways, in each row's quarter of the costs.
    let tables = const { Tables::new() };
    let (first, second) = (load_ints(&tables.states[0]), load_ints(&tables.states[1]));
    let (first_label, second_label) = (load_ints(&tables.labels[0]), load_ints(&tables.labels[1]));
    for i in from..to.min(N) {
        let (Some(a), Some(b)) = (costs_a.get(place(i)), costs_b.get(place(i))) else { break };
        let costs = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(load_costs(a)), 0xff00, load_costs(b));
        let a = _mm512_add_epi32(
            _mm512_permutexvar_epi32(first, metrics),
            _mm512_permutexvar_epi32(first_label, costs),
        );
        let b = _mm512_add_epi32(
            _mm512_permutexvar_epi32(second, metrics),
            _mm512_permutexvar_epi32(second_label, costs),
        );
        let choice = _mm512_cmpgt_epi32_mask(a, b);
        metrics = _mm512_min_epi32(a, b);
        [choices_a[i], choices_b[i]] = choice.to_le_bytes();
    }
    metrics
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn load_costs(costs: &[i32; 4]) -> __m128i {
    let [a, b, c, d] = *costs;
    _mm_setr_epi32(a, b, c, d)
}

/// What a step looks up.
struct Tables {
    states: [[i32; 2 * STATES]; 2],
    labels: [[i32; 2 * STATES]; 2],
}

impl Tables {
    const fn new() -> Self {
        let mut tables = Self { states: [[0; 16]; 2], labels: [[0; 16]; 2] };
        let mut lane = 0;
        while lane < 2 * STATES {
            let (row, state) = (lane / STATES, lane % STATES);
            let mut way = 0;
            while way < 2 {
                let from = state >> 1 | way << 2;
                tables.states[way][lane] = (row * STATES + from) as i32;
                tables.labels[way][lane] = (8 * row) as i32 + LABELS[from << 1 | state & 1] as i32;
                way += 1;
            }
            lane += 1;
        }
        tables
    }
}

/// Per label: the lowest level, then thresholds and the steps taken past them, in sixteenths of a codeword unit.
struct Levels<const UPPERS: usize> {
    lowest: [i16; 4],
    thresholds: [[i16; 4]; UPPERS],
    steps: [[i16; 4]; UPPERS],
}

impl<const UPPERS: usize> Levels<UPPERS> {
    const fn new(codewords: &[i8]) -> Self {
        let mut out = Self { lowest: [0; 4], thresholds: [[0; 4]; UPPERS], steps: [[0; 4]; UPPERS] };
        let mut label = 0;
        while label < 4 {
            out.lowest[label] = 16 * codewords[label] as i16;
            let mut k = 1;
            while k < UPPERS {
                let (low, high) = (codewords[4 * (k - 1) + label] as i16, codewords[4 * k + label] as i16);
                out.thresholds[k][label] = 8 * (low + high);
                out.steps[k][label] = 16 * (high - low);
                k += 1;
            }
            label += 1;
        }
        out
    }

    /// Squared errors of the nearest level of each label.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn find_costs<const N: usize>(&self, row: &Row, n: usize, costs: &mut Costs<N>) {
        let zero = _mm512_setzero_si512();
        let blocks = row.as_chunks::<STEP>().0.iter().zip(costs.as_chunks_mut::<STEP>().0);
        for (values, costs) in blocks.take(n.div_ceil(STEP)) {
            let y = load_numbers(values);
            let (mut low, mut high) = ([zero; 4], [zero; 4]);
            for label in 0..4 {
                let mut error = _mm512_sub_epi16(y, _mm512_set1_epi16(self.lowest[label]));
                for k in 1..UPPERS {
                    let (threshold, step) = (self.thresholds[k][label], self.steps[k][label]);
                    let above = _mm512_cmpgt_epi16_mask(y, _mm512_set1_epi16(threshold));
                    error = _mm512_mask_sub_epi16(error, above, error, _mm512_set1_epi16(step));
                }
                let (a, b) = (_mm512_unpacklo_epi16(error, zero), _mm512_unpackhi_epi16(error, zero));
                low[label] = _mm512_madd_epi16(a, a);
                high[label] = _mm512_madd_epi16(b, b);
            }
            let (low, high) = (turn_lanes(low), turn_lanes(high));
            let to = costs.as_flattened_mut().as_chunks_mut::<16>().0.iter_mut();
            to.zip(low.into_iter().chain(high)).for_each(|(to, costs)| store_ints(to, costs));
        }
    }

    /// Labels and trellis bits to codes: finds which of a label's levels is nearest.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn find_uppers(&self, row: &Row, codes: &mut [u8]) {
        let place = _mm_cvtsi32_si128(UPPERS.trailing_zeros() as i32);
        for (values, codes) in row.as_chunks::<STEP>().0.iter().zip(codes.chunks_mut(STEP)) {
            let y = load_numbers(values);
            let mut padded = [0; STEP];
            padded.iter_mut().zip(codes.iter()).for_each(|(to, from)| *to = *from);
            let code = _mm512_cvtepu8_epi16(load_vector(&padded));
            let label = _mm512_and_si512(code, _mm512_set1_epi16(3));
            let bit = _mm512_srli_epi16::<4>(code);
            let mut upper = _mm512_setzero_si512();
            for k in 1..UPPERS {
                let table = _mm512_set1_epi64(pack(&self.thresholds[k]));
                let above = _mm512_cmpgt_epi16_mask(y, _mm512_permutexvar_epi16(label, table));
                upper = _mm512_mask_add_epi16(upper, above, upper, _mm512_set1_epi16(1));
            }
            let code = _mm512_or_si512(upper, _mm512_sll_epi16(bit, place));
            store_vector(&mut padded, _mm512_cvtepi16_epi8(code));
            codes.iter_mut().zip(padded).for_each(|(to, from)| *to = from);
        }
    }
}

/// Four numbers as one.
fn pack(numbers: &[i16; 4]) -> i64 {
    numbers.iter().rev().fold(0, |packed, &n| packed << 16 | i64::from(n as u16))
}
