//! A GPT-2 or a Llama with int8 weights in flash and its keys and values in a packed cache, without `std` and without
//! allocation.
//!
//! A host and a Cortex-M compute the same bits: products of weights are integers, what is left of floats is
//! added in one fixed order, nothing is fused, and `libm` supplies the transcendental functions on both.
#![no_std]
#![forbid(unsafe_code)]

mod context;
pub mod demo;
mod error;
mod hash;
pub mod image;
mod math;
mod model;
mod sample;
mod shape;
mod tokenizer;

pub use context::{Context, Watch, Watched};
pub use error::Error;
pub use hash::Hash;
pub use image::Image;
pub use model::{Model, Scratch};
pub use sample::Sampler;
pub use shape::{Architecture, MAX_INPUTS, Shape};
pub use tokenizer::Tokenizer;
