//! The task of the log: it writes and syncs what no call waits for.

use std::sync::Arc;
use std::time::Duration;

use crate::commit::Engine;
use crate::commit::worker::Worker;
use crate::error::Result;
use crate::io::Next;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::types::Durability;

/// A log that has been quiet for this long gets a frame that bears witness of what is durable.
const QUIET: Duration = Duration::from_millis(20);

/// What the log task is asked for.
#[derive(Default)]
pub(crate) struct Work {
    stop: AtomicBool,
    /// The task sleeps until it is woken: an appender orders first, and looks at this then.
    asleep: AtomicBool,
    sync_to: AtomicU64,
    write: AtomicBool,
    sync: AtomicBool,
    /// When something was last found ordered, in ns on the monotonic clock.
    moved_at: AtomicU64,
}

impl Work {
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Starts the tasks of the log and of its segments, which have nothing to do before something is
/// ordered.
pub(super) fn start(engine: &Arc<Engine>) {
    let [log, spares, seals] = [(); 3].map(|()| Arc::clone(engine));
    let mut round = Round { seen: engine.ordered_end(), ..Round::default() };
    engine.work.asleep.store(true, Ordering::SeqCst);
    engine.note_moved(engine.io.clock.monotonic());
    engine.start_task_asleep(Worker::Log, move || round.step(&log));
    engine.start_task_asleep(Worker::Spares, move || spares.make_spares());
    engine.start_task_asleep(Worker::Seals, move || seals.make_seals());
}

impl Engine {
    /// Notes that something was ordered: the log task wakes up if it slept, and the next segment is
    /// made once this one fills up.
    pub(crate) fn ordered_something(&self, end: u64) {
        self.ordered_end.fetch_max(end, Ordering::SeqCst);
        if self.work.asleep.load(Ordering::SeqCst) {
            self.wake_log(end);
        }
        if end >= self.upkeep.spare_from.load(Ordering::Relaxed) {
            self.ask_for_a_spare();
        }
        if self.catalog.deaths.take_rest() {
            let _ = self.wake(Worker::Compaction);
        }
    }

    /// Wakes the log task. Without a thread for it the call does its work.
    fn wake_log(&self, end: u64) {
        if self.wake(Worker::Log).is_err() {
            // The next request is to wake it again.
            self.work.write.store(false, Ordering::Release);
            self.work.sync.store(false, Ordering::Release);
            self.note_moved(self.io.clock.monotonic());
            // An error poisons the log, which says so to calls that wait.
            let _ = self.log.flush_to(end, self);
        }
    }

    fn note_moved(&self, now: Duration) {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.work.moved_at.store(now, Ordering::Relaxed);
    }

    /// Since when nothing was ordered, on the monotonic clock; some ms late while something is.
    pub(crate) fn quiet_since(&self) -> Duration {
        Duration::from_nanos(self.work.moved_at.load(Ordering::Relaxed))
    }

    /// Asks for a batch that no call waits for.
    pub(crate) fn push_along(&self, end: u64, durability: Durability) {
        match durability {
            Durability::Buffer => {}
            Durability::Write => {
                if !self.work.write.swap(true, Ordering::AcqRel) {
                    self.wake_log(end);
                }
            }
            Durability::Sync => {
                self.work.sync_to.fetch_max(end, Ordering::AcqRel);
                self.wake_log(end);
            }
        }
    }

    /// Has what is ordered synced soon.
    pub(crate) fn sync_soon(&self) {
        if !self.work.sync.swap(true, Ordering::AcqRel) {
            self.wake_log(self.ordered_end());
        }
    }

    /// Writes a frame without records, if the medium does not bear witness yet of how much of the
    /// log is durable. Gives where it ends.
    pub(crate) fn bear_witness(&self) -> Option<u64> {
        let mut order = self.order.lock();
        let content = order.content_end;
        if order.closed || self.log.durable() < content || self.log.witnessed() >= content {
            return None;
        }
        let time = self.now();
        if !order.enqueue_witness(time) {
            return None;
        }
        let end = order.end();
        drop(order);
        self.ordered_end.fetch_max(end, Ordering::SeqCst);
        // An error poisons the log, which says so to whoever writes next.
        let _ = self.log.write_to(end, self);
        Some(end)
    }

    /// The end of the log, written or not.
    pub(crate) fn ordered_end(&self) -> u64 {
        self.ordered_end.load(Ordering::SeqCst)
    }

    /// Where the last frame with records in it ends.
    pub(crate) fn content_end(&self) -> u64 {
        self.order.lock().content_end
    }
}

/// How far the log task is with what was not asked for by name.
#[derive(Default)]
struct Round {
    /// Since when something has waited to be written, and to be synced.
    unwritten_since: Option<Duration>,
    unsynced_since: Option<Duration>,
    /// What had been ordered at the beginning of the last turn.
    seen: u64,
    quiet_since: Option<Duration>,
}

impl Round {
    /// A step of the log task.
    fn step(&mut self, engine: &Engine) -> Next {
        let work = &engine.work;
        work.asleep.store(false, Ordering::SeqCst);
        if work.stop.load(Ordering::Acquire) {
            return Next::Ended;
        }
        // An error poisons the log: calls that wait hear of it, and nothing is left to do here.
        let pause = self.turn(engine).unwrap_or(None);
        // Other threads may have taken the log further, under locks or not. This task was asked for
        // each batch that a future waits for, and now holds nothing.
        engine.log.wake();
        if let Some(time) = pause {
            return Next::After(time);
        }
        // Without a limit it sleeps only if nothing was ordered by the time at which appenders can
        // see that it sleeps.
        work.asleep.store(true, Ordering::SeqCst);
        if engine.ordered_end() == self.seen { Next::Asleep } else { Next::Again }
    }

    /// Does what is due; gives how long nothing will be, unless something is asked.
    fn turn(&mut self, engine: &Engine) -> Result<Option<Duration>> {
        let now = engine.io.clock.monotonic();
        // Requests are taken before the log is looked at: one that comes later is for a later turn,
        // and has woken it.
        let write = engine.work.write.swap(false, Ordering::AcqRel);
        let sync = engine.work.sync.swap(false, Ordering::AcqRel);
        let ordered = engine.ordered_end();
        let moved = std::mem::replace(&mut self.seen, ordered) != ordered;
        if moved {
            engine.note_moved(now);
        }
        let content = engine.content_end();
        let wanted = engine.work.sync_to.load(Ordering::Acquire);
        if wanted > engine.log.durable() {
            engine.log.flush_to(wanted, engine)?;
        }
        if engine.log.written() < content {
            let since = *self.unwritten_since.get_or_insert(now);
            if write || now.saturating_sub(since) >= engine.options.flush_interval {
                engine.log.write_to(content, engine)?;
            }
        }
        if engine.log.written() >= content {
            self.unwritten_since = None;
        }
        if engine.log.durable() < content {
            let since = *self.unsynced_since.get_or_insert(now);
            let due = now.saturating_sub(since) >= engine.options.sync_interval;
            if sync || due || engine.unsynced() > engine.options.max_unsynced / 2 {
                let before = engine.log.durable();
                engine.pace.begin(content.saturating_sub(before), now);
                engine.log.flush_to(content, engine)?;
                let took = engine.io.clock.monotonic().saturating_sub(now);
                engine.pace.learn(engine.log.durable().saturating_sub(before), took);
                self.unsynced_since = None;
            }
        } else {
            self.unsynced_since = None;
        }
        Ok(self.pause(engine, now, content, moved))
    }

    fn pause(
        &mut self,
        engine: &Engine,
        now: Duration,
        content: u64,
        moved: bool,
    ) -> Option<Duration> {
        if moved || engine.log.durable() < content {
            self.quiet_since = Some(now);
            return Some(engine.options.flush_interval.min(QUIET));
        }
        match self.quiet_since {
            Some(since) if now.saturating_sub(since) < QUIET => Some(QUIET),
            Some(_) => {
                self.quiet_since = None;
                if let Some(end) = engine.bear_witness() {
                    self.seen = end;
                }
                None
            }
            None => None,
        }
    }
}
