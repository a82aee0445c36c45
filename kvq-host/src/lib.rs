//! The `kvq-codec` KV cache inside a candle generation loop.

pub mod cli;
pub mod eval;
pub mod kv_store;
pub mod measure;
pub mod model;
pub mod plan;
pub mod policy;
pub mod report;
pub mod state;

/// The codec, for programs that depend on this crate alone.
pub use kvq_codec as codec;
pub mod synth;
pub mod tune;
pub mod validate;
