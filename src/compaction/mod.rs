//! Compaction: segments in the order of arrival become runs clustered by agent, and what is dead
//! is left behind.
//!
//! `pick` decides what is worth doing, `survey` finds out what is dead, `plan` where runs are cut,
//! `job` does it step by step, with `merge` to walk the agents, `fate` to tell what lives of each
//! and `writer` to write it. `erase` does all of it at once for what must be gone, `backup` copies a
//! store while it is written. `thread` does what nobody waits for.

pub(crate) mod backup;
mod cuts;
mod debt;
pub(crate) mod erase;
mod fate;
mod field;
mod job;
mod merge;
pub(crate) mod pick;
mod plan;
mod policy;
mod stats;
mod survey;
#[cfg(test)]
mod sweep;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod thread;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::commit::Engine;
use crate::commit::order::closed;
use crate::compaction::debt::Debt;
use crate::compaction::job::{Installed, Job, Shape, names};
use crate::compaction::pick::{Pick, SegmentStats, pick};
use crate::error::{ErrorKind, Result};
use crate::segment::Segment;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, MutexGuard};

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
/// All footers are walked again once so large a part of the store was appended.
const SURVEY_SHARE: u64 = 8;
/// A compaction that would leave less than this of the disk free, with its next step, is given up.
const HEAD_ROOM: u64 = 1 << 20;

/// What compacts a store.
pub(crate) struct Compactor {
    pub(crate) engine: Arc<Engine>,
    /// One at a time compacts, surveys, erases or backs up.
    busy: Mutex<Busy>,
    stop: AtomicBool,
    /// Somebody waits for `busy`: a job in the background makes way at its next turn.
    wanted: AtomicU64,
    /// Bytes written to runs since the store was opened.
    written: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What goes on between two steps.
#[derive(Default)]
struct Busy {
    job: Option<Job>,
    /// The last survey: its set's generation, and the count of deaths that were not accounted.
    surveyed: Option<(u64, u64)>,
    /// Segments that a job could not read; it is not tried again before the store is reopened.
    quarantined: Vec<u64>,
    debt: Debt,
    /// When the last job was done, or there was nothing to do.
    worked_since: Duration,
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
    /// Starts compacting, in a thread if the store has any. `surveyed`: what is dead is known, as far
    /// as it was when the store was closed.
    pub(crate) fn start(engine: &Arc<Engine>, surveyed: bool) -> Arc<Self> {
        let generation = engine.catalog.segments().generation;
        let surveyed = surveyed.then_some((generation, 0));
        let compactor = Arc::new(Compactor {
            engine: Arc::clone(engine),
            busy: Mutex::new(Busy { surveyed, ..Busy::default() }),
            stop: AtomicBool::new(false),
            wanted: AtomicU64::new(0),
            written: AtomicU64::new(0),
            thread: Mutex::default(),
        });
        *compactor.thread.lock() = compactor.spawn();
        compactor
    }

    /// Bytes written to runs since the store was opened.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Compacts what is worth it: all of it, or one step of it if there are no threads.
    pub(crate) fn compact(&self) -> Result<CompactOutcome> {
        self.engine.check_open()?;
        self.engine.check_writable()?;
        let mut busy = self.take_busy();
        self.go_on()?;
        let steps = !self.engine.has_threads();
        // What was appended before the call belongs to it; what steps go on with began earlier.
        if !steps || busy.job.is_none() {
            self.engine.seal_active()?;
        }
        loop {
            match self.turn(&mut busy, true, &mut |_| self.go_on())? {
                Turn::Idle => return Ok(CompactOutcome::Done),
                Turn::Full { need, free } => return Ok(CompactOutcome::DiskFull { need, free }),
                Turn::Worked if steps => return Ok(CompactOutcome::More),
                Turn::Worked => {}
            }
        }
    }

    /// Waits until nobody else is at work. A job in the background makes way.
    fn take_busy(&self) -> MutexGuard<'_, Busy> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let busy = self.busy.lock();
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        busy
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
            self.survey_if_due(busy, thorough, manners)?;
        }
        if busy.job.is_none() {
            let stats = self.stats(&busy.quarantined)?;
            let policy = self.policy(thorough, &stats);
            let Some(picked) = pick(&stats, &policy) else { return Ok(Turn::Idle) };
            match self.begin(busy, &picked, manners) {
                Ok(Some(full)) => return Ok(full),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => return self.quarantine(busy, &picked.inputs, error),
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
        };
        let job = Job::plan(&self.engine, &picked.inputs, shape, manners)?;
        if let Some((need, free)) = self.lacks(&job, u64::MAX) {
            return Ok(Some(Turn::Full { need, free }));
        }
        busy.job = Some(job);
        Ok(None)
    }

    /// What a job needs and what there is, if it cannot write so many bytes more, or all that it has
    /// to write, and leave some room. Others take room too while it goes on.
    fn lacks(&self, job: &Job, more: u64) -> Option<(u64, u64)> {
        let free = self.free();
        let next = job.left().min(more);
        (next > 0 && next.saturating_add(HEAD_ROOM) > free)
            .then(|| (job.need().saturating_add(HEAD_ROOM), free.saturating_add(job.taken())))
    }

    fn free(&self) -> u64 {
        self.engine.io.fs.free_space(&self.engine.dir).unwrap_or(u64::MAX)
    }

    /// Does a step of the job, and installs what it made if that was the last.
    fn advance(&self, busy: &mut Busy, manners: &mut dyn FnMut(u64) -> Result<()>) -> Result<Turn> {
        let Some(job) = &mut busy.job else { return Ok(Turn::Idle) };
        if let Some((need, free)) = self.lacks(job, STEP) {
            busy.job = None;
            return Ok(Turn::Full { need, free });
        }
        let (inputs, need) = (job.input_ids(), job.need().saturating_add(HEAD_ROOM));
        match job.step(STEP, manners) {
            Ok(false) => return Ok(Turn::Worked),
            Ok(true) => {}
            Err(error) => {
                busy.job = None;
                return match error.kind() {
                    ErrorKind::DiskFull => Ok(Turn::Full { need, free: self.free() }),
                    ErrorKind::Damaged => self.quarantine(busy, &inputs, error),
                    _ => Err(error),
                };
            }
        }
        if let Some(job) = busy.job.take() {
            self.install(busy, job)?;
        }
        Ok(Turn::Worked)
    }

    fn install(&self, busy: &mut Busy, job: Job) -> Result<Installed> {
        let deaths = self.engine.catalog.deaths();
        let since = job.deaths_before();
        let dropped = job.dropped();
        let installed = job.install()?;
        let written = installed.written.iter().map(|run| run.disk_len()).sum();
        self.written.fetch_add(written, Ordering::Relaxed);
        let now = self.engine.io.clock.monotonic();
        let took = now.saturating_sub(std::mem::replace(&mut busy.worked_since, now));
        busy.debt.reclaimed(dropped, written, took);
        if deaths != since {
            // Deaths during the job were accounted on what is gone now: they are surveyed, at once
            // if there is a date by which they have to be erased.
            let dated = self.engine.options.erase_within.is_some();
            busy.surveyed = busy.surveyed.filter(|_| !dated).map(|(set, _)| (set, u64::MAX));
        }
        Ok(installed)
    }

    /// Leaves the inputs of a job that met damage alone from now on.
    fn quarantine(
        &self,
        busy: &mut Busy,
        inputs: &[u64],
        error: crate::error::Error,
    ) -> Result<Turn> {
        busy.quarantined.extend_from_slice(inputs);
        Err(error)
    }

    /// Surveys if deaths happened that nobody could account, or prefixes were forgotten.
    fn survey_if_due(
        &self,
        busy: &mut Busy,
        thorough: bool,
        manners: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let now = (self.engine.catalog.segments().generation, self.engine.catalog.unaccounted());
        let due = match busy.surveyed {
            None => true,
            Some(then) if thorough => then != now,
            Some((_, unaccounted)) => {
                // Footers are walked again when enough was appended to tell of something.
                let appended = self.engine.ordered_end().saturating_sub(busy.debt.surveyed_to());
                (unaccounted != now.1 || self.expires()) && appended >= self.survey_each()
            }
        };
        if due {
            // Nothing but a date tells that something has expired: it is read for a reason only.
            let expired = thorough || self.engine.options.erase_within.is_some();
            let (_, booked) = self.content();
            let end = self.engine.ordered_end();
            survey::survey(&self.engine, expired, &mut || manners(0))?;
            busy.debt.surveyed(end, booked, self.content().1);
            busy.surveyed = Some(now);
        }
        Ok(())
    }

    /// Bytes that are appended between two surveys.
    fn survey_each(&self) -> u64 {
        let (live, dead) = self.content();
        (live.saturating_add(dead) / SURVEY_SHARE).max(self.engine.options.segment_bytes)
    }

    /// Bytes of content of all sealed segments that live, and that are dead.
    fn content(&self) -> (u64, u64) {
        let set = self.engine.catalog.segments();
        let each = set.sealed.iter().filter_map(|segment| content_of(segment));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Whether entries die by policies alone.
    fn expires(&self) -> bool {
        self.engine.options.retention != crate::types::Retention::new()
    }

    /// What is known of each sealed segment.
    fn stats(&self, quarantined: &[u64]) -> Result<Vec<SegmentStats>> {
        let set = self.engine.catalog.segments();
        set.sealed.iter().map(|segment| stats_of(segment, quarantined)).collect()
    }

    /// What died by then is to be erased now. Half of the time is for the work itself.
    fn erase_before(&self) -> Option<u64> {
        let within = u64::try_from(self.engine.options.erase_within?.as_millis());
        Some(self.engine.now().saturating_sub(within.unwrap_or(u64::MAX) / 2))
    }
}

/// Bytes of content of a sealed segment that live, and that are dead.
pub(crate) fn content_of(segment: &Segment) -> Option<(u64, u64)> {
    let content = fate::content_of_all(segment.trailer()?);
    let dead = segment.dead().0.min(content);
    Some((content - dead, dead))
}

fn stats_of(segment: &Arc<Segment>, quarantined: &[u64]) -> Result<SegmentStats> {
    let (from, to) = names(segment)?;
    let (dead, since) = segment.dead();
    let trailer = segment.trailer();
    let content = trailer.map_or(0, fate::content_of_all);
    Ok(SegmentStats {
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
        quarantined: quarantined.contains(&segment.id),
    })
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
}

impl ErasureReport {
    /// True if nothing holds any of the erased bytes any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pinned.is_empty()
    }
}
