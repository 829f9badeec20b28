//! Footers, as the manifest lists them.
#![allow(clippy::unwrap_used)]

use std::io::IoSlice;
use std::path::Path;

use super::writer::{FIRST_FRAME, LogFile, new_listed};
use crate::error::ErrorKind;
use crate::format::codec::u32_at;
use crate::format::footer::{Builder, SegmentFacts};
use crate::format::manifest::Role;
use crate::io::sim::SimDisk;
use crate::segment::testing::OWNER;
use crate::types::Verify;

#[test]
fn a_footer_that_is_not_the_listed_one_is_refused() {
    const CAPACITY: u64 = 64 << 10;
    let io = SimDisk::new(1).io();
    let listed = new_listed(3, 77, 4096, CAPACITY, Role::Sealed);
    let facts = SegmentFacts {
        store: 1,
        segment: 3,
        salt: 77,
        first_lsn: 4096 + FIRST_FRAME,
        data_end: 8192,
        lowest_lsn: 4096 + FIRST_FRAME,
        highest_lsn: 4096 + 8192,
        ..SegmentFacts::default()
    };
    let footer = Builder::new(facts).finish(CAPACITY).unwrap();
    let check = u32_at(&footer.bytes, footer.bytes.len() - super::TRAILER_LEN + 12).unwrap();
    let made = || {
        let _ = io.fs.remove(Path::new("/0000000000000003.log"));
        let file = LogFile::create(&io, Path::new("/"), &OWNER, &listed, Verify::Always).unwrap();
        file.write(&[IoSlice::new(&footer.bytes)], footer.trailer.footer_at).unwrap();
        file.segment
    };
    made().load_footer(Some(check)).unwrap();
    made().load_footer(None).unwrap();
    let error = made().load_footer(Some(check ^ 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
}
