//! Sequences of cache calls that a host and a microcontroller do alike, and a hash to compare the bytes by.
//!
//! [`golden`] fills a cache exactly as the codec's `tests/golden.rs` does, whose files the host's tests
//! compare with; [`small`] appends, attends, trims and evicts in a few kilobytes; [`stream`] reads a text far
//! longer than its cache; [`heads`] attends heads of many sizes; [`saved`] reads what a snapshot is to interrupt or to go on with.
#![no_std]
#![forbid(unsafe_code)]

pub mod golden;
pub mod heads;
pub mod saved;
mod small;
pub mod stream;

pub use kvq_tiny::Hash;
pub use small::{SMALL_BYTES, SmallResult, small};

/// A small reproducible generator (xorshift of 64 bits).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose numbers follow from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A multiple of 1/64 from 0 to below 8: exact in every float arithmetic.
    pub fn exact(&mut self) -> f32 {
        ((self.next() >> 40) as i32 % 512) as f32 / 64.0
    }
}
