//! Snapshots in flash that went bad: each is refused with an error that says why, and the cache goes on as if
//! nothing had been tried.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_codec::{Backend, Error, KvCache, KvShape, Policy, WhenFull, minimum_bytes};
use kvq_firmware::{board, exit};
use kvq_replay::Random;

const HEAD_DIM: usize = 32;
const SHAPE: KvShape = KvShape::new(1, 1, HEAD_DIM);
const POLICY: Policy =
    Policy { span_len: 16, recent_len: 0, ..Policy::FOUR_X.with_byte_budget(WhenFull::Evict) };
const BYTES: usize = match minimum_bytes(SHAPE, POLICY) {
    Ok(bytes) => bytes,
    Err(_) => panic!("the shape or the policy is refused"),
};

/// A snapshot that the codec's tests keep. It is intact, but of a cache of another shape.
static INTACT: &[u8] = include_bytes!("../../../kvq-codec/tests/data/snapshot.bin");

/// The same with one bit of its codes turned over, as worn flash does.
static CORRUPT: [u8; INTACT_BYTES] = {
    let mut bytes = *include_bytes!("../../../kvq-codec/tests/data/snapshot.bin");
    bytes[INTACT_BYTES / 2] ^= 0x10;
    bytes
};

const INTACT_BYTES: usize = include_bytes!("../../../kvq-codec/tests/data/snapshot.bin").len();

/// Tokens before the snapshots are tried, and after.
const N_TOKENS: usize = 60;
const N_MORE: usize = 40;

#[entry]
fn main() -> ! {
    static mut MEMORY: [u8; BYTES] = [0; BYTES];
    defmt::info!("snapshot on {=str}: a cache of {=usize} bytes", board::NAME, BYTES);
    match run(MEMORY) {
        Ok(true) => exit::success(),
        Ok(false) => exit::failure(),
        Err(error) => {
            defmt::error!("{}", error);
            exit::failure()
        }
    }
}

/// Whether every snapshot was refused as it should be, and attention stayed as it was.
fn run(memory: &mut [u8]) -> Result<bool, Error> {
    let mut cache = KvCache::new(SHAPE, POLICY, Backend::detect(), memory)?;
    let mut random = Random::new(4);
    fill(&mut cache, &mut random, N_TOKENS)?;
    let before = attend(&cache)?;
    let mut fine = true;
    let cut_off = &INTACT[..INTACT_BYTES - 100];
    for (what, bytes, is_expected) in [
        (
            "one bit turned over",
            &CORRUPT[..],
            (|e| matches!(e, Error::SnapshotChecksum { .. })) as fn(&Error) -> bool,
        ),
        ("cut off", cut_off, |e| matches!(e, Error::SnapshotLength { .. })),
        ("erased flash", &[0xff; 256], |e| matches!(e, Error::NotSnapshot)),
        ("of another cache", INTACT, |e| matches!(e, Error::Mismatch { .. })),
    ] {
        let refusal = cache.restore(bytes);
        let is_same = attend(&cache)? == before && cache.len() == N_TOKENS;
        match refusal {
            Err(error) if is_expected(&error) && is_same => {
                defmt::info!("{=str}: refused, attention as before: {}", what, error);
            }
            other => {
                defmt::error!("{=str}: {}; attention as before: {=bool}", what, other, is_same);
                fine = false;
            }
        }
    }
    fill(&mut cache, &mut random, N_MORE)?;
    attend(&cache)?;
    defmt::info!("the cache went on to {=usize} tokens", cache.len());
    Ok(fine)
}

fn fill(cache: &mut KvCache<'_>, random: &mut Random, n_tokens: usize) -> Result<(), Error> {
    let (mut key, mut value) = ([0.0; HEAD_DIM], [0.0; HEAD_DIM]);
    for _ in 0..n_tokens {
        key.fill_with(|| random.exact() - 4.0);
        value.fill_with(|| random.exact() - 4.0);
        cache.append(0, 1, &key, &value)?;
    }
    Ok(())
}

/// The bits of what one query gets.
fn attend(cache: &KvCache<'_>) -> Result<[u32; HEAD_DIM], Error> {
    let mut out = [0.0; HEAD_DIM];
    cache.attend(0, 1, &[0.5; HEAD_DIM], &mut out)?;
    Ok(out.map(f32::to_bits))
}
