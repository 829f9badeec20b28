//! Where entries of runs count as lying.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::Snapshot;
use crate::catalog::base::{Lookup, SegmentSet};
use crate::catalog::version::Version;
use crate::format::head::Head;
use crate::segment::testing::{HASH, NAME, add, sealed};

#[test]
fn entries_of_a_run_count_as_lying_at_its_end() {
    let head = Head { life: 5000, next: 7, floor: 1, flags: 0 };
    let run = sealed(1, true, 4096..90_000, |b| add(b, head.life, 1, 1..4));
    let log = sealed(2, false, 90_000..200_000, |b| add(b, head.life, 1, 4..7));
    let set = SegmentSet { generation: 1, sealed: vec![run, log] };
    let base = Lookup { set: &set, name: NAME, hash: HASH }.load(&head).unwrap();
    let snapshot = Snapshot {
        name: Arc::from(NAME),
        version: Version::at_rest(head),
        base: Arc::new(base),
        floor: head.floor,
        time: 0,
        lenient: false,
        dir: None,
    };
    // The run spans the lsn: a default that ceased to hold there drops nothing of it any more.
    assert_eq!(snapshot.first_from(50_000), 1);
    assert_eq!(snapshot.first_from(89_999), 1);
    assert_eq!(snapshot.first_from(90_000), 4);
    assert_eq!(snapshot.first_from(300_000), 7);
}
