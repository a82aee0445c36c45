//! The same bytes as the host: golden buffers, and a small cache that is appended to, attended, trimmed,
//! demoted and evicted from. And the same bits of attention from this core's kernels as from the portable ones.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_codec::{Backend, Error};
use kvq_firmware::{Hash, board, exit};
use kvq_replay::{SMALL_BYTES, golden, heads, small};

/// The longest buffer to be replayed: three quarters of RAM, so that a quarter is left for the stack.
const BUFFER_BYTES: usize = {
    let (mut longest, mut i) = (SMALL_BYTES, 0);
    while i < golden::ALL.len() {
        let bytes = golden::ALL[i].bytes.len();
        if bytes > longest && bytes <= board::RAM_BYTES / 4 * 3 {
            longest = bytes;
        }
        i += 1;
    }
    longest
};

/// What the host that built this arrived at.
const HOST_CACHE: u64 = board::number(env!("KVQ_SMALL_CACHE"));
const HOST_OUTPUTS: u64 = board::number(env!("KVQ_SMALL_OUTPUTS"));

#[entry]
fn main() -> ! {
    static mut BUFFER: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES];
    let backend = Backend::detect();
    defmt::info!("selftest on {=str}, kernels {=str}", board::NAME, backend.name());
    let mut fine = true;
    for vector in &golden::ALL {
        fine &= check_golden(vector, backend, BUFFER);
    }
    fine &= check_small(backend, BUFFER);
    fine &= check_heads(backend, BUFFER);
    if fine { exit::success() } else { exit::failure() }
}

fn check_golden(vector: &golden::Golden, backend: Backend, buffer: &mut [u8]) -> bool {
    let n_bytes = vector.bytes.len();
    let Some(memory) = buffer.get_mut(..n_bytes) else {
        defmt::warn!(
            "golden {=str}: not replayed, its {=usize} bytes are more than three quarters of {=usize} bytes of RAM",
            vector.name,
            n_bytes,
            board::RAM_BYTES
        );
        return true;
    };
    memory.fill(0);
    if let Err(error) = vector.replay(backend, memory) {
        defmt::error!("golden {=str}: {}", vector.name, error);
        return false;
    }
    if let Some(at) = vector.bytes.iter().zip(&*memory).position(|(a, b)| a != b) {
        defmt::error!("golden {=str}: byte {=usize} differs from the host's", vector.name, at);
        return false;
    }
    let hash = Hash::of(memory).value();
    defmt::info!(
        "golden {=str}: {=usize} bytes as on the host, hash {=u64:016x}",
        vector.name,
        n_bytes,
        hash
    );
    true
}

fn check_small(backend: Backend, buffer: &mut [u8]) -> bool {
    let Some(memory) = buffer.first_chunk_mut::<SMALL_BYTES>() else {
        defmt::error!("small: the buffer is shorter than {=usize} bytes", SMALL_BYTES);
        return false;
    };
    let result = match small(backend, memory) {
        Ok(result) => result,
        Err(error) => {
            defmt::error!("small: {}", error);
            return false;
        }
    };
    defmt::info!(
        "small: {=usize} bytes hold {=usize} of {=usize} tokens, hash {=u64:016x}",
        SMALL_BYTES,
        result.held_tokens,
        result.len_tokens,
        result.cache
    );
    let mut fine = true;
    for (what, holds) in [
        ("cache bytes equal the host's", result.cache == HOST_CACHE),
        ("every bit of attention equals the host's", result.outputs == HOST_OUTPUTS),
        ("trim takes tokens back without a trace", result.rollback_exact),
    ] {
        if holds {
            defmt::info!("small: {=str}", what);
        } else {
            defmt::error!("small: does not hold: {=str}", what);
        }
        fine &= holds;
    }
    fine
}

fn check_heads(backend: Backend, buffer: &mut [u8]) -> bool {
    let (mut fine, mut n_equal) = (true, 0);
    for shape in heads::SHAPES {
        for layout in heads::LAYOUTS {
            let [got, expected] =
                [backend, Backend::SCALAR].map(|kernels| heads::heads(kernels, shape, layout, buffer));
            match got {
                Ok(_) if got == expected => n_equal += 1,
                Err(Error::BufferTooSmall { .. }) => {}
                _ => {
                    let (n, head_dim) = shape;
                    defmt::error!(
                        "heads: {=usize} of {=usize}, {}: {} and {}",
                        n,
                        head_dim,
                        layout,
                        got,
                        expected
                    );
                    fine = false;
                }
            }
        }
    }
    defmt::info!(
        "heads: every bit of attention equals that of the portable kernels in {=usize} of {=usize} shapes and layouts",
        n_equal,
        heads::SHAPES.len() * heads::LAYOUTS.len()
    );
    fine
}
