//! State files that are cut off, changed or lie: an error each time, and no memory beyond the file's size.
//!
//! One test, because allocations are counted over the whole process.

use std::alloc::System;

use kvq_codec::{Backend, KvShape, Policy};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::model::{Message, load};
use kvq_host::policy::NamedPolicy;
use kvq_host::state::{Origin, State};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Room for the text of an error and the path.
const SLACK_BYTES: usize = 16 << 10;

#[test]
fn every_cut_every_flip_and_every_lie_is_an_error() {
    // A small cache, so that the file is short and every byte of it can be tried.
    let mut store = PackedStore::new(KvShape::new(1, 1, 8), Policy::FOUR_X, Backend::detect()).unwrap();
    store.append(0, 4, &[0.5; 32], &[1.0; 32]).unwrap();
    let model = load("builtin", 0).unwrap();
    let policy = NamedPolicy { name: "4x".into(), policy: Policy::FOUR_X };
    let origin = Origin::new(&model.info, &policy, vec![Message::user("a")]);
    let state = State::new(origin, vec![5, 6, 7, 8, 9], &store).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    state.write(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();

    let refuse = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let region = Region::new(ALLOCATOR);
        let result = State::read(&path);
        let allocated = region.change().bytes_allocated;
        assert!(result.is_err(), "{what} was read");
        assert!(
            allocated <= bytes.len() + SLACK_BYTES,
            "{what}: {allocated} bytes for a file of {}",
            bytes.len()
        );
    };
    for len in 0..whole.len() {
        refuse(&whole[..len], &format!("a file cut off at {len}"));
    }
    let mut bytes = whole.clone();
    for at in 0..whole.len() {
        bytes[at] ^= 1 << (at % 8);
        refuse(&bytes, &format!("a file with byte {at} changed"));
        bytes[at] = whole[at];
    }
    refuse(&[&whole[..], &[0]].concat(), "a file with a byte more");
    for (at, width) in [(12, 4), (16, 8), (24, 8)] {
        for lie in [1u64 << 63, 1 << 62, 1 << 40, u64::MAX, u64::from(u32::MAX), 1 << 31, 0] {
            bytes[at..at + width].copy_from_slice(&lie.to_le_bytes()[..width]);
            if bytes != whole {
                refuse(&bytes, &format!("a length of {lie} at {at}"));
            }
            bytes.copy_from_slice(&whole);
        }
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(State::read(&path).unwrap(), state);
}
