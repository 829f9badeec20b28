//! What retention leaves of a snapshot: the policies in force, and those that were.

use super::{Snapshot, Unreadable};
use crate::catalog::part::Part;
use crate::commit::Engine;
use crate::error::Result;
use crate::format::head::Head;
use crate::format::manifest::PastDefault;
use crate::retention::{Piece, Timeline, floor_under};
use crate::segment::Segment;
use crate::types::Retention;

/// The floor of a snapshot under all policies that bear on it: `policy`, and those before.
pub(super) fn floor(snapshot: &Snapshot, engine: &Engine, policy: &Retention) -> Result<u64> {
    let mut floor = snapshot.floor;
    if *policy != Retention::new() {
        floor = floor_under(policy, snapshot)?;
    }
    // What an earlier default dropped stays dropped.
    for past in engine.past_defaults.iter().filter(|past| snapshot.is_under(past)) {
        floor = floor.max(floor_under(&past.retention, &AsOf::new(snapshot, past))?);
    }
    Ok(floor)
}

impl Snapshot {
    /// Whether a default that ceased to hold bore on the agent until then.
    ///
    /// Not if the agent had a policy of its own. Where one begins or ends, records raise the floor
    /// to what was in force before, so that only what came behind the last change is asked for.
    fn is_under(&self, past: &PastDefault) -> bool {
        if self.version.head.flags & Head::POLICY == 0 {
            return true;
        }
        if self.policy().is_some() {
            return false;
        }
        match self.version.parts.iter().find_map(Part::policy_lsn) {
            Some(lsn) => lsn < past.until,
            None => self.base.policy_is_before(self.name(), past.until),
        }
    }

    /// The first seq whose entry lies at `lsn` or behind it; next if there is none.
    pub(super) fn first_from(&self, lsn: u64) -> u64 {
        let (mut low, mut high) = (self.floor, self.next_seq());
        let lies = |seq| {
            let (segment, spot) = self.locate(seq)?;
            spot.offset().map(|offset| (seq, lsn_of(segment, offset)))
        };
        while low < high {
            let middle = low + (high - low) / 2;
            // Entries that were lost are of the same time as the one before them. Where pieces of the
            // timeline are missing, what lies between them may be any number of seqs.
            let within = |piece: Piece| {
                (piece.first.max(low)..piece.end.min(middle + 1)).rev().find_map(lies)
            };
            match Timeline::pieces(self).find_map(within) {
                Some((seq, place)) if place >= lsn => high = seq,
                _ => low = middle + 1,
            }
        }
        low
    }
}

/// The lsn that the entry at `offset` counts as lying at.
///
/// In a run it is the last one that the run covers. If the lsn at which a default ceased to hold is
/// not behind that, the run was made after that default had ceased to hold; what it dropped was left
/// out when the run was made, as the run's floor says.
fn lsn_of(segment: &Segment, offset: u64) -> u64 {
    if segment.run {
        segment.end_lsn().saturating_sub(1)
    } else {
        segment.base.saturating_add(offset)
    }
}

impl Timeline for Snapshot {
    fn floor(&self) -> u64 {
        self.floor
    }

    fn next(&self) -> u64 {
        self.next_seq()
    }

    fn time(&self) -> u64 {
        self.time
    }

    fn first_since(&self, time: u64) -> Result<u64> {
        self.find_since(time, Unreadable::Stays)
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let parts = self.version.parts.iter().map(|p| (p.first, p.end(), p.bytes()));
        let extents = self.base.extents.iter().rev().map(|e| (e.first, e.end(), e.bytes()));
        let all = parts.chain(extents).enumerate();
        all.map(|(number, (first, end, bytes))| Piece { first, end, bytes, number })
    }

    fn bytes_before(&self, piece: &Piece, group: u64) -> Result<u64> {
        let group = usize::try_from(group).unwrap_or(usize::MAX);
        if let Some(part) = self.version.parts.get(piece.number) {
            return Ok(part.bytes_before(group));
        }
        let number = piece.number - self.version.parts.len();
        let extent = self.base.extents.iter().rev().nth(number);
        extent.map_or(Ok(0), |extent| extent.bytes_before(group))
    }

    fn entry_bytes(&self, seq: u64) -> Result<u64> {
        // One that cannot be read is not dropped for its size, nor does it hide the others.
        Ok(self.entry(seq).map_or(0, |entry| entry.stored_len()))
    }
}

/// A snapshot as it would have been when a default of retention ceased to hold.
struct AsOf<'v> {
    snapshot: &'v Snapshot,
    next: u64,
    time: u64,
}

impl<'v> AsOf<'v> {
    fn new(snapshot: &'v Snapshot, past: &PastDefault) -> Self {
        // A default that still held is that of a store that is only read.
        let time = if past.until == u64::MAX { snapshot.time } else { past.time };
        AsOf { snapshot, next: snapshot.first_from(past.until), time }
    }
}

impl Timeline for AsOf<'_> {
    fn floor(&self) -> u64 {
        self.snapshot.floor
    }

    fn next(&self) -> u64 {
        self.next
    }

    fn time(&self) -> u64 {
        self.time
    }

    fn first_since(&self, time: u64) -> Result<u64> {
        Ok(self.snapshot.find_since(time, Unreadable::Stays)?.min(self.next))
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> {
        Timeline::pieces(self.snapshot)
    }

    fn bytes_before(&self, piece: &Piece, group: u64) -> Result<u64> {
        self.snapshot.bytes_before(piece, group)
    }

    fn entry_bytes(&self, seq: u64) -> Result<u64> {
        self.snapshot.entry_bytes(seq)
    }
}
