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
        for part in self.version.parts() {
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

    /// Where the entries from `lowest` on lie, as many as `out` takes below the end of `wanted`:
    /// the seqs that are going to be read, now or a little later.
    pub(super) fn places<'v>(
        &'v self,
        lowest: u64,
        wanted: &Range<u64>,
        out: &mut [Option<Place<'v>>],
        sound: &mut Sound,
    ) {
        out.fill(None);
        let seqs = lowest..wanted.end.min(lowest.saturating_add(out.len() as u64));
        let mut put = |seq: u64, place| {
            let slot = usize::try_from(seq - lowest).ok().and_then(|index| out.get_mut(index));
            if let Some(slot) = slot {
                *slot = Some(place);
            }
        };
        let extents = &self.base.extents;
        let first = extents.partition_point(|extent| extent.first <= lowest).saturating_sub(1);
        for extent in extents.iter().skip(first).take_while(|extent| extent.first < seqs.end) {
            extent.verify_for(wanted);
            for (seq, spot) in extent.spots(seqs.clone(), sound) {
                put(seq, Place { segment: &extent.segment, spot, extent: Some(extent) });
            }
        }
        for part in self.version.parts() {
            for seq in seqs.start.max(part.first)..seqs.end.min(part.end()) {
                if let Some(spot) = part.spot(seq) {
                    put(seq, Place { segment: &part.segment, spot, extent: None });
                }
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
