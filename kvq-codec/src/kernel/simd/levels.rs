//! Unpacked levels of a segment: the query rows of all tiles read what was unpacked for the first.

use core::mem::MaybeUninit;

use crate::kernel::SEGMENT;
use crate::shape::MAX_HEAD_DIM;

/// Vectors of 32 levels that a segment has at the most.
const MAX_VECTORS: usize = SEGMENT * MAX_HEAD_DIM / 32;

/// The levels of one side of a segment. Only the vectors that a segment has are ever written: heads are
/// mostly far narrower than the widest.
// So that no vector straddles two cache lines.
#[repr(align(64))]
pub(crate) struct Levels {
    vectors: [MaybeUninit<[u8; 32]>; MAX_VECTORS],
    /// The first vectors, which are initialised.
    n_written: usize,
    /// The first vectors, which hold the segment; none until a kernel has unpacked it.
    n: usize,
    /// Whether several tiles read them.
    shared: bool,
}

impl Levels {
    /// No levels. Not a constant: that would be copied, uninitialised bytes and all.
    #[inline]
    pub fn new() -> Self {
        Self { vectors: [const { MaybeUninit::uninit() }; MAX_VECTORS], n_written: 0, n: 0, shared: false }
    }

    /// Has the next kernel unpack anew, for several tiles or for one.
    pub fn forget(&mut self, shared: bool) {
        self.n = 0;
        self.shared = shared;
    }

    /// Whether several tiles read what one unpacks: kernels that unpack as they compute better write it down then.
    #[cfg(target_arch = "x86_64")]
    pub const fn are_shared(&self) -> bool {
        self.shared
    }

    /// The `n` vectors that `unpack` writes, unless they are there already.
    #[inline(always)]
    pub fn get_or_unpack(&mut self, n: usize, unpack: impl FnOnce(&mut [[u8; 32]])) -> &[[u8; 32]] {
        let fresh = self.n != n;
        let vectors = self.vectors.get_mut(..n).unwrap_or(&mut []);
        if vectors.len() > self.n_written {
            vectors.iter_mut().skip(self.n_written).for_each(|vector| _ = vector.write([0; 32]));
            self.n_written = vectors.len();
        }
        // SAFETY: the first `self.n_written` vectors were written above, now or earlier.
        let vectors = unsafe { core::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len()) };
        if fresh {
            self.n = n;
            unpack(vectors);
        }
        vectors
    }
}
