//! Opening: from what a store's directory holds to a running engine.
//!
//! `tail` tells a torn tail from corruption, `replay` makes footers from frames, `rewrite` moves
//! what is not proved durable to a fresh segment, `read_only` reads a store as it is, `salvage` reads
//! what is left of a damaged one: `gather` finds its files, `walk` goes through those without an index,
//! and `runs` tells what the runs in it are worth.

pub(crate) mod beside;
pub(crate) mod files;
pub(crate) mod findings;
mod gather;
pub(crate) mod read_only;
pub(crate) mod replay;
mod rewrite;
mod runs;
pub(crate) mod salvage;
mod tail;
mod walk;

use std::path::Path;
use std::sync::Arc;

use crate::catalog::resident::Progress;
use crate::catalog::{Catalog, name_seed};
use crate::commit::clock::{Recorded, StoreTime};
use crate::commit::log::Log;
use crate::commit::order::Order;
use crate::commit::reserve::{self, LAST_RESERVE_FILE, RESERVE_FILE, Reserve};
use crate::commit::upkeep::{FIRST_SEGMENT, NEW_SEGMENT};
use crate::commit::{Engine, Opened, Writing};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::format::manifest::{Forgotten, Listed, Manifest, PastDefault, Role};
use crate::format::{Era, Fault, features};
use crate::io::{Io, Lock};
use crate::manifest::{self, ManifestFile};
use crate::options::Options;
use crate::recovery::files::Files;
use crate::recovery::replay::Replay;
use crate::recovery::rewrite::{Done, Plan, Rewrite, base_behind};
use crate::segment::writer::{FIRST_FRAME, LogFile, Owner, new_listed};
use crate::segment::{Segment, file_name};
use crate::sync::Mutex;
use crate::types::Retention;

/// The file whose lock keeps a second process out.
pub(crate) const LOCK_FILE: &str = "LOCK";
/// The active segment after a recovery on a full disk: room to forget and to truncate in.
const LEAST_SEGMENT: u64 = 64 << 10;
/// Whatever was appended behind a clean close begins at its end: frames are looked for so far behind
/// it. To look through all of an empty segment would be most of what opening takes.
const STALE_WITHIN: usize = 1 << 20;
/// Lsns begin here, so that 0 is before everything.
const FIRST_BASE: u64 = 4096;

/// What recovery found and did when the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whole frames found in the unsealed part of the log: batches not lost.
    pub frames_kept: u64,
    /// Their bytes.
    pub bytes_kept: u64,
    /// Bytes of a torn tail that were cut.
    pub bytes_cut: u64,
    /// True if what was cut lay beyond everything proved durable, so that it may have been
    /// acknowledged if the disk broke its promises. A crash while a batch was being written looks
    /// the same.
    pub possibly_acknowledged: bool,
    /// Damage found; with salvage and repair only, since opening otherwise refuses it.
    pub damage: Vec<Damage>,
}

/// Opens the store in `dir` for writing.
pub(crate) fn open(io: Io, dir: &Path, options: &Options) -> Result<(Arc<Engine>, RecoveryReport)> {
    let mut opened = try_open(io.clone(), dir, options, false);
    // The reserves are kept for this: recovery needs a little room to give any back. Whether or not
    // they are there, the other attempts make do with less.
    for reserve in [LAST_RESERVE_FILE, RESERVE_FILE] {
        match opened {
            Err(e) if e.kind() == ErrorKind::DiskFull => {
                let _ = io.fs.remove(&dir.join(reserve));
                opened = try_open(io.clone(), dir, options, true);
            }
            opened => return opened,
        }
    }
    opened.map_err(|e| match e.kind() {
        ErrorKind::DiskFull => e.restated(
            ErrorKind::DiskFull,
            "the store is whole, and its reserve is used up: free 128 KiB on its file system and \
             open it again, then forget or truncate",
        ),
        _ => e,
    })
}

/// With `tight`, on a full disk, the opening makes do with the room of the reserve.
fn try_open(
    io: Io,
    dir: &Path,
    options: &Options,
    tight: bool,
) -> Result<(Arc<Engine>, RecoveryReport)> {
    let mut files = Files::look(&io, dir)?;
    if files.is_foreign() {
        return Err(not_a_store(dir, "the directory holds other files and no store"));
    }
    if files.is_nothing() && !options.create {
        return Err(not_a_store(dir, "there is no store, and creating one was not asked for"));
    }
    if !files.manifest {
        // Else its name was made durable before the first manifest was.
        io.fs.create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
    }
    let lock = lock(&io, dir)?;
    // Looked at again: another process may have finished something before the lock was ours.
    files = Files::look(&io, dir)?;
    let mut manifest = match manifest::read(&io, dir)? {
        Some(manifest) => manifest,
        None => {
            files.check_nothing_lost(&io, dir)?;
            if !options.create {
                return Err(not_a_store(
                    dir,
                    "there is no store, and creating one was not asked for",
                ));
            }
            files.remove_leftovers(&io, dir)?;
            let created = create(&io, dir, options)?;
            // What was removed is not there to be asked whether it holds data.
            files = Files::look(&io, dir)?;
            created
        }
    };
    if manifest.compatible != 0 {
        // To write is to replace it, with what a feature put there left out.
        let names = format!("to be written, {}", features::names(manifest.compatible));
        return Err(Error::features(&dir.join(manifest::NAME), &names));
    }
    files.check_unlisted(&io, dir, &manifest)?;
    let before = Some(manifest.clone());
    // The next manifest is put in force after a sync of the directory: what is gone stays gone.
    manifest.obsolete.retain(|id| files.segments.iter().any(|(there, _)| there == id));
    if !files.reserve && !tight {
        reserve::restore(&io, dir);
    }
    Opening { io, dir, options, manifest, before, tight }.run(lock)
}

fn not_a_store(dir: &Path, why: &str) -> Error {
    let message = format!("{} is not a store: {why}", dir.display());
    Error::new(ErrorKind::NotAStore, message).with_path(dir)
}

fn lock(io: &Io, dir: &Path) -> Result<Box<dyn Lock>> {
    let path = dir.join(LOCK_FILE);
    io.fs.lock(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::new(
            ErrorKind::InUse,
            format!("the store in {} is open already: close it there first", dir.display()),
        )
        .with_path(dir),
        _ => Error::io("lock", &path, e),
    })
}

/// Creates an empty store.
fn create(io: &Io, dir: &Path, options: &Options) -> Result<Manifest> {
    let store = u128::from(io.random.next()) << 64 | u128::from(io.random.next());
    create_with(io, dir, options, store, FIRST_BASE)
}

/// Creates an empty store with this id, whose lsns begin at `base`.
pub(crate) fn create_with(
    io: &Io,
    dir: &Path,
    options: &Options,
    store: u128,
    base: u64,
) -> Result<Manifest> {
    let capacity = NEW_SEGMENT.min(options.segment_bytes);
    let listed = new_listed(1, io.random.next(), base, capacity, Role::Active);
    let history = io.random.next().max(1);
    let owner = Owner { store, era: Era::new(1, history) };
    LogFile::create(io, dir, &owner, &listed, options.verify)?;
    let first = Manifest {
        history,
        store,
        next_id: 2,
        time: io.clock.now(),
        segments: vec![listed],
        clean_end: base + FIRST_FRAME,
        ..Manifest::default()
    };
    manifest::install(io, dir, &first, None).map_err(Error::from)?;
    Ok(first)
}

/// An opening under way.
struct Opening<'a> {
    io: Io,
    dir: &'a Path,
    options: &'a Options,
    manifest: Manifest,
    /// The one in force.
    before: Option<Manifest>,
    /// There is no room but that of the reserve.
    tight: bool,
}

/// The log as the engine is to go on with it.
struct Ready {
    order: Order,
    durable: u64,
    time: StoreTime,
    /// What the active segment holds already.
    replay: Option<Replay>,
}

impl Opening<'_> {
    fn run(mut self, lock: Box<dyn Lock>) -> Result<(Arc<Engine>, RecoveryReport)> {
        let mut sealed = self.open_listed(|role| role == Role::Sealed)?;
        for (segment, line) in sealed.iter().zip(self.lines(|role| role == Role::Sealed)) {
            segment.load_footer(Some(line.footer_check))?;
        }
        let unsealed = self.open_listed(|role| matches!(role, Role::Active | Role::Spare))?;
        let mut report = RecoveryReport::default();
        let mut ready = if self.manifest.clean_end != 0 {
            self.go_on(&unsealed)?
        } else {
            self.recover(unsealed, &mut sealed, &mut report)?
        };
        let forgotten = self.manifest.forgotten.clone();
        let catalog = Catalog::new(self.manifest.store, self.options.resident_bytes, forgotten);
        catalog.install(|set, generation| {
            sealed.sort_by_key(|segment| segment.base);
            sealed.iter().for_each(|segment| segment.set_sealed_at(generation));
            set.append(&mut sealed);
        });
        if !catalog.segments().sealed.is_empty() {
            // What died before is not known before the first scan.
            catalog.deaths.lose_bookings(self.manifest.time);
        }
        if let Some(replay) = ready.replay.take() {
            adopt(&catalog, &mut ready.order, replay, self.manifest.time);
        }
        let manifest =
            ManifestFile::new(self.io.clone(), self.dir.to_owned(), self.manifest.clone());
        let reserve = Reserve::of(&self.io, self.dir)?;
        let engine = Engine::start(Opened {
            incarnation: self.manifest.incarnation,
            history: self.manifest.history,
            writing: Some(Writing { manifest, reserve, lock: Mutex::new(Some(lock)) }),
            dir: self.dir.to_owned(),
            store: self.manifest.store,
            options: self.options.clone(),
            catalog,
            past_defaults: self
                .manifest
                .defaults
                .iter()
                .filter(|d| d.until != u64::MAX)
                .copied()
                .collect(),
            order: ready.order,
            log: Log::new(ready.durable),
            time: ready.time,
            io: self.io,
        });
        Ok((engine, report))
    }

    fn lines(&self, wanted: impl Fn(Role) -> bool) -> Vec<Listed> {
        let mut lines: Vec<Listed> =
            self.manifest.segments.iter().filter(|line| wanted(line.role)).copied().collect();
        lines.sort_by_key(|line| line.base);
        lines
    }

    /// Opens listed segments, in the order of the log.
    fn open_listed(&self, wanted: impl Fn(Role) -> bool) -> Result<Vec<Arc<Segment>>> {
        let open = |line: &Listed| {
            let store = self.manifest.store;
            Segment::open(&self.io, self.dir, store, line, self.options.verify).map(Arc::new)
        };
        self.lines(wanted).iter().map(open).collect()
    }

    /// After a clean close: the active segment is whole and durable, and takes more.
    fn go_on(&mut self, unsealed: &[Arc<Segment>]) -> Result<Ready> {
        let clean_end = self.manifest.clean_end;
        let active = self.lines(|role| role == Role::Active);
        let (Some(segment), 1) = (active.first(), active.len()) else {
            return Err(self.manifest_damage("it lists no active segment, or several"));
        };
        let segment = unsealed
            .iter()
            .find(|s| s.id == segment.id)
            .ok_or_else(|| self.manifest_damage("it lists no active segment"))?;
        let mut replay = Replay::new(Arc::clone(segment), name_seed(self.manifest.store));
        let frames = segment.frames();
        let mut at = usize::try_from(FIRST_FRAME).unwrap_or(0);
        while segment.base.saturating_add(at as u64) < clean_end {
            let damage = |fault: Fault| segment.damage(at as u64, fault.0);
            let frame = frames.frame(at).map_err(|fault| {
                let error = damage(fault);
                let agents = frames.header(at).map(|(_, agents)| agents).unwrap_or_default();
                agents.first().map_or(error.clone(), |agent| error.with_agent(agent.name))
            })?;
            replay.apply(&frame).map_err(damage)?;
            at = at.saturating_add(frame.header.len());
        }
        if frames.headers_between(at, at.saturating_add(STALE_WITHIN)).next().is_some() {
            return Err(Error::new(
                ErrorKind::StaleManifest,
                format!(
                    "{} goes on behind the end that the manifest knows: the manifest is older than \
                     the segments. Bring the newest one back, or repair the store",
                    segment.path().display()
                ),
            ));
        }
        segment.publish(at as u64);
        self.manifest.clean_end = 0;
        let time = self.note_time();
        self.manifest.incarnation += 1;
        self.note_default(clean_end);
        self.install()?;
        self.unlink_obsolete();
        let file = LogFile::reopen(&self.io, Arc::clone(segment), true)?;
        let mut order = Order::new(file, at as u64);
        for spare in unsealed.iter().filter(|s| s.id != segment.id && s.base > segment.base) {
            order.spares.push_back(LogFile::reopen(&self.io, Arc::clone(spare), true)?);
        }
        Ok(Ready { order, durable: clean_end, time, replay: Some(replay) })
    }

    /// After a crash: see `tail` and `rewrite`. Everything ends up sealed; a fresh segment is next.
    fn recover(
        &mut self,
        unsealed: Vec<Arc<Segment>>,
        sealed: &mut Vec<Arc<Segment>>,
        report: &mut RecoveryReport,
    ) -> Result<Ready> {
        let tail = tail::read(&self.io, &unsealed, self.manifest.durable)?;
        let frames = tail.stretches.iter().flat_map(|s| &s.frames).filter(|(_, h)| h.records > 0);
        for (_, header) in frames {
            report.frames_kept += 1;
            report.bytes_kept += header.len() as u64;
        }
        report.bytes_cut = tail.bytes_cut;
        report.possibly_acknowledged = tail.bytes_cut > 0;

        let plan = Plan::new(&self.io, &tail, self.tight, &mut self.manifest.next_id)?;
        let time = tail.time;
        // Files that are mapped would keep their room.
        drop((tail, unsealed));
        let dir = self.dir.to_owned();
        let io = self.io.clone();
        // That of the manifest that will list them.
        let era = Era::new(self.manifest.incarnation + 1, self.manifest.history);
        let owner = Owner { store: self.manifest.store, era };
        let rewrite = Rewrite { io: &io, dir: &dir, owner, verify: self.options.verify };
        // Drafts of a recovery that was cut short, and all that is copied or empty, go.
        let kept = |id: u64| plan.kept.iter().any(|(segment, ..)| segment.id == id);
        let goes = |line: &Listed| line.role != Role::Sealed && !kept(line.id);
        let mut gone: Vec<u64> =
            self.manifest.segments.iter().filter(|line| goes(line)).map(|line| line.id).collect();

        let active = self.list_fresh(plan.copied.iter().map(|(_, _, _, line)| *line));
        if self.tight {
            self.drop_empty(&mut gone, &plan)?;
        }
        let fresh = rewrite.create(&active)?;
        let drafts: Result<Vec<LogFile>> =
            plan.copied.iter().map(|(_, _, _, line)| rewrite.create(line)).collect();
        let drafts = drafts?;
        self.install()?;

        let mut done = Vec::new();
        for (segment, from, end) in &plan.kept {
            let lines = self.manifest.segments.iter();
            if let Some(line) = lines.clone().find(|line| line.id == segment.id).copied() {
                done.push(rewrite.keep(segment, *from, *end, &line)?);
            }
        }
        for ((source, from, to, line), file) in plan.copied.iter().zip(&drafts) {
            done.push(rewrite.copy(source, *from, *to, file, line)?);
        }
        let durable = active.base + FIRST_FRAME;
        let time = self.conclude(done, &gone, &active, time, sealed)?;
        plan.kept.iter().for_each(|(segment, _, end)| rewrite.clear(segment, *end));
        Ok(Ready { order: Order::new(fresh, FIRST_FRAME), durable, time, replay: None })
    }

    /// Lists the copies as drafts and a fresh segment behind everything; gives the fresh one.
    fn list_fresh(&mut self, copies: impl Iterator<Item = Listed>) -> Listed {
        self.manifest.segments.extend(copies);
        let held: u64 = self.manifest.segments.iter().map(|line| line.capacity).sum();
        let most = match self.tight {
            true => LEAST_SEGMENT,
            false if held < FIRST_SEGMENT => NEW_SEGMENT,
            false => FIRST_SEGMENT,
        };
        let capacity = most.min(self.options.segment_bytes);
        let base = base_behind(&self.manifest);
        let id = self.manifest.next_id;
        self.manifest.next_id += 1;
        // A draft as long as the recovery may still be cut short: the next one drops it.
        let listed = new_listed(id, self.io.random.next(), base, capacity, Role::Draft);
        self.manifest.segments.push(listed);
        listed
    }

    /// Drops the segments that nothing is kept or copied of before anything new is made: on a full
    /// disk their room is needed. The drafts that are listed already stand for their lsns.
    fn drop_empty(&mut self, gone: &mut Vec<u64>, plan: &Plan) -> Result<()> {
        let is_copied = |id: &u64| plan.copied.iter().any(|(source, ..)| source.id == *id);
        let (copied, empty): (Vec<u64>, Vec<u64>) = gone.iter().partition(|id| is_copied(id));
        self.manifest.segments.retain(|line| !empty.contains(&line.id));
        self.manifest.obsolete.extend(empty);
        *gone = copied;
        self.install()?;
        self.unlink_obsolete();
        Ok(())
    }

    /// Puts the outcome of a recovery in force.
    fn conclude(
        &mut self,
        done: Vec<Done>,
        gone: &[u64],
        active: &Listed,
        time: u64,
        sealed: &mut Vec<Arc<Segment>>,
    ) -> Result<StoreTime> {
        let manifest = &mut self.manifest;
        manifest.segments.retain(|line| !gone.contains(&line.id));
        manifest.obsolete.extend_from_slice(gone);
        for Done { segment, listed, prefixes } in done {
            for line in manifest.segments.iter_mut().filter(|line| line.id == listed.id) {
                *line = listed;
            }
            for (lsn, prefix) in prefixes {
                // One that a run keeps may be older than the one that is listed.
                let listed = manifest.forgotten.iter().filter(|line| *line.prefix == *prefix);
                let lsn = listed.map(|line| line.lsn).fold(lsn, u64::max);
                manifest.forgotten.retain(|line| *line.prefix != *prefix);
                manifest.forgotten.push(Forgotten { prefix: prefix.into(), lsn });
            }
            sealed.push(segment);
        }
        for line in manifest.segments.iter_mut().filter(|line| line.id == active.id) {
            line.role = Role::Active;
        }
        manifest.durable = active.base + FIRST_FRAME;
        manifest.time = manifest.time.max(time);
        let time = self.note_time();
        let manifest = &mut self.manifest;
        manifest.incarnation += 1;
        self.note_default(active.base);
        self.install()?;
        self.unlink_obsolete();
        Ok(time)
    }

    /// Begins the time of the store with what is recorded, and records what the clock says.
    fn note_time(&mut self) -> StoreTime {
        let (wall, monotonic) = (self.io.clock.now(), self.io.clock.monotonic());
        let manifest = &mut self.manifest;
        let recorded = Recorded { time: manifest.time, claim: manifest.claim };
        let time = StoreTime::new(recorded, wall, monotonic);
        let recorded = time.recorded(wall, monotonic);
        (manifest.time, manifest.claim) = (recorded.time, recorded.claim);
        time
    }

    /// Unlinks what the manifest has dropped. What cannot be unlinked now stays listed as such.
    fn unlink_obsolete(&self) {
        for id in &self.manifest.obsolete {
            for run in [false, true] {
                let _ = self.io.fs.remove(&self.dir.join(file_name(*id, run)));
            }
        }
    }

    /// Writes down the default of retention if it is another one from `lsn` on.
    fn note_default(&mut self, lsn: u64) {
        let now = self.manifest.time;
        let (defaults, retention) = (&mut self.manifest.defaults, self.options.retention);
        if let Some(open) = defaults.iter_mut().find(|line| line.until == u64::MAX) {
            if open.retention == retention {
                return;
            }
            // What holds later is applied at a later time, also if the clock is set back.
            (open.until, open.time) = (lsn, now);
        }
        if retention != Retention::new() {
            defaults.push(PastDefault { until: u64::MAX, time: 0, retention });
        }
        drop_dominated(defaults);
    }

    fn install(&mut self) -> Result<()> {
        self.manifest.generation += 1;
        manifest::install(&self.io, self.dir, &self.manifest, self.before.as_ref())?;
        self.before = Some(self.manifest.clone());
        Ok(())
    }

    fn manifest_damage(&self, reason: &str) -> Error {
        Error::damaged(Damage::new(self.dir.join(manifest::NAME), 0, reason))
    }
}

/// Drops the lines that a later one makes idle: one whose limits are all as strict drops whatever
/// they do, and more. Else a store opened with two defaults in turn gathers a line each time, and
/// each of them is evaluated with each view.
fn drop_dominated(defaults: &mut Vec<PastDefault>) {
    let as_strict = |limit: Option<u64>, than: Option<u64>| match (limit, than) {
        (_, None) => true,
        (Some(limit), Some(than)) => limit <= than,
        (None, Some(_)) => false,
    };
    let all = defaults.clone();
    let idle = |line: &PastDefault| {
        let old = line.retention;
        all.iter().filter(|later| later.until > line.until).any(|later| {
            as_strict(later.retention.max_entries, old.max_entries)
                && as_strict(later.retention.max_bytes, old.max_bytes)
                && as_strict(later.retention.max_age, old.max_age)
        })
    };
    defaults.retain(|line| !idle(line));
}

/// Makes the agents of the active segment resident.
fn adopt(catalog: &Catalog, order: &mut Order, mut replay: Replay, time: u64) {
    if !replay.is_empty() {
        order.begun = time.max(1);
    }
    if replay.kills {
        // Something in the segment may have died; when is not known, but not after that time.
        order.active.segment.add_dead(1, time);
    }
    for (lsn, prefix) in std::mem::take(&mut replay.prefixes) {
        order.bound.add_prefix(prefix.len());
        catalog.forget_prefix(&prefix, lsn, u64::MAX);
        order.prefixes.push((lsn, prefix));
    }
    order.record_bytes = replay.record_bytes;
    order.hidden = replay.hidden;
    let progress = Progress { written: u64::MAX, durable: u64::MAX };
    let id = order.active.segment.id;
    for (name, version) in replay.into_versions() {
        order.note_adopted(&name, &version);
        let resident = catalog.resident(&name, catalog.hash(&name), progress);
        let mut slot = resident.lock();
        slot.adopt(version, id);
        catalog.charge(&resident, &mut slot);
        drop(slot);
        order.touched.push(resident);
    }
}
