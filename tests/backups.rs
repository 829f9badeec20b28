//! Backups that were cut short: the next one into the same directory removes what they left.
#![allow(clippy::unwrap_used)]

use memlog::sim::{SimDisk, SimFault};
use memlog::{ErrorKind, Maintenance, NewEntry, Options, Store};

const DIR: &str = "/mem";
const COPY: &str = "/copy";

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(256 << 10)
}

fn filled() -> (SimDisk, Store) {
    let disk = SimDisk::new(7);
    let store = options().open_on(&disk, DIR).unwrap();
    let payload = vec![7; 60 << 10];
    for _ in 0..12 {
        store.agent("a").unwrap().append(NewEntry::new(memlog::Kind::USER, &payload)).unwrap();
    }
    (disk, store)
}

/// A backup into the directory succeeds, is whole, and leaves no mark.
#[track_caller]
fn backs_up(disk: &SimDisk, store: &Store, context: &str) {
    store.backup(COPY).unwrap_or_else(|error| panic!("{context}: {error}"));
    let copy = options().create(false).open_on(disk, COPY).unwrap();
    assert_eq!(copy.agent("a").unwrap().view().unwrap().iter().flatten().count(), 12, "{context}");
    assert_eq!(copy.verify().unwrap(), [], "{context}");
    assert!(!disk.files().iter().any(|path| path.ends_with("BACKUP.tmp")), "{context}");
}

#[test]
fn a_backup_that_is_cut_short_at_any_call_is_no_store_and_is_replaced() {
    let (disk, store) = filled();
    store.close().unwrap();
    let mut cut = 0;
    for call in 0.. {
        let disk = disk.fork();
        let store = options().open_on(&disk, DIR).unwrap();
        disk.crash_at(disk.calls() + call);
        let made = store.backup(COPY);
        drop(store);
        for (seed, disk) in [disk.fork_without_power(call), disk.fork()].iter().enumerate() {
            disk.restart();
            let context = format!("cut short at call {call}, {seed}");
            if options().create(false).open_on(&disk.fork(), COPY).is_ok() {
                // It is whole, and is not replaced.
                let store = options().open_on(disk, DIR).unwrap();
                assert_eq!(store.backup(COPY).unwrap_err().kind(), ErrorKind::InvalidInput);
                continue;
            }
            let store = options().open_on(disk, DIR).unwrap();
            backs_up(disk, &store, &context);
            cut += 1;
        }
        if made.is_ok() {
            assert!(call > 5 && cut > 5, "{call} calls, {cut} cut short");
            return;
        }
    }
}

#[test]
fn a_backup_that_finds_no_room_is_replaced_once_there_is() {
    let (disk, store) = filled();
    store.close().unwrap();
    disk.set_hard_links(false);
    for call in 0..40 {
        let disk = disk.fork();
        let store = options().open_on(&disk, DIR).unwrap();
        disk.fail_at(disk.calls() + call, SimFault::NoSpace, true);
        let made = store.backup(COPY);
        disk.clear_faults();
        drop(store);
        // What met the store's own files may have poisoned it.
        let store = options().open_on(&disk, DIR).unwrap();
        if made.is_err() {
            backs_up(&disk, &store, &format!("no room from call {call} on"));
        }
    }
}
