//! Salvage: opening read-only whatever can be read. Segments without a sound footer get one in
//! memory, made from their whole frames; nothing on disk is changed and no lock is taken.

use std::path::Path;
use std::sync::Arc;

use crate::catalog::{Catalog, name_seed};
use crate::commit::clock::{Recorded, StoreTime};
use crate::commit::log::Log;
use crate::commit::order::Order;
use crate::commit::seal::{Contents, Run, build_footer};
use crate::commit::{Engine, Opened};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::format::Fault;
use crate::format::footer::{Bound, MAX_NAME};
use crate::format::header::{Header, Layout};
use crate::format::manifest::{Forgotten, Listed, Manifest, Role};
use crate::io::Io;
use crate::manifest;
use crate::options::Options;
use crate::recovery::RecoveryReport;
use crate::recovery::files::{Files, read_segment};
use crate::recovery::replay::Replay;
use crate::recovery::runs::{self, BrokenRun};
use crate::segment::scan::{Frame, Frames};
use crate::segment::writer::{FIRST_FRAME, LogFile};
use crate::segment::{Segment, file_name};
use crate::types::Lsn;

/// What is kept of a sealed segment whose footer is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Every record that is whole; the others answer `Damaged` when they are read.
    Records,
    /// Whole frames only, so that no batch is kept in part.
    Frames,
}

/// Opens what can be read of the store in `dir`.
pub(crate) fn open(
    io: Io,
    dir: &Path,
    options: &Options,
    keep: Keep,
) -> Result<(Arc<Engine>, RecoveryReport)> {
    let files = Files::look(&io, dir)?;
    if files.is_nothing() {
        let message = format!("{} is not a store: there is nothing to salvage", dir.display());
        return Err(Error::new(ErrorKind::NotAStore, message));
    }
    let mut salvage = Salvage {
        io: &io,
        dir,
        options,
        keep,
        manifest: None,
        version: None,
        report: RecoveryReport::default(),
        loose: false,
        seen_to: 0,
        forgotten: Vec::new(),
        store: 0,
    };
    salvage.read_manifest()?;
    salvage.loose = salvage.manifest.as_ref().is_none_or(|m| files.lacks_listed(m));
    let segments = salvage.gather(&files)?;
    let mut sealed = salvage.index_all(segments)?;
    let Some(first) = sealed.first() else {
        if let Some(error) = salvage.version {
            return Err(error);
        }
        let mut damage = Damage::new(dir, 0, "no segment can be read");
        damage.agents.clear();
        return Err(Error::damaged(damage));
    };
    let file = LogFile::reopen(&io, Arc::clone(first), false)?;
    let order = Order::new(file, FIRST_FRAME);
    let log = Log::new(u64::MAX);
    // Without a manifest nothing says how late it was: the clock is believed.
    let unknown = || Manifest { time: io.clock.now(), ..Manifest::default() };
    let manifest = salvage.manifest.take().unwrap_or_else(unknown);
    let mut forgotten = manifest.forgotten;
    forgotten.append(&mut salvage.forgotten);
    forgotten.sort_by_key(|line| line.lsn);
    let catalog = Catalog::new(salvage.store, options.resident_bytes, forgotten);
    catalog.install(|set, generation| {
        sealed.iter().for_each(|segment| segment.set_sealed_at(generation));
        set.append(&mut sealed);
    });
    let (report, store) = (salvage.report, salvage.store);
    let recorded = Recorded { time: manifest.time, claim: manifest.claim };
    let engine = Engine::start(Opened {
        dir: dir.to_owned(),
        store,
        incarnation: manifest.incarnation,
        history: manifest.history,
        options: options.clone().salvage(true),
        catalog,
        past_defaults: manifest.defaults,
        writing: None,
        order,
        log,
        time: StoreTime::new(recorded, io.clock.now(), io.clock.monotonic()),
        io,
    });
    Ok((engine, report))
}

struct Salvage<'a> {
    io: &'a Io,
    dir: &'a Path,
    options: &'a Options,
    keep: Keep,
    manifest: Option<Manifest>,
    /// The manifest says that it is of another version, which no checksum covers: it counts only if
    /// no segment is of this one.
    version: Option<Error>,
    report: RecoveryReport,
    /// No manifest tells which segments count: there is none, or one that lists what is missing.
    loose: bool,
    /// Frames of the log below this lsn have been taken from another segment: a recovery that was
    /// cut short leaves some twice.
    seen_to: u64,
    forgotten: Vec<Forgotten>,
    store: u128,
}

/// A segment file that seems to be of the store.
pub(super) struct Found {
    pub(super) listed: Listed,
    /// Whether the manifest vouches for the line.
    pub(super) vouched: bool,
    pub(super) bytes: Vec<u8>,
}

/// What became of a file that was looked at.
enum Indexed {
    Ready(Option<Arc<Segment>>),
    /// A run without a sound footer: what to make of it depends on the others.
    Broken(Box<BrokenRun>),
}

impl Found {
    /// The bytes up to the end of the data, if that is known.
    fn up_to(&self, end: Option<u64>) -> &[u8] {
        let len = self.bytes.len();
        let end = end.map_or(len, |end| usize::try_from(end).unwrap_or(len));
        self.bytes.get(..end.min(len)).unwrap_or_default()
    }

    fn has_frame(&self) -> bool {
        let Listed { salt, base, .. } = self.listed;
        let frames = Frames { bytes: &self.bytes, salt, base };
        frames.headers_behind(usize::try_from(FIRST_FRAME).unwrap_or(0)).next().is_some()
    }
}

impl Salvage<'_> {
    fn damage(&mut self, path: &Path, offset: u64, reason: &str) {
        self.report.damage.push(Damage::new(path, offset, reason));
    }

    fn read_manifest(&mut self) -> Result<()> {
        match manifest::read(self.io, self.dir) {
            Ok(Some(manifest)) => {
                self.store = manifest.store;
                self.manifest = Some(manifest);
            }
            Ok(None) => self.damage(&self.dir.join(manifest::NAME), 0, "the manifest is missing"),
            Err(error) => match error.damage() {
                Some(damage) => self.report.damage.push(damage.clone()),
                // A feature word is under the check, other than the version: it is not to be guessed
                // what the store is without it.
                None if manifest::needs_features(self.io, self.dir)? => return Err(error),
                None if error.kind() == ErrorKind::Version => {
                    let path = self.dir.join(manifest::NAME);
                    self.damage(&path, 0, "the manifest says that it is of another version");
                    self.version = Some(error);
                }
                None => return Err(error),
            },
        }
        Ok(())
    }

    /// Finds the segment files to read, in whatever state.
    fn gather(&mut self, files: &Files) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for (id, run) in &files.segments {
            let path = self.dir.join(file_name(*id, *run));
            let line = self.line(*id).filter(|line| line.run == *run);
            if *run && line.is_none() && !self.loose {
                // A compaction that was cut short left it.
                continue;
            }
            let dropped = self.manifest.as_ref().is_some_and(|m| m.obsolete.contains(id));
            if dropped || line.is_some_and(|line| line.role == Role::Draft) {
                continue;
            }
            let (header, bytes) = match read_segment(self.io, &path) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Version => return Err(error),
                Err(error) => {
                    self.damage(&path, 0, &error.to_string());
                    continue;
                }
            };
            let listed = self.recognise(&path, line, header, &bytes);
            if let Some(listed) = listed {
                if (listed.id, listed.run) != (*id, *run) {
                    self.damage(&path, 0, "the file is another segment than its name says");
                    continue;
                }
                found.push(Found { listed, vouched: line.is_some(), bytes });
            }
        }
        let lines = self.manifest.iter().flat_map(|m| m.segments.clone()).collect::<Vec<_>>();
        for line in lines.iter().filter(|line| line.role != Role::Draft) {
            if !files.segments.contains(&(line.id, line.run)) {
                let path = self.dir.join(file_name(line.id, line.run));
                self.damage(&path, 0, "the segment is missing");
            }
        }
        Ok(found)
    }

    fn line(&self, id: u64) -> Option<Listed> {
        self.manifest.as_ref()?.segments.iter().find(|line| line.id == id).copied()
    }

    /// What the manifest or, failing that, the file itself says that it is.
    fn recognise(
        &mut self,
        path: &Path,
        line: Option<Listed>,
        header: Option<Header>,
        bytes: &[u8],
    ) -> Option<Listed> {
        let len = bytes.len() as u64;
        let Some(header) = header else {
            self.damage(path, 0, "the segment's header is damaged");
            return line.map(|line| Listed { capacity: len, ..line });
        };
        if self.store == 0 {
            self.store = header.store;
        }
        if header.store != self.store {
            self.damage(path, 0, "the segment is of another store");
            return None;
        }
        let told = Listed {
            id: header.id,
            salt: header.salt,
            role: Role::Spare,
            run: header.layout == Layout::Run,
            base: header.base,
            capacity: header.capacity,
            data_end: 0,
            footer_check: 0,
            dead: 0,
            dead_since: 0,
        };
        let listed = line.unwrap_or(told);
        if (listed.salt, listed.base) != (told.salt, told.base) {
            self.damage(path, 0, "the file is another segment than the manifest means");
            return None;
        }
        if len != listed.capacity {
            let reason = format!("the segment is {len} bytes long and not {}", listed.capacity);
            self.damage(path, len.min(listed.capacity), &reason);
        }
        Some(Listed { capacity: len, ..listed })
    }

    /// Maps the segments and sees to their footers. Gives them in the order of their lsns.
    fn index_all(&mut self, mut segments: Vec<Found>) -> Result<Vec<Arc<Segment>>> {
        segments.sort_by_key(|found| (found.listed.base, found.listed.id));
        // Spares may lie behind it, which hold nothing.
        let last = segments.iter().rposition(|found| !found.listed.run && found.has_frame());
        let listed = self.manifest.iter().flat_map(|manifest| manifest.segments.iter().copied());
        let logs = segments.iter().map(|found| found.listed).chain(listed).filter(|l| !l.run);
        let logs: Vec<u64> = logs.map(|log| log.base).collect();
        let (mut sealed, mut broken) = (Vec::new(), Vec::new());
        for (index, found) in segments.into_iter().enumerate() {
            match self.index(found, last.is_none_or(|last| index >= last))? {
                Indexed::Ready(segment) => sealed.extend(segment),
                Indexed::Broken(run) => broken.push(run),
            }
        }
        let whole: Vec<Arc<Segment>> = sealed.clone();
        for run in broken {
            sealed.extend(self.rebuild(run, &whole, &logs)?);
        }
        if self.loose {
            runs::hide_leftovers(&sealed);
        }
        sealed.sort_by_key(|segment| (segment.lowest_lsn(), segment.id));
        Ok(sealed)
    }

    /// Maps a segment and sees to its footer.
    fn index(&mut self, found: Found, last: bool) -> Result<Indexed> {
        let listed = found.listed;
        let path = self.dir.join(file_name(listed.id, listed.run));
        let file = self.io.fs.open(&path, false).map_err(|e| Error::io("open", &path, e))?;
        let map = file.map(listed.capacity).map_err(|e| Error::io("map", &path, e))?;
        let segment = Arc::new(Segment::assemble(path, map, &listed, self.options.verify));
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
        if sound && listed.run {
            return self.take_run(segment, &found).map(Indexed::Ready);
        }
        let fresh = self.keep == Keep::Records && segment.base >= self.seen_to.saturating_sub(4096);
        if sound && fresh {
            self.take_prefixes(&segment);
            self.seen_to = self.seen_to.max(segment.end_lsn());
            return Ok(Indexed::Ready(Some(segment)));
        }
        let known_end = segment.trailer().map(|trailer| trailer.facts.data_end);
        let end = known_end.or((listed.data_end > 0).then_some(listed.data_end));
        let known = runs::told(&segment);
        // The segment that lost its footer in memory is mapped anew, to be given another.
        let segment = if segment.trailer().is_some() {
            let map = file.map(listed.capacity).map_err(|e| Error::io("map", self.dir, e))?;
            let path = segment.path().to_owned();
            Arc::new(Segment::assemble(path, map, &listed, self.options.verify))
        } else {
            segment
        };
        if listed.run {
            let broken = BrokenRun { segment, found, known, end, fault };
            return Ok(Indexed::Broken(Box::new(broken)));
        }
        if is_sealed || known_end.is_some() {
            self.report.damage.extend(fault);
        }
        let torn_may_be = last && end.is_none();
        self.scan(&segment, found.up_to(end), torn_may_be).map(Indexed::Ready)
    }

    /// A run whose footer is sound keeps it: its frames are no batches, that would be kept whole or
    /// not at all. What is not whole answers `Damaged` when it is read.
    fn take_run(&mut self, segment: Arc<Segment>, found: &Found) -> Result<Option<Arc<Segment>>> {
        self.take_prefixes(&segment);
        if self.keep == Keep::Frames {
            let end = segment.trailer().map(|trailer| trailer.facts.data_end);
            self.walk(&segment, found.up_to(end), false, &mut |_| Ok(()));
        }
        Ok(Some(segment))
    }

    /// Gives a run without a sound footer another one, unless what it was to stand for is there.
    fn rebuild(
        &mut self,
        run: Box<BrokenRun>,
        whole: &[Arc<Segment>],
        logs: &[u64],
    ) -> Result<Option<Arc<Segment>>> {
        let segment = &run.segment;
        if !run.found.vouched && runs::is_unfinished(segment, whole) {
            let reason = "the run was not finished: what it was to be made from is read instead";
            self.damage(segment.path(), 0, reason);
            return Ok(None);
        }
        if self.manifest.is_some() || run.end.is_some() || run.found.has_frame() {
            self.report.damage.extend(run.fault.clone());
        }
        let mut replay = Replay::new(Arc::clone(segment), name_seed(self.store));
        let bytes = run.found.up_to(run.end);
        let end = self.walk(segment, bytes, run.end.is_none(), &mut |frame| replay.apply(frame));
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

    /// Builds the footer of a log segment from its whole frames.
    fn scan(
        &mut self,
        segment: &Arc<Segment>,
        bytes: &[u8],
        torn_may_be: bool,
    ) -> Result<Option<Arc<Segment>>> {
        let mut replay = Replay::new(Arc::clone(segment), name_seed(self.store));
        let seen_to = self.seen_to;
        let end = self.walk(segment, bytes, torn_may_be, &mut |frame| {
            if frame.header.lsn < seen_to { Ok(()) } else { replay.apply(frame) }
        });
        self.report.frames_kept += replay.frames;
        self.report.bytes_kept += replay.bytes;
        self.seen_to = self.seen_to.max(segment.base.saturating_add(end as u64));
        if replay.is_empty() {
            return Ok(None);
        }
        self.adopt(segment, replay, end, None).map(Some)
    }

    /// Goes through the whole frames of a segment, and reports what is not whole; gives where the
    /// last of them ends. What lies behind it is torn, if it may be; of a run it is then its footer.
    fn walk(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        torn_may_be: bool,
        each: &mut dyn FnMut(&Frame<'_>) -> std::result::Result<(), Fault>,
    ) -> usize {
        let frames = Frames { bytes, salt: segment.salt, base: segment.base };
        let mut at = usize::try_from(FIRST_FRAME).unwrap_or(0);
        let mut end = at;
        // What the manifest knows to have been on stable storage cannot have been torn.
        let proven = self.manifest.as_ref().map_or(0, |manifest| manifest.durable);
        let torn_from = if segment.run { 0 } else { proven };
        while at < bytes.len() {
            let reason = match frames.frame(at) {
                Ok(frame) => {
                    at = at.saturating_add(frame.header.len());
                    end = at;
                    if let Err(Fault(reason)) = each(&frame) {
                        self.lost(&frames, segment, frame.offset, at, reason);
                    }
                    continue;
                }
                Err(Fault(reason)) => reason,
            };
            if let Some((next, _)) = frames.headers_behind(at.saturating_add(8)).next() {
                self.lost(&frames, segment, at, next, reason);
                at = next;
                continue;
            }
            let written = bytes.get(at..).unwrap_or_default();
            let Some(behind) = written.iter().rposition(|byte| *byte != 0) else { break };
            let torn = torn_may_be && segment.base.saturating_add(at as u64) >= torn_from;
            if !torn || (segment.run && frames.header(at).is_ok()) {
                self.lost(&frames, segment, at, at + behind, reason);
            } else if !segment.run {
                self.report.bytes_cut += behind as u64 + 1;
                self.report.possibly_acknowledged = true;
            }
            break;
        }
        end
    }

    /// Reports a frame that is not whole, with whom it hits as far as its header says. The next one
    /// that can be read begins at `next`: if the frame ends before, others are lost with it.
    fn lost(
        &mut self,
        frames: &Frames<'_>,
        segment: &Segment,
        at: usize,
        next: usize,
        reason: &str,
    ) {
        let mut damage = Damage::new(segment.path(), at as u64, reason);
        damage.lsn = segment.base.checked_add(at as u64).filter(|_| !segment.run).map(Lsn);
        match frames.header(at) {
            Ok((header, agents)) => {
                damage.agents = agents.iter().map(|agent| agent.name.to_owned()).collect();
                self.report.damage.push(damage);
                let end = at.saturating_add(header.len());
                if end < next {
                    self.lost(frames, segment, end, next, "no frame begins here");
                }
            }
            Err(_) => {
                damage.reason.push_str(if segment.run {
                    "; whom it hits cannot be told: any agent may lack what the run kept of it here, \
                     forgettings included"
                } else {
                    "; whom it hits cannot be told: any agent may lack the changes of these lsns, \
                     forgettings included"
                });
                self.report.damage.push(damage);
            }
        }
    }

    fn adopt(
        &mut self,
        segment: &Arc<Segment>,
        replay: Replay,
        end: usize,
        run: Option<Run>,
    ) -> Result<Arc<Segment>> {
        let contents = Contents { run, ..replay.contents(end as u64) };
        let agents = replay.at_end();
        let mut bound = Bound::new();
        bound.add_bounds(MAX_NAME, MAX_NAME);
        for agent in &agents {
            bound.add_agent(agent.name.len());
            if let Some(part) = &agent.part {
                (0..part.count).for_each(|_| bound.add_entry());
                part.redacted().iter().for_each(|_| bound.add_redaction());
                part.policy().iter().for_each(|_| bound.add_policy());
                part.states("", u64::MAX, |key, _| bound.add_state(key.len()));
            }
        }
        contents.prefixes.iter().for_each(|(_, prefix)| bound.add_prefix(prefix.len()));
        // As if the file went on far enough for the footer.
        let len = (end as u64).saturating_add(bound.bytes()).next_multiple_of(4096);
        let agents = agents.into_iter().map(Ok);
        let footer = build_footer(self.store, segment, len, contents, agents)?;
        for (lsn, prefix) in replay.prefixes {
            self.forgotten.push(Forgotten { prefix: prefix.into(), lsn });
        }
        segment.adopt_footer(footer.bytes, len)?;
        Ok(Arc::clone(segment))
    }
}
