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

/// The spots of entries in seq order, and running maxima of their `at`.
struct Positions {
    spots: Box<[AtomicU32]>,
    maxima: Box<[AtomicU64]>,
}

impl Positions {
    fn with_capacity(n: usize) -> Self {
        let n = n.next_multiple_of(4);
        Positions {
            spots: (0..n).map(|_| AtomicU32::new(0)).collect(),
            maxima: (0..n.div_ceil(GROUP)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn grown(&self) -> Self {
        let bigger = Positions::with_capacity(self.spots.len() * 2);
        for (to, from) in bigger.spots.iter().zip(&*self.spots) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for (to, from) in bigger.maxima.iter().zip(&*self.maxima) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        bigger
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
    /// Payload and meta of the entries, in bytes.
    pub(crate) bytes: u64,
    positions: Option<Arc<Positions>>,
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
            positions: None,
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
        let index = self.count;
        let positions = match &mut self.positions {
            Some(positions) if index < positions.spots.len() => positions,
            Some(positions) => {
                *positions = Arc::new(positions.grown());
                positions
            }
            none => none.insert(Arc::new(Positions::with_capacity(4))),
        };
        if let Some(slot) = positions.spots.get(index) {
            slot.store(spot.0, Ordering::Relaxed);
        }
        let before = match index.checked_sub(1) {
            Some(last) => {
                positions.maxima.get(last / GROUP).map_or(0, |m| m.load(Ordering::Relaxed))
            }
            None => 0,
        };
        if let Some(slot) = positions.maxima.get(index / GROUP) {
            slot.store(before.max(at), Ordering::Relaxed);
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Where the entry with this seq lies. `None` if it is not of this part.
    pub(crate) fn spot(&self, seq: u64) -> Option<Spot> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        if index >= self.count {
            return None;
        }
        let slot = self.positions.as_ref()?.spots.get(index)?;
        Some(Spot(slot.load(Ordering::Relaxed)))
    }

    /// The first seq of the first group whose running maximum of `at` reaches `time`.
    ///
    /// An entry that this copy does not count may have raised the last group's maximum: the caller
    /// looks at the entries anyway.
    pub(crate) fn group_reaching(&self, time: u64) -> Option<u64> {
        let groups = self.positions.as_ref()?.maxima.get(..self.count.div_ceil(GROUP))?;
        let group = groups.partition_point(|max| max.load(Ordering::Relaxed) < time);
        (group < groups.len()).then(|| self.first + (group * GROUP) as u64)
    }

    /// All spots in order.
    pub(crate) fn spots(&self) -> Vec<u32> {
        let spots = self.positions.as_ref().map_or(&[][..], |p| &p.spots);
        spots.iter().take(self.count).map(|s| s.load(Ordering::Relaxed)).collect()
    }

    /// The running maximum of `at` of each group.
    pub(crate) fn maxima(&self) -> Vec<u64> {
        let maxima = self.positions.as_ref().map_or(&[][..], |p| &p.maxima);
        let groups = self.count.div_ceil(GROUP);
        maxima.iter().take(groups).map(|m| m.load(Ordering::Relaxed)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spots_round_trip_and_zero_is_nowhere() {
        assert_eq!(Spot::at(4096).offset(), Some(4096));
        assert_eq!(Spot::default().offset(), None);
    }
}
