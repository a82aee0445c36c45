//! The three ways a program ends early, each with an exit code of its own.
//!
//! `semihosting::process::exit` is `SYS_EXIT_EXTENDED`, which carries the code to the emulator's exit status.

use core::panic::PanicInfo;

use cortex_m_rt::{ExceptionFrame, exception};
use semihosting::process::exit;

/// A check did not hold.
pub const CHECK: i32 = 1;
/// A panic of Rust.
pub const PANIC: i32 = 101;
/// A panic of `defmt`: `defmt::panic!`, `defmt::unwrap!` and the like, already logged.
pub const DEFMT_PANIC: i32 = 102;
/// A HardFault.
pub const HARD_FAULT: i32 = 103;

/// Ends the program with success.
pub fn success() -> ! {
    exit(0)
}

/// Ends the program because a check did not hold; the reason was logged.
pub fn failure() -> ! {
    exit(CHECK)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    defmt::error!("{}", defmt::Display2Format(info));
    exit(PANIC)
}

#[defmt::panic_handler]
fn defmt_panic() -> ! {
    exit(DEFMT_PANIC)
}

// SAFETY: the handler only logs and ends the program; it touches nothing that the interrupted code may
// have left half done, but for the logger, whose lock would panic and end the program all the same.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    defmt::error!("HardFault at pc {=u32:#010x}, lr {=u32:#010x}", frame.pc(), frame.lr());
    exit(HARD_FAULT)
}
