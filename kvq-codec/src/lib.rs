//! KV-cache quantization without `std` and without allocation.
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

mod shape;

pub use shape::KvShape;
