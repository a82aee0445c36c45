//! Packed rows to levels, 16 at a time.
//!
//! A head is walked in words of 64 values (one of 32 for heads of 32): a word of a 1-bit plane is one number,
//! whose shifts give the parities of trellis bits, and 64 values are four registers of levels.

use core::arch::aarch64::*;

use super::load::{load, load_bytes, load_u32, load_u64, store};
use crate::block::{Layout, MAX_PLANES, Rows, Run};
use crate::kernel::simd::by_layout;

/// Levels of all rows, one behind the other.
#[target_feature(enable = "neon")]
pub(super) fn unpack_rows(layout: Layout, rows: &Rows<'_>, head_dim: usize, out: &mut [[u8; 32]]) {
    by_layout!(write_rows, layout, head_dim, (rows, out));
}

/// Levels of all rows, interleaved by two tokens: for each group of four of them and each 16 values, two
/// vectors of the first two tokens and two of the last two.
#[target_feature(enable = "neon")]
pub(super) fn unpack_pairs(layout: Layout, rows: &Rows<'_>, head_dim: usize, out: &mut [[u8; 32]]) {
    by_layout!(write_pairs, layout, head_dim, (rows, out));
}

#[target_feature(enable = "neon")]
fn write_rows<const LAYOUT: u8, const D: usize, const V: usize>(rows: &Rows<'_>, out: &mut [[u8; 32]]) {
    let codebook = Codebook::load::<LAYOUT>();
    let out = out.as_chunks_mut::<V>().0;
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        let out = out.get_mut(first..).unwrap_or(&mut []);
        for (token, row) in out.iter_mut().enumerate().take(run.n) {
            let words = row.as_flattened_mut().as_chunks_mut::<16>().0.chunks_mut(4);
            for (w, word) in words.enumerate() {
                let levels = word_levels::<LAYOUT, D>(&run, token, w, &codebook);
                for (out, levels) in word.iter_mut().zip(levels) {
                    store(out, levels);
                }
            }
        }
        first += run.n;
    }
}

#[target_feature(enable = "neon")]
fn write_pairs<const LAYOUT: u8, const D: usize, const V: usize>(rows: &Rows<'_>, out: &mut [[u8; 32]]) {
    let codebook = Codebook::load::<LAYOUT>();
    let out = out.as_chunks_mut::<4>().0.as_chunks_mut::<V>().0;
    let mut first = 0;
    while first < rows.n {
        let run = rows.run(first);
        let groups = out.get_mut(first / 4..).unwrap_or(&mut []).iter_mut();
        for (four, group) in groups.take(run.n.div_ceil(4)).enumerate() {
            let vectors = group.as_flattened_mut().as_flattened_mut().as_chunks_mut::<16>().0;
            for (w, word) in vectors.as_chunks_mut::<4>().0.chunks_mut(4).enumerate() {
                let [a, b, c, d] =
                    [0, 1, 2, 3].map(|r| word_levels::<LAYOUT, D>(&run, 4 * four + r, w, &codebook));
                for (k, out) in word.iter_mut().enumerate() {
                    let k = k & 3;
                    store(&mut out[0], vzip1q_s8(a[k], b[k]));
                    store(&mut out[1], vzip2q_s8(a[k], b[k]));
                    store(&mut out[2], vzip1q_s8(c[k], d[k]));
                    store(&mut out[3], vzip2q_s8(c[k], d[k]));
                }
            }
        }
        first += run.n;
    }
}

/// A layout's codebook: its lower and upper sixteen levels.
struct Codebook([uint8x16_t; 2]);

impl Codebook {
    #[inline]
    #[target_feature(enable = "neon")]
    fn load<const LAYOUT: u8>() -> Self {
        let mut table = [[0u8; 16]; 2];
        if let Some(layout) = Layout::from_tag(LAYOUT) {
            for (entry, &level) in table.as_flattened_mut().iter_mut().zip(layout.codewords()) {
                *entry = level as u8;
            }
        }
        Self([load(&table[0]), load(&table[1])])
    }

    /// The levels that `index` names, of a codebook of at most `N` times sixteen.
    #[inline]
    #[target_feature(enable = "neon")]
    fn look_up<const N: usize>(&self, index: uint8x16_t) -> int8x16_t {
        let [low, high] = self.0;
        vreinterpretq_s8_u8(if N == 1 {
            vqtbl1q_u8(low, index)
        } else {
            vqtbl2q_u8(uint8x16x2_t(low, high), index)
        })
    }
}

/// The levels of word `w` of row `token`, of which a head of 32 has two registers; rows past the end of a run
/// read as something.
#[inline]
#[target_feature(enable = "neon")]
fn word_levels<const LAYOUT: u8, const D: usize>(
    run: &Run<'_>,
    token: usize,
    w: usize,
    codebook: &Codebook,
) -> [int8x16_t; 4] {
    let trellis = match Layout::from_tag(LAYOUT) {
        Some(Layout::T4) => Some(labels::<D>(run.planes[2], token, w)),
        Some(Layout::T3 | Layout::T2) => Some(labels::<D>(run.planes[1], token, w)),
        _ => None,
    };
    let (z1, z0) = trellis.unwrap_or((0, 0));
    let high = word::<D>(high_plane::<LAYOUT>(&run.planes), token, w);
    let [z1, z0, high] = [z1, z0, high].map(|bits| vreinterpretq_u8_u64(vdupq_n_u64(bits)));
    let mut out = [vdupq_n_s8(0); 4];
    for (k, levels) in out.iter_mut().enumerate().take(D / 16) {
        let c = 4 * w + k;
        let high = || vandq_u8(spread_bits(high, k), vdupq_n_u8(4));
        // Masks are -1: index = upper·4 + 2·z1 + z0.
        let label = || {
            let z1 = spread_bits(z1, k);
            vaddq_u8(vaddq_u8(z1, z1), spread_bits(z0, k))
        };
        *levels = match Layout::from_tag(LAYOUT) {
            Some(Layout::S4) => codebook.look_up::<1>(four_bits::<D>(run.planes[0], token, c)),
            Some(Layout::S3) => {
                codebook.look_up::<1>(vorrq_u8(two_bits::<D>(run.planes[0], token, c), high()))
            }
            Some(Layout::S2) => codebook.look_up::<1>(two_bits::<D>(run.planes[0], token, c)),
            Some(Layout::T4) => {
                let upper = vorrq_u8(two_bits::<D>(run.planes[0], token, c), high());
                codebook.look_up::<2>(vsubq_u8(vshlq_n_u8::<2>(upper), label()))
            }
            Some(Layout::T3) => {
                let upper = two_bits::<D>(run.planes[0], token, c);
                codebook.look_up::<1>(vsubq_u8(vshlq_n_u8::<2>(upper), label()))
            }
            Some(Layout::T2) => codebook.look_up::<1>(vsubq_u8(high(), label())),
            Some(Layout::Q8) | None => vdupq_n_s8(0),
        };
    }
    out
}

/// The plane of the bit that is worth 4: the uppermost of S3 and T4, and of T2's index; empty for the others.
#[inline]
fn high_plane<'a, const LAYOUT: u8>(planes: &[&'a [u8]; MAX_PLANES]) -> &'a [u8] {
    match Layout::from_tag(LAYOUT) {
        Some(Layout::S3 | Layout::T4) => planes[1],
        Some(Layout::T2) => planes[0],
        _ => &[],
    }
}

/// Codes `16·c ..` of a 4-bit plane: code `i` is in byte `i mod D/2`, at bit `4·(i div D/2)`.
#[inline]
#[target_feature(enable = "neon")]
fn four_bits<const D: usize>(rows: &[u8], token: usize, c: usize) -> uint8x16_t {
    let n = D / 32;
    let bytes = load_bytes(rows, token * n + c % n);
    if c < n { vandq_u8(bytes, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(bytes) }
}

/// Codes `16·c ..` of a 2-bit plane: code `i` is in byte `i mod D/4`, at bit `2·(i div D/4)`.
#[inline]
#[target_feature(enable = "neon")]
fn two_bits<const D: usize>(rows: &[u8], token: usize, c: usize) -> uint8x16_t {
    let (bytes, down) = if D == 32 {
        // The row's 8 bytes are in both halves, which shift by different amounts.
        let row = vreinterpretq_u8_u64(vdupq_n_u64(load_u64(rows, token)));
        let low = -4 * c as i8;
        (row, vcombine_s8(vdup_n_s8(low), vdup_n_s8(low - 2)))
    } else {
        let n = D / 64;
        (load_bytes(rows, token * n + c % n), vdupq_n_s8(-2 * (c / n) as i8))
    };
    vandq_u8(vshlq_u8(bytes, down), vdupq_n_u8(3))
}

/// Word `w` of a row of a 1-bit plane; twice the whole row where it is one of 32.
#[inline]
fn word<const D: usize>(bits: &[u8], token: usize, w: usize) -> u64 {
    if D == 32 {
        let row = u64::from(load_u32(bits, token));
        return row << 32 | row;
    }
    load_u64(bits, token * (D / 64) + w)
}

/// Both label bits of word `w`: parities of trellis bits, which wrap around the row.
#[inline]
fn labels<const D: usize>(bits: &[u8], token: usize, w: usize) -> (u64, u64) {
    let n = (D / 64).max(1);
    let (u, before) = (word::<D>(bits, token, w), word::<D>(bits, token, (w + n - 1) % n));
    let back = |by: u32| u << by | before >> (64 - by);
    (u ^ back(1) ^ back(3), back(2))
}

/// Byte `i` is 0xff where bit `16·k + i` of the word in both halves of `bits` is set.
#[inline]
#[target_feature(enable = "neon")]
fn spread_bits(bits: uint8x16_t, k: usize) -> uint8x16_t {
    let byte = 2 * k as u8;
    let pick = vcombine_u8(vdup_n_u8(byte), vdup_n_u8(byte + 1));
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    vtstq_u8(vqtbl1q_u8(bits, pick), bit)
}
