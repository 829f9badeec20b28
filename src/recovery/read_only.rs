//! Opening for reading: a store as it is now, strictly, without its lock and without a change to its
//! directory.
//!
//! The manifest says what counts, as for an opening that writes. What an unsealed segment holds gets
//! a footer in memory. A writer may be at work meanwhile: it replaces the manifest, drops files and
//! appends frames. What looks wrong is therefore looked at again, and is an error once it stays.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, name_seed};
use crate::commit::clock::{Recorded, StoreTime};
use crate::commit::log::Log;
use crate::commit::order::Order;
use crate::commit::{Engine, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Fault;
use crate::format::manifest::{Forgotten, Holes, Listed, Manifest, Role};
use crate::io::Io;
use crate::manifest;
use crate::options::Options;
use crate::recovery::files::{Files, has_frame};
use crate::recovery::replay::Replay;
use crate::recovery::{RecoveryReport, STALE_WITHIN, not_a_store, tail};
use crate::segment::writer::{FIRST_FRAME, LogFile};
use crate::segment::{Segment, file_name};

/// Looks at a store whose manifest was replaced meanwhile.
const LOOKS: u32 = 100;
/// Looks that find the same fault under the same manifest.
const SAME: u32 = 4;
/// Time between two looks.
const BETWEEN: Duration = Duration::from_millis(5);

/// Opens the store in `dir` for reading.
///
/// # Errors
/// `NotAStore`, `Version`, `Damaged`, `StaleManifest`, `Io`. Nothing was changed.
pub(crate) fn open(
    io: Io,
    dir: &Path,
    options: &Options,
) -> Result<(Arc<Engine>, RecoveryReport, Option<Holes>)> {
    let (mut looks, mut same, mut last) = (0, 0, None);
    loop {
        let manifest = find(&io, dir)?;
        let error = match (Reading { io: &io, dir, options, manifest: &manifest }).open() {
            Ok((engine, report)) => return Ok((engine, report, manifest.holes)),
            Err(error) => error,
        };
        looks += 1;
        same = if last.as_ref() == Some(&manifest) { same + 1 } else { 1 };
        last = Some(manifest);
        let lasting = matches!(error.kind(), ErrorKind::Version | ErrorKind::NotAStore);
        if lasting || same >= SAME || looks >= LOOKS {
            return Err(error);
        }
        io.clock.sleep(BETWEEN);
    }
}

/// The manifest in force.
fn find(io: &Io, dir: &Path) -> Result<Manifest> {
    let files = Files::look(io, dir)?;
    if files.is_foreign() {
        return Err(not_a_store(dir, "the directory holds other files and no store"));
    }
    match manifest::read(io, dir)? {
        Some(manifest) => Ok(manifest),
        None => {
            files.check_nothing_lost(io, dir)?;
            Err(not_a_store(dir, "there is no store, and creating one was not asked for"))
        }
    }
}

/// One look at a store.
struct Reading<'a> {
    io: &'a Io,
    dir: &'a Path,
    options: &'a Options,
    manifest: &'a Manifest,
}

/// What the unsealed end of the log holds.
#[derive(Default)]
struct Unsealed {
    /// Those with frames, with footers in memory.
    segments: Vec<Arc<Segment>>,
    /// Where the frames of the last of them end.
    end: Option<(Arc<Segment>, u64)>,
    forgotten: Vec<Forgotten>,
    /// The latest time that a frame tells of.
    time: u64,
    report: RecoveryReport,
}

impl Reading<'_> {
    fn open(&self) -> Result<(Arc<Engine>, RecoveryReport)> {
        self.check_unlisted()?;
        let sealed = self.lines(|role| role == Role::Sealed);
        let mut segments = self.open_all(&sealed)?;
        for (segment, line) in segments.iter().zip(&sealed) {
            segment.load_footer(Some(line.footer_check))?;
        }
        let files = self.open_all(&self.lines(|r| matches!(r, Role::Active | Role::Spare)))?;
        let mut log =
            if self.manifest.clean_end != 0 { self.closed(&files)? } else { self.live(&files)? };
        segments.append(&mut log.segments);
        segments.sort_by_key(|segment| segment.base);
        let mut forgotten = self.manifest.forgotten.clone();
        forgotten.append(&mut log.forgotten);
        forgotten.sort_by_key(|line| line.lsn);
        let catalog = Catalog::new(self.manifest.store, self.options.resident_bytes, forgotten);
        catalog.install(|set, generation| {
            segments.iter().for_each(|segment| segment.set_sealed_at(generation));
            set.append(&mut segments);
        });
        let order = self.order(&files, log.end)?;
        let Manifest { claim, ref defaults, .. } = *self.manifest;
        let recorded = Recorded { time: self.manifest.time.max(log.time), claim };
        let clock = &self.io.clock;
        let engine = Engine::start(Opened {
            dir: self.dir.to_owned(),
            store: self.manifest.store,
            incarnation: self.manifest.incarnation,
            history: self.manifest.history,
            options: self.options.clone(),
            catalog,
            past_defaults: defaults.clone(),
            writing: None,
            order,
            log: Log::new(u64::MAX),
            time: StoreTime::new(recorded, clock.now(), clock.monotonic()),
            io: self.io.clone(),
        });
        Ok((engine, log.report))
    }

    /// Refuses segments with data that the manifest does not know: it is an older one.
    fn check_unlisted(&self) -> Result<()> {
        let files = Files::look(self.io, self.dir)?;
        for (id, run) in files.segments.iter().filter(|(_, run)| !run) {
            let listed =
                self.manifest.segments.iter().any(|line| (line.id, line.run) == (*id, *run));
            if listed || self.manifest.obsolete.contains(id) {
                continue;
            }
            if has_frame(self.io, self.dir, *id)? {
                let path = self.dir.join(file_name(*id, *run));
                let message = format!(
                    "{} holds data that the manifest does not list: the manifest is older than the \
                     segments. Bring the newest one back, or repair the store",
                    path.display()
                );
                return Err(Error::new(ErrorKind::StaleManifest, message).with_path(&path));
            }
        }
        Ok(())
    }

    /// Listed segments, in the order of the log.
    fn lines(&self, wanted: impl Fn(Role) -> bool) -> Vec<Listed> {
        let listed = self.manifest.segments.iter().filter(|line| wanted(line.role));
        let mut lines: Vec<Listed> = listed.copied().collect();
        lines.sort_by_key(|line| line.base);
        lines
    }

    fn open_all(&self, lines: &[Listed]) -> Result<Vec<Arc<Segment>>> {
        let (store, verify) = (self.manifest.store, self.options.verify);
        let open = |line| Segment::open(self.io, self.dir, store, line, verify).map(Arc::new);
        lines.iter().map(open).collect()
    }

    /// The log of a store that was closed: all of it is known to be whole.
    fn closed(&self, files: &[Arc<Segment>]) -> Result<Unsealed> {
        let active = self.lines(|role| role == Role::Active);
        let found = match active.as_slice() {
            [line] => files.iter().find(|segment| segment.id == line.id),
            _ => None,
        };
        let segment = found.ok_or_else(|| self.damage("it lists no active segment, or several"))?;
        let (frames, mut log) = (segment.frames(), Unsealed::default());
        let (mut replay, mut at) = (self.replay(segment), first_frame());
        while segment.base.saturating_add(at as u64) < self.manifest.clean_end {
            let damage = |fault: Fault| segment.damage(at as u64, fault.0);
            let frame = frames.frame(at).map_err(|fault| {
                let agents = frames.header(at).map(|(_, agents)| agents).unwrap_or_default();
                let error = damage(fault);
                agents.first().map_or(error.clone(), |agent| error.with_agent(agent.name))
            })?;
            replay.apply(&frame).map_err(damage)?;
            at = at.saturating_add(frame.header.len());
        }
        if frames.headers_between(at, at.saturating_add(STALE_WITHIN)).next().is_some() {
            let message = format!(
                "{} goes on after the end that the manifest knows: the manifest is older than the \
                 segments. Bring the newest one back, or repair the store",
                segment.path().display()
            );
            return Err(Error::new(ErrorKind::StaleManifest, message).with_path(segment.path()));
        }
        log.take(self.manifest.store, segment, replay, at as u64)?;
        // As an opening that writes has it.
        log.report = RecoveryReport::default();
        Ok(log)
    }

    /// The log of a store that is written, or that was not closed: its end may be torn.
    fn live(&self, files: &[Arc<Segment>]) -> Result<Unsealed> {
        let read = tail::read_beside(self.io, files, self.manifest.durable)?;
        let mut log = Unsealed { time: read.time, ..Unsealed::default() };
        for stretch in &read.stretches {
            let (segment, mut replay) = (&stretch.segment, self.replay(&stretch.segment));
            for (at, _) in &stretch.frames {
                let damage = |fault: Fault| segment.damage(*at as u64, fault.0);
                let frame = segment.frames().frame(*at).map_err(damage)?;
                replay.apply(&frame).map_err(damage)?;
            }
            log.take(self.manifest.store, segment, replay, stretch.end as u64)?;
        }
        log.report.bytes_cut = read.bytes_cut;
        log.report.possibly_acknowledged = read.bytes_cut > 0;
        Ok(log)
    }

    fn replay(&self, segment: &Arc<Segment>) -> Replay {
        Replay::beside(Arc::clone(segment), name_seed(self.manifest.store))
    }

    /// The end of the log as figures have it. Nothing is ever appended there.
    fn order(&self, files: &[Arc<Segment>], end: Option<(Arc<Segment>, u64)>) -> Result<Order> {
        let last = match end {
            Some(end) => Some(end),
            None => files.first().map(|segment| (Arc::clone(segment), FIRST_FRAME)),
        };
        let (active, end) = last.ok_or_else(|| self.damage("it lists no active segment"))?;
        let open = |segment: &Arc<Segment>| LogFile::reopen(self.io, Arc::clone(segment), false);
        let mut order = Order::new(open(&active)?, end);
        for spare in files.iter().filter(|file| file.id != active.id && file.trailer().is_none()) {
            order.spares.push_back(open(spare)?);
        }
        Ok(order)
    }

    fn damage(&self, reason: &str) -> Error {
        let path = self.dir.join(manifest::NAME);
        Error::damaged(crate::error::Damage::new(path, 0, reason))
    }
}

impl Unsealed {
    /// Takes what a segment holds up to `end`: it gets a footer in memory.
    fn take(
        &mut self,
        store: u128,
        segment: &Arc<Segment>,
        replay: Replay,
        end: u64,
    ) -> Result<()> {
        self.report.frames_kept = self.report.frames_kept.saturating_add(replay.frames);
        self.report.bytes_kept = self.report.bytes_kept.saturating_add(replay.bytes);
        self.end = Some((Arc::clone(segment), end));
        if replay.is_empty() {
            segment.publish(end);
            return Ok(());
        }
        self.forgotten.extend(replay.index(store, end, None)?);
        self.segments.push(Arc::clone(segment));
        Ok(())
    }
}

fn first_frame() -> usize {
    usize::try_from(FIRST_FRAME).unwrap_or(0)
}
