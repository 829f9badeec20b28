//! An agent at one moment, as everybody below the public face may evaluate it: what a view shows,
//! and so what may be kept of the agent and nothing more.

mod entries;
mod place;
mod retained;
mod since;
mod state;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod usage;

use std::path::Path;
use std::sync::Arc;

pub use self::entries::Entries;
use self::place::Place;
pub(crate) use self::since::Unreadable;
use crate::catalog::base::{Base, Extent};
use crate::catalog::resident::{FloorMemo, Resident};
use crate::catalog::version::Seen;
use crate::commit::Engine;
use crate::entry::Entry;
use crate::error::{Damage, Error, Result};
use crate::format::head::Head;
use crate::types::Retention;

/// An agent at one moment.
///
/// It keeps what it reads, and not the engine: opening one and letting it go touches no counter
/// that the threads of a store share.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// Held for its name, which is at hand where the agent was just looked at.
    resident: Arc<Resident>,
    pub(crate) version: Seen,
    pub(crate) base: Arc<Base>,
    /// The lowest live seq, under retention.
    pub(crate) floor: u64,
    /// The engine's now when it was opened; 0 where nothing depends on it.
    pub(crate) time: u64,
    /// The store is open for salvage: reading goes on behind what is damaged.
    lenient: bool,
    /// The store's directory, if there is no segment whose path tells it.
    dir: Option<Box<Path>>,
}

/// Which of an agent's versions a snapshot is to show.
#[derive(Clone, Copy)]
enum Which {
    Settled,
    Latest,
    /// The settled one, for what destroys.
    Erasing,
}

impl Snapshot {
    /// The agent as everybody may see it now.
    ///
    /// # Errors
    /// `Damaged` if what is known of the agent cannot be read; `Poisoned` if the agent has bytes
    /// that a failed write left in memory only.
    #[inline]
    pub(crate) fn open(engine: &Engine, resident: Arc<Resident>) -> Result<Snapshot> {
        Self::open_as(engine, resident, Which::Settled)
    }

    /// The agent as everybody may see it now, if all of that is in memory: `None` if it would have to
    /// be read, or to be written first.
    ///
    /// # Errors
    /// None of today; those of [`open`](Self::open) are met where something is read.
    pub(crate) fn open_now(engine: &Engine, resident: Arc<Resident>) -> Result<Option<Snapshot>> {
        let mut slot = resident.lock();
        if !slot.is_known() {
            return Ok(None);
        }
        engine.catalog.apply_prefixes(&resident, &mut slot);
        let progress = engine.progress();
        slot.settle(progress);
        let (settled, end) = slot.settled();
        if slot.unwritten(progress).is_some() || end > progress.written {
            return Ok(None);
        }
        let life = settled.head.life;
        let base = match slot.base().filter(|base| base.life == life) {
            Some(base) => Arc::clone(base),
            None if life == 0 => Arc::new(Base::empty(0, 0)),
            None => return Ok(None),
        };
        let version = settled.seen(base.generation);
        drop(slot);
        let changed = version.parts.iter().find_map(|part| part.policy());
        let policy = changed.unwrap_or(base.policy).unwrap_or(engine.options.retention);
        let reads = policy.max_bytes.is_some() || policy.max_age.is_some();
        if reads || !engine.past_defaults.is_empty() {
            return Ok(None);
        }
        Snapshot::assemble(engine, resident, version, base, Which::Settled).map(Some)
    }

    /// The agent as of the last ordered batch, whether or not others may see that yet.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub(crate) fn open_latest(engine: &Engine, resident: Arc<Resident>) -> Result<Snapshot> {
        Self::open_as(engine, resident, Which::Latest)
    }

    #[inline(always)]
    fn open_as(engine: &Engine, resident: Arc<Resident>, which: Which) -> Result<Snapshot> {
        let mut asked = false;
        // Held until it is used: an eviction in between would have it loaded for ever.
        let mut _loaded = None;
        loop {
            let mut slot = resident.lock();
            if !slot.is_known() {
                drop(slot);
                let learned = engine.catalog.learn_all(&resident, engine.progress());
                _loaded = learned.map_err(|e| e.for_agent(&resident.name))?;
                continue;
            }
            engine.catalog.apply_prefixes(&resident, &mut slot);
            // Read under the lock: of a segment that is sealed in between, the base would be ahead of
            // what was settled before, and together they would be of no one moment.
            let progress = engine.progress();
            slot.settle(progress);
            let unwritten = match which {
                // Once: what is appended meanwhile is not asked for, and whoever goes on appending
                // would be waited for for ever.
                Which::Settled | Which::Erasing => slot.unwritten(progress).filter(|_| !asked),
                Which::Latest => slot.unwritten_at_all(progress),
            };
            if let Some(end) = unwritten {
                drop(slot);
                asked = true;
                engine.write_for_reader(end).map_err(|e| e.for_agent(&resident.name))?;
                continue;
            }
            let (settled, end) = slot.settled();
            let version = match which {
                Which::Settled | Which::Erasing => settled,
                Which::Latest => slot.latest(),
            };
            let base = slot.base().filter(|base| base.life == version.head.life);
            let base = match base {
                None if version.head.life == 0 => Some(Arc::new(Base::empty(0, 0))),
                base => base.map(Arc::clone),
            };
            if let Some(base) = base {
                // Where a footer stands for a part already, the base has it.
                let version = version.seen(base.generation);
                drop(slot);
                // What came in between may be in memory only.
                engine.write_for_reader(end).map_err(|e| e.for_agent(&resident.name))?;
                return Snapshot::assemble(engine, resident, version, base, which);
            }
            let head = version.head;
            drop(slot);
            let loaded = engine.catalog.learn_base(&resident, &head, progress);
            _loaded = loaded.map_err(|e| e.for_agent(&resident.name))?;
        }
    }

    #[inline(always)]
    fn assemble(
        engine: &Engine,
        resident: Arc<Resident>,
        version: Seen,
        base: Arc<Base>,
        which: Which,
    ) -> Result<Snapshot> {
        // What lies below the base's floor may have been left out when a run was made.
        let floor = version.head.floor.max(base.floor).min(version.head.next);
        let homeless = base.extents.is_empty() && version.parts.is_empty();
        let mut snapshot = Snapshot {
            resident,
            floor,
            time: 0,
            lenient: engine.options.salvage,
            // Only what was damaged has entries and no segment.
            dir: (homeless && floor < version.head.next).then(|| engine.dir.as_path().into()),
            version,
            base,
        };
        let policy = snapshot.policy().unwrap_or(engine.options.retention);
        let ages = policy.max_age.is_some() || !engine.past_defaults.is_empty();
        if ages || snapshot.version.head.flags & Head::EXPIRES != 0 {
            snapshot.time = match which {
                Which::Settled | Which::Latest => engine.now(),
                Which::Erasing => engine.confirmed_now(),
            };
        }
        if policy.max_bytes.is_some() && !ages {
            snapshot.raise_floor_by_bytes(engine, &policy)?;
        } else {
            snapshot.floor = retained::floor(&snapshot, engine, &policy)?;
        }
        Ok(snapshot)
    }

    /// The floor under a policy by bytes takes some reading, and is the same for a version.
    #[inline(never)]
    fn raise_floor_by_bytes(&mut self, engine: &Engine, policy: &Retention) -> Result<()> {
        let key = FloorMemo {
            version: (self.version.head, self.version.lsn),
            generation: self.base.generation,
            policy: *policy,
            floor: 0,
        };
        let memo = self.resident.lock().floor_memo();
        if let Some(memo) = memo.filter(|memo| key == (FloorMemo { floor: 0, ..*memo })) {
            self.floor = memo.floor;
            return Ok(());
        }
        self.floor = retained::floor(self, engine, policy)?;
        self.resident.lock().keep_floor(FloorMemo { floor: self.floor, ..key });
        Ok(())
    }

    /// An agent as some of its blocks and what is in memory tell, for whoever must evaluate it and
    /// not look it up. `resident` is in no table.
    ///
    /// # Errors
    /// `Damaged` if a record that must be read cannot be.
    pub(crate) fn of_blocks(
        engine: &Engine,
        resident: Arc<Resident>,
        version: Seen,
        base: Base,
    ) -> Result<Snapshot> {
        Snapshot::assemble(engine, resident, version, Arc::new(base), Which::Erasing)
    }

    /// The agent's name.
    pub(crate) fn name(&self) -> &str {
        &self.resident.name
    }

    /// The policy of the agent's own.
    pub(crate) fn policy(&self) -> Option<Retention> {
        let changed = self.version.parts.iter().find_map(|part| part.policy());
        changed.unwrap_or(self.base.policy)
    }

    /// The seq that the next entry gets.
    pub(crate) fn next_seq(&self) -> u64 {
        self.version.head.next
    }

    /// The entries from `from` up to `to`, itself excluded; both lie within floor..=next.
    #[inline]
    pub(crate) fn entries(&self, from: u64, to: u64) -> Entries<'_> {
        Entries::new(self, from, to)
    }

    /// The entry with a seq that there is.
    #[inline]
    pub(crate) fn entry(&self, seq: u64) -> Result<Entry<'_>> {
        self.entry_at(seq, self.place(seq))
    }

    #[inline]
    fn entry_at<'v>(&'v self, seq: u64, place: Option<Place<'v>>) -> Result<Entry<'v>> {
        let outcome = match place {
            Some(Place { segment, spot, extent }) => match spot.offset() {
                Some(offset) => {
                    let verified = extent.is_some_and(Extent::is_verified);
                    Entry::read(segment, offset, seq, verified, || self.is_redacted(seq))
                }
                // A loss that was accepted. An index that was made beside the file has places for
                // these: what has none there could not be read, redacted or not.
                None if !segment.is_rebuilt() && self.is_redacted(seq) => {
                    Ok(Entry::blank(segment, seq))
                }
                None => Err(segment.damage(0, "the entry was lost")),
            },
            None => Err(self.missing()),
        };
        match outcome {
            Ok(mut entry) => {
                if self.is_redacted(seq) || entry.expires_ms().is_some_and(|t| t <= self.time) {
                    entry.hide();
                }
                Ok(entry)
            }
            Err(error) => Err(error.with_agent(self.name()).with_seq(seq)),
        }
    }

    #[cold]
    fn missing(&self) -> Error {
        let parts = self.version.parts.iter().map(|part| &part.segment);
        let mut segments = parts.chain(self.base.extents.iter().map(|extent| &extent.segment));
        let beside = segments.next().and_then(|segment| segment.path().parent());
        let dir = beside.or(self.dir.as_deref()).unwrap_or(Path::new(""));
        Error::damaged(Damage::new(dir, 0, "no segment holds the entry"))
    }

    #[inline]
    fn is_redacted(&self, seq: u64) -> bool {
        self.version.head.flags & Head::REDACTED != 0
            && (self.base.redacted.binary_search(&seq).is_ok()
                || self.version.parts.iter().any(|p| p.redacted().binary_search(&seq).is_ok()))
    }

    /// The first of these seqs, from `from` on, whose entry was lost, where that is not accepted.
    pub(crate) fn next_lost(&self, from: u64) -> Option<u64> {
        (from.max(self.floor)..self.next_seq()).find(|seq| {
            let lies = self.locate(*seq).is_some_and(|(_, spot)| spot.offset().is_some());
            !lies && !self.is_redacted(*seq)
        })
    }

    /// The live entries that were redacted, ascending.
    pub(crate) fn redacted_seqs(&self) -> Vec<u64> {
        let parts = self.version.parts.iter().flat_map(|part| part.redacted().iter());
        let all = self.base.redacted.iter().chain(parts);
        let mut seqs: Vec<u64> =
            all.copied().filter(|seq| (self.floor..self.next_seq()).contains(seq)).collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }
}
