//! Stores whose background tasks are run by a deterministic scheduler, on the simulated clock.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use memlog::sim::{SimDisk, SimTasks};
use memlog::{Durability, Kind, NewEntry, Options, Store};

const DIR: &str = "/mem";
const SECOND: Duration = Duration::from_secs(1);

fn options() -> Options {
    Options::new().segment_bytes(256 << 10).durability(Durability::Buffer)
}

fn append(store: &Store, name: &str, len: usize) {
    let payload = vec![7; len];
    store.agent(name).unwrap().append(NewEntry::new(Kind::USER, &payload)).unwrap();
}

/// A day of a store, from two seeds; gives all calls of its disk.
fn day(disk_seed: u64, seed: u64) -> Vec<String> {
    let disk = SimDisk::new(disk_seed);
    let tasks = SimTasks::new(&disk, seed);
    disk.set_trace(true);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    let paused = Arc::new(AtomicU64::new(0));
    let (handle, count) = (store.clone(), Arc::clone(&paused));
    tasks.on_pause(move |name| {
        assert_eq!(name, "memlog-compact");
        append(&handle, "in a pause", 300);
        count.fetch_add(1, Ordering::Relaxed);
    });
    for round in 0..200_u64 {
        for agent in 0..20 {
            append(&store, &format!("a{agent}"), 1500);
        }
        if round % 3 == 0 {
            store.agent(&format!("a{}", round % 20)).unwrap().forget().unwrap();
        }
        tasks.run_for(SECOND * 60);
    }
    assert!(store.stats().compaction_bytes > 0, "the background compacts");
    assert!(paused.load(Ordering::Relaxed) > 0, "compaction sleeps");
    // A frame without records may be left, which says how much is durable.
    assert!(store.stats().unsynced_bytes < 100);
    tasks.on_pause(|_| {});
    store.close().unwrap();
    assert!(tasks.names().is_empty(), "{:?}", tasks.names());
    disk.take_trace()
}

#[test]
fn a_seed_repeats_all_of_it() {
    let first = day(3, 4);
    assert_eq!(first, day(3, 4));
    assert_ne!(first, day(3, 5), "the order of the tasks is the seed's");
}

#[test]
fn calls_that_wait_run_the_tasks() {
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let store = options().max_unsynced(1 << 20).open_stepped(&disk, &tasks, DIR).unwrap();
    // Segments are made, and appends slowed down, without any call of the scheduler.
    for _ in 0..400 {
        append(&store, "a", 20_000);
    }
    assert!(store.stats().segments > 10, "{:?}", store.stats());
    assert!(store.stats().unsynced_bytes <= 1 << 20);
    assert!(tasks.now() > Duration::ZERO);
    store.compact().unwrap();
    store.agent("a").unwrap().forget().unwrap();
    assert_eq!(store.purge().unwrap().agents, ["a"]);
    drop(store);
    assert!(tasks.names().is_empty());
    let store = options().open_on(&disk, DIR).unwrap();
    assert_eq!(store.recovery_report().frames_kept, 0, "the last handle has closed it");
}

#[test]
fn tasks_of_a_disk_without_power_do_not_run() {
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    append(&store, "a", 100);
    disk.power_cycle(5);
    let before = (disk.calls(), disk.reads());
    tasks.run_for(SECOND * 3600);
    assert_eq!((disk.calls(), disk.reads()), before);
    // A call that waits for a task hears of it.
    let payload = vec![7; 300_000];
    let agent = store.agent("b").unwrap();
    assert!(agent.append(NewEntry::new(Kind::USER, &payload)).is_err());
    assert!(store.sync().is_err());
    assert!(store.close().is_err());
    assert!(tasks.names().is_empty());
}

#[test]
fn a_process_that_dies_takes_its_tasks_along() {
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    append(&store, "a", 100);
    disk.restart();
    tasks.kill();
    assert!(tasks.names().is_empty());
    drop(store);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    append(&store, "a", 100);
    tasks.run_for(SECOND);
    store.close().unwrap();
}

#[test]
fn what_fails_in_a_pause_fails_the_run() {
    let disk = SimDisk::new(3);
    let tasks = SimTasks::new(&disk, 4);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    tasks.on_pause(|_| panic!("an assertion"));
    let run = || {
        for round in 0..200 {
            (0..20).for_each(|agent| append(&store, &format!("a{agent}"), 1500));
            if round % 3 == 0 {
                store.agent("a3").unwrap().forget().unwrap();
            }
            tasks.run_for(SECOND);
        }
    };
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
    assert_eq!(failed.downcast_ref::<&str>(), Some(&"an assertion"));
}

#[test]
fn the_last_handle_may_go_in_a_waker() {
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    let agent = store.agent("a").unwrap();
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::user("x")).durability(Durability::Sync);
    let mut commit = batch.submit();
    drop((batch, agent));
    let last = Arc::new(Mutex::new(Some(store)));
    struct Last(Arc<Mutex<Option<Store>>>, OnceLock<()>);
    impl std::task::Wake for Last {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
            let _ = self.1.set(());
        }
    }
    let waker = Arc::new(Last(last, OnceLock::new()));
    {
        let waker = std::task::Waker::from(Arc::clone(&waker));
        let mut context = std::task::Context::from_waker(&waker);
        assert!(std::pin::Pin::new(&mut commit).poll(&mut context).is_pending());
    }
    drop(commit);
    tasks.run_for(SECOND);
    assert!(waker.1.get().is_some());
    assert!(tasks.names().is_empty(), "{:?}", tasks.names());
}
