//! The search for trellis codes, one lane per state.
//!
//! The costs of the four labels are computed for sixteen positions at a time; a step is then two permutes of
//! the metrics, two of the costs, two additions, a minimum and a comparison whose mask is the choice byte.

use core::arch::x86_64::*;

use super::load::{load_eight, load_eight_ints, store_bytes, store_sums};
use crate::quantize::trellis::{LABELS, LEAD, STATES, Search, UNREACHED, cheaper, entry_state, trace};
use crate::shape::MAX_HEAD_DIM;

/// The search with AVX2.
pub(super) struct Avx2Search;

impl Search for Avx2Search {
    #[inline]
    fn search(
        &self,
        codewords: &[i8],
        code_bits: usize,
        rows: [&[i16]; 2],
        weights: [u64; 2],
        codes: &mut [u8],
    ) -> usize {
        // SAFETY: this type is used by functions that enable AVX2 alone, which an `Avx2` allowed.
        unsafe { search_bits(codewords, code_bits, rows, weights, codes) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn search_bits(
    codewords: &[i8],
    code_bits: usize,
    rows: [&[i16]; 2],
    weights: [u64; 2],
    codes: &mut [u8],
) -> usize {
    match (code_bits, codes.len()) {
        (2, ..=64) => search::<2, 64>(codewords, rows, weights, codes),
        (2, _) => search::<2, MAX_HEAD_DIM>(codewords, rows, weights, codes),
        (3, ..=64) => search::<4, 64>(codewords, rows, weights, codes),
        (3, _) => search::<4, MAX_HEAD_DIM>(codewords, rows, weights, codes),
        (_, ..=64) => search::<8, 64>(codewords, rows, weights, codes),
        _ => search::<8, MAX_HEAD_DIM>(codewords, rows, weights, codes),
    }
}

/// Costs of the four labels by position, and the upper bits that attain them.
struct Candidates<const N: usize> {
    costs: [[i32; 4]; N],
    uppers: [[u8; 4]; N],
}

/// What a walk over both rows leaves behind.
struct Walk<const N: usize> {
    metrics: [__m256i; 2],
    choices: [[u8; N]; 2],
}

/// `UPPERS` levels carry each label; the rows have at most `N` values.
#[target_feature(enable = "avx2,fma")]
fn search<const UPPERS: usize, const N: usize>(
    codewords: &[i8],
    rows: [&[i16]; 2],
    weights: [u64; 2],
    codes: &mut [u8],
) -> usize {
    let n = rows[0].len().min(N);
    let candidates =
        [find_candidates::<UPPERS, N>(codewords, rows[0]), find_candidates::<UPPERS, N>(codewords, rows[1])];
    let mut at = Walk { metrics: [_mm256_setzero_si256(); 2], choices: [[0; N]; 2] };
    let lead = LEAD.min(n / 2);
    walk(&mut at, &candidates, n - lead, n);
    walk(&mut at, &candidates, 0, lead);
    let mut entries = [0; 2];
    for ((entry, metrics), choices) in entries.iter_mut().zip(&mut at.metrics).zip(&at.choices) {
        let mut ends = [0i32; STATES];
        store_sums(&mut ends, 0, *metrics);
        *entry = entry_state(&ends, choices, lead);
        let mut starts = [UNREACHED; STATES];
        if let Some(start) = starts.get_mut(*entry) {
            *start = 0;
        }
        *metrics = load_eight_ints(&starts);
    }
    walk(&mut at, &candidates, 0, n);
    let mut errors = [0; 2];
    for ((error, &entry), metrics) in errors.iter_mut().zip(&entries).zip(at.metrics) {
        let mut ends = [0i32; STATES];
        store_sums(&mut ends, 0, metrics);
        *error = ends.get(entry).copied().unwrap_or(UNREACHED);
    }
    let best = cheaper(errors, weights) & 1;
    let uppers = &candidates[best].uppers;
    trace(entries[best], &at.choices[best], codes, UPPERS.trailing_zeros() as usize + 1, |i, label| {
        uppers.get(i).map_or(0, |u| u[label & 3])
    });
    best
}

/// Steps over positions `from..to` of both rows: each step waits for the one before it, so two rows take
/// little more time than one.
#[inline]
#[target_feature(enable = "avx2")]
fn walk<const N: usize>(at: &mut Walk<N>, candidates: &[Candidates<N>; 2], from: usize, to: usize) {
    let mut first_label = [0i32; 8];
    let mut second_label = [0i32; 8];
    for state in 0..STATES {
        let (u, first) = (state & 1, state >> 1);
        first_label[state] = i32::from(LABELS[first << 1 | u]);
        second_label[state] = i32::from(LABELS[(first | 4) << 1 | u]);
    }
    let labels = [load_eight_ints(&first_label), load_eight_ints(&second_label)];
    let [a, b] = candidates;
    let [choices_a, choices_b] = &mut at.choices;
    let a = a.costs.iter().zip(choices_a);
    let b = b.costs.iter().zip(choices_b);
    let [mut metrics_a, mut metrics_b] = at.metrics;
    for ((cost_a, choice_a), (cost_b, choice_b)) in a.zip(b).take(to).skip(from) {
        (metrics_a, *choice_a) = step(metrics_a, cost_a, labels);
        (metrics_b, *choice_b) = step(metrics_b, cost_b, labels);
    }
    at.metrics = [metrics_a, metrics_b];
}

/// One position: the cheaper way into each state, and a bit per state that tells which.
#[inline]
#[target_feature(enable = "avx2")]
fn step(metrics: __m256i, cost: &[i32; 4], labels: [__m256i; 2]) -> (__m256i, u8) {
    let first = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let second = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
    // SAFETY: the array is 16 readable bytes, and the load needs no alignment.
    let cost = unsafe { _mm_loadu_si128(cost.as_ptr().cast()) };
    let cost = _mm256_broadcastsi128_si256(cost);
    let a = _mm256_add_epi32(
        _mm256_permutevar8x32_epi32(metrics, first),
        _mm256_permutevar8x32_epi32(cost, labels[0]),
    );
    let b = _mm256_add_epi32(
        _mm256_permutevar8x32_epi32(metrics, second),
        _mm256_permutevar8x32_epi32(cost, labels[1]),
    );
    let choice = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b))) as u8;
    (_mm256_min_epi32(a, b), choice)
}

/// Nearest levels per label and their costs, sixteen positions at a time.
#[inline]
#[target_feature(enable = "avx2")]
fn find_candidates<const UPPERS: usize, const N: usize>(codewords: &[i8], row: &[i16]) -> Candidates<N> {
    // Per label: the lowest level, then thresholds and the steps taken past them.
    let mut lowest = [0i16; 4];
    let mut thresholds = [[0i16; UPPERS]; 4];
    let mut steps = [[0i16; UPPERS]; 4];
    for label in 0..4 {
        let level = |k: usize| i16::from(codewords.get(4 * k + label).copied().unwrap_or(0));
        lowest[label] = 16 * level(0);
        for k in 1..UPPERS {
            thresholds[label][k] = 8 * (level(k - 1) + level(k));
            steps[label][k] = 16 * (level(k) - level(k - 1));
        }
    }
    let mut out = Candidates { costs: [[0; 4]; N], uppers: [[0; 4]; N] };
    let chunks = out.costs.as_chunks_mut::<16>().0.iter_mut().zip(out.uppers.as_chunks_mut::<16>().0);
    for (at, (costs, uppers)) in chunks.enumerate().take(row.len().div_ceil(16)) {
        let y = _mm256_set_m128i(load_eight(row, 16 * at + 8), load_eight(row, 16 * at));
        let mut low = [_mm256_setzero_si256(); 4];
        let mut high = [_mm256_setzero_si256(); 4];
        let mut index = [_mm256_setzero_si256(); 4];
        for label in 0..4 {
            let mut error = _mm256_sub_epi16(y, _mm256_set1_epi16(lowest[label]));
            for k in 1..UPPERS {
                let above = _mm256_cmpgt_epi16(y, _mm256_set1_epi16(thresholds[label][k]));
                error = _mm256_sub_epi16(error, _mm256_and_si256(above, _mm256_set1_epi16(steps[label][k])));
                index[label] = _mm256_sub_epi16(index[label], above);
            }
            let zero = _mm256_setzero_si256();
            let (low_error, high_error) =
                (_mm256_unpacklo_epi16(error, zero), _mm256_unpackhi_epi16(error, zero));
            // Positions 0-3 and 8-11, and 4-7 and 12-15.
            low[label] = _mm256_madd_epi16(low_error, low_error);
            high[label] = _mm256_madd_epi16(high_error, high_error);
        }
        let costs = costs.as_flattened_mut();
        put_by_position(low, costs, [0, 8, 32, 40]);
        put_by_position(high, costs, [16, 24, 48, 56]);
        let ab = _mm256_or_si256(index[0], _mm256_slli_epi16(index[1], 8));
        let cd = _mm256_or_si256(index[2], _mm256_slli_epi16(index[3], 8));
        let (low, high) = (_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd));
        let uppers = uppers.as_flattened_mut();
        store_bytes(uppers, 0, _mm256_permute2x128_si256(low, high, 0x20));
        store_bytes(uppers, 32, _mm256_permute2x128_si256(low, high, 0x31));
    }
    out
}

/// From one vector per label to the four labels of a position together; stores two positions at each place.
#[inline]
#[target_feature(enable = "avx2")]
fn put_by_position(labels: [__m256i; 4], costs: &mut [i32], places: [usize; 4]) {
    let [a, b, c, d] = labels;
    let (low_ab, high_ab) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (low_cd, high_cd) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let pairs = [
        _mm256_unpacklo_epi64(low_ab, low_cd),
        _mm256_unpackhi_epi64(low_ab, low_cd),
        _mm256_unpacklo_epi64(high_ab, high_cd),
        _mm256_unpackhi_epi64(high_ab, high_cd),
    ];
    store_sums(costs, places[0], _mm256_permute2x128_si256(pairs[0], pairs[1], 0x20));
    store_sums(costs, places[1], _mm256_permute2x128_si256(pairs[2], pairs[3], 0x20));
    store_sums(costs, places[2], _mm256_permute2x128_si256(pairs[0], pairs[1], 0x31));
    store_sums(costs, places[3], _mm256_permute2x128_si256(pairs[2], pairs[3], 0x31));
}
