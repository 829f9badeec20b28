//! Closing: everything to stable storage, tasks stopped, the manifest marked as clean.

use crate::commit::Engine;
use crate::commit::order::closed;
use crate::commit::seal::list_active;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::Manifest;
use crate::sync::atomic::Ordering;
use crate::sync::{Notify, OnceLock};

/// How far the close is.
#[derive(Default)]
pub(super) struct Closing {
    outcome: OnceLock<Result<()>>,
    ends: Notify,
}

impl Closing {
    fn end(&self, outcome: Result<()>) {
        let _ = self.outcome.set(outcome);
        self.ends.notify();
    }
}

/// Answers the other calls if the close unwinds.
struct Unwinding<'c>(&'c Closing);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        self.0.end(Err(Error::new(ErrorKind::Io, "a thread panicked while it closed the store")));
    }
}

impl Engine {
    /// Closes the store. A second call waits for the first, and answers the same.
    ///
    /// # Errors
    /// What kept the last batches from stable storage. The store is closed all the same.
    pub(crate) fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let Some(writing) = &self.writing else { return Ok(()) };
        if !self.io.fs.is_own() {
            // The threads to wait for are the parent's, and locks that they held stay held here.
            let message =
                "this process is a fork of the one that opened the store: it closes nothing";
            return Err(Error::new(ErrorKind::InUse, message));
        }
        if std::mem::replace(&mut self.order.lock().closed, true) {
            return self.closed_by_another();
        }
        let unwinding = Unwinding(&self.closing);
        self.stop_tasks();
        let outcome = {
            // What is being done to segments ends first; what would be done next finds the store
            // closed. Until the lock is gone no other process replaces the manifest, and afterwards
            // this one does not.
            let _busy = self.upkeep.busy.lock();
            let _sealing = self.upkeep.sealing.lock();
            let _sweeping = self.upkeep.sweeping.lock();
            let outcome = self.finish();
            *writing.lock.lock() = None;
            outcome
        };
        std::mem::forget(unwinding);
        self.closing.end(outcome.clone());
        // The log task is gone, which did it before.
        self.log.wake();
        outcome
    }

    /// The answer to a close while another one is under way, or after it: that one's.
    fn closed_by_another(&self) -> Result<()> {
        let outcome = || self.closing.outcome.get().cloned();
        if self.is_in_task() {
            // A waker, in a task that the other close waits for.
            return outcome().unwrap_or_else(|| Err(closed()));
        }
        self.io.wait_for(&self.closing.ends, outcome)
    }

    fn finish(&self) -> Result<()> {
        let end = self.order.lock().end();
        self.log.flush_to(end, self)?;
        if let Some(error) = self.log.poisoned() {
            // Though all is durable, a footer or a manifest is not: a second sync of it would lie.
            return Err(error);
        }
        // A seal that fails leaves its segment unsealed, which the next opening mends.
        let sealed = self.seal_for_close();
        let end = self.order.lock().end();
        self.log.flush_to(end, self)?;
        let active = self.order.lock().active.segment.id;
        let (durable, recorded) = (self.log.durable(), self.recorded_time());
        let forgotten = self.catalog.forgotten(durable);
        let spares = self.spares_to_drop();
        let mark = |manifest: &mut Manifest| {
            list_active(manifest, active);
            manifest.durable = durable;
            (manifest.time, manifest.claim) = (recorded.time, recorded.claim);
            manifest.forgotten.clone_from(&forgotten);
            self.note_dead(manifest);
            manifest.segments.retain(|line| !spares.contains(&line.id));
            manifest.obsolete.extend_from_slice(&spares);
            manifest.clean_end = if sealed.is_ok() { end } else { 0 };
        };
        self.replace_relieving(mark)?;
        self.unlink_dropped();
        self.fit_reserve();
        Ok(())
    }
}
