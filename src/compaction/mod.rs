//! Compaction: segments in the order of arrival become runs clustered by agent, and what is dead
//! is left behind.
//!
//! `pick` decides what is worth doing, `scan` finds out what is dead and `garbage` when to look,
//! `plan` where runs are cut,
//! `job` does it step by step, with `merge` to walk the agents, `fate` to tell what lives of each
//! and `writer` to write it. `erase` does all of it at once for what must be gone, `backup` copies a
//! store while it is written. `thread` does what nobody waits for.

mod around;
pub(crate) mod backup;
mod cuts;
mod debt;
pub(crate) mod erase;
mod fate;
mod field;
mod garbage;
mod job;
mod keys;
mod merge;
pub(crate) mod pick;
mod plan;
mod policy;
mod scan;
#[cfg(all(test, feature = "sim"))]
mod state_tests;
mod stats;
#[cfg(test)]
mod sweep;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod thread;
mod trust;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::commit::Engine;
use crate::commit::order::closed;
use crate::commit::worker::Worker;
use crate::compaction::debt::Debt;
use crate::compaction::garbage::{Quiet, Schedule};
use crate::compaction::job::{Installed, Job, Shape, names};
use crate::compaction::pick::{Pick, SegmentStats, pick};
use crate::error::{Error, ErrorKind, Result};
use crate::segment::Segment;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, Notify};

/// What a call of [`Store::compact`](crate::Store::compact) came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactOutcome {
    /// Nothing is left that is worth doing.
    Done,
    /// A step was done, and there is more to do: call again. Only with
    /// [`Maintenance::Manual`](crate::Maintenance::Manual).
    More,
    /// There is not enough room on the disk: compaction needs some until what it replaces is gone.
    /// Nothing was changed.
    DiskFull {
        /// Bytes that it would need.
        need: u64,
        /// Bytes that are free for it.
        free: u64,
    },
}

/// Bytes that one call handles with [`Maintenance::Manual`](crate::Maintenance::Manual).
const STEP: u64 = 4 << 20;
/// Bytes handled between two looks at whether to stop.
const TURN: u64 = 256 << 10;
/// A compaction that would leave less than this of the disk free, with its next step, is given up.
const HEAD_ROOM: u64 = 1 << 20;
/// The same of a job that relieves a full disk: room for a manifest.
const RELIEF_ROOM: u64 = 64 << 10;
/// Which is to give back this part of its input at least.
const LEAST_RELIEF: u64 = 8;

/// What compacts a store.
pub(crate) struct Compactor {
    pub(crate) engine: Arc<Engine>,
    /// One at a time compacts, scans, erases or backs up.
    busy: Mutex<Busy>,
    stop: AtomicBool,
    /// Somebody waits for `busy`: a job in the background makes way at its next turn.
    wanted: AtomicU64,
    /// Bytes written to runs since the store was opened.
    written: AtomicU64,
    /// The store's time, in ms since the epoch, and the monotonic clock, when it was opened.
    began: (u64, Duration),
    /// Garbage scans since the store was opened.
    scans: AtomicU64,
    /// The segments that the opening found were held against each other.
    weighed: AtomicBool,
    /// Changes when `busy` is let go of, when a call wants it, and when compaction is to stop.
    changed: Notify,
}

/// What goes on between two steps.
#[derive(Default)]
struct Busy {
    job: Option<Job>,
    schedule: Schedule,
    debt: Debt,
    /// When the last job was done, or there was nothing to do.
    worked_since: Duration,
    quiet: Quiet,
}

/// How thoroughly a job is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// In the background of a store that is appended to.
    Busy,
    /// In the background of one that nothing was appended to for a while.
    Idle,
    /// By a call.
    Thorough,
}

/// What a turn of work came to.
enum Turn {
    /// There was nothing to do.
    Idle,
    /// Some work was done.
    Worked,
    /// There is no room for what is to be done.
    Full { need: u64, free: u64 },
}

impl Compactor {
    /// Starts compacting, in a task if the store has any.
    ///
    /// # Errors
    /// `Io` if the system starts no thread for the task. The store is closed then.
    pub(crate) fn start(engine: &Arc<Engine>) -> Result<Arc<Self>> {
        let compactor = Arc::new(Compactor {
            engine: Arc::clone(engine),
            busy: Mutex::default(),
            stop: AtomicBool::new(false),
            wanted: AtomicU64::new(0),
            written: AtomicU64::new(0),
            began: (engine.now(), engine.io.clock.monotonic()),
            scans: AtomicU64::new(0),
            weighed: AtomicBool::new(false),
            changed: Notify::default(),
        });
        compactor.busy.lock().schedule.opened(&compactor.facts());
        match compactor.start_task() {
            Ok(()) => Ok(compactor),
            Err(error) => {
                let _ = engine.close();
                Err(error)
            }
        }
    }

    /// Bytes written to runs since the store was opened.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Garbage scans since the store was opened.
    pub(crate) fn scans(&self) -> u64 {
        self.scans.load(Ordering::Relaxed)
    }

    /// Compacts what is worth it: all of it, or one step of it if there are no threads.
    pub(crate) fn compact(&self) -> Result<CompactOutcome> {
        self.engine.check_open()?;
        self.engine.check_writable()?;
        let mut busy = self.take_busy()?;
        self.go_on()?;
        let steps = !self.engine.has_threads();
        // What was appended before the call belongs to it; what steps go on with began earlier.
        let begins = !steps || busy.job.is_none();
        let mut sealed = !begins || self.seal_if_there_is_room()?;
        let mut damage = None;
        loop {
            match self.turn(&mut busy, true, &mut |_| self.go_on()) {
                // What was given back meanwhile may be room for another segment.
                Ok(Turn::Idle) if !sealed => {
                    sealed = self.seal_if_there_is_room()?;
                    if !sealed {
                        let (need, free) = (HEAD_ROOM, self.free());
                        return Ok(CompactOutcome::DiskFull { need, free });
                    }
                }
                Ok(Turn::Idle) => return damage.map_or(Ok(CompactOutcome::Done), Err),
                Ok(Turn::Full { need, free }) => {
                    return Ok(CompactOutcome::DiskFull { need, free });
                }
                Ok(Turn::Worked) if steps => return Ok(CompactOutcome::More),
                Ok(Turn::Worked) => {}
                // What proved damaged is quarantined: the rest is compacted, and the error told then.
                Err(error) if error.kind() == ErrorKind::Damaged && !steps => {
                    damage.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has everything that was ordered so far sealed. False if there is no room for another segment:
    /// what is sealed already is compacted all the same, and that gives room back.
    fn seal_if_there_is_room(&self) -> Result<bool> {
        match self.engine.seal_active() {
            Err(error) if error.kind() == ErrorKind::DiskFull => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Fails once the store is being closed.
    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    /// Does a step of the job under way, or finds the next job.
    fn turn(
        &self,
        busy: &mut Busy,
        thorough: bool,
        manners: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Turn> {
        if busy.job.is_none() || !thorough {
            // In the background a long job is no reason not to hear of the dead.
            self.scan_if_due(busy, thorough, manners)?;
        }
        if busy.job.is_none() {
            let stats = self.stats();
            let how = if thorough { How::Thorough } else { self.how(&mut busy.quiet) };
            let policy = self.policy(how, &stats);
            let Some(picked) = pick(&stats, &policy) else { return Ok(Turn::Idle) };
            match self.begin(busy, &picked, manners) {
                Ok(Some(full)) => match self.relieve(busy, &stats, manners)? {
                    true => {}
                    false => return Ok(full),
                },
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => return self.quarantine(&picked.inputs, error),
            }
        }
        self.advance(busy, manners)
    }

    /// Plans a job, unless there is no room for it.
    fn begin(
        &self,
        busy: &mut Busy,
        picked: &Pick,
        manners: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Option<Turn>> {
        let shape = Shape {
            run_bytes: picked.run_bytes,
            cut_from: picked.cut_from,
            generation: picked.generation,
            relieves: false,
            erases: false,
        };
        let job = Job::plan(&self.engine, &picked.inputs, shape, manners)?;
        if let Some((need, free)) = self.lacks(&job, u64::MAX) {
            return Ok(Some(Turn::Full { need, free }));
        }
        busy.job = Some(job);
        Ok(None)
    }

    /// On a full disk: plans a job that gives back more than it takes, and for which there is room
    /// with that of the reserve. False if there is none.
    fn relieve(
        &self,
        busy: &mut Busy,
        stats: &[SegmentStats],
        manners: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<bool> {
        let room = self.free().saturating_add(self.engine.reserved());
        let fits = |one: &&SegmentStats| {
            let gain = one.file_bytes.saturating_sub(one.output_bytes());
            !one.quarantined
                && one.output_bytes().saturating_add(RELIEF_ROOM) <= room
                && gain >= (one.file_bytes / LEAST_RELIEF).max(RELIEF_ROOM)
        };
        let Some(one) = stats.iter().filter(fits).min_by_key(|one| one.output_bytes()) else {
            return Ok(false);
        };
        let run_bytes = self.max_run(stats).max(one.file_bytes);
        let generation = one.generation.max(1);
        let shape =
            Shape { run_bytes, cut_from: run_bytes, generation, relieves: true, erases: false };
        let job = match Job::plan(&self.engine, &[one.id], shape, manners) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                return self.quarantine(&[one.id], error).map(|_| false);
            }
            planned => planned?,
        };
        if self.lacks(&job, u64::MAX).is_some()
            && (!self.engine.release_reserve() || self.lacks(&job, u64::MAX).is_some())
        {
            return Ok(false);
        }
        busy.job = Some(job);
        Ok(true)
    }

    /// What a job needs and what there is, if it cannot write so many bytes more, or all that it has
    /// to write, and leave some room. Others take room too while it goes on.
    fn lacks(&self, job: &Job, more: u64) -> Option<(u64, u64)> {
        let free = self.free();
        let next = job.left().min(more);
        let beside = if job.relieves() { RELIEF_ROOM } else { HEAD_ROOM };
        (next > 0 && next.saturating_add(beside) > free)
            .then(|| (job.need().saturating_add(HEAD_ROOM), free.saturating_add(job.taken())))
    }

    fn free(&self) -> u64 {
        self.engine.io.fs.free_space(&self.engine.dir).unwrap_or(u64::MAX)
    }

    /// Does a step of the job, and installs what it made if that was the last.
    fn advance(&self, busy: &mut Busy, manners: &mut dyn FnMut(u64) -> Result<()>) -> Result<Turn> {
        // It is put back after a step that went well: one that unwinds drops it.
        let Some(mut job) = busy.job.take() else { return Ok(Turn::Idle) };
        if let Some((need, free)) = self.lacks(&job, STEP) {
            return Ok(Turn::Full { need, free });
        }
        let (inputs, need) = (job.input_ids(), job.need().saturating_add(HEAD_ROOM));
        match self.engine.guarded(Worker::Compaction, || job.step(STEP, manners)) {
            Ok(false) => {
                busy.job = Some(job);
                return Ok(Turn::Worked);
            }
            Ok(true) => {}
            Err(error) => {
                drop(job);
                return match error.kind() {
                    ErrorKind::DiskFull => Ok(Turn::Full { need, free: self.free() }),
                    ErrorKind::Damaged => self.quarantine(&inputs, error),
                    _ => Err(error),
                };
            }
        }
        self.install(busy, job)?;
        Ok(Turn::Worked)
    }

    fn install(&self, busy: &mut Busy, job: Job) -> Result<Installed> {
        let deaths = self.engine.catalog.deaths.all();
        let (since, began) = job.deaths_before();
        let dropped = job.dropped();
        let installed = self.engine.guarded(Worker::Compaction, || job.install())?;
        debug_assert!(trust::contradictions(&self.stats()).is_empty(), "{:?}", self.stats());
        let written = installed.written.iter().map(|run| run.disk_len()).sum();
        self.written.fetch_add(written, Ordering::Relaxed);
        let now = self.engine.io.clock.monotonic();
        let took = now.saturating_sub(std::mem::replace(&mut busy.worked_since, now));
        busy.debt.reclaimed(dropped, written, took);
        if deaths != since {
            // Deaths during the job were booked on what is gone now.
            self.engine.catalog.deaths.lose_bookings(began);
        }
        busy.schedule.installed();
        Ok(installed)
    }

    /// Leaves the segment that proved damaged alone from now on, and no other: where the error does
    /// not name one of the store, all inputs of the job.
    fn quarantine(&self, inputs: &[u64], error: Error) -> Result<Turn> {
        let set = self.engine.catalog.segments();
        match scan::blamed(&set, &error) {
            Some(segment) if !segment.is_quarantined() => segment.quarantine(),
            _ => {
                let inputs = set.sealed.iter().filter(|segment| inputs.contains(&segment.id));
                inputs.for_each(|segment| segment.quarantine());
            }
        }
        Err(error)
    }

    /// Bytes of sealed segments that compaction leaves alone, since they proved damaged.
    pub(crate) fn quarantined_bytes(&self) -> u64 {
        let set = self.engine.catalog.segments();
        let damaged = set.sealed.iter().filter(|segment| segment.is_quarantined());
        damaged.map(|segment| segment.disk_len()).fold(0, u64::saturating_add)
    }

    /// Bytes of content of all sealed segments that live, and that are dead.
    fn content(&self) -> (u64, u64) {
        let set = self.engine.catalog.segments();
        let each = set.sealed.iter().filter_map(|segment| content_of(segment));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// What is known of each sealed segment.
    fn stats(&self) -> Vec<SegmentStats> {
        let set = self.engine.catalog.segments();
        let mut stats: Vec<SegmentStats> = set.sealed.iter().map(stats_of).collect();
        if !self.weighed.swap(true, Ordering::AcqRel) {
            // What is sealed from here on follows from these.
            for index in trust::contradictions(&stats) {
                let (Some(segment), Some(stats)) = (set.sealed.get(index), stats.get_mut(index))
                else {
                    continue;
                };
                segment.quarantine();
                stats.quarantined = true;
            }
        }
        stats
    }
}

/// Bytes of content of a sealed segment that live, and that are dead.
pub(crate) fn content_of(segment: &Segment) -> Option<(u64, u64)> {
    let content = fate::content_of_all(segment.trailer()?);
    let dead = segment.dead().0.min(content);
    Some((content - dead, dead))
}

fn stats_of(segment: &Arc<Segment>) -> SegmentStats {
    let (from, to) = names(segment).unwrap_or_else(|_| {
        // It may hold any name: nothing is merged across it.
        segment.quarantine();
        Default::default()
    });
    let (dead, since) = segment.dead();
    let trailer = segment.trailer();
    let content = trailer.map_or(0, fate::content_of_all);
    SegmentStats {
        id: segment.id,
        generation: trailer.map_or(0, |t| t.facts.generation),
        lsns: segment.lowest_lsn()..segment.end_lsn(),
        from,
        to,
        file_bytes: segment.disk_len(),
        live_bytes: content.saturating_sub(dead),
        dead_bytes: dead,
        agents: trailer.map_or(0, |t| t.agents),
        dead_since: (since != 0).then_some(since),
        quarantined: segment.is_quarantined(),
    }
}

/// What an erasure did: see [`Store::purge`](crate::Store::purge).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErasureReport {
    /// The agents of which something was erased, in the order of their names.
    pub agents: Vec<String>,
    /// Files whose living content was written anew, and that are gone.
    pub rewritten: Vec<PathBuf>,
    /// Files in which nothing lived, and that are gone.
    pub unlinked: Vec<PathBuf>,
    /// Files of the store that are gone, and whose bytes something still holds: a view, a value
    /// or an iterator that is still open, or a hard link such as a backup makes.
    pub pinned: Vec<PathBuf>,
    /// Segments that cannot be read whole: compaction leaves them alone, and they may hold bytes
    /// that were to be erased. A repair makes a store without them.
    pub damaged: Vec<PathBuf>,
}

impl ErasureReport {
    /// True if nothing holds any of the erased bytes any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pinned.is_empty() && self.damaged.is_empty()
    }
}
