//! What one unsealed segment holds of one life of an agent.
//!
//! A part is shared by the versions of an agent and by views. What it points to only grows: a
//! reader takes no lock for entries, and looks no further than the counts of its own copy.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::format::footer::{Group, NEVER};
use crate::segment::Segment;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::types::Retention;

/// Entries that share running sums and a running maximum of `at`.
pub(crate) const GROUP: usize = crate::format::footer::GROUP;
/// Records are aligned, so that their offsets fit 32 bits.
const UNIT: u64 = 8;
/// The spots of so many entries take no memory of their own.
const FEW: usize = 4;

/// Where an entry or a value lies in a segment, in units of 8 bytes; 0 = nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spot(pub(crate) u32);

impl Spot {
    /// The spot of a byte offset. Segments end far below the 32 GiB where this would saturate.
    pub(crate) fn at(offset: u64) -> Self {
        Spot(u32::try_from(offset / UNIT).unwrap_or(0))
    }

    /// The byte offset, unless there is none.
    pub(crate) fn offset(self) -> Option<u64> {
        (self.0 != 0).then_some(u64::from(self.0) * UNIT)
    }
}

/// The last change of a key in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateSlot {
    /// The lsn of the batch that wrote it, also where a run keeps it.
    pub(crate) revision: u64,
    /// Where the value lies; nowhere if the key was unset.
    pub(crate) spot: Spot,
    /// Bytes of the record that holds the value, with padding; 0 if the key was unset.
    pub(crate) len: u32,
}

/// Every change of every key in one segment: versions pick what they may see by revision.
#[derive(Debug, Default)]
pub(crate) struct StateLog {
    keys: BTreeMap<Box<str>, Vec<StateSlot>>,
    /// Bytes of the records that hold the last values.
    bytes: u64,
}

/// What a part is told of an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pushed {
    pub(crate) at: u64,
    /// Payload and meta, in bytes.
    pub(crate) bytes: u64,
    pub(crate) weight: u32,
    pub(crate) joined: bool,
    pub(crate) lost: bool,
    /// When it expires, if it has the bytes to lose.
    pub(crate) expires: Option<u64>,
}

/// What is kept of a whole group.
#[derive(Default)]
struct GroupCell {
    max_at: AtomicU64,
    bytes: AtomicU64,
    weight: AtomicU64,
    /// `unweighted`, and `joined` above it.
    traits: AtomicU64,
    soonest: AtomicU64,
}

impl GroupCell {
    fn load(&self, ordering: Ordering) -> Group {
        let traits = self.traits.load(ordering);
        #[expect(clippy::cast_possible_truncation, reason = "the halves of the word")]
        let (unweighted, joined) = (traits as u32, (traits >> 32) as u32);
        Group {
            max_at: self.max_at.load(ordering),
            bytes: self.bytes.load(ordering),
            weight: self.weight.load(ordering),
            unweighted,
            joined,
            soonest: self.soonest.load(ordering),
        }
    }

    fn store(&self, group: Group, ordering: Ordering) {
        self.max_at.store(group.max_at, ordering);
        self.bytes.store(group.bytes, ordering);
        self.weight.store(group.weight, ordering);
        let traits = u64::from(group.unweighted) | u64::from(group.joined) << 32;
        self.traits.store(traits, ordering);
        self.soonest.store(group.soonest, ordering);
    }
}

/// What one unsealed segment holds of one life.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    /// The seq of the first entry.
    pub(crate) first: u64,
    /// How many entries.
    pub(crate) count: usize,
    /// The spots of the entries, in seq order: of a few,
    few: [Spot; FEW],
    /// and of all, once there are more.
    spots: Option<Arc<[AtomicU32]>>,
    /// Running sums and maxima: as of the end of each whole group,
    groups: Option<Arc<[GroupCell]>>,
    /// and as of the last entry.
    running: Group,
    state: Option<Arc<Mutex<StateLog>>>,
    redacted: Option<Arc<Vec<u64>>>,
    /// With the lsn of the batch that changed it last.
    policy: Option<Box<(Option<Retention>, u64)>>,
}

impl Part {
    pub(crate) fn new(segment: Arc<Segment>, first: u64) -> Self {
        Part {
            segment,
            first,
            count: 0,
            few: [Spot::default(); FEW],
            spots: None,
            groups: None,
            running: Group {
                max_at: 0,
                bytes: 0,
                weight: 0,
                unweighted: 0,
                joined: 0,
                soonest: NEVER,
            },
            state: None,
            redacted: None,
            policy: None,
        }
    }

    /// The seq after the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.first.saturating_add(self.count as u64)
    }

    /// Adds the next entry. Called in order, by one thread at a time.
    pub(crate) fn push(&mut self, spot: Spot, entry: &Pushed) {
        self.push_spot(spot);
        let place = self.count % GROUP;
        let running = &mut self.running;
        if place == 0 {
            (running.joined, running.soonest) = (0, NEVER);
        }
        running.max_at = running.max_at.max(entry.at);
        running.bytes = running.bytes.saturating_add(entry.bytes);
        running.weight = running.weight.saturating_add(u64::from(entry.weight));
        running.unweighted += u32::from(entry.weight == 0 && !entry.lost);
        running.joined |= u32::from(entry.joined) << place;
        if let Some(expires) = entry.expires {
            // The highest number stands for none.
            running.soonest = running.soonest.min(expires.min(NEVER - 1));
        }
        if place == GROUP - 1 {
            let (group, running) = (self.count / GROUP, self.running);
            store(&mut self.groups, group, running, GroupCell::load, GroupCell::store);
        }
        self.count += 1;
    }

    /// Payload and meta of the entries, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.running.bytes
    }

    /// Payload and meta of the entries in the groups before this one, in bytes.
    pub(crate) fn bytes_before(&self, group: usize) -> u64 {
        let Some(before) = group.checked_sub(1) else { return 0 };
        let cell = self.whole_groups().get(before);
        cell.map_or(self.running.bytes, |cell| cell.bytes.load(Ordering::Relaxed))
    }

    /// Bytes of the records that hold the last values of keys changed here.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.state.as_ref().map_or(0, |log| log.lock().bytes)
    }

    /// The changes of keys, for whoever lets go of them where nobody waits: there may be many.
    pub(crate) fn state_log(&self) -> Option<Arc<Mutex<StateLog>>> {
        self.state.clone()
    }

    fn push_spot(&mut self, spot: Spot) {
        if let Some(place) = self.few.get_mut(self.count) {
            *place = spot;
            return;
        }
        if self.count == FEW {
            let few = self.few.iter().map(|spot| AtomicU32::new(spot.0));
            let rest = (0..FEW).map(|_| AtomicU32::default());
            self.spots = Some(few.chain(rest).collect());
        }
        store(&mut self.spots, self.count, spot.0, AtomicU32::load, AtomicU32::store);
    }

    /// Where the entry with this seq lies. `None` if it is not of this part.
    pub(crate) fn spot(&self, seq: u64) -> Option<Spot> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        if index >= self.count {
            return None;
        }
        if self.count <= FEW {
            return self.few.get(index).copied();
        }
        let slot = self.spots.as_ref()?.get(index)?;
        Some(Spot(slot.load(Ordering::Relaxed)))
    }

    /// The first seq of the first group whose running maximum of `at` reaches `time`.
    pub(crate) fn group_reaching(&self, time: u64) -> Option<u64> {
        let whole = self.whole_groups();
        let group = whole.partition_point(|cell| cell.max_at.load(Ordering::Relaxed) < time);
        let reached = group < whole.len() || self.running.max_at >= time;
        (reached && group * GROUP < self.count).then(|| self.first + (group * GROUP) as u64)
    }

    /// All spots in order.
    pub(crate) fn spots(&self) -> Vec<u32> {
        if self.count <= FEW {
            return self.few.iter().take(self.count).map(|spot| spot.0).collect();
        }
        let spots = self.spots.as_ref().map_or(&[][..], |spots| spots);
        spots.iter().take(self.count).map(|s| s.load(Ordering::Relaxed)).collect()
    }

    /// What is told of each group.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let whole = self.whole_groups().iter().map(|cell| cell.load(Ordering::Relaxed));
        let begun = !self.count.is_multiple_of(GROUP);
        whole.chain(begun.then_some(self.running)).collect()
    }

    fn whole_groups(&self) -> &[GroupCell] {
        let groups = self.groups.as_ref().map_or(&[][..], |groups| groups);
        groups.get(..self.count / GROUP).unwrap_or_default()
    }

    /// Records a change of a key.
    pub(crate) fn change_state(&mut self, key: &str, slot: StateSlot) {
        let log = self.state.get_or_insert_default();
        let mut log = log.lock();
        let StateLog { keys, bytes } = &mut *log;
        *bytes = bytes.saturating_add(u64::from(slot.len));
        let Some(slots) = keys.get_mut(key) else {
            keys.insert(key.into(), vec![slot]);
            return;
        };
        let before = slots.last().map_or(0, |last| last.len);
        *bytes = bytes.saturating_sub(u64::from(before));
        match slots.last_mut() {
            Some(last) if last.revision == slot.revision => *last = slot,
            _ => slots.push(slot),
        }
    }

    /// The last change of a key that a version at `lsn` may see.
    pub(crate) fn state(&self, key: &str, lsn: u64) -> Option<StateSlot> {
        let log = self.state.as_ref()?.lock();
        log.keys.get(key)?.iter().rev().find(|slot| slot.revision <= lsn).copied()
    }

    /// Whether a key was changed here.
    pub(crate) fn has_state(&self) -> bool {
        self.state.is_some()
    }

    /// The first key between the bounds that a version at `lsn` may see, or with `back` the last, and
    /// its last change.
    pub(crate) fn next_state(
        &self,
        between: (Bound<&str>, Bound<&str>),
        back: bool,
        lsn: u64,
    ) -> Option<(Box<str>, StateSlot)> {
        let log = self.state.as_ref()?.lock();
        let mut range = log.keys.range::<str, _>(between);
        loop {
            let (key, slots) = if back { range.next_back()? } else { range.next()? };
            if let Some(slot) = slots.iter().rev().find(|slot| slot.revision <= lsn) {
                return Some((key.clone(), *slot));
            }
        }
    }

    /// Calls `each` with the last change of every key from `prefix` on that a version at `lsn` may
    /// see, in the order of the keys.
    pub(crate) fn states(&self, prefix: &str, lsn: u64, mut each: impl FnMut(&str, StateSlot)) {
        let Some(log) = &self.state else { return };
        let log = log.lock();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (key, slots) in log.keys.range::<str, _>(from) {
            if !key.starts_with(prefix) {
                break;
            }
            if let Some(slot) = slots.iter().rev().find(|slot| slot.revision <= lsn) {
                each(key, *slot);
            }
        }
    }

    /// Notes that an entry was redacted.
    pub(crate) fn redact(&mut self, seq: u64) {
        let redacted = Arc::make_mut(self.redacted.get_or_insert_default());
        if let Err(place) = redacted.binary_search(&seq) {
            redacted.insert(place, seq);
        }
    }

    /// Notes a change of the policy by the batch at `lsn`.
    pub(crate) fn set_policy(&mut self, policy: Option<Retention>, lsn: u64) {
        self.policy = Some(Box::new((policy, lsn)));
    }

    /// The lsn of the batch that changed the policy here last.
    pub(crate) fn policy_lsn(&self) -> Option<u64> {
        self.policy.as_ref().map(|change| change.1)
    }

    /// The policy, if it was changed here.
    pub(crate) fn policy(&self) -> Option<Option<Retention>> {
        self.policy.as_ref().map(|change| change.0)
    }

    /// The entries redacted here, in order.
    pub(crate) fn redacted(&self) -> &[u64] {
        self.redacted.as_ref().map_or(&[], |r| r.as_slice())
    }
}

/// Stores a number in a list that other versions may share, and which grows by being copied.
fn store<A: Default, N>(
    list: &mut Option<Arc<[A]>>,
    index: usize,
    number: N,
    load: fn(&A, Ordering) -> N,
    store: fn(&A, N, Ordering),
) {
    if list.as_ref().is_none_or(|list| index >= list.len()) {
        *list = Some(grown(list.as_deref().unwrap_or_default(), load, store));
    }
    if let Some(place) = list.as_ref().and_then(|list| list.get(index)) {
        store(place, number, Ordering::Relaxed);
    }
}

#[cold]
fn grown<A: Default, N>(
    list: &[A],
    load: fn(&A, Ordering) -> N,
    store: fn(&A, N, Ordering),
) -> Arc<[A]> {
    let grown: Arc<[A]> = (0..(list.len() * 2).max(4)).map(|_| A::default()).collect();
    for (to, from) in grown.iter().zip(list) {
        store(to, load(from, Ordering::Relaxed), Ordering::Relaxed);
    }
    grown
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    /// Versions share the lists: what came later is nothing to those before.
    #[cfg(feature = "sim")]
    #[test]
    fn each_version_finds_the_groups_that_it_counts() {
        let segment = crate::segment::testing::sealed(7, false, 0..1 << 20, |_| {});
        let at = |i: u64| i + i * 7 % 3;
        let mut parts = vec![Part::new(segment, 5)];
        for i in 0..150 {
            let mut part = parts[parts.len() - 1].clone();
            let (weight, joined) = (u32::try_from(i % 3).unwrap_or(0), i % 5 == 0);
            let expires = (i % 7 == 0).then_some(1000 - i);
            let entry = Pushed { at: at(i), bytes: i, weight, joined, lost: false, expires };
            part.push(Spot::at(4096 + i * 8), &entry);
            parts.push(part);
        }
        // Miri takes a second for what takes a microsecond.
        let step = if cfg!(miri) { 37 } else { 1 };
        for part in parts.iter().step_by(step) {
            let ats: Vec<u64> = (0..part.count as u64).map(at).collect();
            let spots = (0..ats.len()).map(|i| 512 + u32::try_from(i).unwrap_or(0));
            assert!(part.spots().into_iter().eq(spots));
            let ends = (1..=ats.len()).filter(|n| n % GROUP == 0 || *n == ats.len());
            let groups = ends.map(|end| {
                let (from, all) = ((end - 1) / GROUP * GROUP, 0..end as u64);
                let weights = all.clone().map(|i| i % 3);
                let unweighted = weights.clone().filter(|weight| *weight == 0).count();
                let own = from as u64..end as u64;
                Group {
                    max_at: ats[..end].iter().copied().max().unwrap_or(0),
                    bytes: all.sum(),
                    weight: weights.sum(),
                    unweighted: u32::try_from(unweighted).unwrap_or(0),
                    joined: own.clone().filter(|i| i % 5 == 0).map(|i| 1 << (i % 32)).sum(),
                    soonest: own.filter(|i| i % 7 == 0).map(|i| 1000 - i).min().unwrap_or(NEVER),
                }
            });
            let groups: Vec<Group> = groups.collect();
            assert_eq!(part.groups(), groups, "of {}", part.count);
            for (group, told) in groups.iter().enumerate() {
                assert_eq!(part.bytes_before(group + 1), told.bytes, "{group} of {}", part.count);
            }
            for time in (0..160).step_by(step) {
                let first = ats.iter().position(|at| *at >= time);
                let group = first.map(|i| 5 + (i / GROUP * GROUP) as u64);
                assert_eq!(part.group_reaching(time), group, "{time} of {}", part.count);
            }
        }
    }

    #[test]
    fn spots_round_trip_and_zero_is_nowhere() {
        assert_eq!(Spot::at(4096).offset(), Some(4096));
        assert_eq!(Spot::default().offset(), None);
    }
}
