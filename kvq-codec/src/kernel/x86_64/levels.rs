//! Unpacked levels of a segment: the query rows of all tiles read what was unpacked for the first.

use core::mem::MaybeUninit;

use crate::kernel::SEGMENT;
use crate::shape::MAX_HEAD_DIM;

/// Vectors of 32 levels that a segment has at the most.
const MAX_VECTORS: usize = SEGMENT * MAX_HEAD_DIM / 32;

/// The levels of one side of a segment. Only the vectors that a segment has are ever written: heads are
/// mostly far narrower than the widest.
pub(crate) struct Levels {
    vectors: [MaybeUninit<[u8; 32]>; MAX_VECTORS],
    /// The first vectors, which are initialised; none until a kernel has unpacked the segment.
    n: usize,
}

impl Levels {
    /// No levels. Not a constant: that would be copied, uninitialised bytes and all.
    #[inline]
    pub fn new() -> Self {
        Self { vectors: [const { MaybeUninit::uninit() }; MAX_VECTORS], n: 0 }
    }

    /// Has the next kernel unpack anew.
    pub fn forget(&mut self) {
        self.n = 0;
    }

    /// The `n` vectors that `unpack` writes, unless they are there already.
    #[inline(always)]
    pub fn get_or_unpack(&mut self, n: usize, unpack: impl FnOnce(&mut [[u8; 32]])) -> &[[u8; 32]] {
        let fresh = self.n != n;
        let vectors = self.vectors.get_mut(..n).unwrap_or(&mut []);
        if fresh {
            vectors.iter_mut().for_each(|vector| _ = vector.write([0; 32]));
        }
        // SAFETY: all of `vectors` were written above, now or when `self.n` became `n`.
        let vectors = unsafe { core::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len()) };
        if fresh {
            self.n = n;
            unpack(vectors);
        }
        vectors
    }
}
