//! The bytes of a state file (`docs/STATE.md`).
//!
//! ```text
//! magic 8 | version u32 | origin_bytes u32 | n_tokens u64 | snapshot_bytes u64 | SHA-256 of all other bytes, 32
//! origin: JSON | tokens: u32 each | snapshot
//! ```
//!
//! All numbers are little-endian. The three lengths must add up to the file's before any of them is used.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::State;

/// The version that is written and read.
pub const STATE_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"KVQSTATE";

/// Bytes before the checksum, and of the whole header.
const SUMMED_BYTES: usize = 32;
const HEADER_BYTES: usize = SUMMED_BYTES + 32;

/// The file in consecutive pieces.
pub(super) fn parts(state: &State) -> Result<[Vec<u8>; 4]> {
    let origin = serde_json::to_vec(&state.origin)?;
    let tokens: Vec<u8> = state.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let mut header = MAGIC.to_vec();
    header.extend(STATE_VERSION.to_le_bytes());
    header.extend(u32::try_from(origin.len()).context("a conversation of 4 GiB")?.to_le_bytes());
    header.extend((state.tokens.len() as u64).to_le_bytes());
    header.extend((state.snapshot.len() as u64).to_le_bytes());
    let sum = sha256(&header, &[&origin, &tokens, &state.snapshot]);
    header.extend(sum);
    Ok([header, origin, tokens, state.snapshot.clone()])
}

/// Reads a whole file.
///
/// # Errors
/// Bytes that are no state, of another version, cut off, longer than they say, or changed.
pub(super) fn parse(bytes: &[u8]) -> Result<State> {
    let magic = bytes.first_chunk::<8>();
    ensure!(magic == Some(&MAGIC), "this is no state file: it does not begin with KVQSTATE");
    let (header, payload) = bytes.split_at_checked(HEADER_BYTES).context("it is cut off in its header")?;
    let version = u32::from_le_bytes(header[8..12].try_into()?);
    ensure!(
        version == STATE_VERSION,
        "it has version {version} of the format, and this program reads version {STATE_VERSION}"
    );
    let origin_bytes = u64::from(u32::from_le_bytes(header[12..16].try_into()?));
    let n_tokens = u64::from_le_bytes(header[16..24].try_into()?);
    let snapshot_bytes = u64::from_le_bytes(header[24..32].try_into()?);
    // In 128 bits, where no sum of these overflows.
    let stated = u128::from(origin_bytes) + 4 * u128::from(n_tokens) + u128::from(snapshot_bytes);
    ensure!(
        stated == payload.len() as u128,
        "its header speaks of {stated} bytes and {} follow: it is cut off or changed",
        payload.len()
    );
    ensure!(
        sha256(&header[..SUMMED_BYTES], &[payload]) == header[SUMMED_BYTES..],
        "its checksum is wrong: some of its bytes were changed"
    );
    let (origin, rest) = payload.split_at(origin_bytes as usize);
    let (tokens, snapshot) = rest.split_at(4 * n_tokens as usize);
    Ok(State {
        origin: serde_json::from_slice(origin).context("its description")?,
        tokens: tokens.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
        snapshot: snapshot.to_vec(),
    })
}

fn sha256(header: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(header);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}
