//! How deep the stack went: the memory below it is painted, and what was painted over is counted.

use core::arch::asm;

use cortex_m::register::msp;

/// A word that code is unlikely to write.
const PAINT: u32 = 0x57ac_6b1d;

unsafe extern "C" {
    /// End of `.data`, `.bss` and `.uninit`, and the lowest word that the stack may use (`cortex-m-rt`).
    static _stack_end: u32;
    /// One past the highest word of the stack.
    static _stack_start: u32;
}

/// The lowest address that the stack may use.
fn bottom() -> usize {
    (&raw const _stack_end).addr()
}

/// RAM that is left for the stack, in bytes: from the end of the static variables to the end of RAM.
pub fn room_bytes() -> usize {
    (&raw const _stack_start).addr() - bottom()
}

/// RAM of static variables, in bytes.
pub fn static_bytes() -> usize {
    crate::board::RAM_BYTES - room_bytes()
}

/// Paints the unused stack, runs `body`, and returns the bytes of stack that `body` took.
///
/// Panics if no paint is left: then the stack has grown into the static variables, and nothing that was
/// computed can be trusted.
#[inline(never)]
pub fn used_bytes(body: impl FnOnce()) -> usize {
    let top = msp::read() as usize;
    paint();
    call(body);
    let lowest = lowest_written();
    assert!(lowest > bottom(), "the stack has grown into the static variables");
    top - lowest
}

/// Keeps what `body` needs out of the frame in which the stack pointer was read.
#[inline(never)]
fn call(body: impl FnOnce()) {
    body();
}

/// Paints from the bottom up to the stack pointer, which is read where it no longer moves: inside the block.
#[inline(never)]
fn paint() {
    // SAFETY: writes whole words from the end of the static variables (a multiple of 4, by the linker
    // script) to below the stack pointer, where nothing is alive; no interrupt is enabled that could use the
    // stack meanwhile.
    unsafe {
        asm!(
            "mov {end}, sp",
            "b 3f",
            "2:",
            "str {paint}, [{at}]",
            "adds {at}, #4",
            "3:",
            "cmp {at}, {end}",
            "blo 2b",
            at = inout(reg) bottom() => _,
            end = out(reg) _,
            paint = in(reg) PAINT,
        );
    }
}

fn lowest_written() -> usize {
    let end = msp::read() as usize;
    let mut at = bottom();
    while at < end {
        // SAFETY: an aligned word of RAM between the static variables and the stack pointer, which `paint` wrote.
        let word = unsafe { core::ptr::with_exposed_provenance::<u32>(at).read_volatile() };
        if word != PAINT {
            return at;
        }
        at += 4;
    }
    end
}
