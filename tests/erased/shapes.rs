//! Places where a mark can stay, one at a time.

use std::collections::BTreeSet;

use memlog::sim::SimDisk;
use memlog::{CompactOutcome, Durability, Kind, Maintenance, NewEntry, Options, Store};

use crate::{check_dir, check_sim, mark};

const DIR: &str = "/mem";

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(256 << 10).resident_bytes(0)
}

fn append(store: &Store, name: &str, len: usize) {
    let payload = vec![b'.'; len];
    store.agent(name).unwrap().append(NewEntry::new(Kind::USER, &payload)).unwrap();
}

fn compact(store: &Store) {
    while store.compact().unwrap() == CompactOutcome::More {}
}

/// Purges, and holds the files of the directory against what the store shows.
fn purge(disk: &SimDisk, store: &Store) {
    let report = store.purge().unwrap();
    assert!(report.is_complete(), "{report:?}");
    check_sim(disk, DIR, store).unwrap();
}

/// What a recovery cuts is given back at its very end: the process may end before.
#[test]
fn what_a_recovery_cut_is_erased_though_it_could_not_be_given_back() {
    let whole = options().segment_bytes(4 << 20);
    // The frames that stay end where a block ends, or anywhere.
    for len in [0, 700] {
        let left = SimDisk::new(4);
        let store = whole.open_on(&left, DIR).unwrap();
        append(&store, "lives", (1200 << 10) + len);
        append(&store, "lives", 10);
        let dies = store.agent(&mark('n', 1)).unwrap();
        for number in 2..40 {
            let mut batch = store.batch();
            let text = format!("{}{}", mark('e', number), "x".repeat(1000));
            batch.append(&dies, NewEntry::user(&text)).durability(Durability::Write);
            batch.commit().unwrap();
        }
        let (mut cut_short, left) = (0, left.fork());
        for call in 0.. {
            let disk = left.fork();
            disk.crash_at(disk.calls() + call);
            let opened = whole.open_on(&disk, DIR).is_ok();
            disk.restart();
            let store = whole.open_on(&disk, DIR).unwrap();
            assert_eq!(store.agent(&mark('n', 1)).unwrap().view().unwrap().next_seq(), 39);
            store.agent(&mark('n', 1)).unwrap().forget().unwrap();
            purge(&disk, &store);
            if opened {
                break;
            }
            cut_short += 1;
        }
        assert!(cut_short > 3, "{cut_short}");
    }
}

/// A name of full length has no successor that is a name: what ends with it needs another bound.
#[test]
fn names_of_full_length_are_erased_where_they_end_a_run() {
    let disk = SimDisk::new(5);
    let store = options().open_on(&disk, DIR).unwrap();
    // A character of three bytes fills the name up, or one that nothing is above.
    for last in ["nnn", "\u{fff}", "\u{ffff}", "\u{10ffff}"] {
        let name = |number: u64| {
            let start = format!("{:04}{}", number * 7 % 1000, mark('n', number));
            let padding = 512 - start.len() - last.len();
            format!("{start}{}{last}", "n".repeat(padding))
        };
        (0..1000).for_each(|number| append(&store, &name(number), 2000));
        compact(&store);
        let runs =
            disk.files().iter().filter(|f| f.extension().is_some_and(|x| x == "run")).count();
        assert!(runs > 2, "{runs}");
        for number in (0..1000).filter(|number| number % 3 != 0) {
            store.agent(&name(number)).unwrap().forget().unwrap();
        }
        purge(&disk, &store);
        (0..1000).for_each(|number| store.agent(&name(number)).unwrap().forget().unwrap());
        purge(&disk, &store);
        assert_eq!(store.agents("").count(), 0);
    }
}

/// That an agent is absent is kept as long as older segments may hold it, and a filter says so of
/// one name in some thousand that they do not hold.
#[test]
fn a_name_that_a_filter_takes_for_held_is_erased() {
    let disk = SimDisk::new(6);
    let store = options().segment_bytes(16 << 20).open_on(&disk, DIR).unwrap();
    // The pages of the filters are nearly full.
    (0..20_000).for_each(|number| append(&store, &format!("{number:05}lives"), 10));
    compact(&store);
    for some in 0..400 {
        let mut batch = store.batch();
        for number in some * 100..(some + 1) * 100 {
            let name = format!("{:05}{}", number % 20_000, mark('n', number));
            batch.forget(&store.agent(&name).unwrap());
        }
        batch.commit().unwrap();
    }
    append(&store, "other", 100);
    purge(&disk, &store);
}

/// An unset is kept for the sake of older segments: of those that hold the key, not the agent.
#[test]
fn a_key_that_was_unset_is_erased_though_older_segments_hold_its_agent() {
    let disk = SimDisk::new(7);
    let store = options().open_on(&disk, DIR).unwrap();
    append(&store, "lives", 100);
    let lives = store.agent("lives").unwrap();
    store.batch().set(&lives, &mark('k', 1), &mark('v', 2)).commit().unwrap();
    compact(&store);
    let mut batch = store.batch();
    batch.unset(&lives, &mark('k', 1)).unset(&lives, &mark('k', 3)).set(&lives, "key", b"value");
    batch.commit().unwrap();
    // The older segment has a death of its own, or none.
    for _ in 0..2 {
        purge(&disk, &store);
        append(&store, "lives", 100);
        compact(&store);
        store.batch().unset(&lives, &mark('k', 4)).commit().unwrap();
    }
    purge(&disk, &store);
    assert_eq!(lives.view().unwrap().states("").count(), 1);
}

/// What no block tells of has to be counted: the key of an unset has no length.
#[test]
fn a_key_of_a_life_that_ended_is_erased_though_the_name_lives() {
    for lived in [false, true] {
        let disk = SimDisk::new(8);
        let store = options().open_on(&disk, DIR).unwrap();
        let agent = store.agent("agent").unwrap();
        if lived {
            append(&store, "agent", 100);
            assert!(store.purge().unwrap().is_complete());
            compact(&store);
        }
        store.batch().unset(&agent, &mark('k', 1)).commit().unwrap();
        if lived {
            agent.forget().unwrap();
        }
        append(&store, "agent", 100);
        purge(&disk, &store);
        assert_eq!(agent.view().unwrap().next_seq(), 2);
    }
}

/// On real files, with the store's own threads: names in every place that there is.
#[test]
fn no_file_of_a_directory_holds_a_forgotten_name_after_a_purge() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    let options = Options::new().segment_bytes(256 << 10).durability(Durability::Buffer);
    let mut store = options.open(&path).unwrap();
    let prefix = |tenant: u64| format!("{}/", mark('p', tenant));
    let name = |number: u64| format!("{}{number:05}{}", prefix(number % 7), mark('n', number));
    let fill = |store: &Store, numbers: &[u64]| {
        for number in numbers {
            let agent = store.agent(&name(*number)).unwrap();
            let text =
                format!("{}{}", mark('e', *number), "x".repeat((number * 37 % 3000) as usize));
            let mut batch = store.batch();
            batch.append(&agent, NewEntry::user(&text));
            batch.set(&agent, &mark('k', *number), &mark('v', *number)).commit().unwrap();
        }
    };
    let all: Vec<u64> = (0..3000).collect();
    fill(&store, &all);
    store.compact().unwrap();
    for round in 0..3 {
        // Some of it lies in runs, some in the log.
        fill(&store, &all[round * 100..2000]);
        for number in bounds(&path).iter().filter_map(|bound| number_of(bound)) {
            store.agent(&name(number)).unwrap().forget().unwrap();
        }
        let some = all.iter().filter(|number| *number % 11 == round as u64);
        some.for_each(|number| store.agent(&name(*number)).unwrap().forget().unwrap());
        store.forget_prefix(&prefix(round as u64)).unwrap();
        if round == 1 {
            store.close().unwrap();
            store = options.open(&path).unwrap();
        }
        let report = store.purge().unwrap();
        assert!(report.is_complete(), "{report:?}");
        check_dir(&path, &store).unwrap();
        store.close().unwrap();
        store = options.open(&path).unwrap();
        check_dir(&path, &store).unwrap();
        let copy = dir.path().join(format!("copy{round}"));
        store.backup(&copy).unwrap();
        check_dir(&copy, &store).unwrap();
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert!(store.agents("").count() > 500);
}

/// The first and the last name in each run.
fn bounds(dir: &std::path::Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "run") {
            let Ok(bytes) = std::fs::read(file) else { continue };
            let starts = bytes.windows(3).enumerate().filter(|(_, window)| *window == b"~mp");
            let names = starts.filter_map(|(at, _)| bytes.get(at..at + 44));
            let names = names.filter_map(|name| std::str::from_utf8(name).ok());
            let names: BTreeSet<&str> = names.filter(|name| number_of(name).is_some()).collect();
            found.extend(
                names.first().into_iter().chain(names.last()).map(|name| (*name).to_owned()),
            );
        }
    }
    assert!(!found.is_empty());
    found
}

/// The number of an agent, by its name.
fn number_of(name: &str) -> Option<u64> {
    let number = name.get(20..25)?.parse().ok()?;
    (name.get(19..20) == Some("/") && name.get(25..) == Some(&mark('n', number))).then_some(number)
}
