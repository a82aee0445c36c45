//! Unpacked levels of a segment, between the kernels that write and those that read them.

/// The levels of one side of a segment. Backends that unpack as they compute have no use for it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) struct Levels;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Levels {
    pub fn new() -> Self {
        Self
    }

    /// Has the next kernel unpack anew.
    pub fn forget(&mut self, _shared: bool) {}
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use super::simd::Levels;
