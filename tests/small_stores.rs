//! What stores take of the disk beyond their data: small ones, filled ones, ones at rest.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use memlog::sim::{SimDisk, SimTasks};
use memlog::{Durability, Kind, NewEntry, Options, Store};

const DIR: &str = "/mem";
const MIB: u64 = 1 << 20;
const MINUTE: Duration = Duration::from_secs(60);

fn append(store: &Store, name: &str, len: usize) {
    let agent = store.agent(name).unwrap();
    agent.append(NewEntry::new(Kind::USER, &vec![7; len])).unwrap();
}

/// Frames and footers.
fn data(store: &Store) -> u64 {
    let stats = store.stats();
    stats.live_bytes + stats.dead_bytes + stats.footer_bytes + stats.active_bytes
}

#[test]
fn a_store_of_one_entry_takes_768_kib_and_stays_so_small() {
    let disk = SimDisk::new(1);
    for round in 0..50 {
        let tasks = SimTasks::new(&disk, round);
        let before = disk.device_bytes_written();
        let store = Options::new().open_stepped(&disk, &tasks, DIR).unwrap();
        append(&store, "a", 100);
        tasks.run_for(Duration::from_millis(100));
        assert_eq!(store.stats().unsealed_segments, 1, "a spare for a single append");
        store.close().unwrap();
        assert!(disk.used() <= 768 << 10, "{} bytes after {round} openings", disk.used());
        let written = disk.device_bytes_written() - before;
        assert!(written <= 64 << 10, "{written} bytes written by opening {round}");
    }
}

#[test]
fn a_closed_store_has_no_spare() {
    let disk = SimDisk::new(8);
    let tasks = SimTasks::new(&disk, 8);
    let store = Options::new().open_stepped(&disk, &tasks, DIR).unwrap();
    append(&store, "a", 40_000);
    tasks.run_for(Duration::from_secs(1));
    assert!(store.stats().unsealed_segments > 1, "there is none to give back");
    store.close().unwrap();
    assert!(disk.used() <= 768 << 10, "{} bytes", disk.used());
}

#[test]
fn a_store_takes_little_more_than_its_data_once_it_is_closed() {
    for (seed, entry, total) in [
        (1, 100, MIB),
        (2, 1_000, 3 * MIB),
        (3, 1_000, 10 * MIB),
        (4, 4_000, 70 * MIB),
        (5, 300_000, 40 * MIB),
        (6, 20 << 20, 100 * MIB),
        (7, 1_000, 200 * MIB),
    ] {
        for background in [true, false] {
            let disk = SimDisk::new(seed);
            let tasks = SimTasks::new(&disk, seed);
            let options = Options::new().durability(Durability::Buffer);
            let store = if background {
                options.open_stepped(&disk, &tasks, DIR).unwrap()
            } else {
                options.maintenance(memlog::Maintenance::Manual).open_on(&disk, DIR).unwrap()
            };
            for i in 0..total / entry {
                append(&store, &format!("agent {}", i % 17), usize::try_from(entry).unwrap());
            }
            let before = data(&store);
            store.close().unwrap();
            let most = total + total / 4 + 4 * MIB;
            let taken = disk.used();
            assert!(taken <= most, "{taken} bytes for {total} in entries of {entry}: {before}");
            // And the next opening finds all of it.
            let store = Options::new().open_on(&disk, DIR).unwrap();
            let read: u64 = (0..17)
                .map(|i| {
                    store.agent(&format!("agent {i}")).unwrap().view().unwrap().iter().count()
                        as u64
                })
                .sum();
            assert_eq!(read, total / entry);
            assert_eq!(store.verify().unwrap(), []);
            store.close().unwrap();
            assert!(disk.used() <= most, "{} bytes after another opening", disk.used());
        }
    }
}

#[test]
fn a_store_at_rest_gives_back_what_it_took_ahead() {
    for (seed, entry, total) in
        [(1, 1_000, 3 * MIB), (2, 4_000, 30 * MIB), (3, 4_000, 90 * MIB), (4, 9 << 20, 90 * MIB)]
    {
        let disk = SimDisk::new(seed);
        let tasks = SimTasks::new(&disk, seed);
        let options = Options::new().durability(Durability::Buffer);
        let store = options.open_stepped(&disk, &tasks, DIR).unwrap();
        let fill = |total: u64| {
            for i in 0..total / entry {
                append(&store, &format!("agent {}", i % 17), usize::try_from(entry).unwrap());
            }
        };
        fill(total);
        tasks.run_for(MINUTE);
        let most = total + total / 4 + 12 * MIB;
        assert!(disk.used() <= most, "{} bytes for {total} at rest", disk.used());
        // It goes on, and rests again.
        for (round, more) in (0..).zip([entry, 10 * entry, 4 * MIB, entry]) {
            fill(more);
            tasks.run_for(MINUTE);
            let most = most + (round + 1) * (4 * MIB + 10 * entry) * 5 / 4;
            assert!(disk.used() <= most, "{} bytes after {more} more", disk.used());
        }
        tasks.run_for(Duration::from_secs(600));
        assert_eq!(tasks.next_due(), None, "something goes on at rest");
        store.close().unwrap();
    }
}

/// A trickle leaves no new segment at each rest.
#[test]
fn a_store_that_wakes_up_for_single_appends_makes_no_segment_for_each() {
    let disk = SimDisk::new(9);
    let tasks = SimTasks::new(&disk, 9);
    let store = Options::new().open_stepped(&disk, &tasks, DIR).unwrap();
    for _ in 0..200 {
        append(&store, "a", 500);
        tasks.run_for(2 * MINUTE);
    }
    let stats = store.stats();
    assert!(stats.segments <= 2, "{stats:?}");
    assert!(disk.used() <= 3 * MIB, "{} bytes", disk.used());
    store.close().unwrap();
}

#[test]
fn no_segment_is_made_ahead_where_that_was_not_asked_for() {
    let disk = SimDisk::new(10);
    let tasks = SimTasks::new(&disk, 10);
    let options = Options::new().durability(Durability::Buffer).spare_bytes(0);
    let store = options.open_stepped(&disk, &tasks, DIR).unwrap();
    for i in 0..30_000 {
        append(&store, &format!("agent {}", i % 17), 1_000);
        let stats = store.stats();
        assert!(stats.unsealed_segments <= 6, "{stats:?}");
        if i % 1_000 == 0 {
            tasks.run_for(Duration::from_secs(1));
            assert_eq!(store.stats().unsealed_segments, 1);
        }
    }
    store.close().unwrap();
}
