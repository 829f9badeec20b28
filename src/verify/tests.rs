//! A run, made by hand: it is read, verified, salvaged and repaired as a log segment is.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::IoSlice;
use std::path::Path;

use crate::commit::seal::footer_check;
use crate::format::Era;
use crate::format::footer::{
    Builder, Footer, Group, NEVER, PagesBuilder, SegmentFacts, StateChange, Summary,
};
use crate::format::frame::{self, HeaderBuilder, Place};
use crate::format::head::Head;
use crate::format::manifest::{Forgotten, Listed, Role};
use crate::format::record::{self, Append, Change, REDACTED};
use crate::io::sim::SimDisk;
use crate::segment::writer::{FIRST_FRAME, LogFile, Owner, new_listed};
use crate::types::{Kind, Maintenance, Retention, Verify};
use crate::{Lsn, Options, Store, catalog, manifest, recovery};

const STORE: u128 = 9 << 64;
const OWNER: Owner = Owner { store: STORE, era: Era::new(1, 7) };
const CAPACITY: u64 = 256 << 10;
const RUN_BASE: u64 = 4096;
/// Above all frames of the run: they cannot be told by their lsns.
const LOG_BASE: u64 = 1 << 30;
const REVISION: u64 = 1 << 29;
const FORGOTTEN: u64 = 1 << 28;

/// What is wrong with the footer of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Len,
    Revision,
    Key,
    RecordBytes,
    Prefix,
    NoPrefix,
    Weight,
}

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual)
}

fn entry(at: u64, flags: u8, payload: &[u8]) -> Change<'_> {
    let kind = Kind::USER;
    Change::Append(Append { at, kind, weight: 0, flags, expires: None, meta: b"", payload })
}

/// Writes a frame, and gives the offsets of its records and its end.
fn write(
    file: &LogFile,
    offset: u64,
    agent: Option<(&str, Head)>,
    changes: &[Change<'_>],
) -> Vec<u64> {
    let mut header = HeaderBuilder::start(Vec::new(), None);
    if let Some((name, head)) = agent {
        let at = header.add_agent(name);
        header.set_head(at, &head);
    }
    let (mut body, mut digest, mut count, mut offsets) = (Vec::new(), 0, 0, Vec::new());
    for change in changes {
        offsets.push(offset + (header.len() + body.len()) as u64);
        digest = frame::fold(digest, record::encode(&mut body, 0, change));
        count += 1;
    }
    let mut header = header.finish(body.len(), digest, count);
    offsets.push(offset + (header.len() + body.len()) as u64);
    let lsn = RUN_BASE + offset;
    let place =
        Place { salt: file.segment.salt, offset, lsn, durable: RUN_BASE, time: 5, era: OWNER.era };
    frame::seal(&mut header, &mut body, &place).unwrap();
    file.write(&[IoSlice::new(&header), IoSlice::new(&body)], offset).unwrap();
    offsets
}

/// The head of `a/one` before the run.
const HEAD: Head = Head { life: 5000, next: 3, floor: 3, flags: Head::STATE | Head::REDACTED };

/// Where the records of the run lie: those of the two frames of `a/one`, and their ends.
struct Written {
    first: Vec<u64>,
    second: Vec<u64>,
    end: u64,
    record_bytes: u64,
}

/// Agent `a/one` with seqs 3 to 5 and a value, `a/two` forgotten, and the prefix `old/`.
fn frames(file: &LogFile) -> Written {
    let head = HEAD;
    let long = [7; 5000];
    let first = [entry(10, 0, b"three"), entry(11, REDACTED, b"")];
    let first = write(file, FIRST_FRAME, Some(("a/one", head)), &first);
    let second = [
        entry(12, 0, &long),
        Change::Kept { key: "goal", revision: REVISION, value: b"refund" },
        Change::Policy(Some(Retention::new().max_entries(9))),
    ];
    let second = write(file, first[2], Some(("a/one", Head { next: 5, ..head })), &second);
    let third = write(file, second[3], Some(("a/two", Head::absent())), &[Change::Forget]);
    let kept = Change::KeptPrefix { lsn: FORGOTTEN, prefix: "old/" };
    let last = write(file, third[1], None, &[kept]);

    let bodies =
        [first[2] - first[0], second[3] - second[0], third[1] - third[0], last[1] - last[0]];
    let record_bytes = bodies.iter().sum();
    Written { first, second, end: last[1], record_bytes }
}

/// What the footer is to say of them, but for what is to be wrong with it.
fn footer(written: &Written, wrong: Wrong) -> Footer {
    let Written { first, second, end, record_bytes } = written;
    let mut builder = Builder::new(SegmentFacts {
        store: STORE,
        segment: 2,
        salt: 77,
        first_lsn: RUN_BASE + FIRST_FRAME,
        data_end: *end,
        generation: 1,
        lowest_lsn: RUN_BASE,
        highest_lsn: LOG_BASE,
        max_at: 0,
        record_bytes: record_bytes - if wrong == Wrong::RecordBytes { 8 } else { 0 },
        cleaned: LOG_BASE,
        hidden: 0,
    });
    let units = |at: u64| u32::try_from(at / 8).unwrap();
    let len = u32::try_from(second[2] - second[1]).unwrap();
    let state = StateChange {
        tag: 0,
        key: if wrong == Wrong::Key { "goat" } else { "goal" },
        revision: REVISION + if wrong == Wrong::Revision { 1 } else { 0 },
        offset: units(second[1]),
        len: len + if wrong == Wrong::Len { 8 } else { 0 },
    };
    let pages = PagesBuilder::of([state]).unwrap();
    let weight = u64::from(wrong == Wrong::Weight);
    let groups =
        [Group { max_at: 12, bytes: 5005, weight, unweighted: 3, joined: 0, soonest: NEVER }];
    let one = Summary {
        name: "a/one",
        head: Head { next: 6, flags: HEAD.flags | Head::POLICY, ..HEAD },
        first_seq: 3,
        offsets: &[first[0], first[1], second[0]].map(units),
        groups: &groups,
        state: pages.as_ref(),
        redacted: &[],
        policy: Some(Some(Retention::new().max_entries(9))),
    };
    let two = Summary {
        name: "a/two",
        head: Head::absent(),
        first_seq: 1,
        offsets: &[],
        groups: &[],
        state: None,
        policy: None,
        ..one
    };
    let seed = catalog::name_seed(STORE);
    for agent in [one, two] {
        builder.add(&agent, catalog::hash_name(seed, agent.name)).unwrap();
    }
    if wrong != Wrong::NoPrefix {
        let lsn = FORGOTTEN + if wrong == Wrong::Prefix { 1 } else { 0 };
        builder.add_prefix(lsn, "old/").unwrap();
    }
    builder.set_bounds("", Some("b")).unwrap();
    builder.finish(CAPACITY).unwrap()
}

/// A store whose only content is in a run.
fn store(wrong: Wrong) -> SimDisk {
    let disk = SimDisk::new(1);
    let (io, dir) = (disk.io(), Path::new("/mem"));
    io.fs.create_dir(dir).unwrap();
    let mut manifest = recovery::create_with(&io, dir, &options(), STORE, LOG_BASE).unwrap();
    let line = Listed { run: true, ..new_listed(2, 77, RUN_BASE, CAPACITY, Role::Sealed) };
    let file = LogFile::create(&io, dir, &OWNER, &line, Verify::Always).unwrap();
    let written = frames(&file);
    let footer = footer(&written, wrong);
    file.write(&[IoSlice::new(&footer.bytes)], footer.trailer.footer_at).unwrap();
    file.sync().unwrap();

    let check = footer_check(&footer);
    manifest.segments.push(Listed { data_end: written.end, footer_check: check, ..line });
    manifest.forgotten.push(Forgotten { prefix: "old/".into(), lsn: FORGOTTEN });
    (manifest.next_id, manifest.generation) = (3, manifest.generation + 1);
    assert!(manifest::install(&io, dir, &manifest, None).is_ok());
    disk
}

/// Everything that the run holds, with the revision that it kept.
fn check(store: &Store) {
    let names: Vec<_> = store.agents("").map(|agent| agent.unwrap().name().to_owned()).collect();
    assert_eq!(names, ["a/one"]);
    let view = store.agent("a/one").unwrap().view().unwrap();
    assert_eq!((view.floor(), view.next_seq()), (3, 6));
    let entries: Vec<_> = view.iter().map(|entry| entry.unwrap()).collect();
    let payloads: Vec<&[u8]> = entries.iter().map(|entry| entry.payload()).collect();
    assert_eq!(payloads, [b"three", &[][..], &[7; 5000]]);
    assert_eq!(entries.iter().map(|e| e.is_redacted()).collect::<Vec<_>>(), [false, true, false]);
    let value = view.state("goal").unwrap().unwrap();
    assert_eq!(&value.value()[..], b"refund");
    assert_eq!(value.revision(), Lsn(REVISION));
    assert_eq!(view.snapshot.version.head.life, HEAD.life);
    // What is found beyond what the opening found.
    assert_eq!(store.verify().unwrap(), store.recovery_report().damage);
}

#[test]
fn a_run_is_read_verified_salvaged_and_repaired_like_a_log_segment() {
    let disk = store(Wrong::Nothing);
    let opened = options().open_on(&disk, "/mem").unwrap();
    check(&opened);
    let agent = opened.agent("a/one").unwrap();
    let mut batch = opened.batch();
    batch.expect_revision(&agent, "goal", Some(Lsn(REVISION))).set(&agent, "goal", b"next");
    batch.commit().unwrap();
    assert!(agent.view().unwrap().state("goal").unwrap().unwrap().revision() > Lsn(LOG_BASE));
    opened.close().unwrap();

    let disk = store(Wrong::Nothing);
    check(&options().salvage(true).open_on(&disk, "/mem").unwrap());
    let report = options().repair_on(&disk, "/mem", "/mended").unwrap();
    assert_eq!(report.damage, []);
    check(&options().open_on(&disk, "/mended").unwrap());
}

/// Without its footer, it is made from the frames again, with the revisions that they keep.
#[test]
fn a_run_without_its_footer_is_salvaged_from_its_frames() {
    let disk = store(Wrong::Nothing);
    let run = "/mem/0000000000000002.run";
    assert!(disk.flip_bit(run, CAPACITY - 100, 3));
    let salvaged = options().salvage(true).open_on(&disk, "/mem").unwrap();
    assert_eq!(salvaged.recovery_report().damage.len(), 1);
    check(&salvaged);
}

#[test]
fn verify_holds_the_footer_of_a_run_against_its_frames() {
    for wrong in [
        Wrong::Len,
        Wrong::Revision,
        Wrong::Key,
        Wrong::RecordBytes,
        Wrong::Prefix,
        Wrong::NoPrefix,
        Wrong::Weight,
    ] {
        let disk = store(wrong);
        let opened = options().open_on(&disk, "/mem").unwrap();
        assert_eq!(opened.verify().unwrap().len(), 1, "{wrong:?}");
    }
    let disk = store(Wrong::Revision);
    let opened = options().open_on(&disk, "/mem").unwrap();
    let view = opened.agent("a/one").unwrap().view().unwrap();
    assert!(view.state("goal").is_err(), "the record keeps another revision");
}

#[test]
fn a_manifest_that_cannot_be_read_is_not_damaged() {
    let disk = SimDisk::new(1);
    let store = options().open_on(&disk, "/mem").unwrap();
    let reads = disk.reads();
    assert_eq!(store.verify().unwrap(), []);
    let each = disk.reads() - reads;
    assert!(each > 0);
    for read in 0..each {
        disk.fail_read_at(disk.reads() + read, false);
        let error = store.verify().expect_err("read nothing");
        assert_eq!(error.kind(), crate::ErrorKind::Io, "{error}");
        disk.clear_faults();
    }
}
