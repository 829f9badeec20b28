//! What one unsealed segment holds of one life of an agent.
//!
//! A part is shared by the versions of an agent and by views. What it points to only grows: a
//! reader takes no lock for entries, and looks no further than the counts of its own copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::segment::Segment;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::types::Retention;

/// Entries that share one running maximum of `at`.
pub(crate) const GROUP: usize = 32;
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
pub(crate) type StateLog = BTreeMap<Box<str>, Vec<StateSlot>>;

/// What one unsealed segment holds of one life.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    /// The seq of the first entry.
    pub(crate) first: u64,
    /// How many entries.
    pub(crate) count: usize,
    /// Payload and meta of the entries, in bytes.
    pub(crate) bytes: u64,
    /// The spots of the entries, in seq order: of a few,
    few: [Spot; FEW],
    /// and of all, once there are more.
    spots: Option<Arc<[AtomicU32]>>,
    /// The running maximum of `at`: as of the end of each whole group,
    maxima: Option<Arc<[AtomicU64]>>,
    /// and as of the last entry.
    latest: u64,
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
            bytes: 0,
            few: [Spot::default(); FEW],
            spots: None,
            maxima: None,
            latest: 0,
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
    pub(crate) fn push(&mut self, spot: Spot, at: u64, bytes: u64) {
        self.push_spot(spot);
        self.latest = self.latest.max(at);
        if self.count % GROUP == GROUP - 1 {
            let group = self.count / GROUP;
            store(&mut self.maxima, group, self.latest, AtomicU64::load, AtomicU64::store);
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
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
        let group = whole.partition_point(|max| max.load(Ordering::Relaxed) < time);
        let reached = group < whole.len() || self.latest >= time;
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

    /// The running maximum of `at` of each group.
    pub(crate) fn maxima(&self) -> Vec<u64> {
        let whole = self.whole_groups().iter().map(|max| max.load(Ordering::Relaxed));
        let begun = !self.count.is_multiple_of(GROUP);
        whole.chain(begun.then_some(self.latest)).collect()
    }

    fn whole_groups(&self) -> &[AtomicU64] {
        let maxima = self.maxima.as_ref().map_or(&[][..], |maxima| maxima);
        maxima.get(..self.count / GROUP).unwrap_or_default()
    }

    /// Records a change of a key.
    pub(crate) fn change_state(&mut self, key: &str, slot: StateSlot) {
        let log = self.state.get_or_insert_default();
        let mut log = log.lock();
        let Some(slots) = log.get_mut(key) else {
            log.insert(key.into(), vec![slot]);
            return;
        };
        match slots.last_mut() {
            Some(last) if last.revision == slot.revision => *last = slot,
            _ => slots.push(slot),
        }
    }

    /// The last change of a key that a version at `lsn` may see.
    pub(crate) fn state(&self, key: &str, lsn: u64) -> Option<StateSlot> {
        let log = self.state.as_ref()?.lock();
        log.get(key)?.iter().rev().find(|slot| slot.revision <= lsn).copied()
    }

    /// Calls `each` with the last change of every key from `prefix` on that a version at `lsn` may
    /// see, in the order of the keys.
    pub(crate) fn states(&self, prefix: &str, lsn: u64, mut each: impl FnMut(&str, StateSlot)) {
        let Some(log) = &self.state else { return };
        let log = log.lock();
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        for (key, slots) in log.range::<str, _>(from) {
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
            part.push(Spot::at(4096 + i * 8), at(i), 1);
            parts.push(part);
        }
        // Miri takes a second for what takes a microsecond.
        let step = if cfg!(miri) { 37 } else { 1 };
        for part in parts.iter().step_by(step) {
            let ats: Vec<u64> = (0..part.count as u64).map(at).collect();
            let spots = (0..ats.len()).map(|i| 512 + u32::try_from(i).unwrap_or(0));
            assert!(part.spots().into_iter().eq(spots));
            let ends = (1..=ats.len()).filter(|n| n % GROUP == 0 || *n == ats.len());
            let maxima = ends.map(|end| ats[..end].iter().copied().max().unwrap_or(0));
            assert!(part.maxima().into_iter().eq(maxima), "of {}", part.count);
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
