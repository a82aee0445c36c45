//! The `kvq-codec` KV cache inside a candle generation loop, and the `kvq` program.
//!
//! ```
//! use kvq_host::codec::Backend;
//! use kvq_host::kv_store::KvStore;
//! use kvq_host::kv_store::packed::PackedStore;
//! use kvq_host::model::{GenerateOptions, generate, load};
//! use kvq_host::policy;
//!
//! # fn main() -> anyhow::Result<()> {
//! let loaded = load("builtin", 0)?;
//! let policy = policy::load("4x")?.policy;
//! let mut store = PackedStore::new(loaded.model.config().kv_shape(), policy, Backend::detect())?;
//! let prompt = loaded.tokenizer.encode("Once upon a time", true)?;
//! let options = GenerateOptions::greedy(20);
//! let generated =
//!     generate(&*loaded.model, &mut store, &prompt, loaded.tokenizer.eos_ids(), &options, |_| Ok(true))?;
//! println!("{}", loaded.tokenizer.decode(&generated.tokens)?);
//! println!("{} tokens in {} bytes", store.len(), store.memory().total());
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

pub mod cli;
pub mod eval;
pub mod huge_pages;
pub mod kv_store;
pub mod measure;
pub mod model;
pub mod plan;
pub mod policy;
pub mod report;
pub mod state;
pub mod synth;
pub mod threads;
pub mod tune;
pub mod validate;

/// The codec, for programs that depend on this crate alone.
pub use kvq_codec as codec;
