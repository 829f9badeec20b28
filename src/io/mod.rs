//! All I/O, time, randomness and background steps of a store, behind handles given at open, so that
//! a whole store runs on a simulated disk, clock and scheduler, deterministic from a seed.

mod blocks;
pub(crate) mod disk;
mod journal;
pub(crate) mod map;
#[cfg(feature = "sim")]
pub mod sim;
pub(crate) mod tasks;

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use map::Map;
pub(crate) use tasks::{Next, Task, Tasks};

use crate::sync::Notify;

/// The handles of one store.
#[derive(Clone)]
pub(crate) struct Io {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) tasks: Arc<dyn Tasks>,
}

impl Io {
    /// Waits until `ready` answers something. It is asked again whenever `on` changes.
    pub(crate) fn wait_for<T>(&self, on: &Notify, mut ready: impl FnMut() -> Option<T>) -> T {
        loop {
            let seen = on.seen();
            if let Some(found) = ready() {
                return found;
            }
            self.tasks.wait(on, seen, None);
        }
    }

    /// Lets time pass for the caller: tasks go on.
    pub(crate) fn pause(&self, time: Duration) {
        self.tasks.pause(&*self.clock, time);
    }
}

/// A directory tree. Names, sizes and data become durable separately: a file's bytes by
/// [`File::sync`], a directory's entries by [`Fs::sync_dir`].
pub(crate) trait Fs: Send + Sync {
    /// Creates a directory and its missing parents, each made durable in its parent.
    /// An existing directory is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names of the entries of a directory, unordered. Names that are not UTF-8 are left out:
    /// the store never makes any.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Takes the exclusive lock of a lock file, made if it is absent; held until the guard drops.
    /// `WouldBlock` if somebody else has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;

    /// Creates a file of `len` bytes that read as zero, with its blocks allocated so that writing
    /// inside it does not run out of space. Fails, and leaves no file, if it exists or there is no
    /// room. Neither the file nor its name is durable yet.
    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>>;

    /// Creates a file like [`create`](Fs::create), whose blocks are allocated as it is written: it
    /// takes no room before, and a write fails if there is none.
    fn create_sparse(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file, for reading, and for writing too if `write`.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>>;

    /// Removes an empty directory. Durable after `sync_dir` of its parent.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock of a lock file that exists, which need not be writable. `NotFound` if
    /// there is none, `WouldBlock` if another process or handle has the lock.
    fn lock_existing(&self, path: &Path) -> io::Result<Box<dyn Lock>>;

    /// Renames a file over another, or a directory to a name that is free or that of an empty
    /// directory, atomically. Durable after `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name. Durable after `sync_dir`. The bytes live on while the file is open or mapped.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name. Durable after `sync_dir`. Fails where a file has one name only.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// How many names a file has.
    fn links(&self, path: &Path) -> io::Result<u64>;

    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that an ordinary process may still allocate on the file system of `dir`.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;

    /// Whether this process is the one that opened the store, and not a fork of it: there no thread
    /// of the store runs, and nothing is written.
    fn is_own(&self) -> bool {
        true
    }
}

/// Whoever holds it has the lock.
pub(crate) trait Lock: Send + Sync {}

/// An open file.
pub(crate) trait File: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads exactly `buf.len()` bytes at `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bufs`, one after the other, at `offset`. On an error an unknown part of it
    /// may have been written.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes the file's data, and the length needed to read it, durable (fdatasync).
    fn sync(&self) -> io::Result<()>;

    /// Makes sure of what a sync relied on beside the data: that the file system has recorded which
    /// blocks are in use now. Costs little, but for blocks that were in use already it is idle.
    /// [`Fs::sync_dir`] does it too, and for all syncs on that file system before it.
    fn confirm(&self) -> io::Result<()> {
        Ok(())
    }

    /// Gives the blocks of a range back; it reads as zero afterwards. Only an optimisation: a file
    /// system that cannot do it answers Ok and does nothing. `offset` and `len` are multiples of 4096.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The next range at or behind `offset` that may hold anything but zeros; `None` if there is no
    /// more. Everything outside of such ranges reads as zero, at no cost.
    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len()?;
        Ok((offset < len).then_some(offset..len))
    }

    /// Maps the first `len` bytes, read-only and advised random.
    fn map(&self, len: u64) -> io::Result<Map>;
}

/// Time.
pub(crate) trait Clock: Send + Sync {
    /// Milliseconds since the epoch, by the wall clock: may jump either way.
    fn now(&self) -> u64;

    /// Time since some fixed moment: never goes back.
    fn monotonic(&self) -> Duration;

    /// Sleeps (a simulated clock just moves on).
    fn sleep(&self, time: Duration);
}

/// Randomness, for salts and ids.
pub(crate) trait Random: Send + Sync {
    /// 64 random bits.
    fn next(&self) -> u64;
}
