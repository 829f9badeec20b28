//! Room that is kept on the disk for what gives room back.

use std::path::{Path, PathBuf};

use crate::commit::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::Manifest;
use crate::io::Io;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The file that keeps room for what takes away, and for compaction of a full disk.
pub(crate) const RESERVE_FILE: &str = "RESERVE";
/// The file that keeps room for openings alone, so that what takes away cannot leave a store that does
/// not open.
pub(crate) const LAST_RESERVE_FILE: &str = "RESERVE.open";

/// The shortest reserve, in bytes: room for a small segment and a few manifests.
const LEAST: u64 = 512 << 10;
/// A reserve has room for the longest log segment to be written anew, and for this beside it,
const BESIDE_A_SEGMENT: u64 = 512 << 10;
/// but no more than this part of what the store holds.
const SHARE: u64 = 12;
/// Room for the smallest segment, and for a few manifests.
const LAST: u64 = 96 << 10;

/// The reserve of an open store.
pub(crate) struct Reserve {
    dir: PathBuf,
    /// The length of the file; 0: there is none.
    len: Mutex<u64>,
    /// The last reserve is there, for all that is known.
    has_last: AtomicBool,
}

impl Reserve {
    /// The reserve that a store has when it is opened.
    ///
    /// # Errors
    /// What measuring it met.
    pub(crate) fn of(io: &Io, dir: &Path) -> Result<Self> {
        let path = dir.join(RESERVE_FILE);
        let len = match io.fs.open(&path, false).and_then(|file| file.len()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            len => len.map_err(|e| Error::io("measure", &path, e))?,
        };
        let (len, has_last) = (Mutex::new(len), AtomicBool::new(false));
        Ok(Reserve { dir: dir.to_owned(), len, has_last })
    }

    /// Gives the room back. False if there was none.
    fn release(&self, io: &Io) -> bool {
        let mut len = self.len.lock();
        let removed = io.fs.remove(&self.dir.join(RESERVE_FILE)).is_ok();
        removed && std::mem::take(&mut *len) > 0
    }

    /// Makes the reserve if there is none, or one of another length if it is far from what it is to
    /// be. Where there is no room for it, it is tried again later.
    fn fit(&self, io: &Io, held: u64, longest: u64) {
        let wanted = wanted(held, longest);
        let mut len = self.len.lock();
        if !self.has_last.load(Ordering::Relaxed) {
            self.has_last.store(make_last(io, &self.dir), Ordering::Relaxed);
        }
        if (wanted..=wanted.saturating_mul(2)).contains(&*len) {
            return;
        }
        let free = io.fs.free_space(&self.dir).unwrap_or(0);
        if *len > 0 && wanted > *len && free < wanted.saturating_mul(2) {
            // Another process might take the room of the old one before the new one is made.
            return;
        }
        let path = self.dir.join(RESERVE_FILE);
        let before = std::mem::take(&mut *len);
        let _ = io.fs.remove(&path);
        for wanted in [wanted, before.min(wanted), LEAST] {
            if wanted > 0 && io.fs.create(&path, wanted).is_ok() {
                *len = wanted;
                return;
            }
        }
    }
}

fn wanted(held: u64, longest: u64) -> u64 {
    let most = (held / SHARE).max(LEAST);
    longest.saturating_add(BESIDE_A_SEGMENT).clamp(LEAST, most).next_multiple_of(LEAST)
}

/// False if there is no room for it now: then the next time tries again.
fn make_last(io: &Io, dir: &Path) -> bool {
    let made = io.fs.create(&dir.join(LAST_RESERVE_FILE), LAST);
    made.map_or_else(|e| e.kind() == std::io::ErrorKind::AlreadyExists, |_| true)
}

/// Makes the reserve of a store that is opened, unless it is there.
pub(crate) fn restore(io: &Io, dir: &Path) {
    let _ = io.fs.create(&dir.join(RESERVE_FILE), LEAST);
    make_last(io, dir);
}

impl Engine {
    /// Gives the room of the reserve back. False if there was none.
    pub(crate) fn release_reserve(&self) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.reserve.release(&self.io))
    }

    /// The bytes that the reserve keeps.
    pub(crate) fn reserved(&self) -> u64 {
        self.writing.as_ref().map_or(0, |writing| *writing.reserve.len.lock())
    }

    /// Whether there is a reserve, which is made if there is room for one.
    pub(crate) fn has_reserve(&self) -> bool {
        if self.reserved() == 0 {
            self.fit_reserve();
        }
        self.reserved() > 0
    }

    /// Has the reserve fit the store as it is, if there is room.
    pub(crate) fn fit_reserve(&self) {
        if let Some(writing) = &self.writing {
            let (left, active) = {
                let order = self.order.lock();
                let left: u64 = order.sealing.iter().map(|job| job.file.segment.capacity).sum();
                (left, order.active.segment.capacity)
            };
            let set = self.catalog.segments();
            let sealed = set.sealed.iter().map(|segment| segment.disk_len());
            let longest = sealed.clone().max().unwrap_or(0).max(active);
            let held = sealed.sum::<u64>().saturating_add(left).saturating_add(active);
            writing.reserve.fit(&self.io, held, longest.min(self.options.segment_bytes));
        }
    }

    /// Replaces the manifest for what gives room back: on a full disk with the room of the reserve.
    ///
    /// # Errors
    /// Those of the replacement.
    pub(crate) fn replace_relieving(&self, change: impl Fn(&mut Manifest)) -> Result<()> {
        let Some(writing) = &self.writing else { return Ok(()) };
        match self.heed(writing.manifest.replace(&change)) {
            Err(error) if error.kind() == ErrorKind::DiskFull && self.release_reserve() => {
                self.heed(writing.manifest.replace(&change))
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_grows_with_the_store_up_to_a_segment() {
        let mib = 1 << 20;
        assert_eq!(wanted(0, 0), LEAST);
        assert_eq!(wanted(40 * mib, 2 * mib), 5 * mib / 2);
        assert_eq!(wanted(60 * mib, 64 * mib), 5 * mib);
        assert_eq!(wanted(1 << 40, 64 * mib), 64 * mib + mib / 2);
        assert_eq!(wanted(mib, mib), LEAST);
    }
}
