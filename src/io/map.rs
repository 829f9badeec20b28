//! Files seen as memory. The only file of memlog with `unsafe` in it.
//!
//! # Why the safe functions here are sound
//!
//! They rely on an invariant that the whole crate keeps, not on one the compiler checks:
//!
//! - Every byte that [`Map::get`] hands out is below the *published* length of its file, and is not
//!   written again while anybody may look at it. Writers publish a length (Release) after the bytes
//!   below it are written; readers load it (Acquire) before they ask.
//! - Mapped files are never truncated (that would be a SIGBUS): they are unlinked. A range is
//!   punched only when nobody asks for it any more.
//!
//! No slice ever covers a byte that may still be written, so a writer that appends behind the
//! published length and readers below it never touch the same memory.
//!
//! A [`Birthmark`] is not bytes of a file: it is a page of its own, written once, that the system
//! wipes in the children of the process.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(any(test, feature = "sim"))]
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::{self, NonNull},
    sync::Arc,
};

use memmap2::{Advice, MmapOptions, MmapRaw};

/// A read-only view of the first bytes of a file. It outlives the file's handle and name.
pub(crate) struct Map {
    memory: Memory,
    len: usize,
}

enum Memory {
    File(MmapRaw),
    #[cfg(any(test, feature = "sim"))]
    Heap(Arc<Region>),
}

impl Map {
    /// Maps the first `len` bytes of a file, advised random: with the default read-ahead a cold
    /// 4 KiB read takes 50 times as long. `UnexpectedEof` if the file is shorter than that, since
    /// touching a page beyond its end would kill the process.
    pub(crate) fn of_file(file: &File, len: u64) -> io::Result<Map> {
        if file.metadata()?.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let memory = MmapOptions::new().len(len).map_raw_read_only(file)?;
        // Only advice: without it reads are slower, not wrong.
        let _ = memory.advise(Advice::Random);
        Ok(Map { memory: Memory::File(memory), len })
    }

    /// The first `len` bytes of a region, or all of it if it is shorter.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn from_region(region: Arc<Region>, len: u64) -> Map {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(region.len);
        Map { memory: Memory::Heap(region), len }
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// `len` bytes at `offset`; `None` if they are not all inside the map.
    ///
    /// The caller keeps the crate's invariant: the range is below the published length of the
    /// file, nobody writes it any more, and the file is never truncated.
    pub(crate) fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = self.checked(offset, len)?;
        // SAFETY: `start + len <= self.len`, which is within one mapping or allocation that lives
        // as long as `self`; it was zeroed or is backed by a file at least that long, so it is
        // initialised; by the crate's invariant these bytes are not written while borrowed.
        Some(unsafe { std::slice::from_raw_parts(self.start().add(start), len) })
    }

    /// Asks the system to read a range ahead of its use, exactly that range. Returns at once.
    pub(crate) fn will_need(&self, offset: u64, len: usize) {
        let Some(start) = self.checked(offset, len).filter(|_| len > 0) else { return };
        match &self.memory {
            // memmap2 rounds the start down to its page, the system rounds the end up. Only advice.
            Memory::File(map) => drop(map.advise_range(Advice::WillNeed, start, len)),
            #[cfg(any(test, feature = "sim"))]
            Memory::Heap(_) => {}
        }
    }

    /// Tells the system that all of it is about to be read in order, or no longer.
    pub(crate) fn will_scan(&self, scan: bool) {
        match &self.memory {
            // Only advice.
            Memory::File(map) => {
                drop(map.advise(if scan { Advice::Sequential } else { Advice::Random }));
            }
            #[cfg(any(test, feature = "sim"))]
            Memory::Heap(_) => {}
        }
    }

    /// `offset` as an index, if the range is inside.
    fn checked(&self, offset: u64, len: usize) -> Option<usize> {
        let start = usize::try_from(offset).ok()?;
        (start.checked_add(len)? <= self.len).then_some(start)
    }

    fn start(&self) -> *const u8 {
        match &self.memory {
            Memory::File(map) => map.as_ptr(),
            #[cfg(any(test, feature = "sim"))]
            Memory::Heap(region) => region.start.as_ptr(),
        }
    }
}

/// A mark in memory that the forks of this process do not inherit. To look at it takes no call of the
/// system, and to ask for the process id does, before each write.
pub(crate) struct Birthmark {
    page: MmapRaw,
}

impl Birthmark {
    /// `None` where the system does not wipe memory in forks.
    pub(crate) fn new() -> Option<Self> {
        let mut page = MmapOptions::new().len(size_of::<AtomicUsize>()).map_anon().ok()?;
        page.get_mut(..1)?.fill(1);
        let mark = Birthmark { page: page.into() };
        mark.wipe_in_forks().then_some(mark)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn wipe_in_forks(&self) -> bool {
        use rustix::mm::{Advice, madvise};
        let start = self.page.as_mut_ptr().cast();
        // SAFETY: the whole of a private mapping that nobody else knows; in this process its bytes
        // stay as they are.
        unsafe { madvise(start, self.page.len(), Advice::LinuxWipeOnFork) }.is_ok()
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn wipe_in_forks(&self) -> bool {
        false
    }

    /// False in a fork.
    pub(crate) fn is_there(&self) -> bool {
        // SAFETY: within a mapping that lives as long as `self`, aligned as pages are; nobody writes
        // it after `new`, and a fork finds it wiped before it runs.
        unsafe { AtomicUsize::from_ptr(self.page.as_mut_ptr().cast()) }.load(Ordering::Relaxed) != 0
    }
}

/// Heap memory of a fixed length that reads as zero at first: the bytes of a simulated file.
///
/// Its writers take turns (the simulator's lock), and readers through a [`Map`] keep its contract.
#[cfg(any(test, feature = "sim"))]
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a region owns its memory, and nothing about it is tied to a thread.
#[cfg(any(test, feature = "sim"))]
unsafe impl Send for Region {}

// SAFETY: shared access copies bytes through raw pointers; by the crate's invariant a range that
// somebody writes is not read or written by another thread at that moment.
#[cfg(any(test, feature = "sim"))]
unsafe impl Sync for Region {}

#[cfg(any(test, feature = "sim"))]
impl Region {
    /// `len` zero bytes. Memory is taken page by page as it is written (where the allocator maps).
    pub(crate) fn new(len: usize) -> Region {
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Region { start, len }
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Writes bytes at an offset. Panics if they do not fit: the simulator has checked.
    ///
    /// Nobody looks at that range at this moment, through a map or otherwise.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let start = self.checked(offset, bytes.len());
        // SAFETY: in bounds; `bytes` is no part of the region, as slices of it are only handed out
        // for bytes that are not written any more; through a raw pointer, so that slices of other
        // bytes stay valid.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(start), bytes.len());
        }
    }

    /// Copies bytes out. Panics if the range is not inside: the simulator has checked.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) {
        let start = self.checked(offset, bytes.len());
        // SAFETY: in bounds; `bytes` is exclusively borrowed, so it is no part of the region;
        // through a raw pointer, so that no slice is formed over bytes that may still be written.
        unsafe {
            ptr::copy_nonoverlapping(
                self.start.as_ptr().add(start),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
    }

    fn checked(&self, offset: u64, len: usize) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        assert!(
            start.checked_add(len).is_some_and(|end| end <= self.len),
            "{offset}+{len} is outside of a region of {} bytes",
            self.len
        );
        start
    }

    /// Never empty, as allocators ask; aligned like a file's records.
    fn layout(len: usize) -> Layout {
        match Layout::from_size_align(len.max(1), 8) {
            Ok(layout) => layout,
            Err(_) => panic!("a region of {len} bytes is more than can be addressed"),
        }
    }
}

#[cfg(any(test, feature = "sim"))]
impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout; no map is left, they hold an `Arc`.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn slices_stay_valid_while_other_bytes_are_written() {
        let region = Arc::new(Region::new(64));
        let map = Map::from_region(region.clone(), 64);
        region.write(0, b"first");
        let first = map.get(0, 5).unwrap();
        region.write(5, b"second");
        let second = map.get(5, 6).unwrap();
        drop(region);
        assert_eq!((first, second), (&b"first"[..], &b"second"[..]));
    }

    #[test]
    fn bounds_are_checked() {
        let map = Map::from_region(Arc::new(Region::new(10)), 8);
        assert_eq!(map.len(), 8);
        assert_eq!(map.get(8, 0), Some(&[][..]));
        assert_eq!(map.get(7, 1), Some(&[0][..]));
        assert_eq!(map.get(7, 2), None);
        assert_eq!(map.get(9, 0), None);
        assert_eq!(map.get(u64::MAX, 1), None);
        assert_eq!(map.get(1, usize::MAX), None);
        assert_eq!(Map::from_region(Arc::new(Region::new(0)), 1).get(0, 0), Some(&[][..]));
    }

    #[test]
    fn readers_below_a_published_length() {
        let region = Arc::new(Region::new(1000));
        let map = Map::from_region(region.clone(), 1000);
        let published = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for end in 1..=100_usize {
                    region.write((end as u64 - 1) * 10, &[u8::try_from(end).unwrap(); 10]);
                    published.store(end * 10, Ordering::Release);
                }
            });
            scope.spawn(|| {
                let mut seen = 0;
                while seen < 1000 {
                    seen = published.load(Ordering::Acquire);
                    let bytes = map.get(0, seen).unwrap();
                    assert!(bytes.iter().enumerate().all(|(i, b)| usize::from(*b) == i / 10 + 1));
                    thread::yield_now();
                }
            });
        });
        let mut copy = [0; 3];
        region.read(989, &mut copy);
        assert_eq!((copy, region.len()), ([99, 100, 100], 1000));
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_map_of_a_file_outlives_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let file = File::open(&path).unwrap();
        let map = Map::of_file(&file, 9_000).unwrap();
        let error = Map::of_file(&file, 10_001).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        std::fs::remove_file(&path).unwrap();
        drop(file);
        map.will_need(5_000, 4_000);
        map.will_need(5_000, 4_001);
        assert_eq!(map.get(8_990, 10), Some(&[7; 10][..]));
        assert_eq!(map.get(8_990, 11), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn an_empty_map_is_fine() {
        let map = Map::of_file(&tempfile::tempfile().unwrap(), 0).unwrap();
        assert_eq!(map.get(0, 0), Some(&[][..]));
        map.will_need(0, 0);
    }
}
