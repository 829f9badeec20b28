//! Compaction in the background: what is due, when it is due, at a pace that leaves the disk to
//! those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use crate::compaction::debt::State;
use crate::compaction::job::Job;
use crate::compaction::{Busy, Compactor, TURN, Turn};
use crate::error::Result;
use crate::sync::atomic::Ordering;
use crate::sync::thread::{self, JoinHandle};

/// How long nothing is tried after a full disk or a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// A nap while the log is behind.
const NAP: Duration = Duration::from_millis(2);
/// Naps in a row at most: compaction must get on, or the disk fills up.
const NAPS: u32 = 4;
/// After so much work others go first: an appender that waits for the same processor would else wait
/// until the system's clock ticks, which it may do every 4 ms only.
const SPELL: Duration = Duration::from_micros(150);
/// After so much work comes a breath: a processor that is never idle takes no thread over from one
/// that has too many, and appenders may all be waiting there.
const STRETCH: Duration = Duration::from_millis(1);
const BREATH: Duration = Duration::from_micros(10);

/// While appenders wait for compaction, a log segment is this part of what lives at most,
const SEGMENT_SHARE: u64 = 96;
/// but not shorter than this.
const LEAST_SEGMENT: u64 = 8 << 20;

impl Compactor {
    /// Spawns the thread, unless the store has none or takes no writes.
    pub(super) fn spawn(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        if !self.engine.has_threads() || self.engine.writing.is_none() {
            return None;
        }
        let me = Arc::clone(self);
        let named = thread::Builder::new().name("memlog-compact".into());
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
        let me = thread::current().id();
        let is_own = self.thread.lock().as_ref().is_some_and(|thread| thread.thread().id() == me);
        if !is_own {
            self.stop();
            return self.engine.close_unheard();
        }
        // A waker let go of the handle here: to close is to wait for this very thread.
        let closing = Arc::clone(self);
        let named = thread::Builder::new().name("memlog-close".into());
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
                Err(_) => {
                    // Whatever is owed, nobody is at it.
                    self.engine.pace.owe(None);
                    Some(AFTER_FAILURE)
                }
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
        self.busy.lock().worked_since = self.engine.io.clock.monotonic();
        loop {
            while self.wanted.load(Ordering::SeqCst) > 0 {
                self.go_on()?;
                self.engine.io.clock.sleep(NAP);
            }
            self.go_on()?;
            let mut busy = self.busy.lock();
            self.seal_if_due()?;
            pace.urgency = self.tell_debt(&mut busy);
            match self.turn(&mut busy, false, &mut |bytes| pace.after(bytes))? {
                Turn::Worked => {}
                Turn::Idle => {
                    // Nothing is worth a job, so that nobody waits for one.
                    self.engine.pace.owe(None);
                    return Ok(());
                }
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

impl Compactor {
    /// Tells appenders how far compaction is behind; gives it in percent.
    fn tell_debt(&self, busy: &mut Busy) -> u64 {
        let engine = &self.engine;
        let (live, dead) = self.content();
        let (logs, log_bytes) = self.waiting_logs();
        let state = State {
            live,
            dead,
            dropped: busy.job.as_ref().map_or(0, Job::dropped),
            logs,
            log_bytes,
            end: engine.ordered_end(),
            survey_each: self.survey_each(),
            segment_bytes: engine.options.segment_bytes,
            rate: engine.options.compaction_rate,
        };
        let owed = busy.debt.owed(&state);
        // Where much dies, the active segment and its spare are to be a small part of the store.
        let limit = (live / SEGMENT_SHARE).max(LEAST_SEGMENT);
        engine.limit_segments(if owed.urgency() > 0 { limit } else { 0 });
        let for_logs = busy.debt.owed_for_logs(&state);
        let owed = if for_logs.urgency() > owed.urgency() { for_logs } else { owed };
        engine.pace.owe(Some(owed));
        owed.urgency()
    }
}

/// Keeps a job within the rate, and out of the way of the log.
struct Pace<'c> {
    compactor: &'c Compactor,
    since: Duration,
    bytes: u64,
    /// When it last slept, and when it last let others go first.
    rested: Duration,
    yielded: Duration,
    /// How far compaction is behind, in percent.
    urgency: u64,
}

impl<'c> Pace<'c> {
    fn new(compactor: &'c Compactor) -> Self {
        let now = compactor.engine.io.clock.monotonic();
        Pace { compactor, since: now, bytes: 0, rested: now, yielded: now, urgency: 0 }
    }

    fn after(&mut self, bytes: u64) -> Result<()> {
        self.compactor.go_on()?;
        self.bytes += bytes;
        if self.bytes >= TURN {
            self.keep_the_rate();
        }
        let now = self.now();
        if now.saturating_sub(self.rested) >= STRETCH {
            self.sleep(BREATH);
        } else if now.saturating_sub(self.yielded) >= SPELL {
            thread::yield_now();
            self.yielded = self.now();
        }
        self.compactor.go_on()
    }

    fn keep_the_rate(&mut self) {
        let engine = &self.compactor.engine;
        // Beyond the soft limit up to four times the rate, and no more yielding.
        let rate = engine.options.compaction_rate.saturating_mul(100 + 3 * self.urgency) / 100;
        let due = self.bytes.saturating_mul(1_000_000) / rate.max(1);
        let due = self.since + Duration::from_micros(due);
        let early = due.saturating_sub(self.now());
        if !early.is_zero() {
            self.sleep(early);
        }
        for _ in 0..NAPS {
            if self.urgency > 0 || engine.unsynced() < engine.options.max_unsynced / 2 {
                break;
            }
            self.sleep(NAP);
        }
        (self.since, self.bytes) = (self.now(), 0);
    }

    fn now(&self) -> Duration {
        self.compactor.engine.io.clock.monotonic()
    }

    fn sleep(&mut self, time: Duration) {
        self.compactor.engine.io.clock.sleep(time);
        self.rested = self.now();
        self.yielded = self.rested;
    }
}
