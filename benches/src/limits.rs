//! What the machine allows: copying and reading the same bytes, and a way to empty its caches.

use std::hint::black_box;

use crate::weights::Weights;

/// Where the system does not tell the size of the last-level cache: more than most have per core complex.
const FALLBACK_LAST_LEVEL_BYTES: usize = 64 << 20;

/// Inputs and outputs of the product that comes before each cold call: SmolLM2's widest, as KVQ holds it.
const WEIGHTS: [usize; 2] = [768, 1536];

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

/// What a decode does between two calls for one layer: it reads other bytes, and multiplies by weights.
///
/// The bytes are a buffer twice as large as the last-level cache; reading it leaves nothing else in any level. The
/// product comes last, because a core with AVX-512 puts the upper parts of its registers to sleep where no instruction
/// has asked for them for a while. The next one that does runs at a fraction of its pace for tens of microseconds, half
/// of what is measured here, and a model's products never let it come to that.
pub struct Flush {
    buffer: Vec<u8>,
    weights: Weights,
}

impl Flush {
    /// For this machine.
    pub fn new() -> Self {
        let [inputs, outputs] = WEIGHTS;
        Self {
            buffer: vec![1; 2 * last_level_bytes().unwrap_or(FALLBACK_LAST_LEVEL_BYTES)],
            weights: Weights::new(1, inputs, outputs),
        }
    }

    /// Reads the buffer and multiplies by the weights, once.
    pub fn run(&self) {
        black_box(read_sum(black_box(&self.buffer)));
        self.weights.multiply(0);
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
