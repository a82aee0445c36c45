//! Helium: what its loops compute, and the loops.
//!
//! Sixteen codes are looked up with one gather load, and `VMLADAVA` adds sixteen products to a sum in a core register.
//! The loops are tail-predicated (`DLSTP`, `LETP`): lanes beyond the end load and add nothing, so that every length goes.

use crate::quantize::codebook::S4;

/// The dot product of a row of 4-bit codes with a query: codes in low bits are those of `low`, in high bits of `high`.
///
/// Shapes: `row`, `low` and `high` of equal length.
#[cfg(kvq_mve)]
pub(super) fn dot_s4(row: &[u8], low: &[i8], high: &[i8]) -> i32 {
    let n = row.len().min(low.len()).min(high.len());
    let mut sum = 0;
    // SAFETY: `kvq_mve` is set for targets that have the instructions alone, and the loop ends after `n` elements of the
    // three slices, `n` being at most the length of each: lanes behind it are predicated and touch no memory; for `n`
    // of 0 it is not entered. A code is below 16, the length of the table. Nothing is written but these registers.
    unsafe {
        core::arch::asm!(
            "vmov.i8 q4, #15",
            "wlstp.8 lr, {n}, 3f",
            "2:",
            "vldrb.u8 q0, [{row}], #16",
            "vand q1, q0, q4",
            "vshr.u8 q0, q0, #4",
            "vldrb.u8 q2, [{table}, q1]",
            "vldrb.u8 q3, [{table}, q0]",
            "vldrb.u8 q0, [{low}], #16",
            "vldrb.u8 q1, [{high}], #16",
            "vmladava.s8 r2, q2, q0",
            "vmladava.s8 r2, q3, q1",
            "letp lr, 2b",
            "3:",
            n = in(reg) n,
            row = inout(reg) row.as_ptr() => _,
            low = inout(reg) low.as_ptr() => _,
            high = inout(reg) high.as_ptr() => _,
            table = in(reg) S4.as_ptr(),
            // The sum must be in an even register.
            inout("r2") sum,
            out("lr") _,
            out("q0") _,
            out("q1") _,
            out("q2") _,
            out("q3") _,
            out("q4") _,
            options(readonly, nostack)
        );
    }
    sum
}

/// As the loop.
#[cfg(not(kvq_mve))]
pub(super) fn dot_s4(row: &[u8], low: &[i8], high: &[i8]) -> i32 {
    let level = |code: u8| i32::from(S4[usize::from(code & 15)]);
    let values = row.iter().zip(low).zip(high);
    values.map(|((&byte, &l), &h)| level(byte) * i32::from(l) + level(byte >> 4) * i32::from(h)).sum()
}

/// The dot product of a row of 8-bit codes with a 16-bit query of the same length.
#[cfg(kvq_mve)]
pub(super) fn dot_q8(row: &[u8], query: &[i16]) -> i32 {
    let n = row.len().min(query.len());
    let mut sum = 0;
    // SAFETY: as in `dot_s4`, eight elements at a time. Loads that widen take their address from the low registers.
    unsafe {
        core::arch::asm!(
            "wlstp.16 lr, {n}, 3f",
            "2:",
            "vldrb.s16 q0, [r0], #8",
            "vldrh.u16 q1, [{query}], #16",
            "vmladava.s16 r2, q0, q1",
            "letp lr, 2b",
            "3:",
            n = in(reg) n,
            query = inout(reg) query.as_ptr() => _,
            inout("r0") row.as_ptr() => _,
            inout("r2") sum,
            out("lr") _,
            out("q0") _,
            out("q1") _,
            options(readonly, nostack)
        );
    }
    sum
}

/// As the loop.
#[cfg(not(kvq_mve))]
pub(super) fn dot_q8(row: &[u8], query: &[i16]) -> i32 {
    row.iter().zip(query).map(|(&code, &q)| i32::from(code as i8) * i32::from(q)).sum()
}

/// Adds the levels of two rows of 4-bit codes, times their weights, to the sums of low and of high bits.
///
/// Shapes: both rows and both sums of equal length.
#[cfg(kvq_mve)]
pub(super) fn add_s4([a, b]: [&[u8]; 2], w: [i32; 2], low: &mut [i32], high: &mut [i32]) {
    let n = a.len().min(b.len()).min(low.len()).min(high.len());
    // SAFETY: as in `dot_s4`, four elements at a time; the sums that are written are those that were read.
    unsafe {
        core::arch::asm!(
            "vmov.i32 q6, #15",
            "wlstp.32 lr, {n}, 3f",
            "2:",
            "vldrb.u32 q0, [r0], #4",
            "vldrb.u32 q1, [r1], #4",
            "vldrw.u32 q2, [{low}]",
            "vldrw.u32 q3, [{high}]",
            "vand q4, q0, q6",
            "vshr.u32 q0, q0, #4",
            "vldrb.s32 q5, [{table}, q4]",
            "vldrb.s32 q4, [{table}, q0]",
            "vmla.s32 q2, q5, {wa}",
            "vmla.s32 q3, q4, {wa}",
            "vand q4, q1, q6",
            "vshr.u32 q1, q1, #4",
            "vldrb.s32 q5, [{table}, q4]",
            "vldrb.s32 q4, [{table}, q1]",
            "vmla.s32 q2, q5, {wb}",
            "vmla.s32 q3, q4, {wb}",
            "vstrw.32 q2, [{low}], #16",
            "vstrw.32 q3, [{high}], #16",
            "letp lr, 2b",
            "3:",
            n = in(reg) n,
            low = inout(reg) low.as_mut_ptr() => _,
            high = inout(reg) high.as_mut_ptr() => _,
            wa = in(reg) w[0],
            wb = in(reg) w[1],
            table = in(reg) S4.as_ptr(),
            inout("r0") a.as_ptr() => _,
            inout("r1") b.as_ptr() => _,
            out("lr") _,
            out("q0") _,
            out("q1") _,
            out("q2") _,
            out("q3") _,
            out("q4") _,
            out("q5") _,
            out("q6") _,
            options(nostack)
        );
    }
}

/// As the loop.
#[cfg(not(kvq_mve))]
pub(super) fn add_s4(rows: [&[u8]; 2], w: [i32; 2], low: &mut [i32], high: &mut [i32]) {
    let level = |code: u8| i32::from(S4[usize::from(code & 15)]);
    for (row, w) in rows.into_iter().zip(w) {
        for ((&byte, low), high) in row.iter().zip(&mut *low).zip(&mut *high) {
            *low += level(byte) * w;
            *high += level(byte >> 4) * w;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn loops_compute_what_their_names_say() {
        for n in [0, 1, 2, 15, 16, 17, 32, 128] {
            let row: Vec<u8> = (0..n).map(|i| (i * 89 + 7 * n) as u8).collect();
            let query: Vec<i8> = (0..2 * n).map(|i| (i * 37 + n) as i8).collect();
            let wide: Vec<i16> = (0..n).map(|i| (i * 7919 + n) as i16).collect();
            let level = |code: u8| i32::from(S4[usize::from(code)]);
            let (mut score, mut wide_score, mut sums) = (0, 0, std::vec![5; 2 * n]);
            for (i, &byte) in row.iter().enumerate() {
                let (low, high) = (level(byte & 15), level(byte >> 4));
                score += low * i32::from(query[i]) + high * i32::from(query[n + i]);
                wide_score += i32::from(byte as i8) * i32::from(wide[i]);
                sums[i] += low * (3 - 127);
                sums[n + i] += high * (3 - 127);
            }
            assert_eq!(dot_s4(&row, &query[..n], &query[n..]), score);
            assert_eq!(dot_q8(&row, &wide), wide_score);
            let mut got = std::vec![5; 2 * n];
            let (low, high) = got.split_at_mut(n);
            add_s4([&row, &row], [3, -127], low, high);
            assert_eq!(got, sums);
        }
    }
}
