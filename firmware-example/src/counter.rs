//! Counting instructions with SysTick under an emulator that lets each instruction take the same time.
//!
//! QEMU with `-icount shift=3` advances its clock by 8 ns per instruction, and SysTick follows that clock at
//! the board's rate. How many ticks an instruction takes is found out with a loop of known length. On
//! hardware the same code counts cycles.

use core::arch::asm;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;

const MAX_TICKS: u32 = 0x00ff_ffff;

/// Instructions of the loop of known length.
const KNOWN: u32 = 1_000_000;

/// A calibrated counter.
pub struct Counter {
    systick: SYST,
    /// Ticks of [`KNOWN`] instructions.
    known_ticks: u32,
    /// Ticks of nothing.
    empty_ticks: u32,
}

impl Counter {
    /// Starts SysTick and calibrates it.
    pub fn new(mut systick: SYST) -> Self {
        systick.set_clock_source(SystClkSource::Core);
        systick.set_reload(MAX_TICKS);
        systick.clear_current();
        systick.enable_counter();
        let mut counter = Self { systick, known_ticks: 0, empty_ticks: 0 };
        counter.empty_ticks = counter.ticks(|| {});
        counter.known_ticks = counter.ticks(|| spin(KNOWN / 2)) - counter.empty_ticks;
        counter
    }

    /// Instructions that `body` took.
    ///
    /// Panics if SysTick's 24 bits were too few: no figure is better than a wrong one.
    pub fn instructions(&mut self, body: impl FnOnce()) -> u32 {
        let ticks = self.ticks(body).saturating_sub(self.empty_ticks);
        (u64::from(ticks) * u64::from(KNOWN)).div_ceil(u64::from(self.known_ticks)) as u32
    }

    #[inline(never)]
    fn ticks(&mut self, body: impl FnOnce()) -> u32 {
        self.systick.clear_current();
        // The counter reloads on the tick after; reading the flag clears it.
        while SYST::get_current() == 0 {}
        self.systick.has_wrapped();
        let begun = SYST::get_current();
        body();
        let ended = SYST::get_current();
        assert!(!self.systick.has_wrapped(), "SysTick wrapped: measure less at a time");
        begun - ended
    }
}

/// `2 * turns` instructions, and one to set up.
#[inline(never)]
fn spin(turns: u32) {
    // SAFETY: counts a register down and touches nothing else.
    unsafe {
        asm!("2:", "subs {n}, #1", "bne 2b", n = inout(reg) turns => _, options(nomem, nostack));
    }
}
