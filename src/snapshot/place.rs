//! Where the entries of a snapshot lie.

use std::ops::Range;
use std::sync::Arc;

use super::Snapshot;
use crate::catalog::base::{Extent, Sound};
use crate::catalog::part::Spot;
use crate::segment::Segment;

/// Where an entry lies.
#[derive(Clone, Copy)]
pub(crate) struct Place<'v> {
    pub(crate) segment: &'v Arc<Segment>,
    pub(crate) spot: Spot,
    /// `None`: it is in an unsealed segment.
    pub(crate) extent: Option<&'v Extent>,
}

/// Entries that lie in one extent.
pub(super) struct Stretch<'v> {
    extent: &'v Extent,
    /// The seq of the first of them.
    first: u64,
    spots: &'v [[u8; 4]],
}

impl<'v> Stretch<'v> {
    /// Where the entry lies, if it is one of them.
    #[inline]
    pub(super) fn place(&self, seq: u64) -> Option<Place<'v>> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        let spot = Spot(u32::from_le_bytes(*self.spots.get(index)?));
        Some(Place { segment: &self.extent.segment, spot, extent: Some(self.extent) })
    }
}

/// Where entries lie that lie here and there.
///
/// By numbers, which take little: an iterator is moved about.
pub(super) struct Scattered {
    /// The seq of the first; 0: there are none.
    first: u64,
    places: [Known; AHEAD],
}

/// Where an entry was found to lie.
#[derive(Clone, Copy)]
pub(super) struct Known {
    spot: Spot,
    within: Within,
}

/// What an entry lies in, by its number in the snapshot.
#[derive(Clone, Copy)]
enum Within {
    /// Nothing, or what is behind so many others that it has no number.
    Unknown,
    Extent(u16),
    Part(u16),
}

impl Scattered {
    #[inline]
    pub(super) fn none() -> Self {
        let unknown = Known { spot: Spot::default(), within: Within::Unknown };
        Scattered { first: 0, places: [unknown; AHEAD] }
    }

    /// What was found of the entry, if it was looked for.
    #[inline]
    pub(super) fn get(&self, seq: u64) -> Option<Known> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.places.get(index).copied().filter(|_| self.first != 0)
    }

    fn put(&mut self, seq: u64, spot: Spot, within: Within) {
        let index = usize::try_from(seq - self.first).ok();
        if let Some(place) = index.and_then(|index| self.places.get_mut(index)) {
            *place = Known { spot, within };
        }
    }

    /// Touches those of these seqs, which lie in this segment: see [`touch`].
    fn touch(&self, seqs: Range<u64>, segment: &Segment) {
        touch(segment, seqs.filter_map(|seq| self.get(seq)?.spot.offset()));
    }
}

/// Entries that are looked up together.
pub(super) const AHEAD: usize = 64;
/// So many entries of a log segment that lie in one extent are worth no table.
const MANY: u64 = 16;
/// The longest rest of an entry that is taken along, in bytes.
const LONG: u64 = 128 << 10;

impl Snapshot {
    /// Where the entry lies. `None` if no segment has it.
    #[inline]
    pub(super) fn locate(&self, seq: u64) -> Option<(&Arc<Segment>, Spot)> {
        self.place(seq).map(|place| (place.segment, place.spot))
    }

    #[inline]
    pub(crate) fn place(&self, seq: u64) -> Option<Place<'_>> {
        for part in &self.version.parts {
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

    /// The entries around `seq` that lie in one extent, of those that are `announced` or, in a log
    /// segment, of those from `lowest` on that are touched at once. `None`: they are too few.
    pub(super) fn stretch(
        &self,
        seq: u64,
        lowest: u64,
        announced: &Range<u64>,
        wanted: &Range<u64>,
        sound: &mut Sound,
    ) -> Option<Stretch<'_>> {
        let extents = &self.base.extents;
        let behind = extents.partition_point(|extent| extent.first <= seq);
        let extent = extents.get(behind.checked_sub(1)?)?;
        // What is not sealed yet is newer.
        let end = self.version.parts.iter().map(|part| part.first).min().unwrap_or(u64::MAX);
        let end = end.min(extent.end());
        let run = extent.segment.run;
        let near =
            if run { announced.clone() } else { lowest..wanted.end.min(lowest + AHEAD as u64) };
        let near = near.start.max(extent.first)..near.end.min(end);
        if !near.contains(&seq) || !run && near.end - near.start < MANY {
            return None;
        }
        extent.verify_for(wanted);
        let (first, spots) = extent.spots(near, sound);
        let stretch = Stretch { extent, first, spots };
        if !run {
            let spots = spots.iter().map(|raw| Spot(u32::from_le_bytes(*raw)));
            touch(&extent.segment, spots.filter_map(Spot::offset));
        }
        Some(stretch)
    }

    /// Looks up where the entries from `lowest` on lie, below the end of `wanted`: the seqs that are
    /// going to be read, now or a little later.
    pub(super) fn look_ahead(
        &self,
        lowest: u64,
        wanted: &Range<u64>,
        into: &mut Scattered,
        sound: &mut Sound,
    ) {
        *into = Scattered { first: lowest, ..Scattered::none() };
        let seqs = lowest..wanted.end.min(lowest + AHEAD as u64);
        let extents = &self.base.extents[..];
        let first = extents.partition_point(|extent| extent.first <= lowest).saturating_sub(1);
        let among = || extents.iter().enumerate().skip(first);
        for (number, extent) in among().take_while(|(_, extent)| extent.first < seqs.end) {
            extent.verify_for(wanted);
            let within = u16::try_from(number).map_or(Within::Unknown, Within::Extent);
            let (first, spots) = extent.spots(seqs.clone(), sound);
            for (seq, raw) in (first..).zip(spots) {
                into.put(seq, Spot(u32::from_le_bytes(*raw)), within);
            }
        }
        for (number, part) in self.version.parts.iter().enumerate() {
            let within = u16::try_from(number).map_or(Within::Unknown, Within::Part);
            let seqs = seqs.start.max(part.first)..seqs.end.min(part.end());
            seqs.clone().for_each(|seq| into.put(seq, part.spot(seq).unwrap_or_default(), within));
            into.touch(seqs, &part.segment);
        }
        for (_, extent) in among().take_while(|(_, extent)| extent.first < seqs.end) {
            if !extent.segment.run {
                let seqs = seqs.start.max(extent.first)..seqs.end.min(extent.end());
                into.touch(seqs, &extent.segment);
            }
        }
    }

    /// Where the entry lies that was looked up.
    #[inline]
    pub(super) fn known_place(&self, seq: u64, known: Known) -> Option<Place<'_>> {
        let Known { spot, within } = known;
        match within {
            Within::Unknown => self.place(seq),
            Within::Extent(number) => {
                let extent = self.base.extents.get(usize::from(number))?;
                Some(Place { segment: &extent.segment, spot, extent: Some(extent) })
            }
            Within::Part(number) => {
                let segment = &self.version.parts.get(usize::from(number))?.segment;
                Some(Place { segment, spot, extent: None })
            }
        }
    }

    /// Has entries that are about to be read for the first time fetched together: one after the
    /// other a cold load would wait for the disk as often as it has entries.
    pub(super) fn read_ahead(&self, seqs: Range<u64>) {
        const PAGE: u64 = crate::format::PAGE as u64;
        // In a run an agent's entries lie side by side, so that what seems to be a gap is the rest
        // of an entry longer than the mean: without it, it would be read page by page.
        let gap = |segment: &Segment| if segment.run { LONG } else { 0 };
        let touched = |seq| match self.locate(seq) {
            Some((segment, spot)) => spot.offset().is_none_or(|at| segment.is_touched(at)),
            None => true,
        };
        if seqs.end - seqs.start < 2 || touched(seqs.start) || touched(seqs.end - 1) {
            return;
        }
        let mut wanted: Option<(&Arc<Segment>, Range<u64>)> = None;
        for seq in seqs {
            let Some(Place { segment, spot, extent }) = self.place(seq) else { continue };
            let Some(offset) = spot.offset() else { continue };
            let start = offset & !(PAGE - 1);
            // How long it is, is only known once it was read: as long as those around it.
            let len = extent.map_or(1, Extent::mean_record);
            let end = offset.saturating_add(len).next_multiple_of(PAGE);
            match &mut wanted {
                Some((same, range))
                    if same.id == segment.id
                        && (range.start..=range.end.saturating_add(gap(segment)))
                            .contains(&start) =>
                {
                    range.end = range.end.max(end);
                }
                _ => {
                    if let Some((segment, range)) = wanted.replace((segment, start..end)) {
                        segment.will_need(range);
                    }
                }
            }
        }
        if let Some((segment, range)) = wanted {
            segment.will_need(range);
        }
    }
}

/// Reads a little at each offset: their cache misses then overlap, where one after the other they would
/// add up. In a run entries lie side by side, and the processor fetches them unasked.
fn touch(segment: &Segment, offsets: impl Iterator<Item = u64>) {
    std::hint::black_box(offsets.fold(0, |all, at| all ^ segment.peek(at)));
}
