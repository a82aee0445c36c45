//! The `kvq-codec` KV cache inside a candle generation loop.

pub mod kv_store;
pub mod model;
