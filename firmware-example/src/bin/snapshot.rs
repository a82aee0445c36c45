//! Snapshots in flash: those that went bad are refused with an error that says why, and the cache goes on to the
//! bits of a host that was never given them; the intact one, which the host wrote, is restored and goes on as there.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_codec::{Backend, Error, KvCache};
use kvq_firmware::{board, exit, stack};
use kvq_replay::saved::{N_AFTER, N_BEFORE, SAVED_BYTES, Text, attend, cache, read};

/// What the host that built this wrote after [`N_BEFORE`] tokens of [`Text::Saved`].
static INTACT: [u8; N_BYTES] = *include_bytes!(env!("KVQ_SNAPSHOT_PATH"));
const N_BYTES: usize = include_bytes!(env!("KVQ_SNAPSHOT_PATH")).len();

/// One bit turned over, as worn flash does: in the codes of the newest tokens, in the header, and in the checksum.
static BAD_CODES: [u8; N_BYTES] = flipped(N_BYTES - 40);
static BAD_HEADER: [u8; N_BYTES] = flipped(20);
static BAD_CHECKSUM: [u8; N_BYTES] = flipped(N_BYTES - 1);

/// An intact snapshot of a cache of another shape: the codec's tests keep it.
static OTHER_SHAPE: &[u8] = include_bytes!("../../../kvq-codec/tests/data/snapshot-small.bin");

/// What the host arrived at in [`N_AFTER`] more tokens of either text.
const HOST_SAVED: u64 = board::number(env!("KVQ_SAVED_OUTPUTS"));
const HOST_PRESENT: u64 = board::number(env!("KVQ_PRESENT_OUTPUTS"));

const fn flipped(at: usize) -> [u8; N_BYTES] {
    let mut bytes = INTACT;
    bytes[at] ^= 0x10;
    bytes
}

/// A snapshot to be refused, and whether an error is the one that says why.
type Bad = (&'static str, &'static [u8], fn(&Error) -> bool);

static BAD: [Bad; 6] = [
    ("a bit of the codes", &BAD_CODES, |e| matches!(e, Error::SnapshotChecksum { .. })),
    ("a bit of the header", &BAD_HEADER, |e| matches!(e, Error::SnapshotChecksum { .. })),
    ("a bit of the checksum", &BAD_CHECKSUM, |e| matches!(e, Error::SnapshotChecksum { .. })),
    ("the end cut off", INTACT.split_at(N_BYTES - 100).0, |e| matches!(e, Error::SnapshotLength { .. })),
    ("erased flash", &[0xff; 256], |e| matches!(e, Error::NotSnapshot)),
    ("of another shape", OTHER_SHAPE, |e| matches!(e, Error::Mismatch { .. })),
];

#[entry]
fn main() -> ! {
    static mut MEMORY: [u8; SAVED_BYTES] = [0; SAVED_BYTES];
    defmt::info!(
        "snapshot on {=str}: {=usize} bytes in flash, a cache of {=usize} bytes",
        board::NAME,
        N_BYTES,
        SAVED_BYTES
    );
    let mut outcome = Ok(false);
    let used = stack::used_bytes(|| outcome = run(MEMORY));
    defmt::info!("stack: ~{=usize} of ~{=usize} bytes", used, stack::room_bytes());
    match outcome {
        Ok(true) => exit::success(),
        Ok(false) => exit::failure(),
        Err(error) => {
            defmt::error!("{}", error);
            exit::failure()
        }
    }
}

/// Whether all that is bad was refused, what is intact was not, and attention was the host's all along.
fn run(memory: &mut [u8]) -> Result<bool, Error> {
    let mut cache = cache(Backend::detect(), memory)?;
    read(&mut cache, Text::Present, N_BEFORE)?;
    let mut fine = true;
    for bad in &BAD {
        fine &= is_refused(&mut cache, bad)?;
    }
    fine &= is_as_on_the_host("the cache went on", &mut cache, Text::Present, HOST_PRESENT)?;
    cache.restore(&INTACT)?;
    fine &= is_as_on_the_host(
        "the intact snapshot was restored and went on",
        &mut cache,
        Text::Saved,
        HOST_SAVED,
    )?;
    Ok(fine)
}

/// Whether a snapshot is refused for the right reason, and the cache is as it was.
fn is_refused(cache: &mut KvCache<'_>, (what, bytes, is_expected): &Bad) -> Result<bool, Error> {
    let before = attend(cache)?;
    let refusal = cache.restore(bytes);
    let is_same = attend(cache)? == before && cache.len() == N_BEFORE;
    if let Err(error) = refusal
        && is_expected(&error)
        && is_same
    {
        defmt::info!("{=str}: refused, attention as before: {}", what, error);
        return Ok(true);
    }
    defmt::error!("{=str}: {}; attention as before: {=bool}", what, refusal, is_same);
    Ok(false)
}

fn is_as_on_the_host(what: &str, cache: &mut KvCache<'_>, text: Text, host: u64) -> Result<bool, Error> {
    let outputs = read(cache, text, N_AFTER)?;
    if outputs == host && cache.len() == N_BEFORE + N_AFTER {
        defmt::info!(
            "{=str} to {=usize} tokens; every bit of attention equals the host's",
            what,
            cache.len()
        );
        return Ok(true);
    }
    defmt::error!("{=str}, but outputs are {=u64:016x}, on the host {=u64:016x}", what, outputs, host);
    Ok(false)
}
