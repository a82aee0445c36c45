//! The flash of append, attend and trim with one policy: this program's, less that of `size_empty`.
#![no_std]
#![no_main]

use core::hint::black_box;

use cortex_m_rt::entry;
use kvq_codec::{Backend, Error, KvCache, KvShape, Policy, WhenFull};
use kvq_firmware::{exit, flash};

const SHAPE: KvShape = KvShape::new(1, 2, 32);
const POLICY: Policy =
    Policy { span_len: 16, recent_len: 0, ..Policy::FOUR_X.with_byte_budget(WhenFull::Demote) };
const BYTES: usize = 16 * 1024;

#[entry]
fn main() -> ! {
    static mut BUFFER: [u8; BYTES] = [0; BYTES];
    if call(BUFFER).is_err() {
        exit::failure()
    }
    defmt::info!("flash ~{=usize} bytes", flash::bytes());
    exit::success()
}

fn call(memory: &mut [u8; BYTES]) -> Result<(), Error> {
    let mut cache = KvCache::new(SHAPE, POLICY, Backend::detect(), memory)?;
    let (row, mut out) = (black_box([0.5; 64]), [0.0; 64]);
    for _ in 0..40 {
        cache.append(0, 1, &row, &row)?;
        cache.attend(0, 1, &row, &mut out)?;
    }
    black_box(out);
    cache.trim(black_box(7))
}
