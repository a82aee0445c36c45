//! DSP instructions, and what they compute.

/// `low(a)·low(b) + high(a)·high(b) + sum`, halves being signed 16-bit integers.
#[cfg(kvq_dsp)]
#[inline(always)]
pub(super) fn smlad(a: u32, b: u32, sum: i32) -> i32 {
    let mut sum = sum;
    // SAFETY: `kvq_dsp` is set for targets that have the instruction alone. It reads and writes nothing but
    // these registers; its flag Q is not used by compiled code. Not `pure`: if the compiler may reorder the steps
    // of two sums, it takes one after the other and has no registers left for what they share.
    unsafe {
        core::arch::asm!(
            "smlad {sum}, {a}, {b}, {sum}",
            a = in(reg) a,
            b = in(reg) b,
            sum = inlateout(reg) sum,
            options(nomem, nostack)
        );
    }
    sum
}

/// The steps of one byte of both rows. Written out eight times: of `.rept` the compiler cannot tell the length.
#[cfg(kvq_dsp)]
macro_rules! pair {
    () => {
        "ldrb {x}, [{a}], #1
        ldrb {y}, [{b}], #1
        ldr {q}, [{query}], #4
        ldr {x}, [{table}, {x}, lsl #2]
        ldr {y}, [{table}, {y}, lsl #2]
        smlad {sum_a}, {x}, {q}, {sum_a}
        smlad {sum_b}, {y}, {q}, {sum_b}"
    };
}

/// Adds the dot products of two rows of bytes, each byte a pair of `table`, with a query in pairs.
///
/// In one piece, since compiled code spills registers here: 58 instructions for 16 values of each row.
#[cfg(kvq_dsp)]
#[inline(always)]
pub(super) fn dot_bytes(
    (a, b): (&[[u8; 8]], &[[u8; 8]]),
    pairs: &[[u32; 8]],
    table: &[u32; 256],
    sums: &mut [i32; 2],
) {
    let n = pairs.len().min(a.len()).min(b.len());
    if n == 0 {
        return;
    }
    let query = pairs.as_ptr();
    // SAFETY: `n` is not 0 and within all three slices, and `end` is at most one past the slice's last element.
    let end = unsafe { query.add(n) };
    // SAFETY: the instructions exist, as in `smlad`. The loop reads `n` elements of each slice and ends when the
    // query has reached `end`; a byte, as an index, is within the table's 256 words. Nothing is written but these
    // registers and flags.
    unsafe {
        core::arch::asm!(
            "2:",
            pair!(),
            pair!(),
            pair!(),
            pair!(),
            pair!(),
            pair!(),
            pair!(),
            pair!(),
            "cmp {query}, {end}",
            "bne 2b",
            a = inout(reg) a.as_ptr() => _,
            b = inout(reg) b.as_ptr() => _,
            query = inout(reg) query => _,
            end = in(reg) end,
            table = in(reg) table.as_ptr(),
            sum_a = inout(reg) sums[0],
            sum_b = inout(reg) sums[1],
            x = out(reg) _,
            y = out(reg) _,
            q = out(reg) _,
            options(readonly, nostack)
        );
    }
}

/// As with the instruction.
#[cfg(not(kvq_dsp))]
#[inline(always)]
pub(super) fn dot_bytes(
    (a, b): (&[[u8; 8]], &[[u8; 8]]),
    pairs: &[[u32; 8]],
    table: &[u32; 256],
    sums: &mut [i32; 2],
) {
    let [sum_a, sum_b] = sums;
    for ((a, b), query) in a.iter().zip(b).zip(pairs) {
        for i in 0..8 {
            *sum_a = smlad(table[usize::from(a[i])], query[i], *sum_a);
            *sum_b = smlad(table[usize::from(b[i])], query[i], *sum_b);
        }
    }
}

/// Bytes 0 and 2 of `x` as signed 16-bit halves.
#[cfg(kvq_dsp)]
#[inline(always)]
pub(super) fn even_bytes(x: u32) -> u32 {
    let halves;
    // SAFETY: as in `smlad`.
    unsafe {
        core::arch::asm!(
            "sxtb16 {halves}, {x}",
            x = in(reg) x,
            halves = lateout(reg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    halves
}

/// As the instruction.
#[cfg(not(kvq_dsp))]
#[inline(always)]
pub(super) fn smlad(a: u32, b: u32, sum: i32) -> i32 {
    sum + low(a) * low(b) + high(a) * high(b)
}

/// As the instruction.
#[cfg(not(kvq_dsp))]
#[inline(always)]
pub(super) fn even_bytes(x: u32) -> u32 {
    let half = |byte: u32| u32::from(i16::from(byte as u8 as i8) as u16);
    half(x) | half(x >> 16) << 16
}

/// Bytes 1 and 3 of `x` as signed 16-bit halves.
#[inline(always)]
pub(super) fn odd_bytes(x: u32) -> u32 {
    even_bytes(x.rotate_right(8))
}

/// The low half, signed.
#[inline(always)]
pub(super) fn low(pair: u32) -> i32 {
    i32::from(pair as u16 as i16)
}

/// The high half, signed.
#[inline(always)]
pub(super) fn high(pair: u32) -> i32 {
    pair as i32 >> 16
}
