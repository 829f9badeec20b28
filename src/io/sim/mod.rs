//! A disk that loses power, and a clock that moves when told to: a whole store runs on them,
//! deterministic from a seed.
//!
//! The model is the harshest that a store may meet under the written promises about the medium
//! (section 10 of `docs/format.md`), and what lies beyond them besides:
//!
//! - Sectors of 512 bytes that were written since the last sync are lost, kept, torn, any older
//!   version, or noise, each by itself. Bytes of a sector that no write has changed since the last
//!   sync are never harmed.
//! - A file's bytes, its length and its names become durable separately. Of the names that were
//!   created, renamed, linked or removed in a directory since its last sync any may have changed on
//!   the medium, in any order. A rename is atomic for the name that it gives; the old name may stay.
//! - A failed sync gives up some or all of its pages: the cache goes on showing them, also to those
//!   who open the file anew, until [`SimDisk::evict`] or a loss of power; the next sync succeeds.
//!   Each open file reports the error once. So it is where a write fails later, by itself
//!   ([`SimFault::Writeback`]); if nobody has heard of that, whoever opens the file next does.
//! - Every call can fail, for once or from then on; a write then happens in part.
//! - Beyond the promises: writes that never get to the medium or get to another place, and bits that
//!   flip.
//!
//! What it leaves out: a directory whose sync failed keeps its changes for the next one (file
//! systems with a journal do that or stop altogether); reading a mapped page never fails (on a real
//! disk that ends the process by a signal), and reads are never short; the medium changes in the
//! granularity of sectors, where a system writes whole pages; rights and quotas are not modelled.

mod chance;
mod content;
mod fs;
mod node;
mod state;
mod tasks;
#[cfg(test)]
mod tests;
mod time;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Io;
use crate::sync::Mutex;
use state::State;
pub use tasks::SimTasks;

/// How a call fails that [`SimDisk::fail_at`] has picked.
///
/// With the first three a write leaves some of its first bytes written, a sync gives up some or all
/// of the pages that it should have written (the cache shows them, the medium never gets them, and
/// the next sync succeeds); any other call does nothing. The others concern writes alone, which seem
/// to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimFault {
    /// The device reports an error (EIO).
    Eio,
    /// The disk is full ([`StorageFull`](std::io::ErrorKind::StorageFull)).
    NoSpace,
    /// A write ends early ([`WriteZero`](std::io::ErrorKind::WriteZero)).
    ShortWrite,
    /// A write's pages fail on their way to the medium, behind its back: the next sync of each open
    /// file reports it.
    Writeback,
    /// The medium never gets a write, and nobody says so.
    LostWrite,
    /// The medium gets a write at another place, of this file or another, and nobody says so.
    Misdirected,
}

/// A simulated disk and clock. A clone is the same disk; [`fork`](SimDisk::fork) makes another.
///
/// Relative paths start at the root; `..` and names that are not UTF-8 are refused. Calls that
/// change or sync something (create, write, sync, punch, rename, remove, link, sync of a directory,
/// creation of a directory) are numbered from 0. Those that only look (reading, opening, measuring,
/// listing, locking, mapping, counting links, asking for free space) have numbers of their own.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk of 16 GiB. All that happens by chance on it follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::with_capacity(seed, 16 << 30)
    }

    /// An empty disk of so many bytes, given out in blocks of 4096.
    #[must_use]
    pub fn with_capacity(seed: u64, bytes: u64) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(State::new(seed, bytes))) }
    }

    /// Handles for one run of a process: after a power failure or a restart every call through
    /// them, and through the files opened with them, fails. Ask for new ones then.
    pub(crate) fn io(&self) -> Io {
        fs::handles(&self.state)
    }

    /// Another disk, with all that this one has: names, bytes cached and durable, clock, faults to
    /// come. Handles and locks stay with this one: for the other it is as if the process had died.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(self.state.lock().fork())) }
    }

    /// Another disk, with what this one would have if its power failed now: [`fork`](Self::fork)
    /// and [`power_cycle`](Self::power_cycle), but cheaper.
    #[must_use]
    pub fn fork_without_power(&self, seed: u64) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(self.state.lock().after_power_loss(seed))) }
    }

    /// Another disk, with what is left of this one at the least if its power fails now: what was
    /// synced, and nothing else.
    #[must_use]
    pub fn fork_synced(&self) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(self.state.lock().synced())) }
    }

    /// The power fails and comes back. What was not synced survives or not, as the seed has it.
    /// Locks are released, handles dead, faults to come forgotten; maps keep what they show.
    pub fn power_cycle(&self, seed: u64) {
        let mut state = self.state.lock();
        *state = state.after_power_loss(seed);
    }

    /// The process dies and the system lives: what was written is there, locks are released,
    /// handles dead, faults to come forgotten.
    pub fn restart(&self) {
        self.state.lock().restart();
    }

    /// Memory gets short: clean pages are read from the medium anew, so that what a failed sync
    /// gave up is gone. Maps made before keep what they show.
    pub fn evict(&self) {
        self.state.lock().evict();
    }

    /// How many calls that change or sync something were made so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// The power fails at the call of that number, which may happen in part: this and every call
    /// after it fails, until [`power_cycle`](Self::power_cycle), or [`restart`](Self::restart) if
    /// it was only the process.
    pub fn crash_at(&self, call: u64) {
        self.state.lock().crash_at = Some(call);
    }

    /// The call of that number fails; if `sticky`, all calls after it too.
    pub fn fail_at(&self, call: u64, fault: SimFault, sticky: bool) {
        self.state.lock().faults.push(node::Fault { call, fault, sticky });
    }

    /// The call of that number panics, once, and does nothing: a bug of the program that makes it.
    pub fn panic_at(&self, call: u64) {
        self.state.lock().panic_at = Some(call);
    }

    /// How many calls that only look were made so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// The call of that number among those that only look fails; if `sticky`, all after it too.
    pub fn fail_read_at(&self, read: u64, sticky: bool) {
        let fault = node::Fault { call: read, fault: SimFault::Eio, sticky };
        self.state.lock().read_faults.push(fault);
    }

    /// Whether files can have several names. Without them, linking answers
    /// [`Unsupported`](std::io::ErrorKind::Unsupported), as across file systems.
    pub fn set_hard_links(&self, on: bool) {
        self.state.lock().hard_links = on;
    }

    /// How many names a file has; 0 if there is none.
    #[must_use]
    pub fn links(&self, path: impl AsRef<Path>) -> u64 {
        self.state.lock().links(path.as_ref()).unwrap_or(0)
    }

    /// Forgets the crash and the failures to come.
    pub fn clear_faults(&self) {
        self.state.lock().clear_faults();
    }

    /// Whether a write was lost later and nobody has heard of it: whoever opens that file next will.
    #[must_use]
    pub fn owes_an_error(&self) -> bool {
        self.state.lock().owes_an_error()
    }

    /// How many bytes there are to allocate in all. Less than what is in use takes nothing away.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes allocated: by files with a name, and by files without that are open or mapped.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// Bytes that reached the medium, in whole sectors.
    #[must_use]
    pub fn device_bytes_written(&self) -> u64 {
        self.state.lock().device_bytes
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, time: Duration) {
        self.state.lock().time.advance(time);
    }

    /// Sets the wall clock so many milliseconds before or after where it would be by itself.
    pub fn set_wall_offset(&self, milliseconds: i64) {
        self.state.lock().time.wall_offset = milliseconds;
    }

    /// Flips a bit (0 to 7) of a file, on the medium, in the cache and in maps. False if there is
    /// no such byte. Nobody may be looking at that byte through a map meanwhile.
    pub fn flip_bit(&self, path: impl AsRef<Path>, offset: u64, bit: u8) -> bool {
        self.state.lock().flip_bit(path.as_ref(), offset, bit)
    }

    /// The bytes of a file, as a process would read them.
    #[must_use]
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.state.lock().read_file(path.as_ref())
    }

    /// Puts a file there, durable at once, its directories too. One that was there is replaced:
    /// its handles and maps keep the old one. False if the path cannot be a file.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) -> bool {
        self.state.lock().write_file(path.as_ref(), bytes).is_ok()
    }

    /// Removes a file, durable at once. False if there is none.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> bool {
        self.state.lock().remove_file(path.as_ref()).is_ok()
    }

    /// Cuts a file, or lets it grow by zeros, durable at once; maps keep what they show. False if
    /// there is none.
    pub fn truncate_file(&self, path: impl AsRef<Path>, len: u64) -> bool {
        self.state.lock().truncate_file(path.as_ref(), len)
    }

    /// The paths of all files, in order, from the root.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().tree.files().into_iter().map(|(path, _)| path).collect()
    }

    /// Starts or ends the recording of calls, one line each.
    pub fn set_trace(&self, on: bool) {
        self.state.lock().trace = on.then(Vec::new);
    }

    /// The calls recorded since the last time.
    #[must_use]
    pub fn take_trace(&self) -> Vec<String> {
        self.state.lock().trace.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("calls", &self.calls()).finish_non_exhaustive()
    }
}
