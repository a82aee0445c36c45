//! The C interface of `kvq-codec`: a static library, whose header is `include/kvq.h`.
//!
//! ```text
//! memory of the caller, aligned to 8: | handle, KVQ_HANDLE_BYTES | storage of the cache, the rest |
//! ```
//!
//! Every call returns a [`KvqStatus`] and changes nothing when it is not `KVQ_STATUS_OK`. Null pointers, misaligned
//! ones, arrays that overlap what is written, and memory that holds no cache are refused; that a pointer leads to as
//! many values as the caller says is what only the caller can know. One cache is one thread's at a time.
//!
//! For bare metal: `cargo rustc --profile capi -p kvq-capi --crate-type staticlib --target TARGET`.
#![no_std]
#![deny(missing_docs)]

#[cfg(not(target_os = "none"))]
extern crate std;

mod call;
mod config;
mod handle;
mod pointer;
mod status;

pub use call::*;
pub use config::{KvqConfig, KvqPreset, KvqWhenFull, kvq_capacity_tokens, kvq_minimum_bytes, kvq_preset};
pub use handle::{KVQ_HANDLE_BYTES, KvqCache};
pub use status::{KvqError, KvqStatus, kvq_status_name};

/// The lines of the documents that are for one's own code, which must compile and run. They are here because this
/// package is built in the repository only.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/INTEGRATION.md")]
    struct Integration;
    #[doc = include_str!("../../docs/PORTING.md")]
    struct Porting;
    #[doc = include_str!("../../firmware-example/README.md")]
    struct Firmware;
}

/// A static library must have one. No call leads here: `cargo xtask qemu` follows what the library links.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
