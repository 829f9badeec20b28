//! Salvage: opening read-only whatever can be read. Segments without a sound footer get one in
//! memory, made from their whole records; nothing on disk is changed and no lock is taken. A store that
//! a process writes meanwhile is looked at again when its manifest has moved.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, name_seed};
use crate::commit::clock::{Recorded, StoreTime};
use crate::commit::log::Log;
use crate::commit::order::Order;
use crate::commit::seal::Run;
use crate::commit::{Engine, Opened};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::format::frame::Link;
use crate::format::manifest::{Forgotten, Manifest, Role};
use crate::io::{File, Io};
use crate::manifest;
use crate::options::Options;
use crate::recovery::files::Files;
use crate::recovery::findings::Findings;
use crate::recovery::gather::Found;
use crate::recovery::replay::Replay;
use crate::recovery::runs::{self, BrokenRun};
use crate::recovery::walk::Extent;
use crate::segment::Segment;
use crate::segment::window::Window;
use crate::segment::writer::{FIRST_FRAME, LogFile};

/// How often a store is looked at that a process writes meanwhile.
const ATTEMPTS: u32 = 16;
/// The longest pause between two attempts; the first is a millisecond.
const LONGEST_PAUSE: Duration = Duration::from_millis(128);
/// Records in which a wrong byte is searched for; a header counts for several. Each takes up to 20 ms.
const TRIES: u32 = 256;

/// What of the files is read by the opening itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Indices, and the frames of segments that have none.
    Indices,
    /// All frames too, so that a failing medium is an error of the opening and not a signal of a map
    /// later.
    Everything,
}

/// Opens what can be read of the store in `dir`.
pub(crate) fn open(
    io: Io,
    dir: &Path,
    options: &Options,
    probe: Probe,
) -> Result<(Arc<Engine>, Findings)> {
    let mut before = None;
    let mut pause = Duration::from_millis(1);
    for _ in 0..ATTEMPTS {
        let mut salvage = Salvage::new(&io, dir, options, probe);
        let sealed = salvage.attempt()?;
        if salvage.is_settled(before.as_deref())? {
            return salvage.start(sealed);
        }
        before = Some(std::mem::take(&mut salvage.found.report.damage));
        // What was mapped keeps the room of files that are gone.
        drop((sealed, salvage));
        io.pause(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let message = format!(
        "the store in {} is written faster than it can be looked at: try again, or read it in the \
         process that has it open",
        dir.display()
    );
    Err(Error::new(ErrorKind::InUse, message))
}

pub(super) struct Salvage<'a> {
    pub(super) io: &'a Io,
    pub(super) dir: &'a Path,
    pub(super) options: &'a Options,
    pub(super) probe: Probe,
    pub(super) manifest: Option<Manifest>,
    /// The manifest says that it is of another version, which no checksum covers: it counts only if
    /// no segment is of this one.
    version: Option<Error>,
    pub(super) found: Findings,
    /// No manifest tells which segments count: there is none, or one that lists what is missing.
    pub(super) loose: bool,
    /// Something was there a moment ago and is gone, or came meanwhile: a process writes the store.
    pub(super) moved: bool,
    /// Frames of the log below this lsn have been taken from another segment: a recovery that was
    /// cut short leaves some twice.
    seen_to: u64,
    forgotten: Vec<Forgotten>,
    pub(super) store: u128,
    pub(super) tries: u32,
    /// Every byte of the log below this lsn was on stable storage: the manifest or a frame says so.
    pub(super) proven: u64,
    /// The log is torn before what is read now.
    pub(super) torn: bool,
    /// A file of the store: the engine wants one though nothing is written.
    pub(super) anchor: Option<(Arc<Segment>, Arc<dyn File>)>,
}

/// What became of a file that was looked at.
enum Indexed {
    Ready(Option<Arc<Segment>>),
    /// A run without a sound footer: what to make of it depends on the others.
    Broken(Box<BrokenRun>),
}

/// What the log says of one of its segments.
#[derive(Clone, Copy, Default)]
struct Ends {
    /// It had no frame when it was first looked at, and neither had a later one.
    blank: bool,
    /// The offset at which the next segment says that its frames end.
    linked: Option<u64>,
}

impl<'a> Salvage<'a> {
    fn new(io: &'a Io, dir: &'a Path, options: &'a Options, probe: Probe) -> Self {
        Salvage {
            io,
            dir,
            options,
            probe,
            manifest: None,
            version: None,
            found: Findings::default(),
            loose: false,
            moved: false,
            seen_to: 0,
            forgotten: Vec::new(),
            store: 0,
            tries: TRIES,
            proven: 0,
            torn: false,
            anchor: None,
        }
    }

    /// Reads what there is.
    fn attempt(&mut self) -> Result<Vec<Arc<Segment>>> {
        let dir = self.dir;
        let files = Files::look(self.io, dir)?;
        if files.is_nothing() {
            return Err(nothing(dir));
        }
        self.read_manifest()?;
        let found = self.gather(&files)?;
        self.index_all(found)
    }

    /// Whether what was read is of one moment. Without damage it is: what the manifest listed was
    /// there, and stays readable. Damage may be what a writer did meanwhile.
    fn is_settled(&self, before: Option<&[Damage]>) -> Result<bool> {
        let damage = &self.found.report.damage;
        if damage.is_empty() && !self.moved {
            return Ok(true);
        }
        let now = match manifest::read(self.io, self.dir) {
            Ok(now) => now,
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            // It was damaged before, or it is now: then the next attempt finds it so.
            Err(_) => None,
        };
        let mark = |m: &Manifest| (m.store, m.incarnation, m.generation);
        let same = now.as_ref().map(mark) == self.manifest.as_ref().map(mark);
        // What is damaged in the same places twice is damaged.
        Ok((same && !self.moved) || before.is_some_and(|before| before == damage))
    }

    /// Starts an engine over the segments.
    fn start(mut self, mut sealed: Vec<Arc<Segment>>) -> Result<(Arc<Engine>, Findings)> {
        let (io, options) = (self.io.clone(), self.options);
        if sealed.is_empty() {
            self.check_empty()?;
        }
        let Some((segment, file)) = self.anchor.take() else {
            return Err(Error::damaged(Damage::new(self.dir, 0, "no segment can be read")));
        };
        let order = Order::new(LogFile::of(segment, file), FIRST_FRAME);
        // Without a manifest nothing says how late it was: the clock is believed.
        let unknown = || Manifest { time: io.clock.now(), ..Manifest::default() };
        let manifest = self.manifest.take().unwrap_or_else(unknown);
        self.found.holes = manifest.holes;
        let mut forgotten = manifest.forgotten;
        forgotten.append(&mut self.forgotten);
        forgotten.sort_by_key(|line| line.lsn);
        let catalog = Catalog::new(self.store, options.resident_bytes, forgotten);
        catalog.install(|set, generation| {
            sealed.iter().for_each(|segment| segment.set_sealed_at(generation));
            set.append(&mut sealed);
        });
        let recorded = Recorded { time: manifest.time, claim: manifest.claim };
        let engine = Engine::start(Opened {
            dir: self.dir.to_owned(),
            store: self.store,
            incarnation: manifest.incarnation,
            history: manifest.history,
            options: options.clone().salvage(true),
            catalog,
            past_defaults: manifest.defaults,
            writing: None,
            order,
            log: Log::new(u64::MAX),
            time: StoreTime::new(recorded, io.clock.now(), io.clock.monotonic()),
            io,
        });
        Ok((engine, self.found))
    }

    /// A store in which nothing is, is empty if its manifest says so; without one it was not made.
    fn check_empty(&self) -> Result<()> {
        if let Some(error) = &self.version {
            return Err(error.clone());
        }
        let report = &self.found.report;
        match &self.manifest {
            Some(_) if report.damage.is_empty() => Ok(()),
            None if report.damage.len() == 1 && report.bytes_cut == 0 => Err(nothing(self.dir)),
            _ => Err(Error::damaged(Damage::new(self.dir, 0, "no segment can be read"))),
        }
    }

    fn read_manifest(&mut self) -> Result<()> {
        let path = self.dir.join(manifest::NAME);
        match manifest::read(self.io, self.dir) {
            Ok(Some(manifest)) => {
                self.store = manifest.store;
                self.proven = manifest.durable.max(manifest.clean_end);
                self.manifest = Some(manifest);
            }
            Ok(None) => {
                self.found.any_agent = true;
                self.found.damage(&path, 0, "the manifest is missing");
            }
            Err(error) => match error.damage() {
                Some(damage) => {
                    self.found.any_agent = true;
                    self.found.add(damage.clone());
                }
                // A feature word is under the check, other than the version: it is not to be guessed
                // what the store is without it.
                None if manifest::needs_features(self.io, self.dir)? => return Err(error),
                None if error.kind() == ErrorKind::Version => {
                    self.found.any_agent = true;
                    self.found.damage(&path, 0, "the manifest says that it is of another version");
                    self.version = Some(error);
                }
                None => return Err(error),
            },
        }
        Ok(())
    }

    /// Sees to the footers of the segments. Gives them in the order of their lsns.
    fn index_all(&mut self, mut segments: Vec<Found>) -> Result<Vec<Arc<Segment>>> {
        segments.sort_by_key(|found| (found.listed.base, found.listed.id));
        let ends = self.look_at_ends(&segments)?;
        let listed = self.manifest.iter().flat_map(|manifest| manifest.segments.iter().copied());
        let logs = segments.iter().map(|found| found.listed).chain(listed).filter(|l| !l.run);
        let logs: Vec<u64> = logs.map(|log| log.base).collect();
        let (mut sealed, mut broken) = (Vec::new(), Vec::new());
        for (found, ends) in segments.into_iter().zip(ends) {
            match self.index(found, ends)? {
                Indexed::Ready(segment) => sealed.extend(segment),
                Indexed::Broken(run) => broken.push(run),
            }
        }
        let whole: Vec<Arc<Segment>> = sealed.clone();
        for run in broken {
            sealed.extend(self.rebuild(*run, &whole, &logs)?);
        }
        if self.loose {
            runs::hide_leftovers(&sealed);
        }
        sealed.sort_by_key(|segment| (segment.lowest_lsn(), segment.id));
        Ok(sealed)
    }

    /// Looks, from the end of the log on, which segments hold frames, and where their first frames say
    /// that the segments before them end. In this order: a writer may go on meanwhile, and a segment
    /// that was left when it was looked at is whole when it is read.
    fn look_at_ends(&mut self, segments: &[Found]) -> Result<Vec<Ends>> {
        let mut ends = vec![Ends::default(); segments.len()];
        let mut links: Vec<Link> = Vec::new();
        let mut met_frame = false;
        for (found, ends) in segments.iter().zip(&mut ends).rev() {
            if found.listed.run {
                continue;
            }
            if found.vouched && found.listed.role == Role::Sealed {
                met_frame = true;
                continue;
            }
            let link = links.iter().find(|link| link.id == found.listed.id);
            let base = found.listed.base;
            ends.linked = link.and_then(|link| link.end.checked_sub(base));
            let Some(mut window) = self.window(found, found.listed.capacity)? else { continue };
            links.extend(window.header(FIRST_FRAME)?.and_then(|header| header.link));
            let has_frame = self.read_evidence(&mut window)?;
            ends.blank = !met_frame && !has_frame;
            met_frame |= has_frame;
        }
        Ok(ends)
    }

    /// Reads what the frame headers of a segment prove to have been on stable storage; true if there is
    /// one.
    fn read_evidence(&mut self, window: &mut Window) -> Result<bool> {
        let (mut at, mut has_frame) = (FIRST_FRAME, false);
        while let Some((found, header)) = window.next_header(at)? {
            has_frame = true;
            self.proven = self.proven.max(header.durable);
            at = found.saturating_add(header.len() as u64);
        }
        Ok(has_frame)
    }

    /// Sees to the footer of a segment.
    fn index(&mut self, found: Found, ends: Ends) -> Result<Indexed> {
        let listed = found.listed;
        let segment = Arc::clone(&found.segment);
        let is_sealed = found.vouched && listed.role == Role::Sealed;
        let check = is_sealed.then_some(listed.footer_check);
        // Only a footer that the manifest vouches for, or that there is no manifest to ask about,
        // says where the data end.
        let may_have = is_sealed || self.manifest.is_none() || listed.run;
        let footer = if may_have { segment.load_footer(check) } else { Ok(()) };
        if let Err(error) = &footer
            && error.kind() == ErrorKind::Version
        {
            return Err(error.clone());
        }
        let mut fault = footer.err().and_then(|error| error.damage().cloned());
        let sound = segment.trailer().is_some() && segment.check_footer().is_ok();
        if let Some(trailer) = segment.trailer().filter(|_| !sound) {
            fault = Some(Damage::new(segment.path(), trailer.footer_at, "the footer is damaged"));
        }
        // A run is no batch of the log. A log segment of lsns that were taken from another one already
        // is read frame by frame.
        if sound && (listed.run || segment.base >= self.seen_to.saturating_sub(4096)) {
            self.take_prefixes(&segment);
            if self.probe == Probe::Everything {
                self.check_frames(&found)?;
            }
            if !listed.run {
                self.seen_to = self.seen_to.max(segment.end_lsn());
            }
            return Ok(Indexed::Ready(Some(segment)));
        }
        let known_end = segment.trailer().map(|trailer| trailer.facts.data_end);
        let end = known_end.or((listed.data_end > 0).then_some(listed.data_end));
        let known = runs::told(&segment);
        // The segment that lost its footer in memory is mapped anew, to be given another.
        let segment = if segment.trailer().is_some() {
            match self.map(&found)? {
                Some(segment) => segment,
                None => return Ok(Indexed::Ready(None)),
            }
        } else {
            segment
        };
        if listed.run {
            let broken = BrokenRun { segment, found, known, end, fault };
            return Ok(Indexed::Broken(Box::new(broken)));
        }
        if (is_sealed || known_end.is_some())
            && let Some(fault) = fault
        {
            self.found.add(fault);
        }
        self.scan(&segment, &found, end, ends).map(Indexed::Ready)
    }

    /// Gives a run without a sound footer another one, unless what it was to stand for is there.
    fn rebuild(
        &mut self,
        run: BrokenRun,
        whole: &[Arc<Segment>],
        logs: &[u64],
    ) -> Result<Option<Arc<Segment>>> {
        let segment = &run.segment;
        if !run.found.vouched && runs::is_unfinished(segment, whole) {
            let reason = "the run was not finished: what it was to be made from is read instead";
            self.found.damage(segment.path(), 0, reason);
            return Ok(None);
        }
        let end = run.end.unwrap_or(segment.capacity);
        let Some(mut window) = self.window(&run.found, end)? else { return Ok(None) };
        let said = self.manifest.is_some() || run.end.is_some();
        if let Some(fault) = run.fault.clone()
            && (said || window.next_header(FIRST_FRAME)?.is_some())
        {
            self.found.add(fault);
        }
        let mut replay = Replay::beside(Arc::clone(segment), name_seed(self.store));
        let extent = Extent { torn_may_be: run.end.is_none(), linked: false };
        let end = self.walk(segment, &mut window, extent, &mut |met| replay.take(&met))?;
        if replay.is_empty() {
            return Ok(None);
        }
        let covers = run.known.unwrap_or_else(|| runs::covered(&replay, segment, whole, logs));
        self.adopt(segment, replay, end, Some(covers)).map(Some)
    }

    fn take_prefixes(&mut self, segment: &Segment) {
        if let Some(Ok(footer)) = segment.footer()
            && let Ok(prefixes) = footer.prefixes()
        {
            for (lsn, prefix) in prefixes.flatten() {
                self.forgotten.push(Forgotten { prefix: prefix.to_owned(), lsn });
            }
        }
    }

    /// Builds the footer of a log segment from its whole records. `end`: where its data end, if that is
    /// known.
    fn scan(
        &mut self,
        segment: &Arc<Segment>,
        found: &Found,
        end: Option<u64>,
        ends: Ends,
    ) -> Result<Option<Arc<Segment>>> {
        let mut replay = Replay::beside(Arc::clone(segment), name_seed(self.store));
        let seen_to = self.seen_to;
        let linked = end.is_none() && ends.linked.is_some();
        let capacity = segment.capacity;
        let to = end.or(ends.linked).map_or(capacity, |end| end.min(capacity));
        let Some(mut window) = self.window(found, to)? else { return Ok(None) };
        if self.torn && end.is_none() {
            self.cut(&mut window, FIRST_FRAME)?;
            return Ok(None);
        }
        let extent = Extent { torn_may_be: end.is_none(), linked };
        let mut met_frame = false;
        let end = self.walk(segment, &mut window, extent, &mut |met| {
            met_frame = true;
            if met.header().lsn < seen_to { Ok(()) } else { replay.take(&met) }
        })?;
        if ends.blank && met_frame {
            // The log went on into it, and what was read before it may be older than that.
            self.moved = true;
        }
        self.found.report.frames_kept += replay.frames;
        self.found.report.bytes_kept += replay.bytes;
        self.seen_to = self.seen_to.max(segment.base.saturating_add(end));
        if replay.is_empty() {
            return Ok(None);
        }
        self.adopt(segment, replay, end, None).map(Some)
    }

    fn adopt(
        &mut self,
        segment: &Arc<Segment>,
        replay: Replay,
        end: u64,
        run: Option<Run>,
    ) -> Result<Arc<Segment>> {
        self.forgotten.extend(replay.index(self.store, end, run)?);
        Ok(Arc::clone(segment))
    }
}

/// There is no store, or one that was not finished.
fn nothing(dir: &Path) -> Error {
    let message = format!("{} is not a store: there is nothing to salvage", dir.display());
    Error::new(ErrorKind::NotAStore, message)
}
