//! Clocks that jump: what a reading of the wall clock that is far ahead does, and what it does not.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use memlog::sim::{SimDisk, SimTasks};
use memlog::{Durability, ErrorKind, Maintenance, NewEntry, Options, Retention, Store};

const DIR: &str = "/mem";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const SECRET: &str = "expires some time";
const OLD: &str = "is of some age";

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual)
}

fn ahead(disk: &SimDisk, time: Duration) {
    disk.set_wall_offset(i64::try_from(time.as_millis()).unwrap());
}

fn now(store: &Store) -> SystemTime {
    let agent = store.agent("clock").unwrap();
    let seq = agent.append(NewEntry::user("tick")).unwrap();
    agent.view().unwrap().get(seq).unwrap().unwrap().at()
}

/// An entry that expires in two hours, and one of an agent whose entries are kept for three.
fn fill(store: &Store) {
    let agent = store.agent("expires").unwrap();
    agent.append(NewEntry::user(SECRET).expires_at(now(store) + HOUR * 2)).unwrap();
    let aged = store.agent("aged").unwrap();
    aged.set_retention(Some(Retention::new().max_age(HOUR * 3))).unwrap();
    aged.append(NewEntry::user(OLD)).unwrap();
}

/// Whether views show the two entries.
fn shown(store: &Store) -> [bool; 2] {
    let view = store.agent("expires").unwrap().view().unwrap();
    let expires = view.get(1).unwrap().unwrap().text().unwrap() == SECRET;
    let view = store.agent("aged").unwrap().view().unwrap();
    [expires, view.floor() == 1]
}

/// Whether their bytes are in a file.
fn stored(disk: &SimDisk) -> [bool; 2] {
    [SECRET, OLD].map(|text| {
        disk.files().iter().any(|path| {
            let bytes = disk.read_file(path).unwrap();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    })
}

/// Opens the store again, after a close or after the death of its process.
fn reopen(disk: &SimDisk, store: Store, dies: bool) -> Store {
    if dies {
        store.sync().unwrap();
        disk.restart();
    } else {
        store.close().unwrap();
    }
    drop(store);
    options().open_on(disk, DIR).unwrap()
}

#[test]
fn a_reading_that_is_far_ahead_hides_and_destroys_nothing() {
    for dies in [false, true] {
        let disk = SimDisk::new(1);
        let store = options().open_on(&disk, DIR).unwrap();
        fill(&store);
        for far in [HOUR * 5, DAY * 4000] {
            ahead(&disk, far);
            assert_eq!(shown(&store), [true, true]);
            // Frames, footers and manifests are written meanwhile, and all that is dead is erased.
            store.agent("other").unwrap().append(NewEntry::user("x")).unwrap();
            store.purge().unwrap();
            assert_eq!(stored(&disk), [true, true]);
            ahead(&disk, Duration::ZERO);
            assert_eq!(shown(&store), [true, true]);
        }
        // Over restarts, some of them with the wrong clock.
        ahead(&disk, DAY * 4000);
        let store = reopen(&disk, store, dies);
        assert_eq!(shown(&store), [true, true]);
        store.purge().unwrap();
        let store = reopen(&disk, store, dies);
        ahead(&disk, Duration::ZERO);
        let store = reopen(&disk, store, dies);
        assert_eq!((shown(&store), stored(&disk)), ([true, true], [true, true]));
        // Time goes on as it should.
        let before = now(&store);
        disk.advance(MINUTE);
        let passed = now(&store).duration_since(before).unwrap();
        assert!(passed >= MINUTE && passed < MINUTE * 2, "{passed:?}");
        disk.advance(HOUR * 2);
        assert_eq!(shown(&store), [false, true]);
        disk.advance(HOUR);
        assert_eq!(shown(&store), [false, false]);
        store.purge().unwrap();
        assert_eq!(stored(&disk), [false, false]);
    }
}

#[test]
fn a_clock_that_is_a_little_ahead_destroys_nothing() {
    let disk = SimDisk::new(1);
    let store = options().open_on(&disk, DIR).unwrap();
    fill(&store);
    disk.advance(HOUR * 5 / 2);
    let _ = now(&store);
    ahead(&disk, MINUTE * 50);
    // It is believed, and by it the second entry is of age.
    assert_eq!(shown(&store), [false, false]);
    store.purge().unwrap();
    assert_eq!(stored(&disk), [false, true]);
    ahead(&disk, Duration::ZERO);
    disk.advance(HOUR);
    store.purge().unwrap();
    assert_eq!(stored(&disk), [false, false]);
}

#[test]
fn what_falls_due_while_a_store_is_closed_is_hidden_and_erased_soon() {
    for dies in [false, true] {
        let disk = SimDisk::new(1);
        let store = options().open_on(&disk, DIR).unwrap();
        fill(&store);
        // A month passes, of which no clock but that of the wall tells.
        ahead(&disk, DAY * 30);
        let store = reopen(&disk, store, dies);
        assert_eq!(shown(&store), [true, true], "it may be a wrong clock");
        disk.advance(HOUR + MINUTE);
        assert_eq!(shown(&store), [false, false]);
        store.purge().unwrap();
        assert_eq!(stored(&disk), [false, false]);
    }
}

#[test]
fn processes_that_live_for_a_moment_learn_of_the_time_from_each_other() {
    for dies in [false, true] {
        let disk = SimDisk::new(1);
        let mut store = options().open_on(&disk, DIR).unwrap();
        fill(&store);
        ahead(&disk, DAY * 30);
        store = reopen(&disk, store, dies);
        assert_eq!(shown(&store), [true, true]);
        ahead(&disk, DAY * 30 + HOUR / 2);
        store = reopen(&disk, store, dies);
        assert_eq!(shown(&store), [true, true]);
        ahead(&disk, DAY * 30 + HOUR);
        store = reopen(&disk, store, dies);
        assert_eq!(shown(&store), [false, false]);
        // What is appended is of its own time all along.
        let at = now(&store).duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(at >= Duration::from_millis(1_700_000_000_000) + DAY * 30);
    }
}

#[test]
fn a_clock_that_goes_back_revives_nothing() {
    for dies in [false, true] {
        let disk = SimDisk::new(1);
        let store = options().open_on(&disk, DIR).unwrap();
        fill(&store);
        disk.advance(HOUR * 4);
        assert_eq!(shown(&store), [false, false]);
        store.agent("other").unwrap().append(NewEntry::user("x")).unwrap();
        disk.set_wall_offset(-40 * 3_600_000);
        assert_eq!(shown(&store), [false, false]);
        let store = reopen(&disk, store, dies);
        assert_eq!(shown(&store), [false, false]);
        disk.advance(HOUR);
        store.purge().unwrap();
        let _ = stored(&disk);
        assert_eq!(shown(&store), [false, false]);
    }
}

#[test]
fn another_default_is_applied_by_the_time_that_is_believed() {
    let disk = SimDisk::new(1);
    let short = options().retention(Retention::new().max_age(HOUR * 3));
    let store = short.open_on(&disk, DIR).unwrap();
    store.agent("a").unwrap().append(NewEntry::user(OLD)).unwrap();
    store.close().unwrap();
    // The default ends in an opening whose clock is wrong: what it drops then stays dropped.
    ahead(&disk, DAY * 4000);
    options().open_on(&disk, DIR).unwrap().close().unwrap();
    ahead(&disk, Duration::ZERO);
    let store = options().open_on(&disk, DIR).unwrap();
    assert_eq!(store.agent("a").unwrap().view().unwrap().floor(), 1);
}

/// With `erase_within`, in the background.
#[test]
fn a_deadline_of_erasure_goes_by_the_time_that_is_believed() {
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let options = Options::new().erase_within(MINUTE * 10).durability(Durability::Write);
    let store = options.open_stepped(&disk, &tasks, DIR).unwrap();
    fill(&store);
    ahead(&disk, DAY * 4000);
    // Something dies, and is erased with all that counts as dead.
    store.agent("gone").unwrap().append(NewEntry::user("x")).unwrap();
    store.agent("gone").unwrap().forget().unwrap();
    tasks.run_for(MINUTE * 40);
    assert_eq!((shown(&store), stored(&disk)), ([true, true], [true, true]));
    ahead(&disk, Duration::ZERO);
    tasks.run_for(MINUTE * 40);
    assert_eq!((shown(&store), stored(&disk)), ([true, true], [true, true]));
    store.close().unwrap();
    assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::Closed);
}
