//! What is believed of the sealed segments that an opening found.

use std::collections::BTreeSet;

use crate::compaction::pick::share_names;
use crate::compaction::stats::SegmentStats;

/// The indices of segments that contradict each other. Of two that share a name one is newer in all
/// of it: the lsns that they cover do not overlap. Nothing tells which of them is wrong.
pub(super) fn contradictions(segments: &[SegmentStats]) -> BTreeSet<usize> {
    let believed = segments.iter().enumerate().filter(|(_, segment)| !segment.quarantined);
    let mut order: Vec<(usize, &SegmentStats)> = believed.collect();
    order.sort_by_key(|(_, segment)| segment.lsns.start);
    let mut wrong = BTreeSet::new();
    let mut open: Vec<(usize, &SegmentStats)> = Vec::new();
    for (index, segment) in order {
        if segment.lsns.start > segment.lsns.end {
            wrong.insert(index);
        }
        if segment.lsns.is_empty() {
            continue;
        }
        open.retain(|(_, other)| other.lsns.end > segment.lsns.start);
        for (other_index, _) in open.iter().filter(|(_, other)| share_names(segment, other)) {
            wrong.extend([index, *other_index]);
        }
        open.push((index, segment));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn run(id: u64, lsns: Range<u64>, from: &str, to: &str) -> SegmentStats {
        SegmentStats {
            id,
            generation: 1,
            lsns,
            from: from.into(),
            to: (!to.is_empty()).then(|| to.into()),
            file_bytes: 4096,
            live_bytes: 100,
            dead_bytes: 0,
            agents: 1,
            dead_since: None,
            quarantined: false,
        }
    }

    #[test]
    fn segments_that_share_a_name_and_an_lsn_contradict_each_other() {
        let sound = [run(1, 0..9, "", "m"), run(2, 0..9, "m", ""), run(3, 9..12, "", "")];
        assert!(contradictions(&sound).is_empty());
        let [one, two, _] = sound.clone();
        let found = contradictions(&[one, run(3, 8..12, "a", "c"), two]);
        assert_eq!(found, BTreeSet::from([0, 1]));
        #[expect(clippy::reversed_empty_ranges)]
        let found = contradictions(&[run(1, 5..3, "", ""), run(2, 9..10, "", "")]);
        assert_eq!(found, BTreeSet::from([0]));
    }
}
