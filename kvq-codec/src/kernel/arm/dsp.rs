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
