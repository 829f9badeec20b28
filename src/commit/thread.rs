//! The store's threads: one writes and syncs what nobody waits for, one makes segments, one seals
//! them.

use std::sync::Arc;
use std::time::Duration;

use crate::commit::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};
use crate::types::Durability;

/// A log that has been quiet for this long gets a frame that bears witness of what is durable.
const QUIET: Duration = Duration::from_millis(20);

/// What the log thread is asked for.
#[derive(Default)]
pub(crate) struct Work {
    asked: Mutex<Asked>,
    wake: Condvar,
    asleep: AtomicBool,
    sync_to: AtomicU64,
    write: AtomicBool,
    sync: AtomicBool,
}

#[derive(Default)]
struct Asked {
    anything: bool,
    stop: bool,
}

impl Work {
    fn ask(&self) {
        let mut asked = self.asked.lock();
        asked.anything = true;
        self.wake.notify_one();
    }

    /// Write what is queued.
    pub(crate) fn write_now(&self) {
        if !self.write.swap(true, Ordering::AcqRel) {
            self.ask();
        }
    }

    /// Sync what is written.
    pub(crate) fn sync_now(&self) {
        if !self.sync.swap(true, Ordering::AcqRel) {
            self.ask();
        }
    }

    /// Take the log to stable storage up to `end`.
    pub(crate) fn sync_to(&self, end: u64) {
        self.sync_to.fetch_max(end, Ordering::AcqRel);
        self.ask();
    }

    fn stop(&self) {
        self.asked.lock().stop = true;
        self.wake.notify_one();
    }

    /// Sleeps until something is asked, or for `at_most`. False if it is to stop.
    ///
    /// Without a limit it sleeps only if `nothing_new` still holds once everybody can see that it
    /// sleeps: an appender orders first and looks at the sleeper then.
    fn sleep(&self, at_most: Option<Duration>, nothing_new: impl Fn() -> bool) -> bool {
        let mut asked = self.asked.lock();
        if !asked.anything && !asked.stop {
            match at_most {
                Some(time) => {
                    self.wake.wait_for(&mut asked, time);
                }
                None => {
                    self.asleep.store(true, Ordering::SeqCst);
                    if nothing_new() {
                        self.wake.wait(&mut asked);
                    }
                    self.asleep.store(false, Ordering::SeqCst);
                }
            }
        }
        asked.anything = false;
        !asked.stop
    }
}

/// The running threads.
#[derive(Default)]
pub(crate) struct Threads {
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    /// # Errors
    /// `Io` if the system starts no thread: a store without them would never write what nobody
    /// waits for. Those that run are stopped with the engine.
    pub(crate) fn start(engine: &Arc<Engine>) -> Result<()> {
        let [log, spares, seals] = [(); 3].map(|()| Arc::clone(engine));
        engine.start_thread("memlog-log", move || run_log(&log))?;
        engine.start_thread("memlog-spares", move || spares.make_spares())?;
        engine.start_thread("memlog-seals", move || seals.make_seals())
    }
}

impl Engine {
    /// Notes that something was ordered: the log thread wakes up if it slept.
    pub(crate) fn ordered_something(&self, end: u64) {
        self.ordered_end.fetch_max(end, Ordering::SeqCst);
        if self.work.asleep.load(Ordering::SeqCst) {
            self.work.ask();
        }
    }

    /// Asks for a batch that nobody waits for in a call.
    pub(crate) fn push_along(&self, end: u64, durability: Durability) {
        match durability {
            Durability::Buffer => {}
            Durability::Write => self.work.write_now(),
            Durability::Sync => self.work.sync_to(end),
        }
    }

    fn start_thread(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let started = thread::Builder::new().name(name.into()).spawn(run);
        let thread = started.map_err(|e| Error::io("start a thread for", &self.dir, e))?;
        self.threads.lock().running.push(thread);
        Ok(())
    }

    /// Whether the calling thread is one of the store's.
    pub(crate) fn is_own_thread(&self) -> bool {
        let me = thread::current().id();
        self.threads.lock().running.iter().any(|thread| thread.thread().id() == me)
    }

    /// Stops the threads and waits for them.
    pub(crate) fn stop_threads(&self) {
        self.work.stop();
        self.stop_upkeep();
        let running = std::mem::take(&mut self.threads.lock().running);
        let me = thread::current().id();
        for thread in running.into_iter().filter(|t| t.thread().id() != me) {
            // A thread that panicked has poisoned the log, which says so.
            let _ = thread.join();
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

    fn content_end(&self) -> u64 {
        self.order.lock().content_end
    }
}

/// How far the log thread is with what nobody asked for by name.
#[derive(Default)]
struct Round {
    /// Since when something has waited to be written, and to be synced.
    unwritten_since: Option<Duration>,
    unsynced_since: Option<Duration>,
    /// What had been ordered at the beginning of the last turn.
    seen: u64,
    quiet_since: Option<Duration>,
}

fn run_log(engine: &Engine) {
    let mut round = Round::default();
    let mut pause = Some(QUIET);
    let guard = Gone(engine);
    while engine.work.sleep(pause, || engine.ordered_end() == round.seen) {
        // An error poisons the log: whoever waits hears of it, and nothing is left to do here.
        pause = round.turn(engine).unwrap_or(None);
        // Whoever took the log further, under locks or not: this thread was asked for each batch
        // that a future waits for, and now holds nothing.
        engine.log.wake();
    }
    std::mem::forget(guard);
}

/// Poisons the log if the log thread unwinds: futures that wait for it must hear of it.
struct Gone<'a>(&'a Engine);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.log.poison(&Error::new(ErrorKind::Io, "the thread that flushes the log panicked"));
        self.0.log.wake();
    }
}

impl Round {
    /// Does what is due; gives how long nothing will be, unless something is asked.
    fn turn(&mut self, engine: &Engine) -> Result<Option<Duration>> {
        let now = engine.io.clock.monotonic();
        let ordered = engine.ordered_end();
        let moved = std::mem::replace(&mut self.seen, ordered) != ordered;
        let content = engine.content_end();
        let wanted = engine.work.sync_to.load(Ordering::Acquire);
        if wanted > engine.log.durable() {
            engine.log.flush_to(wanted, engine)?;
        }
        let write = engine.work.write.swap(false, Ordering::AcqRel);
        if engine.log.written() < content {
            let since = *self.unwritten_since.get_or_insert(now);
            if write || now.saturating_sub(since) >= engine.options.flush_interval {
                engine.log.write_to(content, engine)?;
            }
        }
        if engine.log.written() >= content {
            self.unwritten_since = None;
        }
        let sync = engine.work.sync.swap(false, Ordering::AcqRel);
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
