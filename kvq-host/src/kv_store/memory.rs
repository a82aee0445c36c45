//! Memory that grows with the context and is never longer than it was asked to be.

use std::mem;
use std::ops::Range;

use bytemuck::Pod;
use kvq_codec::Storage;
use memmap2::{MmapMut, MmapOptions};

use crate::huge_pages::{self, HUGE_PAGE};

/// Bytes of addresses that a memory reserves on Linux: more than a cache will fill, and room for 2,000 of them.
pub const RESERVED_BYTES: usize = 64 << 30;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Memory for a cache that grows, of which no bytes but its own are ever touched.
///
/// Up to the length of a huge page it is a vector. From there on Linux lends it a stretch of addresses to grow in without
/// moving, and what is full goes into [huge pages](crate::huge_pages); other systems go on with the vector.
///
/// What comes after the first bytes asked for, the units of a packed cache, begins a cache line there.
#[derive(Debug)]
pub struct GrowingMemory<T = u8> {
    memory: Memory<T>,
    /// Bytes that were asked for first.
    first_bytes: usize,
}

#[derive(Debug)]
enum Memory<T> {
    Allocated(Vec<T>),
    Reserved(Reserved),
}

/// Bytes of a stretch of addresses, from its first huge page on.
#[derive(Debug)]
struct Reserved {
    map: MmapMut,
    /// Begins within the first cache line of that page.
    held: Range<usize>,
    /// Huge pages that were full when it last grew.
    n_huge: usize,
}

impl<T> Default for GrowingMemory<T> {
    fn default() -> Self {
        Self { memory: Memory::Allocated(Vec::new()), first_bytes: 0 }
    }
}

impl<T: Pod> GrowingMemory<T> {
    /// All elements.
    pub fn elements(&self) -> &[T] {
        match &self.memory {
            Memory::Allocated(vec) => vec,
            Memory::Reserved(Reserved { map, held, .. }) => bytemuck::cast_slice(&map[held.clone()]),
        }
    }

    /// All elements, to be written.
    pub fn elements_mut(&mut self) -> &mut [T] {
        match &mut self.memory {
            Memory::Allocated(vec) => vec,
            Memory::Reserved(Reserved { map, held, .. }) => bytemuck::cast_slice_mut(&mut map[held.clone()]),
        }
    }

    /// Makes it `len` elements long, unless it is longer already; the new ones are zero.
    pub fn grow_to(&mut self, len: usize) {
        let (old, n_bytes) = (self.elements().len(), len * size_of::<T>());
        if len <= old {
            return;
        }
        if old == 0 {
            self.first_bytes = n_bytes;
        }
        if let Memory::Reserved(reserved) = &mut self.memory
            && reserved.grow(n_bytes)
        {
            return;
        }
        if let Memory::Allocated(vec) = &self.memory
            && n_bytes > HUGE_PAGE
            && let Some(reserved) = Reserved::new(bytemuck::cast_slice(vec), n_bytes, self.first_bytes)
        {
            self.memory = Memory::Reserved(reserved);
            return;
        }
        // Small, or on another system, or no addresses are left.
        let mut vec = match &mut self.memory {
            Memory::Allocated(vec) => mem::take(vec),
            Memory::Reserved(_) => self.elements().to_vec(),
        };
        vec.reserve_exact(len - old);
        vec.resize(len, T::zeroed());
        self.memory = Memory::Allocated(vec);
    }
}

impl Storage for GrowingMemory {
    const GROWS: bool = true;

    fn bytes(&self) -> &[u8] {
        self.elements()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.elements_mut()
    }

    fn grow(&mut self, len: usize) -> bool {
        self.grow_to(len);
        true
    }
}

impl Reserved {
    /// A copy of `bytes`, followed by zeros up to `len`, with a cache line beginning after the `first`; none without that
    /// many addresses.
    fn new(bytes: &[u8], len: usize, first: usize) -> Option<Self> {
        if !cfg!(all(target_os = "linux", target_pointer_width = "64")) {
            return None;
        }
        let map = MmapOptions::new().len(RESERVED_BYTES).no_reserve_swap().map_anon().ok()?;
        // Where there are no huge pages, none need to be held back.
        let _ = huge_pages::hold_back(&map);
        let start = map.as_ptr().align_offset(HUGE_PAGE) + (first.next_multiple_of(CACHE_LINE) - first);
        let mut new = Self { map, held: start..start, n_huge: 0 };
        new.grow(len).then(|| {
            new.map[start..][..bytes.len()].copy_from_slice(bytes);
            new
        })
    }

    /// Makes it `len` bytes long, and puts what is full before that into huge pages; `false` if it cannot grow so far.
    fn grow(&mut self, len: usize) -> bool {
        let Range { start, end } = self.held;
        if len > self.map.len() - start {
            return false;
        }
        let first_page = start - start % CACHE_LINE;
        let n_huge = (end - first_page) / HUGE_PAGE;
        if n_huge > self.n_huge {
            let full = first_page + self.n_huge * HUGE_PAGE..first_page + n_huge * HUGE_PAGE;
            // Where the kernel refuses, these pages stay small: it is not asked again.
            let _ = huge_pages::collapse(&self.map[full]);
            self.n_huge = n_huge;
        }
        self.held.end = start + len;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_stays_and_what_is_new_is_zero() {
        let mut memory = GrowingMemory::<u16>::default();
        let value = |i: usize| (i % 60_013) as u16 + 1;
        let mut n_moves = 0;
        for len in [0, 7, 1000, HUGE_PAGE / 2, HUGE_PAGE / 2 + 1, HUGE_PAGE, 2 * HUGE_PAGE + 5, 3 * HUGE_PAGE]
        {
            let (old, from) = (memory.elements().len(), memory.elements().as_ptr());
            memory.grow_to(len);
            n_moves += usize::from(old > HUGE_PAGE / 2 && memory.elements().as_ptr() != from);
            // It is never made shorter.
            memory.grow_to(len / 2);
            assert_eq!(memory.elements().len(), len);
            assert!((0..old).all(|i| memory.elements()[i] == value(i)), "{len}");
            assert!(memory.elements()[old..].iter().all(|new| *new == 0), "{len}");
            memory.elements_mut().iter_mut().enumerate().for_each(|(i, element)| *element = value(i));
        }
        if cfg!(all(target_os = "linux", target_pointer_width = "64")) {
            assert_eq!(n_moves, 0);
        }
    }

    #[test]
    fn past_its_addresses_it_moves() {
        let map = MmapOptions::new().len(HUGE_PAGE).map_anon().unwrap();
        let reserved = Reserved { map, held: 8..8 + 1000, n_huge: 0 };
        let mut memory = GrowingMemory::<u32> { memory: Memory::Reserved(reserved), first_bytes: 0 };
        memory.elements_mut().fill(7);
        memory.grow_to(HUGE_PAGE);
        let (old, new) = memory.elements().split_at(250);
        assert!(old.iter().all(|element| *element == 7) && new.iter().all(|element| *element == 0));
        assert_eq!(memory.elements().len(), HUGE_PAGE);
        assert!(matches!(memory.memory, Memory::Allocated(_)));
    }

    #[test]
    fn what_follows_the_first_bytes_begins_a_cache_line() {
        for first in [1, 2, 33, 64, 1000, HUGE_PAGE] {
            let mut memory = GrowingMemory::<u16>::default();
            memory.grow_to(first);
            memory.elements_mut().fill(7);
            memory.grow_to(2 * HUGE_PAGE);
            let (own, new) = memory.elements().split_at(first);
            if matches!(memory.memory, Memory::Reserved(_)) {
                assert_eq!(new.as_ptr().addr() % CACHE_LINE, 0, "{first}");
            }
            assert!(own.iter().all(|element| *element == 7) && new.iter().all(|element| *element == 0));
        }
    }
}
