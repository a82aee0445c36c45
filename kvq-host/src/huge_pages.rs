//! Huge pages for what every decode step reads: the weights and the cache.
//!
//! With pages of 4 KiB a step walks the page tables thousands of times, under a hypervisor through two sets of them.
//! By itself Linux gives pages of 2 MiB only where the system's settings say so, and to memory that may never be filled.
//! Its advice `MADV_COLLAPSE` (Linux 6.1) puts memory that is filled into them, so that not a byte more is held.
//! Elsewhere nothing happens, and nothing is lost but speed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::ptr;

/// Bytes of a huge page on x86-64, and on Arm with pages of 4 KiB.
pub const HUGE_PAGE: usize = 2 << 20;

/// Puts `bytes`, whole huge pages that are filled, into them.
///
/// # Errors
/// What Linux says where it cannot, and any other system; the memory is as it was.
pub fn collapse(bytes: &[u8]) -> io::Result<()> {
    let range = (bytes.as_ptr(), bytes.len());
    // Linux before 6.1 does it some time later in a thread of its own.
    advise(range, Advice::Huge)?;
    advise(range, Advice::Collapse)
}

/// Keeps Linux from putting `bytes`, whole pages, into huge ones before they are filled.
///
/// # Errors
/// As [`collapse`].
pub fn hold_back(bytes: &[u8]) -> io::Result<()> {
    advise((bytes.as_ptr(), bytes.len()), Advice::Small)
}

/// Puts what this process has allocated up to now into huge pages, where all small pages of one are in use.
///
/// # Errors
/// As [`collapse`] for one of them, or what keeps the process from reading about its own memory.
pub fn collapse_allocated() -> io::Result<()> {
    let mut pages = File::open("/proc/self/pagemap")?;
    let mut entries = [0; HUGE_PAGE / SMALL_PAGE * ENTRY_BYTES];
    let mut result = Ok(());
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let Some(Range { start, end }) = allocated(line) else { continue };
        for first in (start.next_multiple_of(HUGE_PAGE)..end).step_by(HUGE_PAGE) {
            if end - first < HUGE_PAGE {
                break;
            }
            pages.seek(SeekFrom::Start((first / SMALL_PAGE * ENTRY_BYTES) as u64))?;
            pages.read_exact(&mut entries)?;
            // Bit 63 of an entry says that the page is in memory.
            if entries.chunks_exact(ENTRY_BYTES).all(|entry| entry[ENTRY_BYTES - 1] & 0x80 != 0) {
                result = result.and(advise((ptr::without_provenance(first), HUGE_PAGE), Advice::Collapse));
            }
        }
    }
    result
}

/// Bytes of a page where [`HUGE_PAGE`] is that of a huge one.
const SMALL_PAGE: usize = 4096;

/// Bytes per page in `/proc/self/pagemap`.
const ENTRY_BYTES: usize = 8;

/// The addresses of a line of `/proc/self/maps`, if it is private memory of no file that may be written.
fn allocated(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (mode, inode) = (fields.next()?, fields.nth(2)?);
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    (mode == "rw-p" && inode == "0").then_some(address(start)?..address(end)?)
}

/// Advice on pages that changes none of their bytes.
#[derive(Clone, Copy)]
enum Advice {
    Small,
    Huge,
    Collapse,
}

/// From Linux's `mman-common.h`; the libc crate has it for glibc only.
#[cfg(target_os = "linux")]
const MADV_COLLAPSE: libc::c_int = 25;

#[cfg(target_os = "linux")]
fn advise((first, len): (*const u8, usize), advice: Advice) -> io::Result<()> {
    let advice = match advice {
        Advice::Small => libc::MADV_NOHUGEPAGE,
        Advice::Huge => libc::MADV_HUGEPAGE,
        Advice::Collapse => MADV_COLLAPSE,
    };
    // SAFETY: these three say on which physical pages bytes may lie, and change none; nothing is accessed through the
    // pointer, and where it or its length leads out of what is mapped, the kernel refuses.
    match unsafe { libc::madvise(first.cast_mut().cast(), len, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_range: (*const u8, usize), _advice: Advice) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Bytes in huge pages of the mapping that `bytes` lie in.
    fn huge(bytes: &[u8]) -> usize {
        let (mut inside, address) = (false, bytes.as_ptr().addr());
        for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let mut words = line.split_whitespace();
            match (words.next().unwrap(), words.next()) {
                (range, _) if range.contains('-') => {
                    let (start, end) = range.split_once('-').unwrap();
                    let at = |hex| usize::from_str_radix(hex, 16).unwrap();
                    inside = (at(start)..at(end)).contains(&address);
                }
                ("AnonHugePages:", Some(kilobytes)) if inside => {
                    return kilobytes.parse::<usize>().unwrap() * 1024;
                }
                _ => {}
            }
        }
        panic!("no mapping has these bytes");
    }

    /// What a kernel may answer that has no huge pages, or none left.
    fn check(result: io::Result<()>, granted: impl FnOnce()) {
        match result {
            Ok(()) => granted(),
            Err(error) => {
                let refusals = [libc::EINVAL, libc::ENOMEM, libc::EAGAIN, libc::EBUSY];
                assert!(refusals.contains(&error.raw_os_error().unwrap()), "{error}");
            }
        }
    }

    #[test]
    fn filled_memory_goes_into_huge_pages_and_keeps_its_bytes() {
        let mut map = memmap2::MmapOptions::new().len(4 * HUGE_PAGE).map_anon().unwrap();
        hold_back(&map).unwrap();
        map.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 251) as u8);
        assert_eq!(huge(&map), 0);
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        let full = start..start + 2 * HUGE_PAGE;
        check(collapse(&map[full.clone()]), || assert!(huge(&map[full]) >= 2 * HUGE_PAGE));
        assert!(map.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8));
    }

    #[test]
    fn what_is_allocated_and_used_goes_into_huge_pages() {
        let bytes = vec![7u8; 4 * HUGE_PAGE];
        // Reserved at the system, and all but one page never touched.
        let mut map = memmap2::MmapOptions::new().len(4 * HUGE_PAGE).map_anon().unwrap();
        map[2 * HUGE_PAGE] = 1;
        check(collapse_allocated(), || {
            assert!(huge(&bytes[HUGE_PAGE..]) >= 2 * HUGE_PAGE);
        });
        assert!(bytes.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn memory_that_is_not_mapped_is_refused() {
        assert!(advise((ptr::without_provenance(HUGE_PAGE), HUGE_PAGE), Advice::Huge).is_err());
    }

    #[test]
    fn only_private_memory_of_no_file_counts_as_allocated() {
        let range = |line| allocated(line).map(|range| (range.start, range.end));
        assert_eq!(range("7f00-7f10 rw-p 00000000 00:00 0 "), Some((0x7f00, 0x7f10)));
        assert_eq!(range("7f00-7f10 rw-p 00000000 00:00 0  [heap]"), Some((0x7f00, 0x7f10)));
        for other in [
            "7f00-7f10 r-xp 00000000 00:00 0",
            "7f00-7f10 rw-s 00000000 00:00 0",
            "7f00-7f10 rw-p 00000000 fe:00 1234  /usr/bin/kvq",
            "",
        ] {
            assert_eq!(range(other), None, "{other}");
        }
    }
}
