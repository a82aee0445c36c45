//! Making snapshots, changing them, and seeing them refused.

use super::{Growing, Sequence};
use kvq_codec::{Backend, Cache, Error, KvShape, Policy, SNAPSHOT_HEADER_BYTES, Storage};

pub fn append<S: Storage>(cache: &mut Cache<S>, seed: u64, n_tokens: usize) {
    let sequence = Sequence::new(cache.shape(), n_tokens, seed);
    for layer in 0..cache.shape().n_layers {
        let (keys, values) = (sequence.slab(0, n_tokens, true), sequence.slab(0, n_tokens, false));
        cache.append(layer, n_tokens, &keys, &values).unwrap();
    }
}

pub fn snapshot<S: Storage>(cache: &Cache<S>) -> Vec<u8> {
    let mut out = vec![0; cache.snapshot_bytes()];
    cache.snapshot_into(&mut out).unwrap();
    out
}

pub fn filled(shape: KvShape, policy: Policy, n_tokens: usize) -> Cache<Growing> {
    let mut cache = Cache::new(shape, policy, Backend::detect(), Growing::default()).unwrap();
    append(&mut cache, 3, n_tokens);
    cache
}

/// CRC-32 of four bits.
const CRC_OF_NIBBLE: [u32; 16] = {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 64 {
        let (nibble, bit) = (i / 4, i % 4);
        let crc = if bit == 0 { nibble as u32 } else { table[nibble] };
        table[nibble] = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        i += 1;
    }
    table
};

/// CRC-32, four bits at a time.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        crc = crc >> 4 ^ CRC_OF_NIBBLE[crc as usize % 16];
        crc = crc >> 4 ^ CRC_OF_NIBBLE[crc as usize % 16];
    }
    !crc
}

/// Makes both checksums right again.
pub fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = SNAPSHOT_HEADER_BYTES - 4;
    let crc = crc32(&bytes[..at]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    let end = bytes.len() - 4;
    let crc = crc32(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    seal(bytes)
}

pub fn message_names(error: Error, call: &str) {
    let text = error.to_string();
    assert!(text.contains(call), "'{text}' does not name {call}");
}

/// The error of a restore, which must leave the cache as it was.
pub fn refused<S: Storage>(cache: &mut Cache<S>, bytes: &[u8]) -> Error {
    let before = cache.storage_bytes();
    let tokens = snapshot(cache);
    let error = cache.restore(bytes).unwrap_err();
    assert_eq!(cache.storage_bytes(), before, "{error}");
    assert!(snapshot(cache) == tokens, "{error}");
    error
}
