//! The state of an agent in a snapshot.

use std::collections::{BTreeMap, btree_map};
use std::iter::FusedIterator;
use std::ops::Bound;
use std::sync::Arc;

use super::Snapshot;
use crate::catalog::part::StateSlot;
use crate::entry::StateValue;
use crate::error::Result;
use crate::segment::Segment;

/// The last change of a key, and the segment that it lies in.
pub(crate) type Change = (Arc<Segment>, StateSlot);

/// The last change of each key.
pub(crate) type Changes = BTreeMap<Box<str>, Change>;

impl Snapshot {
    /// The value of a key; `None` if it is absent.
    pub(crate) fn state(&self, key: &str) -> Result<Option<StateValue>> {
        for part in &self.version.parts {
            if let Some(slot) = part.state(key, self.version.lsn) {
                return self.value(&part.segment, slot, key).transpose();
            }
        }
        match self.base.state.get(key) {
            Some(found) => self.value(&found.segment, found.slot, key).transpose(),
            None => Ok(None),
        }
    }

    /// The last change of each key that begins with `prefix`. Keys that were unset may be among
    /// them: their values lie nowhere.
    pub(crate) fn changes(&self, prefix: &str) -> Changes {
        let mut found = Changes::new();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (key, value) in self.base.state.range::<str, _>(from) {
            if !key.starts_with(prefix) {
                break;
            }
            found.insert(key.clone(), (Arc::clone(&value.segment), value.slot));
        }
        for part in self.version.parts.iter().rev() {
            part.states(prefix, self.version.lsn, |key, slot| {
                found.insert(key.into(), (Arc::clone(&part.segment), slot));
            });
        }
        found
    }

    /// The keys that begin with `prefix` and their values, in the order of the keys.
    pub(crate) fn states(&self, prefix: &str) -> States<'_> {
        States { snapshot: self, left: self.changes(prefix).into_iter() }
    }

    fn value(
        &self,
        segment: &Arc<Segment>,
        slot: StateSlot,
        key: &str,
    ) -> Option<Result<StateValue>> {
        let offset = slot.spot.offset()?;
        let value = StateValue::read(segment, offset, key, slot.revision);
        Some(value.map_err(|e| e.with_agent(self.name())))
    }
}

/// Values of a snapshot's state, from both ends.
pub(crate) struct States<'v> {
    snapshot: &'v Snapshot,
    left: btree_map::IntoIter<Box<str>, Change>,
}

impl States<'_> {
    fn read(
        &mut self,
        next: impl Fn(&mut Self) -> Option<(Box<str>, Change)>,
    ) -> Option<Result<StateValue>> {
        loop {
            let (key, (segment, slot)) = next(self)?;
            let Some(value) = self.snapshot.value(&segment, slot, &key) else { continue };
            if value.is_err() && !self.snapshot.lenient {
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
