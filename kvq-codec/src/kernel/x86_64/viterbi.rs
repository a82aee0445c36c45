//! The search for trellis codes, a row in each half of a register.
//!
//! States `s` and `s + 4` both lead to `2s` and `2s + 1`: a register with four metrics of each row, unpacked with itself, has
//! every one at the places of its two successors, and no step crosses the halves. The costs of the four labels of a position
//! lie together; a fixed shuffle puts each where its step needs it. Which level of its label a value takes is asked for the
//! cheapest path alone.

use core::arch::x86_64::*;

use super::load::{load_eight_ints, load_sixteen, load_vector, load16_twice, store_sums, store_vector};
use crate::block::Layout;
use crate::quantize::codebook;
use crate::quantize::trellis::{
    LABELS, LEAD, Row, STATES, Search, UNREACHED, WITHOUT_UPPER, cheaper, entry_state, trace,
};
use crate::shape::MAX_HEAD_DIM;

/// Values in half a register of bytes.
const HALF: usize = 16;

/// The search with AVX2.
pub(super) struct Avx2Search;

impl Search for Avx2Search {
    #[inline]
    fn search(&self, layout: Layout, rows: &[Row; 2], weights: [u64; 2], codes: &mut [u8]) -> usize {
        // SAFETY: this type is used by functions that enable AVX2 alone, which an `Avx2` allowed.
        unsafe { search_layout(layout, rows, weights, codes) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn search_layout(layout: Layout, rows: &[Row; 2], weights: [u64; 2], codes: &mut [u8]) -> usize {
    let levels = match layout {
        Layout::T2 => const { &levels_of(&codebook::T2) },
        Layout::T3 => const { &levels_of(&codebook::T3) },
        _ => const { &levels_of(&codebook::T4) },
    };
    let bits = layout.code_bits();
    if codes.len() <= 64 {
        search::<64>(levels, bits, rows, weights, codes)
    } else {
        search::<MAX_HEAD_DIM>(levels, bits, rows, weights, codes)
    }
}

/// Metrics of states 0 to 3 and 4 to 7, of one row in each half.
type Metrics = [__m256i; 2];

/// By position: the costs of the four labels in the first row, and in the second.
type Costs<const N: usize> = [[i32; 8]; N];

/// The rows have at most `N` values.
#[target_feature(enable = "avx2,fma")]
fn search<const N: usize>(
    levels: &[Levels; 4],
    code_bits: usize,
    rows: &[Row; 2],
    weights: [u64; 2],
    codes: &mut [u8],
) -> usize {
    let n = codes.len().min(N);
    let mut costs = [[0; 8]; N];
    let values = rows[0].as_chunks::<HALF>().0.iter().zip(rows[1].as_chunks::<HALF>().0);
    for ((a, b), costs) in values.zip(costs.as_chunks_mut::<HALF>().0).take(n.div_ceil(HALF)) {
        find_costs(levels, &Values::load([a, b]), costs);
    }
    let mut choices = [[0; N]; 2];
    let lead = LEAD.min(n / 2);
    let mut metrics = walk([_mm256_setzero_si256(); 2], &costs, &mut choices, n - lead, n);
    metrics = walk(metrics, &costs, &mut choices, 0, lead);
    let ends = by_row(metrics);
    let (mut entries, mut starts) = ([0; 2], [[UNREACHED; STATES]; 2]);
    for (row, entry) in entries.iter_mut().enumerate() {
        *entry = entry_state(&ends[row], &choices[row], lead);
        if let Some(start) = starts[row].get_mut(*entry) {
            *start = 0;
        }
    }
    let ends = by_row(walk(by_half(&starts), &costs, &mut choices, 0, n));
    let error = |row: usize| ends[row].get(entries[row]).copied().unwrap_or(UNREACHED);
    let best = cheaper([error(0), error(1)], weights) & 1;
    trace(entries[best], &choices[best], codes, |_, history| WITHOUT_UPPER[history & 15]);
    find_uppers(levels, code_bits, &rows[best], codes);
    best
}

/// Metrics of each row.
#[inline]
#[target_feature(enable = "avx2")]
fn by_row([low, high]: Metrics) -> [[i32; STATES]; 2] {
    let mut ends = [[0; STATES]; 2];
    store_sums(&mut ends[0], 0, _mm256_permute2x128_si256::<0x20>(low, high));
    store_sums(&mut ends[1], 0, _mm256_permute2x128_si256::<0x31>(low, high));
    ends
}

/// The inverse of [`by_row`].
#[inline]
#[target_feature(enable = "avx2")]
fn by_half(rows: &[[i32; STATES]; 2]) -> Metrics {
    let [a, b] = [load_eight_ints(&rows[0]), load_eight_ints(&rows[1])];
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

/// Steps over positions `from..to` of both rows, even numbers both.
#[inline]
#[target_feature(enable = "avx2")]
fn walk<const N: usize>(
    mut metrics: Metrics,
    costs: &Costs<N>,
    [choices_a, choices_b]: &mut [[u8; N]; 2],
    from: usize,
    to: usize,
) -> Metrics {
    let costs = costs.get(from..to).unwrap_or(&[]).as_chunks::<2>().0;
    let choices_a = choices_a.get_mut(from..to).unwrap_or(&mut []).as_chunks_mut::<2>().0;
    let choices_b = choices_b.get_mut(from..to).unwrap_or(&mut []).as_chunks_mut::<2>().0;
    for ((costs, choices_a), choices_b) in costs.iter().zip(choices_a).zip(choices_b) {
        let (first, second);
        (metrics, first) = step(metrics, &costs[0]);
        (metrics, second) = step(metrics, &costs[1]);
        let bits = _mm256_movemask_epi8(_mm256_packs_epi16(first, second));
        (*choices_a, *choices_b) = ((bits as u16).to_le_bytes(), ((bits >> 16) as u16).to_le_bytes());
    }
    metrics
}

/// One position: the cheaper way into each state, and 16 bits per state that are set where it is the second.
#[inline]
#[target_feature(enable = "avx2")]
fn step([low, high]: Metrics, costs: &[i32; 8]) -> (Metrics, __m256i) {
    let costs = load_eight_ints(costs);
    let first = [
        _mm256_add_epi32(_mm256_unpacklo_epi32(low, low), _mm256_shuffle_epi32::<{ labels_from(0) }>(costs)),
        _mm256_add_epi32(_mm256_unpackhi_epi32(low, low), _mm256_shuffle_epi32::<{ labels_from(4) }>(costs)),
    ];
    let second = [
        _mm256_add_epi32(
            _mm256_unpacklo_epi32(high, high),
            _mm256_shuffle_epi32::<{ labels_from(8) }>(costs),
        ),
        _mm256_add_epi32(
            _mm256_unpackhi_epi32(high, high),
            _mm256_shuffle_epi32::<{ labels_from(12) }>(costs),
        ),
    ];
    let choice = [0, 1].map(|i| _mm256_cmpgt_epi32(first[i], second[i]));
    let metrics = [0, 1].map(|i| _mm256_min_epi32(first[i], second[i]));
    (metrics, _mm256_packs_epi32(choice[0], choice[1]))
}

/// The shuffle that gives four steps their labels; the steps are numbered by their last four trellis bits.
const fn labels_from(step: usize) -> i32 {
    let (mut shuffle, mut i) = (0, 0);
    while i < 4 {
        shuffle |= (LABELS[step + i] as i32) << (2 * i);
        i += 1;
    }
    shuffle
}

/// Sixteen values in each half, in sixteenths of a codeword unit.
struct Values {
    /// The first eight of each half, and the others.
    y: [__m256i; 2],
    /// The bins that they lie in: see [`Levels`].
    bins: __m256i,
    /// Where in a bin, less 128: bytes are compared as signed.
    rest: __m256i,
}

impl Values {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(halves: [&[i16; HALF]; 2]) -> Self {
        let [a, b] = halves.map(|half| load_sixteen(half, 0));
        let y = [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)];
        let bins = _mm256_packs_epi16(_mm256_srai_epi16::<8>(y[0]), _mm256_srai_epi16::<8>(y[1]));
        let bins = _mm256_min_epi8(_mm256_max_epi8(bins, _mm256_set1_epi8(-8)), _mm256_set1_epi8(7));
        let rest = y.map(|y| _mm256_and_si256(y, _mm256_set1_epi16(255)));
        Self {
            y,
            bins: _mm256_add_epi8(bins, _mm256_set1_epi8(8)),
            rest: _mm256_xor_si256(_mm256_packus_epi16(rest[0], rest[1]), _mm256_set1_epi8(-128)),
        }
    }
}

/// The levels of one label, by bins of 256 sixteenths from -2048 on: none has more than one threshold in it, and values
/// outside of them all belong to the first or the last level.
struct Levels {
    /// The values of a bin that are larger are nearer to the level of the next one's beginning; less 128.
    thresholds: [u8; 16],
    /// 16 times the level at the beginning of the bin, in two bytes.
    low: [u8; 16],
    high: [u8; 16],
    /// The level's place among those of its label.
    uppers: [u8; 16],
}

/// Of every label.
const fn levels_of(codewords: &[i8]) -> [Levels; 4] {
    [
        Levels::new(codewords, 0),
        Levels::new(codewords, 1),
        Levels::new(codewords, 2),
        Levels::new(codewords, 3),
    ]
}

impl Levels {
    const fn new(codewords: &[i8], label: usize) -> Self {
        let mut out = Self { thresholds: [127; 16], low: [0; 16], high: [0; 16], uppers: [0; 16] };
        let mut bin = 0;
        while bin < 16 {
            let begin = 256 * (bin as i32 - 8);
            let (mut upper, mut k) = (0, 1);
            while 4 * k + label < codewords.len() {
                let threshold = 8 * (codewords[4 * (k - 1) + label] as i32 + codewords[4 * k + label] as i32);
                if threshold < begin {
                    upper = k;
                } else if threshold < begin + 256 {
                    assert!(out.thresholds[bin] == 127 && bin > 0 && bin < 15);
                    out.thresholds[bin] = (threshold - begin) as u8 ^ 0x80;
                }
                k += 1;
            }
            let level = 16 * codewords[4 * upper + label] as i16;
            [out.low[bin], out.high[bin]] = level.to_le_bytes();
            out.uppers[bin] = upper as u8;
            bin += 1;
        }
        out
    }

    /// The bin at whose beginning the level nearest to each value is the nearest.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn find(&self, values: &Values) -> __m256i {
        let thresholds = _mm256_shuffle_epi8(load16_twice(&self.thresholds, 0), values.bins);
        _mm256_sub_epi8(values.bins, _mm256_cmpgt_epi8(values.rest, thresholds))
    }
}

/// Squared errors of the nearest level of each label.
#[inline]
#[target_feature(enable = "avx2")]
fn find_costs(levels: &[Levels; 4], values: &Values, costs: &mut [[i32; 8]; HALF]) {
    let zero = _mm256_setzero_si256();
    // Of eight positions and of eight more, by label.
    let mut errors = [[zero; 4]; 2];
    for (label, levels) in levels.iter().enumerate() {
        let bins = levels.find(values);
        let low = _mm256_shuffle_epi8(load16_twice(&levels.low, 0), bins);
        let high = _mm256_shuffle_epi8(load16_twice(&levels.high, 0), bins);
        errors[0][label] = _mm256_sub_epi16(values.y[0], _mm256_unpacklo_epi8(low, high));
        errors[1][label] = _mm256_sub_epi16(values.y[1], _mm256_unpackhi_epi8(low, high));
    }
    for ([a, b, c, d], costs) in errors.into_iter().zip(costs.as_chunks_mut::<8>().0) {
        let ab = [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
        let cd = [_mm256_unpacklo_epi16(c, d), _mm256_unpackhi_epi16(c, d)];
        for (i, costs) in costs.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            // The four labels of two positions.
            let two = [_mm256_unpacklo_epi32(ab[i], cd[i]), _mm256_unpackhi_epi32(ab[i], cd[i])];
            for (two, costs) in two.into_iter().zip(costs.as_chunks_mut::<2>().0) {
                for (one, costs) in [_mm256_unpacklo_epi16(two, zero), _mm256_unpackhi_epi16(two, zero)]
                    .into_iter()
                    .zip(costs)
                {
                    store_sums(costs, 0, _mm256_madd_epi16(one, one));
                }
            }
        }
    }
}

/// Labels and trellis bits to codes: finds which of a label's levels is nearest.
#[inline]
#[target_feature(enable = "avx2")]
fn find_uppers(levels: &[Levels; 4], code_bits: usize, row: &Row, codes: &mut [u8]) {
    let down = _mm_cvtsi32_si128(5 - code_bits as i32);
    let halves = row.as_chunks::<HALF>().0.as_chunks::<2>().0;
    for ([a, b], codes) in halves.iter().zip(codes.chunks_mut(2 * HALF)) {
        let values = Values::load([a, b]);
        let mut padded = [0; 2 * HALF];
        padded.iter_mut().zip(codes.iter()).for_each(|(to, from)| *to = *from);
        let code = load_vector(&padded);
        let label = _mm256_and_si256(code, _mm256_set1_epi8(3));
        let mut out = _mm256_srl_epi16(_mm256_and_si256(code, _mm256_set1_epi8(16)), down);
        for (i, levels) in levels.iter().enumerate() {
            let upper = _mm256_shuffle_epi8(load16_twice(&levels.uppers, 0), levels.find(&values));
            let chosen = _mm256_cmpeq_epi8(label, _mm256_set1_epi8(i as i8));
            out = _mm256_or_si256(out, _mm256_and_si256(upper, chosen));
        }
        store_vector(&mut padded, out);
        codes.iter_mut().zip(padded).for_each(|(to, from)| *to = from);
    }
}
