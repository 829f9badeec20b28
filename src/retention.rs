//! Retention at read: how far a policy raises the floor of a timeline.

use crate::error::Result;
use crate::format::footer::GROUP;
use crate::types::Retention;

/// A stretch of a timeline that lies in one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    /// The seq behind the last entry.
    pub(crate) end: u64,
    /// Bytes of payload and meta.
    pub(crate) bytes: u64,
    /// Its number in the timeline.
    pub(crate) number: usize,
}

/// What a policy must know of a timeline.
pub(crate) trait Timeline {
    /// The lowest live seq before the policy.
    fn floor(&self) -> u64;
    /// The seq behind the last entry.
    fn next(&self) -> u64;
    /// The moment at which the policy is applied, in ms since the epoch.
    fn time(&self) -> u64;
    /// The first live seq whose entry has `at >= time`; next if there is none.
    fn first_since(&self, time: u64) -> Result<u64>;
    /// Stretches of the timeline, newest first. The newest may go on behind `next`.
    fn pieces(&self) -> impl Iterator<Item = Piece>;
    /// Bytes of payload and meta of the entries of a piece in the groups before this one: a look-up
    /// of sums, which reads no entry.
    fn bytes_before(&self, piece: &Piece, group: u64) -> Result<u64>;
    /// Bytes of payload and meta of one entry.
    fn entry_bytes(&self, seq: u64) -> Result<u64>;
}

/// The floor of a timeline under a policy; never below its own.
pub(crate) fn floor_under(policy: &Retention, timeline: &impl Timeline) -> Result<u64> {
    let next = timeline.next();
    let mut floor = timeline.floor();
    if let Some(most) = policy.max_entries {
        floor = floor.max(next.saturating_sub(most));
    }
    if let Some(age) = policy.max_age {
        // The longest prefix of which every entry has expired ends at the first one that has not.
        floor = floor.max(timeline.first_since(timeline.time().saturating_sub(age))?);
    }
    if let Some(most) = policy.max_bytes {
        floor = floor.max(floor_by_bytes(most, timeline)?);
    }
    Ok(floor.min(next))
}

/// The lowest floor above which at most `most` bytes of payload and meta lie.
///
/// Sums tell the group of entries that it lies in; the entries of that group are read, and those
/// behind the last whole group where a piece goes on behind the end of the timeline.
fn floor_by_bytes(most: u64, timeline: &impl Timeline) -> Result<u64> {
    let (lowest, next) = (timeline.floor(), timeline.next());
    let mut left = most;
    for piece in timeline.pieces().filter(|piece| piece.first < next) {
        let end = piece.end.min(next);
        let bytes =
            if end == piece.end { piece.bytes } else { bytes_below(timeline, &piece, end)? };
        if bytes <= left && piece.first >= lowest {
            left -= bytes;
            continue;
        }
        let from = piece.first.max(lowest);
        if end <= from {
            // All of it lies below the floor.
            break;
        }
        return floor_within(timeline, &piece, from..end, bytes, left);
    }
    Ok(lowest)
}

/// The lowest of these seqs of a piece above which at most `left` bytes lie. `bytes` are those of the
/// piece below the end of the seqs.
fn floor_within(
    timeline: &impl Timeline,
    piece: &Piece,
    seqs: std::ops::Range<u64>,
    bytes: u64,
    mut left: u64,
) -> Result<u64> {
    let start = |group: u64| piece.first.saturating_add(group.saturating_mul(GROUP as u64));
    // The lowest group that begins among the seqs and fits with all behind it.
    let mut low = (seqs.start - piece.first).div_ceil(GROUP as u64);
    let mut high = (seqs.end - piece.first).div_ceil(GROUP as u64).max(low);
    let behind = |group| -> Result<u64> {
        if start(group) >= seqs.end {
            return Ok(0);
        }
        Ok(bytes.saturating_sub(timeline.bytes_before(piece, group)?))
    };
    while low < high {
        let middle = low + (high - low) / 2;
        if behind(middle)? <= left {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    left = left.saturating_sub(behind(low)?);
    let from = low.checked_sub(1).map_or(seqs.start, start).max(seqs.start);
    for seq in (from..start(low).min(seqs.end)).rev() {
        let bytes = timeline.entry_bytes(seq)?;
        if bytes > left {
            return Ok(seq + 1);
        }
        left -= bytes;
    }
    Ok(from)
}

/// Bytes of the entries of a piece below this seq.
fn bytes_below(timeline: &impl Timeline, piece: &Piece, seq: u64) -> Result<u64> {
    let group = seq.saturating_sub(piece.first) / GROUP as u64;
    let mut bytes = timeline.bytes_before(piece, group)?;
    for seq in piece.first.saturating_add(group * GROUP as u64)..seq {
        bytes = bytes.saturating_add(timeline.entry_bytes(seq)?);
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::cell::Cell;
    use std::ops::Range;

    use super::*;

    /// A timeline of entries of these bytes, cut into pieces; counts the entries that are read.
    struct Model {
        first: u64,
        bytes: Vec<u64>,
        pieces: Vec<Range<usize>>,
        floor: u64,
        next: u64,
        read: Cell<usize>,
    }

    impl Model {
        fn sum(&self, range: Range<usize>) -> u64 {
            self.bytes[range].iter().sum()
        }

        fn index(&self, seq: u64) -> usize {
            usize::try_from(seq - self.first).unwrap()
        }

        /// The floor by the definition.
        fn wanted(&self, most: u64) -> u64 {
            let fits = |floor: &u64| self.sum(self.index(*floor)..self.index(self.next)) <= most;
            (self.floor..=self.next).find(fits).unwrap()
        }
    }

    impl Timeline for Model {
        fn floor(&self) -> u64 {
            self.floor
        }

        fn next(&self) -> u64 {
            self.next
        }

        fn time(&self) -> u64 {
            0
        }

        fn first_since(&self, _time: u64) -> Result<u64> {
            Ok(self.floor)
        }

        fn pieces(&self) -> impl Iterator<Item = Piece> {
            self.pieces.iter().enumerate().rev().map(|(number, range)| Piece {
                first: self.first + range.start as u64,
                end: self.first + range.end as u64,
                bytes: self.sum(range.clone()),
                number,
            })
        }

        fn bytes_before(&self, piece: &Piece, group: u64) -> Result<u64> {
            let range = self.pieces[piece.number].clone();
            let end = range.start + usize::try_from(group).unwrap() * GROUP;
            Ok(self.sum(range.start..end.min(range.end)))
        }

        fn entry_bytes(&self, seq: u64) -> Result<u64> {
            self.read.set(self.read.get() + 1);
            Ok(self.bytes[self.index(seq)])
        }
    }

    #[test]
    fn the_floor_by_bytes_is_the_lowest_and_reads_a_group() {
        let mut dice = 7_u64;
        let mut roll = |below: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (dice >> 33) % below
        };
        for _ in 0..3000 {
            let count = usize::try_from(roll(400)).unwrap();
            let bytes: Vec<u64> = (0..count).map(|_| roll(50)).collect();
            let (mut pieces, mut at) = (Vec::new(), 0);
            while at < count {
                let end = (at + 1 + usize::try_from(roll(150)).unwrap()).min(count);
                pieces.push(at..end);
                at = end;
            }
            let first = 1 + roll(9);
            let floor = first + roll(count as u64 + 1);
            let next = floor + roll(first + count as u64 - floor + 1);
            let read = Cell::new(0);
            let model = Model { first, bytes, pieces, floor, next, read };
            let most = roll(9000);
            let policy = Retention::new().max_bytes(most);
            assert_eq!(floor_under(&policy, &model).unwrap(), model.wanted(most));
            // Those around the floor, and those behind the last whole group.
            assert!(model.read.get() <= 2 * GROUP, "{} of {count} were read", model.read.get());
        }
    }
}
