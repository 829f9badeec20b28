//! Closing: everything to stable storage, threads stopped, the manifest marked as clean.

use std::sync::Arc;

use crate::commit::Engine;
use crate::commit::seal::list_active;
use crate::commit::upkeep::RESERVE_FILE;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::Manifest;
use crate::segment::writer::FIRST_FRAME;
use crate::sync::atomic::Ordering;
use crate::sync::thread;

/// An active segment with more than this is sealed at close, so that the next opening reads little.
const SEAL_ABOVE: u64 = 1 << 20;

impl Engine {
    /// Closes the store; later calls find it closed and do nothing.
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
        {
            let mut order = self.order.lock();
            if order.closed {
                return Ok(());
            }
            order.closed = true;
        }
        self.stop_threads();
        let outcome = {
            // Whoever tends segments now ends first; whoever would next finds the store closed. Until
            // the lock is gone nobody else replaces the manifest, and afterwards nobody at all.
            let _busy = self.upkeep.busy.lock();
            let _sealing = self.upkeep.sealing.lock();
            let outcome = self.finish();
            *writing.lock.lock() = None;
            outcome
        };
        // The log thread is gone, which did it before.
        self.log.wake();
        outcome
    }

    /// Closes when the last handle goes. Whoever wants to hear of errors closes by hand; what is
    /// lost here was never promised.
    pub(crate) fn close_unheard(self: &Arc<Self>) {
        if self.is_own_thread() {
            // A waker let go of it. To close is to wait for the store's threads, and this is one.
            let engine = Arc::clone(self);
            let closing = thread::Builder::new().name("memlog-close".into());
            if closing.spawn(move || drop(engine.close())).is_ok() {
                return;
            }
        }
        let _ = self.close();
    }

    fn finish(&self) -> Result<()> {
        let Some(writing) = &self.writing else { return Ok(()) };
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
        let (durable, time) = (self.log.durable(), self.now());
        let forgotten = self.catalog.forgotten(durable);
        let mark = |manifest: &mut Manifest| {
            list_active(manifest, active);
            manifest.durable = durable;
            manifest.time = time;
            manifest.forgotten.clone_from(&forgotten);
            self.note_dead(manifest);
            manifest.clean_end = if sealed.is_ok() { end } else { 0 };
        };
        match self.heed(writing.manifest.replace(mark)) {
            Err(e) if e.kind() == ErrorKind::DiskFull => {
                // A manifest fits into what the reserve takes.
                self.io.fs.remove(&self.dir.join(RESERVE_FILE)).map_err(|_| e)?;
                self.heed(writing.manifest.replace(mark))
            }
            outcome => outcome,
        }
    }

    fn seal_for_close(&self) -> Result<()> {
        self.seal_waiting()?;
        {
            let mut order = self.order.lock();
            if order.tail < FIRST_FRAME + SEAL_ABOVE || !order.switch(self.now()) {
                return Ok(());
            }
        }
        self.seal_waiting()
    }
}
