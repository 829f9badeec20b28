//! Sealed segments for tests, made of nothing but a footer.

use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::format::Era;
use crate::format::footer::{Builder, Group, NEVER, SegmentFacts, Summary};
use crate::format::head::Head;
use crate::format::manifest::{Listed, Role};
use crate::io::sim::SimDisk;
use crate::segment::Segment;
use crate::segment::writer::{FIRST_FRAME, LogFile, Owner, new_listed};
use crate::types::Verify;

/// The agent that is in these segments.
pub(crate) const NAME: &str = "a";
pub(crate) const HASH: u64 = 7;

/// The store that they are of.
pub(crate) const OWNER: Owner = Owner { store: 1, era: Era::new(1, 9) };

const CAPACITY: u64 = 128 << 10;

/// A sealed segment with the agents that `fill` adds. A run covers `lsns`; those of a log segment
/// follow from its base, which is the beginning of them.
pub(crate) fn sealed(
    id: u64,
    run: bool,
    lsns: Range<u64>,
    fill: impl FnOnce(&mut Builder),
) -> Arc<Segment> {
    sealed_as(id, run, lsns, Verify::Always, fill)
}

/// Structures of the footer that were read so far, of a segment that verifies at the first read.
pub(crate) fn read_of(segment: &Segment) -> u32 {
    segment.footer.get().map_or(0, |footer| footer.touched.count())
}

/// A sealed segment like that of [`sealed`], verified as it is said.
pub(crate) fn sealed_as(
    id: u64,
    run: bool,
    lsns: Range<u64>,
    verify: Verify,
    fill: impl FnOnce(&mut Builder),
) -> Arc<Segment> {
    sealed_in(CAPACITY, id, run, lsns, verify, fill)
}

/// The same in a file of another length.
pub(crate) fn sealed_in(
    capacity: u64,
    id: u64,
    run: bool,
    lsns: Range<u64>,
    verify: Verify,
    fill: impl FnOnce(&mut Builder),
) -> Arc<Segment> {
    let listed = new_listed(id, id * 77, lsns.start, capacity, Role::Sealed);
    let listed = Listed { run, ..listed };
    let io = SimDisk::new(1).io();
    let file = LogFile::create(&io, Path::new("/"), &OWNER, &listed, verify).unwrap();
    let first_lsn = listed.base + FIRST_FRAME;
    let mut builder = Builder::new(SegmentFacts {
        store: 1,
        segment: id,
        salt: listed.salt,
        first_lsn,
        data_end: capacity / 4,
        generation: u64::from(run),
        lowest_lsn: lsns.start,
        highest_lsn: lsns.end,
        ..SegmentFacts::default()
    });
    fill(&mut builder);
    let footer = builder.finish(capacity).unwrap();
    file.write(&[IoSlice::new(&footer.bytes)], footer.trailer.footer_at).unwrap();
    file.segment.load_footer(None).unwrap();
    file.segment
}

/// Adds a block of the agent with the entries of these seqs, under a head with that floor.
pub(crate) fn add(builder: &mut Builder, life: u64, floor: u64, seqs: Range<u64>) {
    let offsets: Vec<u32> = seqs.clone().zip((600..).step_by(8)).map(|(_, at)| at).collect();
    add_at(builder, Head { life, next: seqs.end, floor, flags: 0 }, seqs.start, &offsets);
}

/// Adds a block of the agent with entries from `first_seq` on at these offsets, in units of 8
/// bytes; 0: lost.
pub(crate) fn add_at(builder: &mut Builder, head: Head, first_seq: u64, offsets: &[u32]) {
    let group = |last: usize| Group {
        max_at: 9,
        bytes: last.min(offsets.len()) as u64 * 10,
        weight: 0,
        unweighted: 0,
        joined: 0,
        soonest: NEVER,
    };
    let groups: Vec<Group> =
        (0..offsets.len().div_ceil(32)).map(|number| group(number * 32 + 32)).collect();
    let summary = Summary {
        name: NAME,
        head,
        first_seq,
        offsets,
        groups: &groups,
        state: None,
        redacted: &[],
        policy: None,
    };
    builder.add(&summary, HASH).unwrap();
}
