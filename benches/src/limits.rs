//! What the machine allows: copying and reading the same bytes, and a way to empty its caches.

use std::hint::black_box;

/// Where the system does not tell the size of the last-level cache: more than most have per core complex.
const FALLBACK_LAST_LEVEL_BYTES: usize = 64 << 20;

/// The sum of all bytes, taken eight at a time in eight independent sums: a pass that does nothing but read.
pub fn read_sum(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut sums = [0u64; 8];
    for block in blocks {
        for (sum, word) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    let tail = rest.iter().fold(0u64, |sum, &byte| sum.wrapping_add(u64::from(byte)));
    sums.into_iter().fold(tail, u64::wrapping_add)
}

/// A buffer twice as large as the last-level cache; reading it leaves nothing else in any level.
pub struct Flush(Vec<u8>);

impl Flush {
    /// For this machine.
    pub fn new() -> Self {
        Self(vec![1; 2 * last_level_bytes().unwrap_or(FALLBACK_LAST_LEVEL_BYTES)])
    }

    /// Reads the buffer once.
    pub fn run(&self) {
        black_box(read_sum(black_box(&self.0)));
    }
}

impl Default for Flush {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of the largest cache of the first processor; `None` where the system does not tell.
fn last_level_bytes() -> Option<usize> {
    let levels = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    levels
        .filter_map(|level| {
            let size = std::fs::read_to_string(level.ok()?.path().join("size")).ok()?;
            size.trim().strip_suffix('K')?.parse::<usize>().ok()
        })
        .max()
        .map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_in_the_sum() {
        let mut bytes = vec![0u8; 64 * 3 + 5];
        assert_eq!(read_sum(&bytes), 0);
        for i in 0..bytes.len() {
            bytes[i] = 1;
            assert_ne!(read_sum(&bytes), 0, "byte {i}");
            bytes[i] = 0;
        }
    }
}
