//! Compaction in the background: what is due, when it is due, at a pace that leaves the disk to
//! those who wait for it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use crate::commit::worker::Worker;
use crate::compaction::debt::State;
use crate::compaction::job::Job;
use crate::compaction::{Busy, Compactor, TURN, Turn};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Next, tasks};
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, thread};

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
    /// Starts the task, unless the store has none or takes no writes.
    ///
    /// # Errors
    /// `Io` if the system starts no thread for it.
    pub(super) fn start_task(self: &Arc<Self>) -> Result<()> {
        if !self.engine.has_threads() || self.engine.writing.is_none() {
            return Ok(());
        }
        let me = Arc::clone(self);
        let mut round = Round::default();
        let step = move || me.step(&mut round);
        if self.has_nothing_to_do() {
            self.engine.start_task_asleep(Worker::Compaction, step);
            return Ok(());
        }
        self.engine.start_task(Worker::Compaction, step)
    }

    /// Whether nothing is to be done before something is sealed, dies or expires, which wakes the
    /// task: a store that is opened for a moment starts no thread for it.
    fn has_nothing_to_do(&self) -> bool {
        let is_empty = self.engine.catalog.segments().sealed.is_empty();
        is_empty && self.pause(&self.busy.lock()).is_none()
    }

    /// Stops whatever is compacted, and waits until that is so. Nothing is lost by it.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let engine = &self.engine;
        if !engine.io.fs.is_own() {
            // In a fork the task does not run.
            return;
        }
        let task = engine.task(Worker::Compaction);
        self.changed.notify();
        task.end();
        tasks::join(&*engine.io.tasks, task);
        if !task.is_current()
            && let Ok(mut busy) = self.take_busy()
        {
            busy.job = None;
        }
    }

    /// Stops it and closes the store, when the last handle goes.
    pub(crate) fn close_unheard(self: &Arc<Self>) {
        let engine = &self.engine;
        if !engine.io.fs.is_own() {
            return;
        }
        let close = |me: &Self| {
            me.stop();
            // A call of `close` hears of errors; what is lost here was never promised.
            let _ = me.engine.close();
        };
        if engine.is_in_task() {
            // A waker let go of the handle: to close is to wait for the task that it runs in. Without
            // a thread for it the store stays open until the process ends: as after a kill.
            let closing = Arc::clone(self);
            let step = move || {
                close(&closing);
                Next::Ended
            };
            let _ = engine.io.tasks.make("memlog-close").start(Box::new(step));
        } else {
            close(self);
        }
    }

    /// Waits until nothing else is compacted, scanned, erased or backed up. A job in the background
    /// makes way.
    ///
    /// # Errors
    /// `Io` in a fork, where what its parent held then is never let go of.
    pub(super) fn take_busy(&self) -> Result<Holding<'_>> {
        self.engine.check_own()?;
        self.wanted.fetch_add(1, Ordering::SeqCst);
        self.changed.notify();
        let busy = self.engine.io.wait_for(&self.changed, || self.busy.try_lock());
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        Ok(Holding { busy, _released: Released(self) })
    }

    /// A step of the task.
    fn step(&self, round: &mut Round) -> Next {
        if self.stop.load(Ordering::Acquire) {
            return Next::Ended;
        }
        if self.wanted.load(Ordering::SeqCst) > 0 {
            // A call that lets go of its hold wakes the task.
            return Next::Asleep;
        }
        let Some(busy) = self.busy.try_lock() else { return Next::Asleep };
        let (outcome, pause) = {
            let mut holding = Holding { busy, _released: Released(self) };
            let outcome = self.work(&mut holding, round);
            self.report(&outcome, holding.job.is_some());
            let is_idle = matches!(outcome, Ok(Turn::Idle));
            (outcome, if is_idle { self.pause(&holding) } else { None })
        };
        if let Ok(Turn::Worked) = outcome {
            return Next::Again;
        }
        round.begun = false;
        // Nothing is worth a job, or nothing is done about it for a while: no appender waits for it.
        self.engine.pace.owe(None);
        if self.stop.load(Ordering::Acquire) {
            return Next::Ended;
        }
        match outcome {
            Ok(Turn::Worked | Turn::Idle) => pause.map_or(Next::Asleep, Next::After),
            Ok(Turn::Full { .. }) | Err(_) if self.engine.log.poisoned().is_some() => Next::Asleep,
            Ok(Turn::Full { .. }) | Err(_) => Next::After(AFTER_FAILURE),
        }
    }

    /// Reports a step, and how much of the store is left alone or yet to be clustered.
    fn report(&self, outcome: &Result<Turn>, is_at_a_job: bool) {
        let board = &self.engine.board;
        let set = self.engine.catalog.segments();
        let (left_alone, others): (Vec<_>, Vec<_>) =
            set.sealed.iter().partition(|segment| segment.is_quarantined());
        board.set_quarantined(left_alone.iter().map(|segment| segment.disk_len()).sum());
        let waits = others.iter().filter(|segment| !segment.run).map(|segment| segment.disk_len());
        match outcome {
            Ok(Turn::Idle) => board.set_backlog(0),
            // A scan does not tell whether log segments wait for a job, or for more of them.
            Ok(Turn::Worked) if !is_at_a_job => {}
            _ => board.set_backlog(waits.sum()),
        }
        match outcome {
            Ok(Turn::Worked | Turn::Idle) => board.succeeded(Worker::Compaction),
            Ok(Turn::Full { need, free }) => {
                let message = format!("compaction needs {need} bytes of room, and {free} are free");
                let error = Error::new(ErrorKind::DiskFull, message);
                board.failed(Worker::Compaction, &error);
            }
            Err(error) => board.failed(Worker::Compaction, error),
        }
    }

    fn work(&self, busy: &mut Busy, round: &mut Round) -> Result<Turn> {
        if !std::mem::replace(&mut round.begun, true) {
            self.look_at_deaths();
            busy.worked_since = self.monotonic();
            round.pace = Pace::new(busy.worked_since);
        }
        self.go_on()?;
        self.seal_if_due()?;
        round.pace.urgency = self.tell_debt(busy);
        let turn = self.turn(busy, false, &mut |bytes| round.pace.after(self, bytes))?;
        if matches!(turn, Turn::Idle) && busy.quiet.has_settled() {
            self.engine.catalog.let_go_of_all(self.engine.progress());
            if self.engine.give_back()? {
                return Ok(Turn::Worked);
            }
        }
        Ok(turn)
    }
}

/// Where the task is between two of its steps.
#[derive(Default)]
struct Round {
    /// It has found something to do, and is at it.
    begun: bool,
    pace: Pace,
}

/// What a call holds that compacts, scans, erases or backs up.
pub(super) struct Holding<'c> {
    // Dropped in this order.
    busy: MutexGuard<'c, Busy>,
    _released: Released<'c>,
}

impl Deref for Holding<'_> {
    type Target = Busy;

    fn deref(&self) -> &Busy {
        &self.busy
    }
}

impl DerefMut for Holding<'_> {
    fn deref_mut(&mut self) -> &mut Busy {
        &mut self.busy
    }
}

/// Tells calls and the task that the hold was let go of, even if its holder unwinds.
struct Released<'c>(&'c Compactor);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.changed.notify();
        let task = self.0.engine.task(Worker::Compaction);
        if !task.is_current() {
            let _ = self.0.engine.wake(Worker::Compaction);
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
            scan_each: self.scan_each(),
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
#[derive(Default)]
struct Pace {
    since: Duration,
    bytes: u64,
    /// When it last slept, and when it last let others go first.
    rested: Duration,
    yielded: Duration,
    /// How far compaction is behind, in percent.
    urgency: u64,
}

impl Pace {
    fn new(now: Duration) -> Self {
        Pace { since: now, bytes: 0, rested: now, yielded: now, urgency: 0 }
    }

    fn after(&mut self, compactor: &Compactor, bytes: u64) -> Result<()> {
        compactor.go_on()?;
        self.bytes += bytes;
        if self.bytes >= TURN {
            self.keep_the_rate(compactor);
        }
        let now = compactor.monotonic();
        if now.saturating_sub(self.rested) >= STRETCH {
            self.sleep(compactor, BREATH);
        } else if now.saturating_sub(self.yielded) >= SPELL {
            thread::yield_now();
            self.yielded = compactor.monotonic();
        }
        compactor.go_on()
    }

    fn keep_the_rate(&mut self, compactor: &Compactor) {
        let engine = &compactor.engine;
        // Beyond the soft limit up to four times the rate, and no more yielding.
        let rate = engine.options.compaction_rate.saturating_mul(100 + 3 * self.urgency) / 100;
        let due = self.bytes.saturating_mul(1_000_000) / rate.max(1);
        let due = self.since + Duration::from_micros(due);
        loop {
            // A close, or a call that waits for this job to make way, ends the wait.
            let seen = compactor.changed.seen();
            let early = due.saturating_sub(compactor.monotonic());
            if early.is_zero() || compactor.is_pressed() {
                break;
            }
            engine.io.tasks.wait(&compactor.changed, seen, Some(early));
            self.rest(compactor);
        }
        for _ in 0..NAPS {
            let behind = engine.unsynced() >= engine.options.max_unsynced / 2;
            if self.urgency > 0 || !behind || compactor.is_pressed() {
                break;
            }
            self.sleep(compactor, NAP);
        }
        (self.since, self.bytes) = (compactor.monotonic(), 0);
    }

    fn sleep(&mut self, compactor: &Compactor, time: Duration) {
        compactor.engine.io.pause(time);
        self.rest(compactor);
    }

    fn rest(&mut self, compactor: &Compactor) {
        self.rested = compactor.monotonic();
        self.yielded = self.rested;
    }
}

impl Compactor {
    fn monotonic(&self) -> Duration {
        self.engine.io.clock.monotonic()
    }

    /// Whether a job in the background is to get to its next step soon: to stop there, or to make
    /// way for a call.
    fn is_pressed(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.wanted.load(Ordering::SeqCst) > 0
    }
}
