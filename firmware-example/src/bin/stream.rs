//! A text far longer than the cache's bytes hold: the cache demotes, then evicts, and never fails.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_codec::{Backend, Error};
use kvq_firmware::{Hash, board, exit, log, stack};
use kvq_replay::stream::{N_TOKENS, Stream, held_tokens};

const STREAM: Stream = Stream::for_ram(board::RAM_BYTES);

/// Lengths at which the log says what is held: while there is room, under pressure, and at the end.
const REPORT_AT: [usize; 6] = [32, 100, 200, 400, 1000, N_TOKENS];

/// What the host that built this arrived at.
const HOST_CACHE: u64 = board::number(env!("KVQ_STREAM_CACHE"));
const HOST_OUTPUTS: u64 = board::number(env!("KVQ_STREAM_OUTPUTS"));

#[entry]
fn main() -> ! {
    static mut MEMORY: [u8; STREAM.budget_bytes] = [0; STREAM.budget_bytes];
    defmt::info!(
        "stream on {=str}: {=usize} tokens through {=usize} bytes; fp16 would take {=usize}",
        board::NAME,
        N_TOKENS,
        STREAM.budget_bytes,
        N_TOKENS * STREAM.shape.fp16_bytes_per_token()
    );
    let mut outcome = Ok(false);
    let used = stack::used_bytes(|| outcome = read(MEMORY));
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

/// Whether cache and outputs are the host's.
fn read(memory: &mut [u8; STREAM.budget_bytes]) -> Result<bool, Error> {
    let mut reported = Ok(());
    let outputs = STREAM.read(Backend::detect(), memory, |cache| {
        if reported.is_ok() && REPORT_AT.contains(&cache.len()) {
            reported = held_tokens(cache, 0).and_then(|held| {
                defmt::info!("after {=usize} tokens, layer 0 holds {=usize}:", cache.len(), held);
                log::memory(&cache.memory());
                log::tiers(cache, 0)
            });
        }
    })?;
    reported?;
    let hash = Hash::of(memory).value();
    let fine = hash == HOST_CACHE && outputs == HOST_OUTPUTS;
    if fine {
        defmt::info!("cache bytes (hash {=u64:016x}) and every bit of attention equal the host's", hash);
    } else {
        defmt::error!(
            "differs from the host: cache {=u64:016x}, there {=u64:016x}; outputs {=u64:016x}, there {=u64:016x}",
            hash,
            HOST_CACHE,
            outputs,
            HOST_OUTPUTS
        );
    }
    Ok(fine)
}
