//! Openings of stores that only rare moments leave: several segments that were not sealed, spares
//! that do not fit, a close that could not seal, a file of another store.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::time::Duration;

use memlog::sim::{SimDisk, SimFault, SimTasks};
use memlog::{ErrorKind, Kind, Maintenance, NewEntry, Options, Store};

const DIR: &str = "/mem";

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual)
}

fn append(store: &Store, name: &str, len: usize) -> memlog::Result<u64> {
    store.agent(name)?.append(NewEntry::new(Kind::USER, &vec![7; len]))
}

fn next(store: &Store, name: &str) -> u64 {
    let view = store.agent(name).unwrap().view().unwrap();
    assert!(view.iter().all(|entry| entry.is_ok()));
    view.next_seq()
}

/// A store with small segments of which two were not sealed; and how many entries `a` has.
fn with_two_unsealed() -> (SimDisk, Store, u64) {
    for call in 0..200 {
        let disk = SimDisk::new(5);
        let store = options().segment_bytes(256 << 10).open_on(&disk, DIR).unwrap();
        disk.fail_at(disk.calls() + call, SimFault::NoSpace, false);
        let done = (0..4).take_while(|_| append(&store, "a", 60 << 10).is_ok()).count();
        if done == 4 && store.stats().unsealed_segments == 2 && store.stats().segments == 0 {
            return (disk, store, 5);
        }
    }
    panic!("no call that fails keeps a segment from being sealed");
}

#[test]
fn a_recovery_of_several_segments_may_be_cut_short_at_any_call() {
    let (disk, _store, truth) = with_two_unsealed();
    let left = disk.fork();
    let options = options().segment_bytes(256 << 10);
    for call in 0.. {
        let disk = left.fork();
        disk.crash_at(disk.calls() + call);
        let opened = options.open_on(&disk, DIR);
        let over = opened.is_ok();
        drop(opened);
        for seed in 0..3 {
            let disk = disk.fork_without_power(seed);
            let store = options.open_on(&disk, DIR).unwrap();
            assert_eq!(next(&store, "a"), truth, "cut short at call {call}");
            assert_eq!(store.verify().unwrap(), []);
        }
        if over {
            assert!(call > 10, "{call} calls");
            return;
        }
    }
}

#[test]
fn a_spare_that_does_not_fit_goes_without_harm() {
    for call in 0.. {
        let disk = SimDisk::new(6);
        let tasks = SimTasks::new(&disk, 6);
        let store = Options::new().open_stepped(&disk, &tasks, DIR).unwrap();
        append(&store, "a", 40 << 10).unwrap();
        tasks.run_for(Duration::from_secs(1));
        assert!(store.stats().unsealed_segments >= 2, "{:?}", store.stats());
        disk.crash_at(disk.calls() + call);
        let appended = append(&store, "a", 3 << 20);
        for seed in 0..3 {
            let after = options().open_on(&disk.fork_without_power(seed), DIR);
            let after = after.unwrap_or_else(|e| panic!("call {call}: {e:?}"));
            let least = if appended.is_ok() { 3 } else { 2 };
            assert!((least..=3).contains(&next(&after, "a")), "call {call}");
        }
        if appended.is_ok() {
            assert!(call > 5, "{call} calls");
            return;
        }
        tasks.kill();
    }
}

#[test]
fn a_close_that_could_not_seal_is_opened_without_loss() {
    for fault in [SimFault::NoSpace, SimFault::Eio] {
        for call in 0.. {
            let (disk, store, truth) = with_two_unsealed();
            let before = disk.calls();
            disk.fail_at(before + call, fault, false);
            let _ = store.close();
            let calls = disk.calls() - before;
            drop(store);
            disk.restart();
            for _ in 0..2 {
                let store = options().open_on(&disk, DIR);
                let store = store.unwrap_or_else(|e| panic!("{fault:?} at call {call}: {e:?}"));
                assert_eq!(next(&store, "a"), truth, "{fault:?} at call {call}");
                store.close().unwrap();
            }
            if calls <= call {
                assert!(call > 5, "{call} calls");
                break;
            }
        }
    }
}

#[test]
fn the_segment_of_another_store_is_refused() {
    let disk = SimDisk::new(8);
    let stores = ["/one", "/other"].map(|dir| options().open_on(&disk, dir).unwrap());
    for store in &stores {
        append(store, "a", 10).unwrap();
    }
    let left = disk.fork();
    let file = "0000000000000001.log";
    let bytes = left.read_file(format!("/other/{file}")).unwrap();
    assert!(left.write_file(format!("/one/{file}"), &bytes));
    let error = options().open_on(&left, "/one").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
}

#[test]
fn a_repair_keeps_revisions() {
    let disk = SimDisk::new(9);
    let store = options().open_on(&disk, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    for value in ["one", "two"] {
        store.batch().set(&agent, "key", value).commit().unwrap();
        append(&store, "b", 10).unwrap();
    }
    let before = agent.view().unwrap().state("key").unwrap().unwrap().revision();
    store.close().unwrap();
    options().repair_on(&disk, DIR, "/mended").unwrap();
    let store = options().open_on(&disk, "/mended").unwrap();
    let value = store.agent("a").unwrap().view().unwrap().state("key").unwrap().unwrap();
    assert_eq!((value.value().as_ref(), value.revision()), (&b"two"[..], before));
}

/// The frames behind it say that it was durable: it is no torn tail, however little is lost.
#[test]
fn a_hole_in_what_was_durable_is_damage() {
    let disk = SimDisk::new(10);
    let store = options().open_on(&disk, DIR).unwrap();
    for _ in 0..4 {
        append(&store, "a", 100).unwrap();
    }
    for byte in [140, 200, 240, 300] {
        let left = disk.fork();
        let file = format!("{DIR}/0000000000000001.log");
        assert!(left.flip_bit(&file, byte, 2));
        let error = options().open_on(&left, DIR).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Damaged, "byte {byte}: {error}");
        assert_eq!(error.damage().unwrap().file.to_str(), Some(file.as_str()));
    }
}

/// What an opening finds gone may come back with the next power failure, unless its name was made
/// durable first: a file of the log that nothing lists is data that would be missed.
#[test]
fn what_is_taken_for_gone_does_not_come_back() {
    for call in 0..60 {
        let disk = SimDisk::new(7);
        let store = options().open_on(&disk, DIR).unwrap();
        (0..4).for_each(|_| {
            append(&store, "a", 30 << 10).unwrap();
        });
        // Where the failing call is one that unlinks, a file waits for its end.
        disk.fail_at(disk.calls() + call, SimFault::Eio, false);
        let _ = store.compact();
        if store.close().is_err() {
            continue;
        }
        drop(store);
        for step in 3..9 {
            let disk = disk.fork();
            disk.crash_at(disk.calls() + step);
            let _ = options().open_on(&disk, DIR);
            for seed in 0..2 {
                let after = options().open_on(&disk.fork_without_power(seed), DIR);
                let after = after.unwrap_or_else(|e| panic!("calls {call} and {step}: {e}"));
                assert_eq!(next(&after, "a"), 5);
            }
        }
    }
}
