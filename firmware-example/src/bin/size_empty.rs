//! What a program takes that only logs its size: subtracted from `size_cache`.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_firmware::{exit, flash};

#[entry]
fn main() -> ! {
    defmt::info!("flash ~{=usize} bytes", flash::bytes());
    exit::success()
}
