//! The background tasks of a store: starting them, stopping them, and what becomes of a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::commit::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::io::tasks::{self, Step};
use crate::io::{Io, Next, Task};

/// A background task of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    /// Writes and syncs what no call waits for.
    Log,
    /// Makes the next segments.
    Spares,
    /// Seals the segments that the log has left.
    Seals,
    /// Compacts.
    Compaction,
}

impl Worker {
    /// The name of the task, and of its thread.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Worker::Log => "memlog-log",
            Worker::Spares => "memlog-spares",
            Worker::Seals => "memlog-seals",
            Worker::Compaction => "memlog-compact",
        }
    }
}

/// The tasks of one store, started or not.
pub(crate) struct Workers {
    log: Arc<dyn Task>,
    spares: Arc<dyn Task>,
    seals: Arc<dyn Task>,
    compaction: Arc<dyn Task>,
}

impl Workers {
    pub(crate) fn new(io: &Io) -> Self {
        let [log, spares, seals, compaction] =
            [Worker::Log, Worker::Spares, Worker::Seals, Worker::Compaction]
                .map(|worker| io.tasks.make(worker.name()));
        Workers { log, spares, seals, compaction }
    }

    fn get(&self, worker: Worker) -> &dyn Task {
        match worker {
            Worker::Log => &*self.log,
            Worker::Spares => &*self.spares,
            Worker::Seals => &*self.seals,
            Worker::Compaction => &*self.compaction,
        }
    }

    fn all(&self) -> [&dyn Task; 4] {
        [&*self.log, &*self.spares, &*self.seals, &*self.compaction]
    }
}

impl Engine {
    pub(crate) fn task(&self, worker: Worker) -> &dyn Task {
        self.workers.get(worker)
    }

    /// Whether the caller runs within a step of one of the store's tasks, as a waker may.
    pub(crate) fn is_in_task(&self) -> bool {
        self.workers.all().iter().any(|task| task.is_current())
    }

    /// Starts a task with a first step. A panic of a step poisons the store and ends the task; this
    /// is the one boundary at which it is caught.
    ///
    /// # Errors
    /// `Io` if the system starts no thread for it.
    pub(crate) fn start_task(
        self: &Arc<Self>,
        worker: Worker,
        step: impl FnMut() -> Next + Send + 'static,
    ) -> Result<()> {
        let started = self.task(worker).start(self.guarded_step(worker, step));
        started.map_err(|e| Error::io("start a thread for", &self.dir, e))
    }

    /// Starts a task that has nothing to do before it is woken.
    pub(crate) fn start_task_asleep(
        self: &Arc<Self>,
        worker: Worker,
        step: impl FnMut() -> Next + Send + 'static,
    ) {
        self.task(worker).start_asleep(self.guarded_step(worker, step));
    }

    fn guarded_step(
        self: &Arc<Self>,
        worker: Worker,
        mut step: impl FnMut() -> Next + Send + 'static,
    ) -> Step {
        let engine = Arc::clone(self);
        Box::new(move || {
            catch_unwind(AssertUnwindSafe(&mut step)).unwrap_or_else(|_| {
                engine.panicked(worker);
                Next::Ended
            })
        })
    }

    /// Wakes a task. Without a thread for it health says so, and the next wake tries again.
    ///
    /// # Errors
    /// `Io` if the system starts no thread for it.
    pub(crate) fn wake(&self, worker: Worker) -> Result<()> {
        let woken = self.task(worker).wake();
        let woken = woken.map_err(|e| Error::io("start a thread for", &self.dir, e));
        woken.inspect_err(|error| self.board.failed(worker, error))
    }

    /// Poisons the store after a panic of background work. All that wait hear of it.
    pub(crate) fn panicked(&self, worker: Worker) {
        let message = format!("the background work of {} panicked", worker.name());
        let error = Error::new(ErrorKind::Io, message);
        self.log.poison_by_panic(&error);
        let poisoned = self.log.poisoned().unwrap_or(error);
        match worker {
            Worker::Spares => self.upkeep.spares.fail(&poisoned),
            Worker::Seals => self.upkeep.seals.fail(&poisoned),
            Worker::Log | Worker::Compaction => {}
        }
        self.log.wake();
    }

    /// Stops the tasks of the log and of its segments, and waits until they are over: all but one
    /// that the call comes from.
    pub(crate) fn stop_tasks(&self) {
        self.work.stop();
        self.upkeep.spares.stop();
        self.upkeep.seals.stop();
        let stopped = [Worker::Log, Worker::Spares, Worker::Seals].map(|worker| self.task(worker));
        stopped.iter().for_each(|task| task.end());
        stopped.iter().for_each(|task| tasks::join(&*self.io.tasks, *task));
    }
}

impl Engine {
    /// Does background work, in its task or in a call. If it unwinds the store is poisoned: what it
    /// was about to change may be changed in part.
    pub(crate) fn guarded<T>(&self, worker: Worker, work: impl FnOnce() -> T) -> T {
        let guard = PoisonOnPanic(self, worker);
        let done = work();
        std::mem::forget(guard);
        done
    }
}

struct PoisonOnPanic<'e>(&'e Engine, Worker);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        self.0.panicked(self.1);
    }
}
