//! Compaction in the background: what is due, when it is due, at a pace that leaves the disk to
//! those who wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::compaction::{Compactor, TURN, Turn};
use crate::error::Result;

/// How long nothing is tried after a full disk or a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// A nap while the log is behind.
const NAP: Duration = Duration::from_millis(2);
/// Naps in a row at most: compaction must get on, or the disk fills up.
const NAPS: u32 = 4;

impl Compactor {
    /// Spawns the thread, unless the store has none or takes no writes.
    pub(super) fn spawn(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        if !self.engine.has_threads() || self.engine.writing.is_none() {
            return None;
        }
        let me = Arc::clone(self);
        let named = std::thread::Builder::new().name("memlog-compact".into());
        named.spawn(move || me.run()).ok()
    }

    /// Stops whatever is compacted, and waits until that is so. Nothing is lost by it.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if !self.engine.io.fs.is_own() {
            // In a fork the thread does not run.
            return;
        }
        self.engine.tidings.tell();
        if let Some(thread) = self.thread.lock().take() {
            // A panic there has nothing to say to whoever closes.
            let _ = thread.join();
        }
        self.busy.lock().job = None;
    }

    /// Stops it and closes the store, when the last handle goes.
    pub(crate) fn close_unheard(self: &Arc<Self>) {
        if !self.engine.io.fs.is_own() {
            return;
        }
        let me = std::thread::current().id();
        let is_own = self.thread.lock().as_ref().is_some_and(|thread| thread.thread().id() == me);
        if !is_own {
            self.stop();
            return self.engine.close_unheard();
        }
        // A waker let go of the handle here: to close is to wait for this very thread.
        let closing = Arc::clone(self);
        let named = std::thread::Builder::new().name("memlog-close".into());
        let spawned = named.spawn(move || {
            closing.stop();
            let _ = closing.engine.close();
        });
        // Without another thread it stays open until the process ends: as after a kill.
        drop(spawned);
    }

    fn run(&self) {
        let mut seen = 0;
        let mut pause = self.idle();
        loop {
            seen = self.engine.tidings.wait(seen, pause);
            pause = match self.run_jobs() {
                Ok(()) => self.idle(),
                // Whoever writes hears of a poisoned log, whoever compacts by hand of the rest.
                Err(_) => Some(AFTER_FAILURE),
            };
            if self.stop.load(Ordering::Acquire) {
                self.busy.lock().job = None;
                return;
            }
        }
    }

    /// How long it may sleep if nothing happens.
    fn idle(&self) -> Option<Duration> {
        self.engine.options.erase_within.map(|within| (within / 8).max(Duration::from_millis(100)))
    }

    /// Has the active segment sealed if something in it died that must be gone soon: only what is
    /// sealed can be left out of a run.
    fn seal_if_due(&self) -> Result<()> {
        let Some(before) = self.erase_before() else { return Ok(()) };
        let (dead, since) = self.engine.order.lock().active.segment.dead();
        if dead > 0 && since <= before { self.engine.seal_active() } else { Ok(()) }
    }

    fn run_jobs(&self) -> Result<()> {
        let mut pace = Pace::new(self);
        loop {
            while self.wanted.load(Ordering::SeqCst) > 0 {
                self.go_on()?;
                self.engine.io.clock.sleep(NAP);
            }
            self.go_on()?;
            let mut busy = self.busy.lock();
            self.seal_if_due()?;
            match self.turn(&mut busy, false, &mut |bytes| pace.after(bytes))? {
                Turn::Worked => {}
                Turn::Idle => return Ok(()),
                Turn::Full { .. } => {
                    self.engine.io.clock.sleep(NAP);
                    return Err(crate::error::Error::new(
                        crate::error::ErrorKind::DiskFull,
                        "there is no room to compact in",
                    ));
                }
            }
        }
    }
}

/// Keeps a job within the rate, and out of the way of the log.
struct Pace<'c> {
    compactor: &'c Compactor,
    since: Duration,
    bytes: u64,
}

impl<'c> Pace<'c> {
    fn new(compactor: &'c Compactor) -> Self {
        Pace { compactor, since: compactor.engine.io.clock.monotonic(), bytes: 0 }
    }

    fn after(&mut self, bytes: u64) -> Result<()> {
        self.compactor.go_on()?;
        self.bytes += bytes;
        if self.bytes < TURN {
            return Ok(());
        }
        let engine = &self.compactor.engine;
        let clock = &engine.io.clock;
        let due = self.bytes.saturating_mul(1_000_000) / engine.options.compaction_rate.max(1);
        let due = self.since + Duration::from_micros(due);
        let now = clock.monotonic();
        if due > now {
            clock.sleep(due.saturating_sub(now));
        }
        for _ in 0..NAPS {
            if engine.unsynced() < engine.options.max_unsynced / 2 {
                break;
            }
            clock.sleep(NAP);
        }
        (self.since, self.bytes) = (clock.monotonic(), 0);
        self.compactor.go_on()
    }
}
