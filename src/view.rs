//! Views: consistent reads of one agent at one moment.

mod entries;
mod retained;

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub use self::entries::Entries;
use self::entries::Place;
use crate::agent::Agent;
use crate::catalog::base::{Base, Extent};
use crate::catalog::part::{Spot, StateSlot};
use crate::catalog::version::Version;
use crate::entry::{Entry, StateValue};
use crate::error::{Damage, Error, Result};
use crate::format::head::Head;
use crate::segment::Segment;
use crate::types::{Retention, Usage};

/// A consistent point-in-time view of one agent.
///
/// It fixes position, time and segments: later appends, truncation, redaction, forgetting and
/// expiry do not disturb it. Cheap to clone. While it lives, it pins the segments it reads.
#[derive(Clone)]
pub struct View {
    agent: Agent,
    version: Version,
    base: Arc<Base>,
    floor: u64,
    /// The engine's now when it was opened.
    time: u64,
}

impl View {
    pub(crate) fn open(agent: &Agent) -> Result<View> {
        let engine = agent.store.engine();
        engine.check_open()?;
        let resident = agent.resident();
        loop {
            engine.settle(&resident).map_err(|e| e.for_agent(&agent.name))?;
            let head = {
                let slot = resident.lock();
                let version = slot.settled();
                let base = slot.base().filter(|base| base.life == version.head.life);
                if let Some(base) = base {
                    let (version, base) = (version.clone(), Arc::clone(base));
                    drop(slot);
                    return View::assemble(agent, version, base);
                }
                if version.head.life == 0 {
                    let version = version.clone();
                    drop(slot);
                    return View::assemble(agent, version, Arc::new(Base::empty(0, 0)));
                }
                version.head
            };
            let loaded = engine.catalog.learn_base(&resident, &head);
            loaded.map_err(|e| e.for_agent(&agent.name))?;
        }
    }

    fn assemble(agent: &Agent, mut version: Version, base: Arc<Base>) -> Result<View> {
        // Where a footer stands for a part already, the base has it.
        version.drop_sealed(base.generation);
        let engine = agent.store.engine();
        let floor = version.head.floor;
        let mut view = View { agent: agent.clone(), version, base, floor, time: engine.now() };
        view.floor = retained::floor(&view)?;
        Ok(view)
    }

    /// The policy of the agent's own.
    pub(crate) fn policy(&self) -> Option<Retention> {
        let changed = self.version.parts().find_map(|part| part.policy());
        changed.unwrap_or(self.base.policy)
    }

    /// The head's flags and life, for those who copy the agent elsewhere.
    pub(crate) fn head(&self) -> &Head {
        &self.version.head
    }

    /// The agent that it is a view of.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The lowest live seq; [`next_seq`](Self::next_seq) if the timeline is empty.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The seq that the next entry gets: 1 for an agent that is absent or was forgotten.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.version.head.next
    }

    /// All entries, oldest first.
    ///
    /// Like every iterator here it ends after an error, which carries the seq, so that
    /// `range(seq + 1..)` goes on behind it. A store opened with
    /// [`salvage`](crate::Options::salvage) goes on by itself.
    pub fn iter(&self) -> Entries<'_> {
        self.range(..)
    }

    /// The latest `n` entries, oldest first; `.rev()` gives the newest first.
    pub fn latest(&self, n: usize) -> Entries<'_> {
        let from = self.next_seq().saturating_sub(n as u64).max(self.floor);
        Entries::new(self, from, self.next_seq())
    }

    /// The entries with seqs in `range`, clamped to those there are.
    ///
    /// ```
    /// use memlog::{NewEntry, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path().join("mem"))?;
    /// # let agent = store.agent("a")?;
    /// for i in 1..=30 {
    ///     agent.append(NewEntry::user(&i.to_string()))?;
    /// }
    /// let view = agent.view()?;
    /// let texts: Vec<_> = view.range(10..=12).map(|e| e.unwrap().seq()).collect();
    /// assert_eq!(texts, [10, 11, 12]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn range(&self, range: impl RangeBounds<u64>) -> Entries<'_> {
        let from = match range.start_bound() {
            Bound::Included(seq) => *seq,
            Bound::Excluded(seq) => seq.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(seq) => seq.saturating_add(1),
            Bound::Excluded(seq) => *seq,
            Bound::Unbounded => u64::MAX,
        };
        Entries::new(self, from.max(self.floor), to.min(self.next_seq()))
    }

    /// The entries from the first one with `at >= time` on. Later ones may be older: a timeline is
    /// ordered by seq, whatever the clocks said.
    pub fn since(&self, time: SystemTime) -> Entries<'_> {
        // Before 1970 is before everything, and what milliseconds cannot count is behind it.
        let time = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            Err(_) => 0,
        };
        match self.find_since(time, Unreadable::Fails) {
            Ok(from) => Entries::new(self, from, self.next_seq()),
            Err(error) => Entries::failed(self, error),
        }
    }

    /// The entry with this seq; `None` outside of floor..next.
    ///
    /// # Errors
    /// `Damaged` if it cannot be read.
    pub fn get(&self, seq: u64) -> Result<Option<Entry<'_>>> {
        if seq < self.floor || seq >= self.next_seq() {
            return Ok(None);
        }
        self.entry(seq).map(Some)
    }

    /// The value of a key of the agent's state; `None` if it is absent.
    ///
    /// # Errors
    /// `Damaged` if it cannot be read.
    ///
    /// ```
    /// use memlog::Store;
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("mem"))?;
    /// let agent = store.agent("a")?;
    /// store.batch().set(&agent, "goal", "refund").commit()?;
    /// let goal = agent.view()?.state("goal")?.unwrap();
    /// assert_eq!(&goal.value()[..], b"refund");
    /// // Compare and set: fails with `Conflict` if somebody else was faster.
    /// store
    ///     .batch()
    ///     .expect_revision(&agent, "goal", Some(goal.revision()))
    ///     .set(&agent, "goal", "done")
    ///     .commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn state(&self, key: &str) -> Result<Option<StateValue>> {
        for part in self.version.parts() {
            if let Some(slot) = part.state(key, self.version.lsn) {
                return self.value(&part.segment, slot, key).transpose();
            }
        }
        match self.base.state.get(key) {
            Some(found) => self.value(&found.segment, found.slot, key).transpose(),
            None => Ok(None),
        }
    }

    /// The keys that begin with `prefix` and their values, in the order of the keys.
    pub fn states(
        &self,
        prefix: &str,
    ) -> impl DoubleEndedIterator<Item = Result<StateValue>> + FusedIterator + Send + use<'_> {
        let mut found: BTreeMap<Box<str>, (Arc<Segment>, StateSlot)> = BTreeMap::new();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (key, value) in self.base.state.range::<str, _>(from) {
            if !key.starts_with(prefix) {
                break;
            }
            found.insert(key.clone(), (Arc::clone(&value.segment), value.slot));
        }
        let parts: Vec<_> = self.version.parts().collect();
        for part in parts.into_iter().rev() {
            part.states(prefix, self.version.lsn, |key, slot| {
                found.insert(key.into(), (Arc::clone(&part.segment), slot));
            });
        }
        States { view: self, left: found.into_iter() }
    }

    fn value(
        &self,
        segment: &Arc<Segment>,
        slot: StateSlot,
        key: &str,
    ) -> Option<Result<StateValue>> {
        let offset = slot.spot.offset()?;
        let value = StateValue::read(segment, offset, key, slot.revision);
        Some(value.map_err(|e| e.with_agent(&self.agent.name)))
    }

    fn find_since(&self, time: u64, unreadable: Unreadable) -> Result<u64> {
        for extent in self.base.extents.iter().filter(|e| e.end() > self.floor) {
            if let Some(from) = extent.group_reaching(time)?
                && let Some(seq) = self.scan_since(from, extent.end(), time, unreadable)?
            {
                return Ok(seq);
            }
        }
        let parts: Vec<_> = self.version.parts().collect();
        for part in parts.into_iter().rev().filter(|p| p.end() > self.floor) {
            if let Some(from) = part.group_reaching(time)
                && let Some(seq) = self.scan_since(from, part.end(), time, unreadable)?
            {
                return Ok(seq);
            }
        }
        Ok(self.next_seq())
    }

    fn scan_since(
        &self,
        from: u64,
        to: u64,
        time: u64,
        unreadable: Unreadable,
    ) -> Result<Option<u64>> {
        for seq in from.max(self.floor)..to.min(self.next_seq()) {
            match self.entry(seq) {
                Ok(entry) if entry.at_ms() >= time => return Ok(Some(seq)),
                Ok(_) => {}
                Err(_) if unreadable == Unreadable::Stays => return Ok(Some(seq)),
                Err(_) if self.is_lenient() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The pieces of the timeline, newest first: see [`Timeline::pieces`].
    fn stretches(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let parts = self.version.parts().map(|p| (p.first, p.end(), p.bytes));
        parts.chain(self.base.extents.iter().rev().map(|e| (e.first, e.end(), e.bytes())))
    }

    /// Where the entry lies. `None` if no segment has it.
    #[inline]
    fn locate(&self, seq: u64) -> Option<(&Arc<Segment>, Spot)> {
        self.place(seq).map(|place| (place.segment, place.spot))
    }

    #[inline]
    fn place(&self, seq: u64) -> Option<Place<'_>> {
        for part in self.version.parts() {
            if let Some(spot) = part.spot(seq) {
                return Some(Place { segment: &part.segment, spot, extent: None });
            }
        }
        let extents = &self.base.extents;
        let behind = extents.partition_point(|extent| extent.first <= seq);
        let extent = extents.get(behind.checked_sub(1)?)?;
        let spot = extent.spot(seq)?;
        Some(Place { segment: &extent.segment, spot, extent: Some(extent) })
    }

    /// Where the entries from `lowest` on lie, as many as `out` takes below `end`.
    fn places<'v>(&'v self, lowest: u64, end: u64, out: &mut [Option<Place<'v>>]) {
        out.fill(None);
        let seqs = lowest..end.min(lowest.saturating_add(out.len() as u64));
        let mut put = |seq: u64, place| {
            let slot = usize::try_from(seq - lowest).ok().and_then(|index| out.get_mut(index));
            if let Some(slot) = slot {
                *slot = Some(place);
            }
        };
        let extents = &self.base.extents;
        let first = extents.partition_point(|extent| extent.first <= lowest).saturating_sub(1);
        for extent in extents.iter().skip(first).take_while(|extent| extent.first < seqs.end) {
            for (seq, spot) in extent.spots(seqs.clone()) {
                put(seq, Place { segment: &extent.segment, spot, extent: Some(extent) });
            }
        }
        for part in self.version.parts() {
            for seq in seqs.start.max(part.first)..seqs.end.min(part.end()) {
                if let Some(spot) = part.spot(seq) {
                    put(seq, Place { segment: &part.segment, spot, extent: None });
                }
            }
        }
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
                    Entry::read(segment, offset, seq, verified)
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
            Err(error) => Err(error.with_agent(&self.agent.name).with_seq(seq)),
        }
    }

    /// Has entries that are about to be read for the first time fetched together: one after the
    /// other a cold load would wait for the disk as often as it has entries.
    fn read_ahead(&self, from: u64, to: u64) {
        const MOST: u64 = 128;
        const PAGE: u64 = crate::format::PAGE as u64;
        let touched = |seq| match self.locate(seq) {
            Some((segment, spot)) => spot.offset().is_none_or(|at| segment.is_touched(at)),
            None => true,
        };
        if to - from < 2 || touched(from) || touched(to - 1) {
            return;
        }
        let mut wanted: Option<(&Arc<Segment>, Range<u64>)> = None;
        for seq in from.max(to.saturating_sub(MOST))..to {
            let Some((segment, spot)) = self.locate(seq) else { continue };
            let Some(offset) = spot.offset() else { continue };
            let start = offset & !(PAGE - 1);
            match &mut wanted {
                Some((same, range))
                    if same.id == segment.id && (range.start..=range.end).contains(&start) =>
                {
                    range.end = range.end.max(start + PAGE);
                }
                _ => {
                    if let Some((segment, range)) = wanted.replace((segment, start..start + PAGE)) {
                        segment.will_need(range);
                    }
                }
            }
        }
        if let Some((segment, range)) = wanted {
            segment.will_need(range);
        }
    }

    fn missing(&self) -> Error {
        let dir = &self.agent.store.engine().dir;
        Error::damaged(Damage::new(dir, 0, "no segment holds the entry"))
    }

    fn is_redacted(&self, seq: u64) -> bool {
        self.version.head.flags & Head::REDACTED != 0
            && (self.base.redacted.binary_search(&seq).is_ok()
                || self.version.parts().any(|p| p.redacted().binary_search(&seq).is_ok()))
    }

    fn is_lenient(&self) -> bool {
        self.agent.store.engine().options.salvage
    }

    /// What the agent has stored.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut usage =
            Usage { entries: self.next_seq().saturating_sub(self.floor), ..Usage::default() };
        let mut all = 0u64;
        for (first, end, bytes) in self.stretches() {
            all = all.saturating_add(bytes);
            if first >= self.floor {
                usage.live_bytes = usage.live_bytes.saturating_add(bytes);
            } else if end > self.floor {
                for seq in self.floor..end.min(self.next_seq()) {
                    let len = self.entry(seq)?.stored_len();
                    usage.live_bytes = usage.live_bytes.saturating_add(len);
                }
            }
        }
        for seq in self.redacted_seqs() {
            let entry = self.entry(seq)?;
            usage.live_bytes = usage.live_bytes.saturating_sub(entry.stored_len());
        }
        usage.dead_bytes = all.saturating_sub(usage.live_bytes);
        Ok(usage)
    }

    fn redacted_seqs(&self) -> Vec<u64> {
        let parts = self.version.parts().flat_map(|part| part.redacted().iter());
        let all = self.base.redacted.iter().chain(parts);
        let mut seqs: Vec<u64> =
            all.copied().filter(|seq| (self.floor..self.next_seq()).contains(seq)).collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("agent", &self.agent.name)
            .field("floor", &self.floor)
            .field("next_seq", &self.next_seq())
            .finish_non_exhaustive()
    }
}

/// What an entry that cannot be read means to a search by time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    /// The search fails, unless the store is open for salvage.
    Fails,
    /// No policy drops it.
    Stays,
}

/// Values of a view's state, from both ends.
struct States<'v> {
    view: &'v View,
    left: btree_map::IntoIter<Box<str>, (Arc<Segment>, StateSlot)>,
}

impl States<'_> {
    fn read(
        &mut self,
        next: impl Fn(&mut Self) -> Option<(Box<str>, (Arc<Segment>, StateSlot))>,
    ) -> Option<Result<StateValue>> {
        loop {
            let (key, (segment, slot)) = next(self)?;
            let Some(value) = self.view.value(&segment, slot, &key) else { continue };
            if value.is_err() && !self.view.is_lenient() {
                self.left = BTreeMap::new().into_iter();
            }
            return Some(value);
        }
    }
}

impl Iterator for States<'_> {
    type Item = Result<StateValue>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read(|states| states.left.next())
    }
}

impl DoubleEndedIterator for States<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.read(|states| states.left.next_back())
    }
}

impl FusedIterator for States<'_> {}
