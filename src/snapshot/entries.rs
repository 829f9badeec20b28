//! Walking the entries of a snapshot.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

use super::Snapshot;
use super::place::{AHEAD, Place, Scattered, Stretch};
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
    /// Where those around the last one lie: side by side,
    stretch: Option<Stretch<'v>>,
    /// or here and there.
    scattered: Scattered,
    sound: Sound,
    /// What was asked for in the beginning.
    wanted: Range<u64>,
    /// The seqs that the system has been told of last.
    pub(super) announced: Range<u64>,
}

/// Entries that the system is told of together.
const ANNOUNCED: u64 = 128;

impl<'v> Entries<'v> {
    pub(super) fn new(snapshot: &'v Snapshot, from: u64, to: u64) -> Self {
        let to = to.max(from);
        let (failed, stretch, scattered) = (None, None, Scattered::none());
        let (sound, wanted, announced) = (Sound::default(), from..to, 0..0);
        Entries { snapshot, from, to, failed, stretch, scattered, sound, wanted, announced }
    }

    /// Nothing but an error.
    pub(crate) fn failed(snapshot: &'v Snapshot, error: Error) -> Self {
        Entries { failed: Some(error), ..Entries::new(snapshot, 1, 1) }
    }

    /// Where the entry lies; those looked up with it begin at `lowest`.
    #[inline]
    fn place(&mut self, seq: u64, lowest: u64) -> Option<Place<'v>> {
        if let Some(place) = self.stretch.as_ref().and_then(|stretch| stretch.place(seq)) {
            return Some(place);
        }
        if let Some(known) = self.scattered.get(seq) {
            return self.snapshot.known_place(seq, known);
        }
        self.look_up(seq, lowest)
    }

    fn look_up(&mut self, seq: u64, lowest: u64) -> Option<Place<'v>> {
        if !self.announced.contains(&lowest) || !self.announced.contains(&seq) {
            self.announce(lowest, seq);
        }
        let (wanted, sound) = (&self.wanted, &mut self.sound);
        self.stretch = self.snapshot.stretch(seq, lowest, &self.announced, wanted, sound);
        if let Some(stretch) = &self.stretch {
            return stretch.place(seq);
        }
        self.snapshot.look_ahead(lowest, wanted, &mut self.scattered, sound);
        self.snapshot.known_place(seq, self.scattered.get(seq)?)
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
