//! Salvage: opening read-only whatever can be read. Segments without a sound footer get one in
//! memory, made from their whole frames; nothing on disk is changed and no lock is taken.

use std::path::Path;
use std::sync::Arc;

use crate::catalog::{Catalog, name_seed};
use crate::commit::log::Log;
use crate::commit::order::Order;
use crate::commit::seal::build_footer;
use crate::commit::{Engine, Opened};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::format::Fault;
use crate::format::footer::Bound;
use crate::format::header::{Header, Layout};
use crate::format::manifest::{Forgotten, Listed, Manifest, Role};
use crate::io::Io;
use crate::manifest;
use crate::options::Options;
use crate::recovery::RecoveryReport;
use crate::recovery::files::{Files, read_segment};
use crate::recovery::replay::Replay;
use crate::segment::scan::Frames;
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
        seen_to: 0,
        forgotten: Vec::new(),
        store: 0,
    };
    salvage.read_manifest()?;
    let mut segments = salvage.gather(&files)?;
    segments.sort_by_key(|found| (found.listed.base, found.listed.id));
    // Spares may lie behind it, which hold nothing.
    let last = segments.iter().rposition(Found::has_frame).unwrap_or(0);
    let mut sealed = Vec::new();
    for (index, found) in segments.into_iter().enumerate() {
        sealed.extend(salvage.index(found, index >= last)?);
    }
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
    let manifest = salvage.manifest.take().unwrap_or_default();
    let mut forgotten = manifest.forgotten;
    forgotten.append(&mut salvage.forgotten);
    forgotten.sort_by_key(|line| line.lsn);
    let catalog = Catalog::new(salvage.store, options.resident_bytes, forgotten);
    catalog.install(|set, generation| {
        sealed.iter().for_each(|segment| segment.set_sealed_at(generation));
        set.append(&mut sealed);
    });
    let (report, store) = (salvage.report, salvage.store);
    let engine = Engine::start(Opened {
        dir: dir.to_owned(),
        store,
        incarnation: manifest.incarnation,
        options: options.clone().salvage(true),
        catalog,
        past_defaults: manifest.defaults,
        writing: None,
        order,
        log,
        time: manifest.time,
        io,
    })?;
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
    /// Frames below this lsn have been taken from another segment: a recovery that was cut short
    /// leaves some twice.
    seen_to: u64,
    forgotten: Vec<Forgotten>,
    store: u128,
}

/// A segment file that seems to be of the store.
struct Found {
    listed: Listed,
    /// Whether the manifest vouches for the line.
    vouched: bool,
    bytes: Vec<u8>,
}

impl Found {
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
            let line = self.line(*id);
            let dropped = self.manifest.as_ref().is_some_and(|m| m.obsolete.contains(id));
            if dropped || line.is_some_and(|line| line.role == Role::Draft) {
                continue;
            }
            let (header, bytes) = match read_segment(self.io, &path) {
                Ok(read) => read,
                Err(error) => {
                    self.damage(&path, 0, &error.to_string());
                    continue;
                }
            };
            if let Some(listed) = self.recognise(&path, line, header, &bytes) {
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

    /// Maps a segment and sees to its footer.
    fn index(&mut self, found: Found, last: bool) -> Result<Option<Arc<Segment>>> {
        let Found { listed, vouched, bytes } = found;
        let path = self.dir.join(file_name(listed.id, listed.run));
        let file = self.io.fs.open(&path, false).map_err(|e| Error::io("open", &path, e))?;
        let map = file.map(listed.capacity).map_err(|e| Error::io("map", &path, e))?;
        let segment = Arc::new(Segment::assemble(path, map, &listed, self.options.verify));
        let is_sealed = vouched && listed.role == Role::Sealed;
        let check = is_sealed.then_some(listed.footer_check);
        // Only a footer that the manifest vouches for, or that there is no manifest to ask about,
        // says where the data end.
        let may_have = is_sealed || self.manifest.is_none();
        let footer = if may_have { segment.load_footer(check) } else { Ok(()) };
        if is_sealed && let Err(error) = &footer {
            self.report.damage.extend(error.damage().cloned());
        }
        let sound = segment.trailer().is_some() && segment.check_footer().is_ok();
        if segment.trailer().is_some() && !sound {
            self.damage(segment.path(), listed.data_end, "the footer is damaged");
        }
        if sound && self.keep == Keep::Records && segment.base >= self.seen_to.saturating_sub(4096)
        {
            self.take_prefixes(&segment);
            self.seen_to = self.seen_to.max(segment.end_lsn());
            return Ok(Some(segment));
        }
        let known_end = segment.trailer().map(|trailer| trailer.facts.data_end);
        let end = known_end.or((listed.data_end > 0).then_some(listed.data_end));
        let torn_may_be = last && end.is_none();
        let end = end.map_or(bytes.len(), |end| usize::try_from(end).unwrap_or(usize::MAX));
        // The segment that lost its footer in memory is mapped anew, to be given another.
        let segment = if segment.trailer().is_some() {
            let map = file.map(listed.capacity).map_err(|e| Error::io("map", self.dir, e))?;
            let path = segment.path().to_owned();
            Arc::new(Segment::assemble(path, map, &listed, self.options.verify))
        } else {
            segment
        };
        self.scan(&segment, bytes.get(..end.min(bytes.len())).unwrap_or_default(), torn_may_be)
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

    /// Builds a footer from the whole frames of a segment.
    fn scan(
        &mut self,
        segment: &Arc<Segment>,
        bytes: &[u8],
        torn_may_be: bool,
    ) -> Result<Option<Arc<Segment>>> {
        let frames = Frames { bytes, salt: segment.salt, base: segment.base };
        let mut replay = Replay::new(Arc::clone(segment), name_seed(self.store));
        let mut at = usize::try_from(FIRST_FRAME).unwrap_or(0);
        let mut end = at;
        // What the manifest knows to have been on stable storage cannot have been torn.
        let proven = self.manifest.as_ref().map_or(0, |manifest| manifest.durable);
        while at < bytes.len() {
            match frames.frame(at) {
                Ok(frame) => {
                    at = at.saturating_add(frame.header.len());
                    end = at;
                    if frame.header.lsn < self.seen_to {
                        continue;
                    }
                    if let Err(Fault(reason)) = replay.apply(&frame) {
                        self.lost(&frames, segment, frame.offset, at, reason);
                    }
                }
                Err(Fault(reason)) => {
                    let next = frames.headers_behind(at.saturating_add(8)).next();
                    let written = bytes.get(at..).unwrap_or_default();
                    let blank = written.iter().all(|byte| *byte == 0);
                    match next {
                        Some((next, _)) => {
                            self.lost(&frames, segment, at, next, reason);
                            at = next;
                        }
                        None if blank => break,
                        None if torn_may_be && segment.base.saturating_add(at as u64) >= proven => {
                            let cut = written.iter().rposition(|byte| *byte != 0);
                            self.report.bytes_cut += cut.map_or(0, |last| last as u64 + 1);
                            self.report.possibly_acknowledged = true;
                            break;
                        }
                        None => {
                            let behind = written.iter().rposition(|byte| *byte != 0).unwrap_or(0);
                            self.lost(&frames, segment, at, at + behind, reason);
                            break;
                        }
                    }
                }
            }
        }
        self.report.frames_kept += replay.frames;
        self.report.bytes_kept += replay.bytes;
        self.seen_to = self.seen_to.max(segment.base.saturating_add(end as u64));
        if replay.is_empty() {
            return Ok(None);
        }
        self.adopt(segment, replay, end).map(Some)
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
        damage.lsn = segment.base.checked_add(at as u64).map(Lsn);
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
                damage.reason.push_str(
                    "; whom it hits cannot be told: any agent may lack the changes of these lsns, \
                     forgettings included",
                );
                self.report.damage.push(damage);
            }
        }
    }

    fn adopt(
        &mut self,
        segment: &Arc<Segment>,
        replay: Replay,
        end: usize,
    ) -> Result<Arc<Segment>> {
        let contents = replay.contents(end as u64);
        let mut bound = Bound::new();
        for agent in &contents.agents {
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
        let footer = build_footer(self.store, segment, len, contents)?;
        for (lsn, prefix) in replay.prefixes {
            self.forgotten.push(Forgotten { prefix: prefix.into(), lsn });
        }
        segment.adopt_footer(footer.bytes, len)?;
        Ok(Arc::clone(segment))
    }
}
