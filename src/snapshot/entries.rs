//! Walking the entries of a snapshot.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

use super::{Place, Snapshot};
use crate::catalog::base::Sound;
use crate::entry::Entry;
use crate::error::{Error, Result};

/// Entries of a view, from both ends.
#[must_use]
pub struct Entries<'v> {
    snapshot: &'v Snapshot,
    from: u64,
    to: u64,
    failed: Option<Error>,
    /// Where the entries with these seqs lie.
    ahead: [Option<Place<'v>>; AHEAD],
    located: Range<u64>,
    sound: Sound,
    /// What was asked for in the beginning.
    wanted: Range<u64>,
    /// The seqs that the system has been told of last.
    pub(super) announced: Range<u64>,
}

/// Entries that are looked up together.
const AHEAD: usize = 64;
/// Entries that the system is told of together.
const ANNOUNCED: u64 = 128;

impl<'v> Entries<'v> {
    pub(super) fn new(snapshot: &'v Snapshot, from: u64, to: u64) -> Self {
        let to = to.max(from);
        let (ahead, none) = ([None; AHEAD], 0..0);
        let (located, announced) = (none.clone(), none);
        let (failed, sound, wanted) = (None, Sound::default(), from..to);
        Entries { snapshot, from, to, failed, ahead, located, sound, wanted, announced }
    }

    /// Nothing but an error.
    pub(crate) fn failed(snapshot: &'v Snapshot, error: Error) -> Self {
        Entries { failed: Some(error), ..Entries::new(snapshot, 1, 1) }
    }

    /// Where the entry lies. Looks up several at once, and touches each that lies by itself: their
    /// cache misses then overlap, where one after the other they would add up. In a run they lie side
    /// by side, and the processor fetches them unasked.
    #[inline]
    fn place(&mut self, seq: u64, lowest: u64) -> Option<Place<'v>> {
        if !self.located.contains(&seq) {
            self.look_ahead(lowest, seq);
        }
        let index = usize::try_from(seq - self.located.start).ok()?;
        self.ahead.get(index).copied()?
    }

    /// Has what comes next fetched: in which way that is, is known by the first entry asked for.
    fn announce(&mut self, lowest: u64, seq: u64) {
        let seqs = if lowest == seq {
            seq..(seq + ANNOUNCED).min(self.to)
        } else {
            (seq + 1).saturating_sub(ANNOUNCED).max(self.from)..seq + 1
        };
        self.snapshot.read_ahead(seqs.clone());
        self.announced = seqs;
    }

    fn look_ahead(&mut self, lowest: u64, seq: u64) {
        if !self.announced.contains(&lowest) || !self.announced.contains(&seq) {
            self.announce(lowest, seq);
        }
        self.snapshot.places(lowest, &self.wanted, &mut self.ahead, &mut self.sound);
        let places = self.ahead.iter().flatten().filter(|place| !place.segment.run);
        let touched = places.filter_map(|p| p.spot.offset().map(|at| p.segment.peek(at)));
        std::hint::black_box(touched.fold(0, |all, word| all ^ word));
        self.located = lowest..lowest + AHEAD as u64;
    }

    /// Reads an entry; those looked up with it begin at `lowest`.
    #[inline]
    fn read(&mut self, seq: u64, lowest: u64) -> Result<Entry<'v>> {
        let place = self.place(seq, lowest);
        let read = self.snapshot.entry_at(seq, place);
        if read.is_err() && !self.snapshot.lenient {
            self.to = self.from;
        }
        read
    }
}

impl<'v> Iterator for Entries<'v> {
    type Item = Result<Entry<'v>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        if self.from >= self.to {
            return None;
        }
        let seq = self.from;
        self.from += 1;
        Some(self.read(seq, seq))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.to - self.from).unwrap_or(usize::MAX);
        (0, Some(left.saturating_add(1)))
    }
}

impl DoubleEndedIterator for Entries<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        if self.from >= self.to {
            return None;
        }
        self.to -= 1;
        let lowest = (self.to + 1).saturating_sub(AHEAD as u64).max(self.from);
        Some(self.read(self.to, lowest))
    }
}

impl FusedIterator for Entries<'_> {}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("from", &self.from).field("to", &self.to).finish()
    }
}
