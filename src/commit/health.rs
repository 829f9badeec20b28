//! How the store is doing: what its background work met, and what it is behind by.

use std::time::Duration;

use crate::commit::Engine;
use crate::commit::worker::Worker;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How a store is doing, for those who watch it: see [`Store::health`](crate::Store::health).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Health {
    /// Whether a write or a sync failed, or background work panicked: reads go on, and writing needs
    /// a reopened store. This does not pass.
    pub poisoned: bool,
    /// The newest error of background work that has not been done with success since: of writing the
    /// log, of making, sealing or unlinking segments, or of compaction. Of a poisoned store, the
    /// error that its writes answer. `None` if all background work succeeded when it was last tried.
    pub last_error: Option<Error>,
    /// Length of the files, in bytes, that compaction leaves alone because it met damage in them.
    /// What is dead in them stays until they are repaired.
    pub quarantined_bytes: u64,
    /// Length of the files, in bytes, that compaction is yet to cluster: log segments and small runs
    /// that are due. It goes to zero when no entries are appended.
    pub clustering_backlog_bytes: u64,
    /// For how long calls have been slowed down since the store was opened, in all threads together:
    /// to the rate at which the disk syncs, at which segments are made, or at which compaction
    /// reclaims what is dead.
    pub throttled: Duration,
}

/// Where background work reports to. Nothing waits for it.
#[derive(Default)]
pub(crate) struct Board {
    /// The last error of each worker that has not succeeded since, oldest first.
    errors: Mutex<Vec<(Worker, Error)>>,
    /// How many these are, for those that have nothing to take back.
    standing: AtomicU64,
    quarantined: AtomicU64,
    backlog: AtomicU64,
    /// Nanoseconds.
    throttled: AtomicU64,
}

impl Board {
    /// Reports what a worker met. That the store is being closed is no error.
    pub(crate) fn failed(&self, worker: Worker, error: &Error) {
        if error.kind() == ErrorKind::Closed {
            return;
        }
        let mut errors = self.errors.lock();
        errors.retain(|(of, _)| *of != worker);
        errors.push((worker, error.clone()));
        self.standing.store(errors.len() as u64, Ordering::Release);
    }

    /// Reports that a worker has succeeded in what it was to do.
    pub(crate) fn succeeded(&self, worker: Worker) {
        if self.standing.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut errors = self.errors.lock();
        errors.retain(|(of, _)| *of != worker);
        self.standing.store(errors.len() as u64, Ordering::Release);
    }

    /// The length of all files that compaction leaves alone because of damage, in bytes.
    pub(crate) fn set_quarantined(&self, bytes: u64) {
        self.quarantined.store(bytes, Ordering::Relaxed);
    }

    /// The length of all files that compaction is yet to cluster, in bytes.
    pub(crate) fn set_backlog(&self, bytes: u64) {
        self.backlog.store(bytes, Ordering::Relaxed);
    }

    /// A call was slowed down for so long.
    pub(crate) fn add_throttled(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.throttled.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Engine {
    pub(crate) fn health(&self) -> Health {
        let board = &self.board;
        let poison = self.log.poisoned();
        let last = || board.errors.lock().last().map(|(_, error)| error.clone());
        Health {
            poisoned: poison.is_some(),
            last_error: poison.or_else(last),
            quarantined_bytes: board.quarantined.load(Ordering::Relaxed),
            clustering_backlog_bytes: board.backlog.load(Ordering::Relaxed),
            throttled: Duration::from_nanos(board.throttled.load(Ordering::Relaxed)),
        }
    }

    /// Reports to the board how a worker's work went.
    pub(crate) fn reported<T>(&self, worker: Worker, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Ok(_) => self.board.succeeded(worker),
            Err(error) => self.board.failed(worker, error),
        }
        outcome
    }
}
