//! Files that need what this crate does not read are refused by name, and nothing is changed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::format::check::{crc, crc_of_two, mask};
use crate::format::codec::u64_at;
use crate::format::footer::TRAILER_LEN;
use crate::io::sim::SimDisk;
use crate::options::Options;
use crate::segment::writer::FIRST_FRAME;
use crate::types::{Durability, Maintenance};
use crate::{NewEntry, Store};

const DIR: &str = "/mem";

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual)
}

/// A store with a sealed segment and an active one, closed.
fn sample() -> SimDisk {
    let disk = SimDisk::new(1);
    let store = options().open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    agent.append(NewEntry::user("one")).unwrap();
    store.engine().seal_active().unwrap();
    agent.append(NewEntry::user("two")).unwrap();
    store.close().unwrap();
    disk
}

fn files(disk: &SimDisk, ending: &str) -> Vec<PathBuf> {
    let ends = |path: &PathBuf| path.to_str().unwrap().ends_with(ending);
    disk.files().into_iter().filter(|path| path.starts_with(DIR) && ends(path)).collect()
}

fn write(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let file = disk.io().fs.open(path, true).unwrap();
    file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    file.sync().unwrap();
}

fn change_manifest(disk: &SimDisk, change: impl FnOnce(&mut [u8])) {
    let path = &files(disk, "MANIFEST")[0];
    let mut bytes = disk.read_file(path).unwrap();
    change(&mut bytes);
    let check = crc(&bytes[16..]);
    bytes[12..16].copy_from_slice(&check.to_le_bytes());
    write(disk, path, &bytes);
}

fn snapshot(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = disk.files().into_iter();
    paths.map(|path| (path.clone(), disk.read_file(path).unwrap())).collect()
}

/// Opening, salvage and repair refuse the store, and leave it as it is.
fn refused(disk: &SimDisk, name: &str) {
    let before = snapshot(disk);
    let told = |error: &Error| {
        assert_eq!(error.kind(), ErrorKind::Version, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    };
    told(&options().open_on(disk, DIR).err().unwrap());
    told(&options().salvage(true).open_on(disk, DIR).err().unwrap());
    assert_eq!(snapshot(disk), before);
}

#[test]
fn a_manifest_that_needs_a_feature_is_refused() {
    let disk = sample();
    change_manifest(&disk, |bytes| bytes[104] |= 0b10);
    refused(&disk, "branches");
    let disk = sample();
    change_manifest(&disk, |bytes| bytes[111] |= 0x80);
    refused(&disk, "bit 63");
}

#[test]
fn a_store_of_version_1_is_refused() {
    let disk = sample();
    change_manifest(&disk, |bytes| bytes[8] = 1);
    let error = options().open_on(&disk, DIR).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Version);
    assert!(error.to_string().contains("version 1"), "{error}");
}

#[test]
fn a_feature_that_may_be_ignored_keeps_writers_out_only() {
    let disk = sample();
    change_manifest(&disk, |bytes| {
        bytes[103] |= 0x80;
        bytes[200] = 7;
    });
    let error = options().open_on(&disk, DIR).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Version);
    let store = options().salvage(true).open_on(&disk, DIR).unwrap();
    assert_eq!(store.agent("a").unwrap().view().unwrap().next_seq(), 3);
    // Without a feature nothing may be there.
    let disk = sample();
    change_manifest(&disk, |bytes| bytes[200] = 7);
    assert_eq!(options().open_on(&disk, DIR).err().unwrap().kind(), ErrorKind::Damaged);
}

#[test]
fn an_unknown_layout_is_no_run() {
    let disk = sample();
    change_manifest(&disk, |bytes| bytes[224 + 45] = 2);
    assert_eq!(options().open_on(&disk, DIR).err().unwrap().kind(), ErrorKind::Damaged);
}

#[test]
fn a_segment_that_needs_a_feature_is_refused() {
    let disk = sample();
    let path = files(&disk, ".log").pop().unwrap();
    let mut bytes = disk.read_file(&path).unwrap();
    bytes[88] |= 0b100;
    bytes[12..16].fill(0);
    let check = crc(&bytes[..128]) ^ mask(u64_at(&bytes, 40).unwrap(), 0);
    bytes[12..16].copy_from_slice(&check.to_le_bytes());
    write(&disk, &path, &bytes);
    refused(&disk, "marks");
}

#[test]
fn a_footer_that_needs_a_feature_is_refused() {
    let disk = sample();
    let path = files(&disk, ".log").remove(0);
    let mut bytes = disk.read_file(&path).unwrap();
    let at = bytes.len() - TRAILER_LEN;
    let trailer = &mut bytes[at..];
    trailer[232] |= 1;
    let salt = u64_at(trailer, 40).unwrap();
    let check = crc_of_two(&trailer[..12], &trailer[16..]) ^ mask(salt, at as u64);
    trailer[12..16].copy_from_slice(&check.to_le_bytes());
    write(&disk, &path, &bytes);
    change_manifest(&disk, |bytes| bytes[224 + 40..224 + 44].copy_from_slice(&check.to_le_bytes()));
    refused(&disk, "footer");
}

/// The last frame of a log that a crash left says what is not understood: it was written so.
#[test]
fn a_frame_that_is_not_understood_is_no_torn_tail() {
    for (flags, understood) in [(0, true), (2, true), (6, false), (8, false), (1 << 31, false)] {
        let disk = SimDisk::new(1);
        let store = options().open_on(&disk, DIR).unwrap();
        let agent = store.agent("a").unwrap();
        agent.append_with("one");
        agent.append_with("two");
        std::mem::forget(store);
        disk.restart();
        let path = files(&disk, ".log").pop().unwrap();
        let mut bytes = disk.read_file(&path).unwrap();
        let (salt, mut at, mut last) = (u64_at(&bytes, 40).unwrap(), FIRST_FRAME as usize, 0);
        while u64_at(&bytes, at + 8) == Some(salt) {
            last = at;
            let half = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
            at += half(at + 4) + half(at + 40);
        }
        bytes[last + 56..last + 60].copy_from_slice(&u32::to_le_bytes(flags));
        let header = u32::from_le_bytes(*bytes[last + 4..].first_chunk().unwrap()) as usize;
        let check = crc(&bytes[last + 4..last + header]) ^ mask(salt, last as u64);
        bytes[last..last + 4].copy_from_slice(&check.to_le_bytes());
        write(&disk, &path, &bytes);
        match options().open_on(&disk, DIR) {
            Ok(store) => {
                assert!(understood, "flags {flags:x}");
                assert_eq!(store.agent("a").unwrap().view().unwrap().next_seq(), 3);
            }
            Err(error) => {
                assert!(!understood, "flags {flags:x}: {error}");
                assert_eq!(error.kind(), ErrorKind::Damaged);
                assert_eq!(error.damage().unwrap().offset, last as u64);
            }
        }
    }
}

trait AppendWith {
    fn append_with(&self, text: &str);
}

impl AppendWith for crate::Agent {
    /// At `Write`, so that nothing says that it is durable.
    fn append_with(&self, text: &str) {
        let mut batch = self.store().batch();
        batch.append(self, NewEntry::user(text)).durability(Durability::Write);
        batch.commit().unwrap();
    }
}

/// Frames say what their batch waits for, in which opening it was ordered, and in which history.
#[test]
fn frames_tell_durability_and_era() {
    let disk = SimDisk::new(1);
    let mut histories = Vec::new();
    for opening in 1..=2_u32 {
        let store: Store = options().open_on(&disk, DIR).unwrap();
        let (engine, agent) = (store.engine(), store.agent("a").unwrap());
        let from = engine.order.lock().tail;
        for durability in [Durability::Buffer, Durability::Write, Durability::Sync] {
            let mut batch = store.batch();
            batch.append(&agent, NewEntry::user("entry")).durability(durability);
            batch.commit().unwrap();
        }
        store.sync().unwrap();
        let segment = engine.order.lock().active.segment.clone();
        let (mut at, mut told) = (from as usize, Vec::new());
        while let Ok((header, _)) = segment.published_frames().header(at) {
            assert_eq!(header.era.incarnation, opening);
            histories.push(header.era.history);
            told.extend((header.records > 0).then_some(header.durability));
            at += header.len();
        }
        assert_eq!(told, [0, 1, 2]);
        let of_file = segment.header().unwrap().era;
        assert_eq!((of_file.incarnation, of_file.history), (1, histories[0]));
        store.close().unwrap();
    }
    assert!(histories[0] != 0 && histories.iter().all(|history| *history == histories[0]));
}
