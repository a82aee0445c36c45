//! Pointers of a caller, checked before they are used.

use core::ops::Range;

use crate::status::{KvqError, KvqStatus};

/// The addresses of `n` values, where the pointer is one and they can exist.
///
/// `argument` is the number of the pointer among the arguments, from 1 on.
///
/// # Errors
/// `Null`, `Alignment` or `Length`.
pub fn range<T>(at: *const T, n: usize, argument: usize) -> Result<Range<usize>, KvqError> {
    if at.is_null() {
        return Err(KvqError::new(KvqStatus::Null, 0, argument));
    }
    if !at.is_aligned() {
        let align = align_of::<T>();
        return Err(KvqError::new(KvqStatus::Alignment, align, at.addr() % align));
    }
    let most = isize::MAX as usize / size_of::<T>().max(1);
    let end = n.checked_mul(size_of::<T>()).and_then(|bytes| at.addr().checked_add(bytes));
    match end {
        Some(end) if n <= most => Ok(at.addr()..end),
        _ => Err(KvqError::new(KvqStatus::Length, most, n)),
    }
}

/// Refuses two ranges that share a byte.
///
/// # Errors
/// `Overlap`.
pub const fn apart(a: &Range<usize>, b: &Range<usize>) -> Result<(), KvqError> {
    if a.start < b.end && b.start < a.end { Err(KvqError::plain(KvqStatus::Overlap)) } else { Ok(()) }
}

/// Writes one value.
///
/// # Errors
/// `Null` or `Alignment`.
///
/// # Safety
/// Unless it is null, `to` must be valid for a write of one `T`.
pub unsafe fn put<T>(to: *mut T, value: T, argument: usize) -> Result<(), KvqError> {
    range(to, 1, argument)?;
    // SAFETY: not null and aligned, by `range`; valid for the write, by the caller's contract.
    unsafe { to.write(value) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_that_cannot_be_are_refused() {
        let values = [0u32; 4];
        let at = values.as_ptr();
        assert_eq!(range(at, 4, 1), Ok(at.addr()..at.addr() + 16));
        assert_eq!(range(core::ptr::null::<u32>(), 4, 7), Err(KvqError::new(KvqStatus::Null, 0, 7)));
        let odd = at.wrapping_byte_add(1);
        assert_eq!(range(odd, 1, 1), Err(KvqError::new(KvqStatus::Alignment, 4, 1)));
        for n in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 4 + 1] {
            assert_eq!(range(at, n, 1).map_err(|e| e.status), Err(KvqStatus::Length));
        }
    }

    #[test]
    fn ranges_overlap_where_they_share_a_byte() {
        for (b, shares) in [(0..10, false), (0..11, true), (19..30, true), (20..30, false), (12..13, true)] {
            assert_eq!(apart(&(10..20), &b).is_err(), shares, "{b:?}");
        }
    }
}
