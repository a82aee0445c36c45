//! What each fuzz target does with its bytes. `kvq-codec/tests/fuzz_regressions.rs` replays the corpora through the
//! same functions, without a fuzzer.

pub mod backends;
pub mod dequantize;
pub mod operations;
pub mod restore;
pub mod support;
