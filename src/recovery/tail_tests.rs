//! Tails that only several unsealed segments make.
#![allow(clippy::unwrap_used)]

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use super::read;
use crate::error::ErrorKind;
use crate::format::frame::{HeaderBuilder, Link, Place, seal};
use crate::format::manifest::Role;
use crate::io::Io;
use crate::io::sim::SimDisk;
use crate::segment::Segment;
use crate::segment::testing::OWNER;
use crate::segment::writer::{FIRST_FRAME, LogFile, new_listed};
use crate::types::Verify;

const CAPACITY: u64 = 64 << 10;

/// A segment with frames of no records, each given by its link and the durable lsn it carries.
fn segment(io: &Io, id: u64, frames: &[(Option<Link>, u64)]) -> (Arc<Segment>, u64) {
    let listed = new_listed(id, id * 77, id * CAPACITY, CAPACITY, Role::Spare);
    let file = LogFile::create(io, Path::new("/"), &OWNER, &listed, Verify::Always).unwrap();
    let mut offset = FIRST_FRAME;
    for (link, durable) in frames {
        let mut header = HeaderBuilder::start(Vec::new(), *link).finish(0, 0, 0);
        let lsn = listed.base + offset;
        let place =
            Place { salt: listed.salt, offset, lsn, durable: *durable, time: 5, era: OWNER.era };
        seal(&mut header, &mut [], &place).unwrap();
        file.write(&[IoSlice::new(&header)], offset).unwrap();
        offset += header.len() as u64;
    }
    (Arc::clone(&file.segment), listed.base + offset)
}

/// Takes the frame at `offset` of a segment away.
fn lose(io: &Io, segment: &Segment, offset: u64) {
    let file = io.fs.open(segment.path(), true).unwrap();
    file.write_at(&[IoSlice::new(&[0; 88])], offset).unwrap();
}

#[test]
fn a_blank_segment_behind_a_break_hides_no_hole() {
    let io = SimDisk::new(1).io();
    let (a, a_end) = segment(&io, 1, &[(None, 0), (None, 0), (None, 0)]);
    let (b, b_end) = segment(&io, 2, &[(Some(Link { id: 1, end: a_end }), a_end)]);
    let link = Some(Link { id: 2, end: b_end });
    let (c, _) = segment(&io, 3, &[(link, a_end), (None, a_end)]);
    let all = [Arc::clone(&a), Arc::clone(&b), Arc::clone(&c)];
    let whole = read(&io, &all, 0).unwrap();
    assert_eq!((whole.stretches.len(), whole.proven, whole.bytes_cut), (3, a_end, 0));

    // B lost its only frame: nothing that was durable is missing, so C is cut.
    lose(&io, &b, FIRST_FRAME);
    let cut = read(&io, &all, 0).unwrap();
    assert_eq!(cut.end_lsn(), Some(a_end));
    assert!(cut.bytes_cut > 0);

    // A has a hole too, below what C says was durable.
    lose(&io, &a, FIRST_FRAME + 72);
    let error = read(&io, &all, 0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(error.damage().unwrap().file, a.path());
    assert_eq!(error.damage().unwrap().offset, FIRST_FRAME + 72);
}

#[test]
fn a_lost_first_frame_is_damage_of_its_own_segment() {
    let io = SimDisk::new(1).io();
    let (a, a_end) = segment(&io, 1, &[(None, 0), (None, 0)]);
    let (b, b_end) = segment(&io, 2, &[(Some(Link { id: 1, end: a_end }), a_end), (None, a_end)]);
    let all = [Arc::clone(&a), Arc::clone(&b)];
    lose(&io, &b, FIRST_FRAME);
    let error = read(&io, &all, b_end).err().unwrap();
    assert_eq!(error.damage().unwrap().file, b.path());
    assert_eq!(error.damage().unwrap().offset, FIRST_FRAME);

    // What A lost besides comes first.
    lose(&io, &a, FIRST_FRAME + 72);
    let error = read(&io, &all, a_end).err().unwrap();
    assert_eq!(error.damage().unwrap().file, a.path());
}
