//! Erasing: everything that is dead leaves every file of the store, now.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use crate::commit::worker::Worker;
use crate::compaction::field::LARGEST_JOB;
use crate::compaction::job::{Installed, Job, Shape};
use crate::compaction::pick::{SegmentStats, is_valid};
use crate::compaction::{Busy, Compactor, ErasureReport, STEP, stats_of};
use crate::error::{Error, ErrorKind, Result};
use crate::recovery::files::Files;
use crate::segment::{Segment, file_name};

/// What a purge has done so far.
#[derive(Default)]
struct Erased {
    agents: BTreeSet<String>,
    /// Files that are gone and have names elsewhere, or may have.
    linked: Vec<PathBuf>,
    /// Files that the purge has written.
    ours: BTreeSet<PathBuf>,
}

impl Compactor {
    /// Erases what is dead by now from all files of the store.
    pub(crate) fn purge(&self) -> Result<ErasureReport> {
        self.engine.check_open()?;
        self.engine.check_writable()?;
        let mut busy = self.take_busy()?;
        self.go_on()?;
        // What a job under way knew of the dead is older than this call.
        busy.job = None;
        self.engine.sync()?;
        let (mut erased, mut report) = (Erased::default(), ErasureReport::default());
        if !self.seal_if_there_is_room()? {
            // What is sealed already may give back enough for another segment.
            match self.erase_dirty(&mut busy, &mut erased, &mut report) {
                Err(error) if error.kind() != ErrorKind::DiskFull => return Err(error),
                _ => self.engine.seal_active()?,
            }
        }
        // What the first round has erased is what prefixes, tombstones and unsets were held against:
        // the second takes their names out of the runs that kept them. Of one name or key no more than
        // one is left by then, so that the order of the segments does not matter.
        for _ in 0..2 {
            if !self.erase_dirty(&mut busy, &mut erased, &mut report)? {
                break;
            }
        }
        self.unlink_leftovers()?;
        report.agents = erased.agents.into_iter().collect();
        let set = self.engine.catalog.segments();
        let damaged = set.sealed.iter().filter(|segment| segment.is_quarantined());
        report.damaged = damaged.map(|segment| segment.path().to_owned()).collect();
        report.pinned = self.engine.catalog.retired().iter().map(|s| s.path().to_owned()).collect();
        report.pinned.extend(erased.linked);
        report.pinned.sort();
        report.pinned.dedup();
        Ok(report)
    }

    /// Scans, and rewrites each segment in which anything is dead, however little. False if there was
    /// none.
    fn erase_dirty(
        &self,
        busy: &mut Busy,
        erased: &mut Erased,
        report: &mut ErasureReport,
    ) -> Result<bool> {
        let facts = self.facts();
        let date = busy.schedule.due_now(&facts).unwrap_or(facts.now);
        let scan = self.scan(busy, &facts, date, &mut || self.go_on())?;
        let mut dirty: Vec<Arc<Segment>> = Vec::new();
        for (segment, found) in scan.segments {
            if found.dirty || segment.has_remains(&self.engine.io)? {
                dirty.push(segment);
            }
        }
        let groups = self.groups(&dirty);
        // Or it would itself be what holds them.
        drop(dirty);
        let is_dirty = !groups.is_empty();
        let mut groups = VecDeque::from(groups);
        let mut full = None;
        while let Some(inputs) = groups.pop_front() {
            let linked = self.linked_elsewhere(&inputs);
            let installed = match self.erase(busy, &inputs) {
                // Damage keeps nothing else from being erased.
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let _ = self.quarantine(&inputs, error);
                    continue;
                }
                // One by one they need less room, and each gives some back for the next.
                Err(error) if error.kind() == ErrorKind::DiskFull => {
                    if inputs.len() > 1 {
                        groups.extend(inputs.into_iter().map(|id| vec![id]));
                    } else {
                        full = Some(error);
                    }
                    continue;
                }
                installed => installed?,
            };
            erased.linked.extend(linked);
            erased.agents.extend(installed.erased);
            // What this call has written itself is not reported when it is written again.
            let replaced =
                installed.replaced.into_iter().filter(|path| !erased.ours.contains(path));
            let into = if installed.written.is_empty() {
                &mut report.unlinked
            } else {
                &mut report.rewritten
            };
            into.extend(replaced);
            erased.ours.extend(installed.written.iter().map(|run| run.path().to_owned()));
        }
        full.map_or(Ok(is_dirty), Err)
    }

    fn erase(&self, busy: &mut Busy, inputs: &[u64]) -> Result<Installed> {
        let stats = self.stats();
        let generation = stats.iter().filter(|s| inputs.contains(&s.id)).map(|s| s.generation);
        // What was one run stays one: files do not get more.
        let longest = stats.iter().filter(|s| s.generation > 0 && inputs.contains(&s.id));
        let longest = longest.map(|s| s.file_bytes).max().unwrap_or(0);
        let run_bytes = self.max_run(&stats).max(longest);
        let shape = Shape {
            run_bytes,
            cut_from: run_bytes / 4,
            generation: generation.max().unwrap_or(0).max(1),
            // As it is asked for, whatever room it takes.
            relieves: true,
            erases: true,
        };
        let mut job = Job::plan(&self.engine, inputs, shape, &mut |_| self.go_on())?;
        let mut more = u64::MAX;
        loop {
            if let Some((need, free)) = self.lacks(&job, more)
                && (!self.engine.release_reserve() || self.lacks(&job, more).is_some())
            {
                let message = format!(
                    "erasing needs {need} bytes of room to write what lives anew, and {free} are free"
                );
                return Err(Error::new(ErrorKind::DiskFull, message));
            }
            more = STEP;
            let step = || job.step(STEP, &mut |_| self.go_on());
            if self.engine.guarded(Worker::Compaction, step)? {
                return self.install(busy, job);
            }
        }
    }

    /// Sees to it that files which are no part of the store any more are gone: what could not be
    /// unlinked when it was replaced, and runs of jobs that came to nothing.
    fn unlink_leftovers(&self) -> Result<()> {
        let engine = &self.engine;
        let Some(writing) = &engine.writing else { return Ok(()) };
        engine.sweep_obsolete()?;
        let manifest = writing.manifest.current();
        let (io, dir) = (&engine.io, &engine.dir);
        let listed = |id: u64| manifest.segments.iter().any(|line| line.id == id);
        let mut orphans = Files::look(io, dir)?.segments;
        // Logs that are not listed are about to be.
        orphans.retain(|(id, run)| *run && !listed(*id));
        for (id, run) in &orphans {
            let path = dir.join(file_name(*id, *run));
            io.fs.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        if orphans.is_empty() {
            return Ok(());
        }
        io.fs.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))
    }

    /// The segments in groups that can be done in one go: log segments of one age together, so that
    /// the same copy clusters them. Those that need the least room come first.
    fn groups(&self, dirty: &[Arc<Segment>]) -> Vec<Vec<u64>> {
        let all = self.stats();
        let most = self.max_run(&all).saturating_mul(2).min(LARGEST_JOB);
        let mut groups: Vec<Vec<SegmentStats>> = Vec::new();
        // What is dead as a whole is dropped first, and costs nothing.
        let dirty: Vec<SegmentStats> = dirty.iter().map(stats_of).collect();
        let (dead, others): (Vec<_>, Vec<_>) = dirty.into_iter().partition(|s| s.live_bytes == 0);
        groups.extend(dead.into_iter().map(|stats| vec![stats]));
        let dead = groups.len();
        for stats in others {
            if groups.len() > dead
                && let Some(last) = groups.last_mut()
                && stats.generation == 0
                && last.iter().all(|member| member.generation == 0)
                && last.iter().map(|m| m.live_bytes).sum::<u64>() + stats.live_bytes <= most
            {
                let together: Vec<&SegmentStats> = last.iter().chain([&stats]).collect();
                if is_valid(&together, &all) {
                    last.push(stats);
                    continue;
                }
            }
            groups.push(vec![stats]);
        }
        groups.sort_by_key(|group| group.iter().map(|member| member.live_bytes).sum::<u64>());
        groups.iter().map(|group| group.iter().map(|member| member.id).collect()).collect()
    }

    /// Those of the segments whose files have names elsewhere, or may have.
    fn linked_elsewhere(&self, ids: &[u64]) -> Vec<PathBuf> {
        let set = self.engine.catalog.segments();
        let inputs = set.sealed.iter().filter(|segment| ids.contains(&segment.id));
        let linked =
            |path: &&std::path::Path| self.engine.io.fs.links(path).map_or(true, |links| links > 1);
        inputs.map(|segment| segment.path()).filter(linked).map(|path| path.to_owned()).collect()
    }
}
