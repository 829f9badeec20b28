//! The store: one directory, opened by one writing process.

#[cfg(all(test, feature = "sim"))]
mod beside_tests;
#[cfg(all(test, feature = "sim"))]
mod chunk_tests;
#[cfg(all(test, feature = "sim"))]
mod feature_tests;
#[cfg(all(test, feature = "sim"))]
mod gate;
#[cfg(all(test, feature = "sim", memlog_shuttle))]
mod races;
#[cfg(all(test, feature = "sim"))]
mod salvage_tests;
#[cfg(all(test, feature = "sim"))]
mod task_tests;
#[cfg(all(test, feature = "sim"))]
mod tests;

use std::fmt;
use std::iter::FusedIterator;
use std::path::Path;
use std::sync::Arc;

use crate::agent::{Agent, check_name};
use crate::batch::Batch;
use crate::catalog::names::{Names, Way};
use crate::catalog::roll::Roll;
use crate::commit::Engine;
use crate::commit::health::Health;
use crate::commit::scratch::Scratch;
use crate::compaction::{CompactOutcome, Compactor, ErasureReport, content_of};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::format::manifest::Holes;
use crate::format::record::Change;
use crate::io::{Io, disk};
use crate::options::Options;
use crate::recovery::{self, RecoveryReport, salvage};
use crate::repair::RepairReport;
use crate::segment::Segment;
use crate::types::{Durability, Lsn};
use crate::verify;

/// An open store. Cheap to clone, and used from many threads.
///
/// The last handle that is dropped, agents and views included, closes it; [`close`](Self::close)
/// does it at once and tells of errors.
///
/// ```
/// use memlog::{NewEntry, Store};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("mem");
/// let store = Store::open(&path)?;
/// let agent = store.agent("acme/support/t-7")?;
/// agent.append(NewEntry::user("hello"))?;
/// for entry in agent.view()?.latest(50) {
///     println!("{}", entry?.text()?);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Store(Arc<Handle>);

struct Handle {
    engine: Arc<Engine>,
    compactor: Arc<Compactor>,
    report: RecoveryReport,
    /// What a repair had lost, of a store that is only read.
    holes: Option<Holes>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Whoever wants to hear of errors closes by hand; what is lost here was never promised.
        self.compactor.close_unheard();
    }
}

/// Figures of a store, for those who watch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sealed segments.
    pub segments: u64,
    /// Files of unsealed segments: the active one, spares, and one that is being sealed.
    pub unsealed_segments: u64,
    /// What all segment files take of the disk, in bytes, unused room of unsealed ones included.
    pub disk_bytes: u64,
    /// Bytes of frames and runs in sealed segments.
    pub data_bytes: u64,
    /// Bytes of footers of sealed segments.
    pub footer_bytes: u64,
    /// Entries in sealed segments, dead ones included.
    pub sealed_entries: u64,
    /// Bytes of frames in the active segment.
    pub active_bytes: u64,
    /// Bytes ordered and not yet on stable storage.
    pub unsynced_bytes: u64,
    /// Memory that resident agents take, in bytes; those of unsealed segments are counted roughly.
    pub resident_bytes: u64,
    /// Bytes of content - entries and values of state, with what their records cost - that live in
    /// sealed segments.
    pub live_bytes: u64,
    /// Bytes of content in sealed segments that are dead, as far as that is known: what
    /// [`compact`](Store::compact) can give back. Exact figures come with the next garbage
    /// scan, which is made within [`Options::scan_interval`] where something died that was not
    /// booked.
    pub dead_bytes: u64,
    /// Bytes of files that are gone from the directory and that something open still holds: views,
    /// values, iterators.
    pub pinned_bytes: u64,
    /// Bytes of files that proved damaged and that compaction leaves alone until the store is
    /// repaired, or opened again.
    pub quarantined_bytes: u64,
    /// Garbage scans that were made since the store was opened.
    pub garbage_scans: u64,
    /// Bytes that compaction has written since the store was opened.
    pub compaction_bytes: u64,
    /// The lsn at which the next batch goes.
    pub next_lsn: Lsn,
}

impl Options {
    /// Opens the store in `dir`, creating it if it is absent and that was not forbidden.
    ///
    /// # Errors
    /// `NotAStore`, `InUse`, `Version`, `Damaged` (with what and where), `StaleManifest`,
    /// `DiskFull`, `Io`.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Store> {
        self.open_with(disk::system(self.mode), dir.as_ref())
    }

    /// Opens a store on a simulated disk.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    #[cfg(feature = "sim")]
    pub fn open_on(&self, disk: &crate::sim::SimDisk, dir: impl AsRef<Path>) -> Result<Store> {
        self.open_with(disk.io(), dir.as_ref())
    }

    /// Opens a store on a simulated disk, whose background tasks `tasks` runs: no thread does. With
    /// [`Maintenance::Manual`](crate::Maintenance::Manual) there are no tasks.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    #[cfg(feature = "sim")]
    pub fn open_stepped(
        &self,
        disk: &crate::sim::SimDisk,
        tasks: &crate::sim::SimTasks,
        dir: impl AsRef<Path>,
    ) -> Result<Store> {
        self.open_with(tasks.io(disk), dir.as_ref())
    }

    /// Copies what can be read of the store in `from` into a new store in `to`, with or without its
    /// manifest. `from` is not changed, and may be open in another process; `to` must be absent or an
    /// empty directory.
    ///
    /// Every whole record is kept. Entries that are lost keep their seq: reading one answers `Damaged`,
    /// until [`Store::accept_holes`] accepts the loss; [`Store::holes`] says that there are some. Names,
    /// seqs, times, kinds, redactions, values with their revisions, and policies are kept.
    ///
    /// The new store is made under a hidden name beside `to` and gets its name once it is whole and
    /// durable. A call that fails leaves nothing; what a killed one left is removed by the next one with
    /// the same `to`. The call reads `from` twice and writes what lives of it, which takes as much room.
    /// It holds some 100 MiB of memory, the largest batch, and the index of each segment that lost its
    /// own: about 6 bytes an entry.
    ///
    /// # Errors
    /// `NotAStore` if there is nothing to repair in `from`; `InvalidInput` if `to` is not empty; `InUse`
    /// if another repair into `to` is under way, or if `from` is written faster than it can be looked
    /// at; `Version`; `Io` if a file of `from` may not be read or its medium fails, which is no damage;
    /// `DiskFull` and `Io` of writing.
    ///
    /// ```
    /// use memlog::{NewEntry, Options, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let (from, to) = (dir.path().join("mem"), dir.path().join("mended"));
    /// let store = Store::open(&from)?;
    /// store.agent("a")?.append(NewEntry::user("hello"))?;
    /// store.close()?;
    /// let report = Options::new().repair(&from, &to)?;
    /// assert!(report.is_lossless() && report.damage.is_empty());
    /// assert_eq!(Store::open(&to)?.agent("a")?.view()?.next_seq(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn repair(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<RepairReport> {
        crate::repair::repair(&disk::system(self.mode), self, from.as_ref(), to.as_ref())
    }

    /// Repairs on a simulated disk.
    ///
    /// # Errors
    /// Those of [`repair`](Self::repair).
    #[cfg(feature = "sim")]
    pub fn repair_on(
        &self,
        disk: &crate::sim::SimDisk,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<RepairReport> {
        crate::repair::repair(&disk.io(), self, from.as_ref(), to.as_ref())
    }

    pub(crate) fn open_with(&self, io: Io, dir: &Path) -> Result<Store> {
        let (engine, report) = if self.salvage {
            let (engine, found) = salvage::open(io, dir, self, salvage::Probe::Indices)?;
            return Store::from_parts(engine, found.report, found.holes);
        } else if self.read_only {
            let (engine, report, holes) = recovery::read_only::open(io, dir, self)?;
            return Store::from_parts(engine, report, holes);
        } else {
            recovery::open(io, dir, self)?
        };
        Store::from_parts(engine, report, None)
    }
}

impl Store {
    pub(crate) fn from_parts(
        engine: Arc<Engine>,
        report: RecoveryReport,
        holes: Option<Holes>,
    ) -> Result<Store> {
        let compactor = Compactor::start(&engine)?;
        Ok(Store(Arc::new(Handle { engine, compactor, report, holes })))
    }

    /// What a repair had lost, of a store that is only read.
    pub(crate) fn holes_when_opened(&self) -> Option<Holes> {
        self.0.holes
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }

    pub(crate) fn max_payload(&self) -> usize {
        usize::try_from(self.engine().options.max_payload).unwrap_or(usize::MAX)
    }

    pub(crate) fn is_same(&self, other: &Store) -> bool {
        Arc::ptr_eq(&self.0.engine, &other.0.engine)
    }

    /// Opens the store in `dir` with the default options, creating it if it is absent.
    ///
    /// # Errors
    /// Those of [`Options::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(dir)
    }

    /// The handle of an agent, which need not exist. Checks the name, and touches no disk.
    ///
    /// # Errors
    /// `InvalidInput` unless the name has 1 to 512 bytes.
    pub fn agent(&self, name: &str) -> Result<Agent> {
        Agent::new(self, name)
    }

    /// The agents whose names begin with `prefix`, in the order of their names: all that exist as of
    /// now, with entries, empty, or with state only.
    ///
    /// Costs one seek in each segment that may hold such names, and then what it returns. Agents that
    /// were forgotten one by one are walked over until compaction has dropped them; those under a
    /// forgotten prefix are not. The first listing after many new agents sorts their names.
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// for name in ["acme/b", "acme/a", "other"] {
    ///     store.agent(name)?.append(NewEntry::user("hi"))?;
    /// }
    /// let names: Vec<_> = store.agents("acme/").map(|a| a.unwrap().name().to_owned()).collect();
    /// assert_eq!(names, ["acme/a", "acme/b"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn agents(
        &self,
        prefix: &str,
    ) -> impl DoubleEndedIterator<Item = Result<Agent>> + FusedIterator + Send + use<> {
        Agents::new(self, prefix)
    }

    /// An empty batch.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(self)
    }

    /// Forgets every agent whose name begins with `prefix`, which must end in `/`: one durable
    /// record, however many they are. Names under it may be used again at once.
    ///
    /// # Errors
    /// `InvalidInput` if the prefix is empty, longer than 512 bytes or does not end in `/`;
    /// otherwise those of [`Batch::commit`].
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// store.agent("acme/a")?.append(NewEntry::user("hi"))?;
    /// store.forget_prefix("acme/")?;
    /// assert_eq!(store.agents("").count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget_prefix(&self, prefix: &str) -> Result<Lsn> {
        check_name(prefix)?;
        if !prefix.ends_with('/') {
            let message = format!("a prefix to forget ends in '/', and {prefix:?} does not");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let engine = self.engine();
        let mut batch = Scratch::take();
        batch.push(0, &Change::ForgetPrefix { prefix });
        batch.prefix = Some(prefix.into());
        let ordered = engine.order(&mut batch, Durability::Sync)?;
        drop(batch);
        engine.wait(ordered.end, ordered.durability)?;
        Ok(ordered.lsn)
    }

    /// Takes everything committed so far, at whatever durability, to stable storage.
    ///
    /// # Errors
    /// `Indeterminate` if a write or sync fails, or has; `Closed`.
    pub fn sync(&self) -> Result<()> {
        self.engine().sync()
    }

    /// Compacts what is worth it: merges segments, so that an agent's entries lie together, and
    /// leaves behind what is dead.
    ///
    /// Compaction happens in the background by itself, lazily. This call does all that gains
    /// anything, at full speed, what was appended before it included. With
    /// [`Maintenance::Manual`](crate::Maintenance::Manual) it does one bounded step and answers
    /// [`More`](CompactOutcome::More) as long as there is another. Appends and reads go on.
    ///
    /// # Errors
    /// `Damaged` if something that lives cannot be read: its segment is left as it is. `Poisoned`,
    /// `Closed`, `ReadOnly`, `Io`. Whatever happens, nothing that lives is lost.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use memlog::{CompactOutcome, NewEntry, Store};
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// for _ in 0..10 {
    ///     agent.append(NewEntry::user("hello"))?;
    /// }
    /// agent.truncate_before(10)?;
    /// while store.compact()? == CompactOutcome::More {}
    /// assert_eq!(agent.view()?.iter().count(), 1);
    /// assert_eq!(store.stats().dead_bytes, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compact(&self) -> Result<CompactOutcome> {
        self.0.compactor.compact()
    }

    /// Erases everything that is dead from every file in the store's directory: forgotten agents and
    /// prefixes with their names, truncated and redacted entries, overwritten values, keys that were
    /// unset, what retention has dropped, what has expired. Rewrites the segments that hold any of it,
    /// however little, at full speed.
    ///
    /// What died before the call is gone from the directory when it returns. Open views, values
    /// that were handed out and hard links elsewhere (such as backups) may still hold the bytes of
    /// files that were unlinked: the report names those files, and the call does not wait for them.
    ///
    /// What has expired, or is too old, by a clock that is ahead of what the files tell is not
    /// destroyed before the clock has said so for an hour: a wrong clock destroys nothing. That is so
    /// after a crash, and where the store was closed meanwhile.
    ///
    /// # Errors
    /// `DiskFull` if there is no room to write what lives anew, `Damaged` if it cannot be read;
    /// `Poisoned`, `Closed`, `ReadOnly`, `Io`. What was erased until then stays erased, and nothing
    /// that lives is lost.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use memlog::{NewEntry, Store};
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("acme/t-1")?;
    /// agent.append(NewEntry::user("my secret"))?;
    /// agent.forget()?;
    /// let report = store.purge()?;
    /// assert!(report.is_complete());
    /// assert_eq!(report.agents, ["acme/t-1"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn purge(&self) -> Result<ErasureReport> {
        self.0.compactor.purge()
    }

    /// Makes a backup in `dir`, a new or empty directory, while appends and reads go on: a store
    /// with everything ordered before the call, which opens by itself. Gives the lsn up to which it
    /// has everything.
    ///
    /// Sealed segments get hard links where the file system allows it and are copied otherwise; a
    /// linked backup takes almost no room, and keeps the bytes of what is erased later.
    ///
    /// # Errors
    /// `InvalidInput` if the directory is not empty; `InUse` if another backup into it is under way;
    /// `DiskFull`, `Io`. What a backup that failed, or was killed, has left in the directory is no
    /// store: the next backup into it removes it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use memlog::{NewEntry, Store};
    /// let store = Store::open(dir.path().join("mem"))?;
    /// store.agent("a")?.append(NewEntry::user("hello"))?;
    /// store.backup(dir.path().join("copy"))?;
    /// let copy = Store::open(dir.path().join("copy"))?;
    /// assert_eq!(copy.agent("a")?.view()?.next_seq(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<Lsn> {
        self.0.compactor.backup(dir.as_ref())
    }

    /// Reads the whole store and verifies every checksum, and that indexes and data agree. Gives
    /// every damage found; an empty list means that all is well.
    ///
    /// # Errors
    /// Only what keeps it from reading at all.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let store = memlog::Store::open(dir.path().join("mem"))?;
    /// assert!(store.verify()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(&self) -> Result<Vec<Damage>> {
        self.engine().check_open()?;
        let mut damage = verify::verify(self.engine())?;
        if self.engine().options.salvage {
            damage.extend(self.0.report.damage.iter().cloned());
        }
        Ok(damage)
    }

    /// Figures of the store as of now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let engine = self.engine();
        let set = engine.catalog.segments();
        // Of a store that is only read, unsealed segments have footers in memory.
        let only_read = engine.options.read_only && engine.writing.is_none();
        let unsealed = |segment: &Segment| only_read && !segment.has_own_footer();
        let mut stats = Stats {
            segments: set.sealed.iter().filter(|segment| !unsealed(segment)).count() as u64,
            unsynced_bytes: engine.unsynced(),
            resident_bytes: engine.catalog.resident_bytes() as u64,
            ..Stats::default()
        };
        // The sums of a footer are what it says: nothing bounds those of several together.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        for segment in &set.sealed {
            if unsealed(segment) {
                stats.unsealed_segments += 1;
                add(&mut stats.disk_bytes, segment.capacity);
                continue;
            }
            add(&mut stats.disk_bytes, segment.disk_len());
            if let Some((live, dead)) = content_of(segment) {
                add(&mut stats.live_bytes, live);
                add(&mut stats.dead_bytes, dead);
            }
            if let Some(trailer) = segment.trailer() {
                add(&mut stats.data_bytes, trailer.facts.data_end);
                add(&mut stats.footer_bytes, trailer.footer_len());
                add(&mut stats.sealed_entries, trailer.entries);
            }
        }
        for segment in engine.catalog.retired() {
            add(&mut stats.pinned_bytes, segment.disk_len());
        }
        stats.quarantined_bytes = self.0.compactor.quarantined_bytes();
        stats.garbage_scans = self.0.compactor.scans();
        stats.compaction_bytes = self.0.compactor.written();
        let order = engine.order.lock();
        stats.active_bytes = order.tail;
        stats.next_lsn = Lsn(order.end());
        let sealing = order.sealing.iter().map(|job| &job.file);
        for file in order.spares.iter().chain(sealing).chain([&order.active]) {
            let counted = only_read && file.segment.trailer().is_none();
            if engine.writing.is_some() || counted {
                stats.unsealed_segments += 1;
                add(&mut stats.disk_bytes, file.segment.capacity);
            }
        }
        stats
    }

    /// How the store is doing as of now: whether it takes writes, what its background work met, and
    /// what it is behind by. Cheap: it reads no file and waits for nothing.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let store = memlog::Store::open(dir.path().join("mem"))?;
    /// let health = store.health();
    /// assert!(!health.poisoned && health.last_error.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        self.engine().health()
    }

    /// What recovery found and did when the store was opened.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.0.report
    }

    /// Changes whenever the store is opened for writing. A seq or revision that was acknowledged
    /// below [`Durability::Sync`] is only good for the incarnation that it was got in: a crash may
    /// lose it, and the seq is then given again.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.engine().incarnation
    }

    /// Closes the store: everything committed goes to stable storage, and the next opening is quick.
    /// Clones, agents and batches then answer `Closed`; views that are open go on.
    ///
    /// # Errors
    /// What kept the last batches from stable storage. The store is closed all the same.
    pub fn close(&self) -> Result<()> {
        self.0.compactor.stop();
        self.engine().close()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.engine().dir).finish_non_exhaustive()
    }
}

/// The agents under a prefix, from both ends.
struct Agents {
    store: Store,
    /// `None`: it ended, or failed and has said so.
    names: Option<Result<Names>>,
}

impl Agents {
    fn new(store: &Store, prefix: &str) -> Self {
        let engine = store.engine();
        let names = engine.check_open().map(|()| {
            // What runs ahead of the footers first: what is sealed in between is seen twice then,
            // and not missed.
            let rolls = engine.order.lock().rolls();
            let ahead = rolls.iter().flat_map(Roll::sorted).collect();
            Names::new(&engine.catalog.segments(), prefix, ahead)
        });
        Agents { store: store.clone(), names: Some(names) }
    }

    fn step(&mut self, way: Way) -> Option<Result<Agent>> {
        let engine = Arc::clone(self.store.engine());
        let stepped = match self.names.as_mut()? {
            Ok(names) => names.step(way, &engine.catalog, engine.progress()),
            Err(error) => Err(error.clone()),
        };
        match stepped {
            Ok(Some(name)) => Some(Ok(Agent::known(&self.store, &name))),
            ended => {
                self.names = None;
                ended.err().map(Err)
            }
        }
    }
}

impl Iterator for Agents {
    type Item = Result<Agent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Way::Forward)
    }
}

impl DoubleEndedIterator for Agents {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Way::Backward)
    }
}

impl FusedIterator for Agents {}
