//! Where entries of runs count as lying, and what is announced of them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::Snapshot;
use crate::catalog::lookup::Lookup;
use crate::catalog::resident::Resident;
use crate::catalog::set::SegmentSet;
use crate::catalog::version::Version;
use crate::format::head::Head;
use crate::segment::Segment;
use crate::segment::testing::{HASH, NAME, add, add_at, sealed};

fn snapshot(head: Head, sealed: Vec<Arc<Segment>>) -> Snapshot {
    let set = SegmentSet::new(1, sealed);
    let base = Lookup { set: &set, name: NAME, hash: HASH }.load(&head).unwrap();
    Snapshot {
        resident: Arc::new(Resident::new(Arc::from(NAME), HASH)),
        version: Version::at_rest(head).seen(0),
        base: Arc::new(base),
        floor: head.floor,
        time: 0,
        lenient: true,
        dir: None,
    }
}

#[test]
fn what_is_read_next_is_announced() {
    let head = Head { life: 5000, next: 1001, floor: 1, flags: 0 };
    let log = sealed(1, false, 4096..200_000, |b| add(b, head.life, 1, 1..1001));
    let snapshot = snapshot(head, vec![log]);
    let mut entries = snapshot.entries(1, 1001);
    let mut step = |seq, back: bool| {
        for _ in 0..seq {
            // There are no records, and reading goes on behind what is damaged.
            assert!(if back { entries.next_back() } else { entries.next() }.unwrap().is_err());
        }
        entries.announced.clone()
    };
    assert_eq!(step(1, false), 1..129);
    assert_eq!(step(127, false), 1..129);
    assert_eq!(step(1, false), 129..257);
    assert_eq!(step(1, true), 873..1001);
    assert_eq!(step(127, true), 873..1001);
    assert_eq!(step(1, true), 745..873);
}

#[test]
fn entries_of_a_run_count_as_lying_at_its_end() {
    let head = Head { life: 5000, next: 7, floor: 1, flags: 0 };
    let run = sealed(1, true, 4096..90_000, |b| add(b, head.life, 1, 1..4));
    let log = sealed(2, false, 90_000..200_000, |b| add(b, head.life, 1, 4..7));
    let snapshot = snapshot(head, vec![run, log]);
    // The run spans the lsn: a default that ceased to hold there drops nothing of it any more.
    assert_eq!(snapshot.first_from(50_000), 1);
    assert_eq!(snapshot.first_from(89_999), 1);
    assert_eq!(snapshot.first_from(90_000), 4);
    assert_eq!(snapshot.first_from(300_000), 7);
}

#[test]
fn lost_entries_are_of_the_time_of_the_one_before_them() {
    let head = Head { life: 5000, next: 10, floor: 1, flags: 0 };
    let offsets = [0, 600, 0, 0, 0, 0, 0, 0, 608];
    let log = sealed(1, false, 4096..200_000, |b| add_at(b, head, 1, &offsets));
    let base = log.base;
    let snapshot = snapshot(head, vec![log]);
    assert_eq!(snapshot.first_from(base), 2);
    assert_eq!(snapshot.first_from(base + 4800), 2);
    assert_eq!(snapshot.first_from(base + 4801), 9);
    assert_eq!(snapshot.first_from(base + 4865), 10);
}
