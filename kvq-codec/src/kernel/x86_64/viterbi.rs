//! The search for trellis codes, one lane per state.
//!
//! The costs of the four labels are computed for eight positions at a time; a step is then two permutes of
//! the metrics, two of the costs, two additions, a minimum and a comparison whose mask is the choice byte.

use core::arch::x86_64::*;

use super::load::{load_eight, load_sums, store_sums};
use crate::quantize::trellis::{LABELS, LEAD, STATES, Search, UNREACHED, entry_state, trace};
use crate::shape::MAX_HEAD_DIM;

/// The search with AVX2.
pub(super) struct Avx2Search;

impl Search for Avx2Search {
    #[inline]
    fn search(&self, codewords: &[i8], code_bits: usize, row: &[i16], codes: &mut [u8]) -> i32 {
        // SAFETY: this type is used by functions that enable AVX2 alone, which an `Avx2` allowed.
        unsafe { search_bits(codewords, code_bits, row, codes) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn search_bits(codewords: &[i8], code_bits: usize, row: &[i16], codes: &mut [u8]) -> i32 {
    match (code_bits, row.len()) {
        (2, ..=64) => search::<2, 64>(codewords, row, codes),
        (2, _) => search::<2, MAX_HEAD_DIM>(codewords, row, codes),
        (3, ..=64) => search::<4, 64>(codewords, row, codes),
        (3, _) => search::<4, MAX_HEAD_DIM>(codewords, row, codes),
        (_, ..=64) => search::<8, 64>(codewords, row, codes),
        _ => search::<8, MAX_HEAD_DIM>(codewords, row, codes),
    }
}

/// Costs of the four labels by position, and the upper bits that attain them.
struct Candidates<const N: usize> {
    costs: [[i32; 4]; N],
    uppers: [[u8; N]; 4],
}

/// `UPPERS` levels carry each label; the row has at most `N` values.
#[target_feature(enable = "avx2,fma")]
fn search<const UPPERS: usize, const N: usize>(codewords: &[i8], row: &[i16], codes: &mut [u8]) -> i32 {
    let n = row.len().min(N);
    let mut candidates = Candidates { costs: [[0; 4]; N], uppers: [[0; N]; 4] };
    find_candidates::<UPPERS, N>(codewords, row, &mut candidates);
    let mut choices = [0u8; N];
    let lead = LEAD.min(n / 2);
    let metrics = run(_mm256_setzero_si256(), &candidates.costs, &mut choices, n - lead, n);
    let metrics = run(metrics, &candidates.costs, &mut choices, 0, lead);
    let mut ends = [0i32; STATES];
    store_sums(&mut ends, 0, metrics);
    let entry = entry_state(&ends, &choices, lead);
    let mut starts = [UNREACHED; STATES];
    if let Some(start) = starts.get_mut(entry) {
        *start = 0;
    }
    let metrics = run(load_sums(&starts, 0), &candidates.costs, &mut choices, 0, n);
    store_sums(&mut ends, 0, metrics);
    trace(entry, &choices, codes, UPPERS.trailing_zeros() as usize + 1, |i, label| {
        candidates.uppers.get(label).and_then(|u| u.get(i)).copied().unwrap_or(0)
    });
    ends.get(entry).copied().unwrap_or(UNREACHED)
}

/// Steps over positions `from..to`.
#[inline]
#[target_feature(enable = "avx2")]
fn run(mut metrics: __m256i, costs: &[[i32; 4]], choices: &mut [u8], from: usize, to: usize) -> __m256i {
    let mut first_label = [0i32; 8];
    let mut second_label = [0i32; 8];
    for state in 0..STATES {
        let (u, first) = (state & 1, state >> 1);
        first_label[state] = i32::from(LABELS[first << 1 | u]);
        second_label[state] = i32::from(LABELS[(first | 4) << 1 | u]);
    }
    let (first_label, second_label) = (load_sums(&first_label, 0), load_sums(&second_label, 0));
    let first = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let second = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
    let steps = costs.get(from..to).unwrap_or(&[]).iter().zip(choices.get_mut(from..to).unwrap_or(&mut []));
    for (cost, choice) in steps {
        // SAFETY: the array is 16 readable bytes, and the load needs no alignment.
        let cost = unsafe { _mm_loadu_si128(cost.as_ptr().cast()) };
        let cost = _mm256_broadcastsi128_si256(cost);
        let a = _mm256_add_epi32(
            _mm256_permutevar8x32_epi32(metrics, first),
            _mm256_permutevar8x32_epi32(cost, first_label),
        );
        let b = _mm256_add_epi32(
            _mm256_permutevar8x32_epi32(metrics, second),
            _mm256_permutevar8x32_epi32(cost, second_label),
        );
        metrics = _mm256_min_epi32(a, b);
        *choice = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b))) as u8;
    }
    metrics
}

/// Nearest levels per label and their costs, eight positions at a time.
#[inline]
#[target_feature(enable = "avx2")]
fn find_candidates<const UPPERS: usize, const N: usize>(
    codewords: &[i8],
    row: &[i16],
    out: &mut Candidates<N>,
) {
    // Per label: the lowest level, then thresholds and the steps taken past them.
    let mut lowest = [0i16; 4];
    let mut thresholds = [[0i16; UPPERS]; 4];
    let mut steps = [[0i16; UPPERS]; 4];
    for label in 0..4 {
        let level = |k: usize| i16::from(codewords.get(4 * k + label).copied().unwrap_or(0));
        lowest[label] = level(0);
        for k in 1..UPPERS {
            thresholds[label][k] = 8 * (level(k - 1) + level(k));
            steps[label][k] = level(k) - level(k - 1);
        }
    }
    for (at, chunk) in out.costs.as_chunks_mut::<8>().0.iter_mut().enumerate().take(row.len().div_ceil(8)) {
        let y = load_eight(row, 8 * at);
        let mut cost = [_mm256_setzero_si256(); 4];
        for label in 0..4 {
            let (mut level, mut index) = (_mm_set1_epi16(lowest[label]), _mm_setzero_si128());
            for k in 1..UPPERS {
                let above = _mm_cmpgt_epi16(y, _mm_set1_epi16(thresholds[label][k]));
                level = _mm_add_epi16(level, _mm_and_si128(above, _mm_set1_epi16(steps[label][k])));
                index = _mm_sub_epi16(index, above);
            }
            let error = _mm256_cvtepi16_epi32(_mm_sub_epi16(y, _mm_slli_epi16(level, 4)));
            cost[label] = _mm256_mullo_epi32(error, error);
            let uppers = _mm_cvtsi128_si64(_mm_packus_epi16(index, index)).to_le_bytes();
            if let Some(slot) = out.uppers[label].as_chunks_mut::<8>().0.get_mut(at) {
                *slot = uppers;
            }
        }
        // From one row per label to one row per position.
        let [a, b, c, d] = cost;
        let (low_ab, high_ab) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (low_cd, high_cd) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        // Positions i and i + 4 in the two lanes.
        let pairs = [
            _mm256_unpacklo_epi64(low_ab, low_cd),
            _mm256_unpackhi_epi64(low_ab, low_cd),
            _mm256_unpacklo_epi64(high_ab, high_cd),
            _mm256_unpackhi_epi64(high_ab, high_cd),
        ];
        let costs = chunk.as_flattened_mut();
        store_sums(costs, 0, _mm256_permute2x128_si256(pairs[0], pairs[1], 0x20));
        store_sums(costs, 8, _mm256_permute2x128_si256(pairs[2], pairs[3], 0x20));
        store_sums(costs, 16, _mm256_permute2x128_si256(pairs[0], pairs[1], 0x31));
        store_sums(costs, 24, _mm256_permute2x128_si256(pairs[2], pairs[3], 0x31));
    }
}
