//! A repair takes memory that does not grow with the store: an allocator counts it.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use memlog::{Durability, Maintenance, NewEntry, Options, Store};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn taken(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: each call is handed on to the system's allocator as it is, and counted besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).durability(Durability::Buffer)
}

/// A store of about so many MiB in entries of 4 KiB.
fn fill(dir: &Path, mebibytes: u64) {
    let store = options().segment_bytes(16 << 20).open(dir).unwrap();
    let agents: Vec<_> = (0..16).map(|n| store.agent(&format!("acme/{n}")).unwrap()).collect();
    let text = "x".repeat(4096);
    for n in 0..mebibytes * 16 {
        let mut batch = store.batch();
        for agent in &agents {
            batch.append(agent, NewEntry::user(&text));
        }
        batch.commit().unwrap();
        if n % 256 == 255 {
            store.sync().unwrap();
        }
    }
    store.close().unwrap();
}

/// The most that a call holds at once, in bytes.
fn peak_of<T>(call: impl FnOnce() -> T) -> (usize, T) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = call();
    (PEAK.load(Ordering::Relaxed) - before, done)
}

#[test]
fn a_repair_takes_the_same_memory_for_a_store_of_four_times_the_length() {
    let mut peaks = Vec::new();
    for mebibytes in [48, 192] {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("mem"), dir.path().join("mended"));
        fill(&from, mebibytes);
        // Of one segment the index is made anew.
        let mut logs: Vec<_> =
            std::fs::read_dir(&from).unwrap().map(|e| e.unwrap().path()).collect();
        logs.retain(|path| path.extension().is_some_and(|e| e == "log"));
        logs.sort();
        let log = logs.get(logs.len() / 2).unwrap();
        let mut bytes = std::fs::read(log).unwrap();
        let at = bytes.len() - 100;
        *bytes.get_mut(at).unwrap() ^= 1;
        std::fs::write(log, bytes).unwrap();
        let (peak, report) = peak_of(|| options().repair(&from, &to).unwrap());
        assert_eq!((report.entries, report.is_lossless()), (mebibytes * 256, true), "{report:?}");
        assert!(!report.damage.is_empty());
        peaks.push(peak);
        let (peak, store) = peak_of(|| options().salvage(true).open(&from).unwrap());
        peaks.push(peak);
        drop(store);
        assert_eq!(Store::open(&to).unwrap().agents("").count(), 16);
    }
    println!("bytes held: {peaks:?}");
    let (small, large) = (peaks.first().unwrap(), peaks.get(2).unwrap());
    assert!(*large < 24 << 20, "{peaks:?}");
    assert!(*large < small + (6 << 20), "{peaks:?}");
    assert!(peaks.iter().skip(1).step_by(2).all(|peak| *peak < 16 << 20), "{peaks:?}");
}
