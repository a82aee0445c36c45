//! What the programs do that tell the flash of a cache: append, attend and trim with one policy.

use core::hint::black_box;

use kvq_codec::{Backend, Error, KvCache, KvShape, Policy};

use crate::{exit, flash};

const SHAPE: KvShape = KvShape::new(1, 2, 32);

/// Bytes of the cache.
pub const BYTES: usize = 16 * 1024;

/// Logs the flash of the program that calls it, and ends it.
#[inline(always)]
pub fn log(policy: Policy, memory: &mut [u8; BYTES]) -> ! {
    if call(policy, memory).is_err() {
        exit::failure()
    }
    defmt::info!("flash ~{=usize} bytes", flash::bytes());
    exit::success()
}

#[inline(always)]
fn call(policy: Policy, memory: &mut [u8; BYTES]) -> Result<(), Error> {
    let mut cache = KvCache::new(SHAPE, policy, Backend::detect(), memory)?;
    let (row, mut out) = (black_box([0.5; 64]), [0.0; 64]);
    for _ in 0..40 {
        cache.append(0, 1, &row, &row)?;
        cache.attend(0, 1, &row, &mut out)?;
    }
    black_box(out);
    cache.trim(black_box(7))
}
