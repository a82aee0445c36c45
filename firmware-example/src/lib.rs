//! What every program here needs: logs, an end with an exit code, and the board's sizes.
//!
//! Logs are `defmt` frames over semihosting, so that an emulator or a debug probe shows them and the
//! format strings stay out of flash.
#![no_std]

// The logger, and the critical section that it takes.
use cortex_m as _;
use defmt_semihosting as _;

pub mod board;
pub mod counter;
pub mod exit;
pub mod flash;
pub mod log;
pub mod size;
pub mod stack;

#[cfg(feature = "programs")]
pub use kvq_replay::Hash;
