//! What a look-up makes of blocks that only runs write.
#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::sync::Arc;

use super::base::Base;
use super::lookup::Lookup;
use super::set::SegmentSet;
use crate::format::head::Head;
use crate::segment::Segment;
use crate::segment::testing::{HASH, NAME, add, sealed};

const LIFE: u64 = 5000;

fn load(sealed: Vec<Arc<Segment>>, next: u64) -> Base {
    let set = SegmentSet::new(1, sealed);
    let head = Head { life: LIFE, next, floor: 1, flags: 0 };
    Lookup { set: &set, name: NAME, hash: HASH }.load(&head).unwrap()
}

fn seqs(base: &Base) -> Vec<Range<u64>> {
    base.extents.iter().map(|extent| extent.first..extent.end()).collect()
}

#[test]
fn a_floor_that_only_a_run_tells_of_is_the_bases() {
    // Beneath the floor of the run: it is not needed.
    let dropped = sealed(1, true, 4096..8192, |b| add(b, LIFE, 1, 1..4));
    let run = sealed(2, true, 8192..90_000, |b| add(b, LIFE, 6, 6..9));
    let log = sealed(3, false, 90_000..200_000, |b| add(b, LIFE, 1, 9..11));
    let base = load(vec![dropped, run, Arc::clone(&log)], 11);
    assert_eq!((base.floor, seqs(&base)), (6, vec![6..9, 9..11]));
    // Without the run nothing speaks of that floor.
    assert_eq!(load(vec![log], 11).floor, 1);
}

#[test]
fn segments_that_end_before_the_life_hide_none_that_end_later() {
    // Runs of other names in between: they begin later, and end before the life began.
    let run = sealed(1, true, 4096..90_000, |b| add(b, LIFE, 1, 1..4));
    let other = sealed(2, true, 4200..4900, |_| {});
    let log = sealed(3, false, 90_000..200_000, |b| add(b, LIFE, 1, 4..6));
    assert_eq!(seqs(&load(vec![run, other, log], 6)), vec![1..4, 4..6]);
}

#[test]
fn of_extents_that_overlap_the_newer_counts() {
    let old = sealed(1, true, 4096..90_000, |b| add(b, LIFE, 1, 1..4));
    let forged = sealed(2, false, 90_000..200_000, |b| add(b, LIFE, 1, 2..6));
    let log = sealed(3, false, 200_000..300_000, |b| add(b, LIFE, 1, 6..8));
    assert_eq!(seqs(&load(vec![old, forged, log], 8)), vec![2..6, 6..8]);
    // Beyond the end that the newest tells of.
    let beyond = sealed(1, true, 4096..90_000, |b| add(b, LIFE, 1, 4..9));
    let newest = sealed(2, false, 90_000..200_000, |b| add(b, LIFE, 1, 6..6));
    assert_eq!(seqs(&load(vec![beyond, newest], 6)), vec![]);
}

/// Who looks up an agent has its head from before, and takes a newer one together with the base.
#[test]
fn what_was_sealed_since_the_head_was_looked_at_is_no_lie() {
    let run = sealed(1, true, 4096..90_000, |b| add(b, LIFE, 1, 1..4));
    let since = sealed(2, false, 90_000..200_000, |b| add(b, LIFE, 1, 4..9));
    assert_eq!(seqs(&load(vec![run, since], 6)), vec![1..4, 4..9]);
}
