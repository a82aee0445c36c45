//! A cache where C sees an address.

use core::ops::Range;

use kvq_codec::{Backend, Cache, KvShape, Policy, Storage};

use crate::pointer::{apart, put, range};
use crate::status::{KvqError, KvqStatus};

/// Bytes at the start of a cache's memory that its handle takes, on every machine; the storage is the rest.
pub const KVQ_HANDLE_BYTES: usize = 576;

/// What memory for a cache is aligned to.
const ALIGN: usize = 8;

const _: () = assert!(size_of::<KvqCache>() <= KVQ_HANDLE_BYTES && align_of::<KvqCache>() <= ALIGN);

/// Combined with the address of a handle: memory that was never initialised, or moved since, has another mark.
const MARK: usize = 0x6b76_7143;

/// A cache in memory of the caller.
#[derive(Debug)]
pub struct KvqCache {
    mark: usize,
    pub(crate) error: KvqError,
    pub(crate) cache: Cache<Memory>,
}

/// The storage behind a handle.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut u8,
    len: usize,
}

impl Storage for Memory {
    const GROWS: bool = false;

    fn bytes(&self) -> &[u8] {
        // SAFETY: `KvqCache::init` was given this memory for as long as the cache is used, and has written every byte;
        // it is written through `bytes_mut` alone, which borrows `self`.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and nothing else refers to the bytes while `self` is borrowed.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }

    fn grow(&mut self, _len: usize) -> bool {
        false
    }
}

impl KvqCache {
    /// Makes a cache in `memory`.
    ///
    /// # Errors
    /// `Null`, `Alignment`, `Length`, or what the codec refuses.
    ///
    /// # Safety
    /// Unless it is null, `memory` must be valid for reads and writes of `len` bytes, for as long as the cache is used.
    pub(crate) unsafe fn init(
        shape: KvShape,
        policy: Policy,
        memory: *mut u8,
        len: usize,
    ) -> Result<*mut Self, KvqError> {
        range(memory, len, 2)?;
        if !memory.addr().is_multiple_of(ALIGN) {
            return Err(KvqError::new(KvqStatus::Alignment, ALIGN, memory.addr() % ALIGN));
        }
        let needed = kvq_codec::minimum_bytes(shape, policy)?.saturating_add(KVQ_HANDLE_BYTES);
        if len < needed {
            return Err(KvqError::new(KvqStatus::BufferTooSmall, needed, len));
        }
        // SAFETY: `len` is not less than the handle's bytes.
        let start = unsafe { memory.add(KVQ_HANDLE_BYTES) };
        let len = len - KVQ_HANDLE_BYTES;
        // What C calls uninitialised must be bytes before it can be a slice.
        // SAFETY: within the memory, whose validity is the caller's contract.
        unsafe { start.write_bytes(0, len) };
        let cache = Cache::new(shape, policy, Backend::detect(), Memory { start, len })?;
        let handle = memory.cast::<Self>();
        let value = Self { mark: handle.addr() ^ MARK, error: KvqError::NONE, cache };
        // SAFETY: aligned to 8, and long enough for the handle, as was checked.
        unsafe { handle.write(value) };
        Ok(handle)
    }

    /// The cache at `at`.
    ///
    /// # Errors
    /// `Null`, `Alignment` or `NotCache`.
    ///
    /// # Safety
    /// Unless it is null, `at` must lead to readable memory; if that holds a cache, nothing else may use it
    /// meanwhile.
    pub(crate) unsafe fn open<'a>(at: *mut Self) -> Result<&'a mut Self, KvqError> {
        range(at, 1, 1)?;
        // SAFETY: the place lies within the readable memory of the caller's contract.
        let mark = unsafe { &raw const (*at).mark };
        // SAFETY: readable, and aligned by `range`; any bytes are an integer.
        let mark = unsafe { mark.read() };
        if mark != at.addr() ^ MARK {
            return Err(KvqError::plain(KvqStatus::NotCache));
        }
        // SAFETY: the mark says that `init` wrote a handle at this address.
        Ok(unsafe { &mut *at })
    }

    /// All the memory that the cache was given.
    fn memory(&self) -> Range<usize> {
        let start = core::ptr::from_ref(self).addr();
        start..start + KVQ_HANDLE_BYTES + self.cache.storage_bytes()
    }

    /// Values of the caller that are read; they may not lie in the cache's memory.
    ///
    /// # Errors
    /// `Null`, `Alignment`, `Length` or `Overlap`.
    ///
    /// # Safety
    /// Unless it is null, `at` must be valid for reads of `n` values that nobody writes meanwhile.
    pub(crate) unsafe fn input<'a, T>(
        &self,
        at: *const T,
        n: usize,
        argument: usize,
    ) -> Result<&'a [T], KvqError> {
        apart(&range(at, n, argument)?, &self.memory())?;
        // SAFETY: not null, aligned and not longer than memory can be, by `range`; readable by the caller's contract.
        Ok(unsafe { core::slice::from_raw_parts(at, n) })
    }

    /// Values of the caller that are written; they may not lie in the cache's memory.
    ///
    /// # Errors
    /// `Null`, `Alignment`, `Length` or `Overlap`.
    ///
    /// # Safety
    /// Unless it is null, `at` must be valid for reads and writes of `n` values that nobody else uses meanwhile.
    pub(crate) unsafe fn output<'a, T>(
        &self,
        at: *mut T,
        n: usize,
        argument: usize,
    ) -> Result<&'a mut [T], KvqError> {
        apart(&range(at, n, argument)?, &self.memory())?;
        // SAFETY: as in `input`, and nothing else refers to the values, by the caller's contract.
        Ok(unsafe { core::slice::from_raw_parts_mut(at, n) })
    }

    /// Writes one value of the caller's, which may not lie in the cache's memory.
    ///
    /// # Errors
    /// `Null`, `Alignment` or `Overlap`.
    ///
    /// # Safety
    /// Unless it is null, `to` must be valid for a write.
    pub(crate) unsafe fn put<T>(&self, to: *mut T, value: T, argument: usize) -> Result<(), KvqError> {
        apart(&range(to, 1, argument)?, &self.memory())?;
        // SAFETY: the caller's contract.
        unsafe { put(to, value, argument) }
    }
}
