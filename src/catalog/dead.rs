//! Accounting for the dead, at the moment of their death, as far as what is resident tells.

use std::ops::Range;
use std::sync::Arc;

use crate::catalog::base::Base;
use crate::catalog::part::Part;
use crate::catalog::version::{Applied, Version};
use crate::format::head::Head;
use crate::segment::Segment;

/// What an entry takes beyond payload and meta, roughly.
pub(crate) const ENTRY_COST: u64 = 40;

/// `part` of `all` shares of `whole`.
pub(crate) fn share(whole: u64, part: u64, all: u64) -> u64 {
    let product = u128::from(whole) * u128::from(part);
    u64::try_from(product / u128::from(all.max(1))).unwrap_or(whole)
}

/// What of a part lives and what does not bear on others: entries and the last value of each key.
pub(crate) fn content_of(part: &Part) -> u64 {
    let entries = part.bytes().saturating_add((part.count as u64).saturating_mul(ENTRY_COST));
    entries.saturating_add(part.state_bytes())
}

/// Bytes, roughly, that a change is about to leave in the segment that is written now without a block
/// that tells of them. What has no length, as the key of an unset, counts as a byte.
pub(crate) fn hidden_by(version: &Version, change: &Applied<'_>, segment: u64) -> u64 {
    if version.head.life == 0 {
        // The agent may be born behind it, and its block knows nothing of the key.
        return u64::from(matches!(change, Applied::Unset { .. }));
    }
    let part = version.parts().find(|part| part.segment.id == segment);
    let Some(part) = part else { return 0 };
    match *change {
        Applied::Forget => content_of(part).max(1),
        Applied::Set { key, .. } | Applied::Unset { key } => {
            part.state(key, u64::MAX).map_or(0, |slot| u64::from(slot.len))
        }
        _ => 0,
    }
}

/// Books what a change is about to kill of an agent, on the segments that hold it. False if some
/// of it is not known without reading footers.
pub(crate) fn account(
    version: &Version,
    base: Option<&Arc<Base>>,
    change: &Applied<'_>,
    time: u64,
) -> bool {
    let base = base.filter(|base| base.life == version.head.life);
    let dying = Dying { version, base, time };
    let Head { floor, next, life, .. } = version.head;
    match *change {
        _ if life == 0 => true,
        Applied::Truncate { seq } => dying.entries(floor..seq.min(next)),
        Applied::Redact { seq } => dying.entries(seq.max(floor)..seq.saturating_add(1).min(next)),
        Applied::Set { key, .. } | Applied::Unset { key } => dying.value(key),
        Applied::Forget => {
            for part in version.parts() {
                part.segment.add_dead(part.state_bytes(), time);
            }
            let states = base.map_or(&[][..], |base| &base.states);
            for source in states {
                source.segment.add_dead(source.take_unbooked(), time);
            }
            let entries = dying.entries(floor..next);
            // What of several indices was overwritten before the base was loaded is not known.
            let state = version.head.flags & Head::STATE == 0 || states.len() < 2;
            entries && state && (base.is_some() || version.head.flags & Head::STATE == 0)
        }
        Applied::Append(..) | Applied::Policy(_) => true,
    }
}

/// What is known of an agent of which something dies.
struct Dying<'a> {
    version: &'a Version,
    base: Option<&'a Arc<Base>>,
    time: u64,
}

impl Dying<'_> {
    /// Books these entries.
    fn entries(&self, seqs: Range<u64>) -> bool {
        if seqs.is_empty() {
            return true;
        }
        let mut lowest = self.version.head.next;
        for part in self.version.parts() {
            lowest = lowest.min(part.first);
            self.book(&part.segment, &seqs, part.first..part.end(), part.bytes());
        }
        for extent in self.base.iter().flat_map(|base| &base.extents) {
            // A part whose footer stands for it already is in the base too.
            if extent.first < lowest {
                self.book(&extent.segment, &seqs, extent.first..extent.end(), extent.bytes());
            }
        }
        self.base.is_some() || seqs.start >= lowest
    }

    /// Books what of an extent of `bytes` lies in the range.
    fn book(&self, segment: &Segment, seqs: &Range<u64>, extent: Range<u64>, bytes: u64) {
        let count = extent.end.saturating_sub(extent.start);
        let from = seqs.start.max(extent.start);
        let dead = seqs.end.min(extent.end).saturating_sub(from);
        let content = bytes.saturating_add(count.saturating_mul(ENTRY_COST));
        segment.add_dead(share(content, dead, count), self.time);
    }

    /// Books the value that a key has.
    fn value(&self, key: &str) -> bool {
        for part in self.version.parts() {
            if let Some(slot) = part.state(key, u64::MAX) {
                part.segment.add_dead(u64::from(slot.len), self.time);
                return true;
            }
        }
        match self.base.map(|base| base.state(key)) {
            None => self.version.head.flags & Head::STATE == 0,
            Some(Ok(None)) => true,
            Some(Ok(Some((source, slot)))) => {
                source.segment.add_dead(u64::from(slot.len), self.time);
                source.book(u64::from(slot.len));
                true
            }
            // What cannot be read is for the next garbage scan to find.
            Some(Err(_)) => false,
        }
    }
}
