//! A hash to compare bytes by.

/// FNV-1a of 64 bits: finds differences, and is no protection against someone who makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    /// The hash of nothing.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    /// Takes in more bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = Self::EMPTY;
        hash.add(bytes);
        hash
    }

    /// The number.
    pub const fn value(self) -> u64 {
        self.0
    }
}
