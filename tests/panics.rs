//! A panic in background work poisons the store, names the work, wakes all that wait, and never
//! leaves half of a job behind.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Once};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use memlog::sim::{SimDisk, SimTasks};
use memlog::{
    CompactOutcome, Durability, Error, ErrorKind, Kind, Maintenance, NewEntry, Options, Store,
};

const DIR: &str = "/mem";
const SECOND: Duration = Duration::from_secs(1);
/// In which something ends that is not to wait for ever.
const LONG: Duration = Duration::from_secs(60);
const ROLES: [&str; 4] = ["memlog-log", "memlog-spares", "memlog-seals", "memlog-compact"];

/// Leaves the panics that are meant out of the output.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.to_string().contains("the simulated call") {
                print(panic);
            }
        }));
    });
}

fn options() -> Options {
    Options::new().segment_bytes(256 << 10).durability(Durability::Sync)
}

/// The next seq of each agent that was acknowledged.
type Acknowledged = BTreeMap<String, u64>;

fn append(store: &Store, name: &str, len: usize, durability: Durability) -> Result<u64, Error> {
    let agent = store.agent(name)?;
    let payload = vec![7; len];
    let mut batch = store.batch();
    batch.append(&agent, NewEntry::new(Kind::USER, &payload)).durability(durability);
    batch.commit().map(|receipt| receipt.seqs(&agent).end)
}

/// Appends, deaths and time, enough that the background seals and compacts.
fn work(store: &Store, acknowledged: &mut Acknowledged, pass: impl Fn()) -> Result<(), Error> {
    for round in 0..60 {
        for agent in 0..6 {
            let name = format!("a{agent}");
            let durability = if agent == 0 { Durability::Sync } else { Durability::Buffer };
            let next = append(store, &name, 6_000, durability)?;
            if agent == 0 {
                acknowledged.insert(name, next);
            }
        }
        if round % 2 == 1 {
            store.agent(&format!("a{}", 1 + round % 5))?.forget()?;
        }
        pass();
    }
    Ok(())
}

/// What is on the disk after the process has gone: everything acknowledged, and no damage.
fn check(disk: &SimDisk, acknowledged: &Acknowledged) {
    let store = Options::new().maintenance(Maintenance::Manual).open_on(disk, DIR).unwrap();
    assert_eq!(store.verify().unwrap(), []);
    for (name, next) in acknowledged {
        let view = store.agent(name).unwrap().view().unwrap();
        assert!(view.next_seq() >= *next, "{name} is at {} and was at {next}", view.next_seq());
        assert!(view.iter().all(|entry| entry.is_ok()));
    }
    store.close().unwrap();
}

/// Whose work panicked at this call of the disk, if it was that of a task.
fn stepped(call: u64) -> Option<&'static str> {
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    disk.panic_at(call);
    let mut acknowledged = Acknowledged::new();
    let run = || work(&store, &mut acknowledged, || tasks.run_for(SECOND));
    let outcome = catch_unwind(AssertUnwindSafe(run));
    let health = store.health();
    let error = health.last_error.map(|error| error.to_string()).unwrap_or_default();
    let named = ROLES.into_iter().find(|role| error.contains(role));
    if let Ok(outcome) = outcome {
        assert!(health.poisoned, "call {call}: no panic of a task goes unheard");
        assert!(named.is_some(), "call {call}: {error}");
        let error = outcome.and_then(|()| store.sync()).unwrap_err();
        let kinds = [ErrorKind::Poisoned, ErrorKind::Indeterminate];
        assert!(kinds.contains(&error.kind()), "call {call}: {error}");
        assert!(store.compact().is_err() && store.purge().is_err());
        assert!(store.close().is_err());
    } else {
        // The call itself panicked. It may not have been one after which nothing goes on.
        let _ = store.close();
    }
    assert!(tasks.names().is_empty(), "call {call}: {:?}", tasks.names());
    drop(store);
    check(&disk.fork_synced(), &acknowledged);
    check(&disk, &acknowledged);
    named
}

/// How many calls of the disk the work makes, opening included.
fn calls() -> (u64, u64) {
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    let before = disk.calls();
    work(&store, &mut Acknowledged::new(), || tasks.run_for(SECOND)).unwrap();
    assert!(store.stats().compaction_bytes > 0);
    (before, disk.calls())
}

#[test]
fn a_panic_at_any_call_poisons_and_leaves_a_sound_store() {
    silence();
    let (from, to) = calls();
    let mut met = BTreeSet::new();
    for call in (from..to).step_by(13) {
        met.extend(stepped(call));
    }
    assert_eq!(met.len(), ROLES.len(), "{met:?}");
}

/// The same in real threads: nothing that waits goes on waiting.
fn threaded(call: u64) -> Option<&'static str> {
    let disk = SimDisk::new(1);
    let store = options().max_unsynced(1 << 20).open_on(&disk, DIR).unwrap();
    disk.panic_at(call);
    let (ended, ends) = channel();
    for thread in 0..2 {
        let (store, ended) = (store.clone(), ended.clone());
        std::thread::spawn(move || {
            let run = || {
                (0..400).try_for_each(|round| {
                    let sync = round % 2 == 1;
                    let durability = if sync { Durability::Sync } else { Durability::Buffer };
                    append(&store, &format!("t{thread}"), 20_000, durability).map(drop)
                })
            };
            let outcome = catch_unwind(AssertUnwindSafe(run));
            let _ = store.compact();
            let _ = ended.send(outcome.is_ok_and(|outcome| outcome.is_err()));
        });
    }
    let heard: Vec<bool> = (0..2)
        .map(|_| ends.recv_timeout(LONG).unwrap_or_else(|_| panic!("call {call}: a call waits")))
        .collect();
    let error = store.health().last_error.map(|error| error.to_string()).unwrap_or_default();
    let named = ROLES.into_iter().find(|role| error.contains(role));
    if named.is_some() {
        assert!(heard.iter().any(|heard| *heard), "call {call}: {error}");
    }
    let (closed, closes) = channel();
    let closing = store.clone();
    std::thread::spawn(move || closed.send(closing.close().is_err()));
    let failed = closes.recv_timeout(LONG).unwrap_or_else(|_| panic!("call {call}: close waits"));
    assert_eq!(failed, store.health().poisoned, "call {call}");
    named
}

#[test]
fn a_panic_in_a_thread_of_the_store_wakes_all_that_wait() {
    silence();
    let mut met = BTreeSet::new();
    for call in (30..700).step_by(23) {
        met.extend(threaded(call));
    }
    assert!(met.len() > 1, "{met:?}");
}

/// A panic in a step of a job that a call does.
#[test]
fn a_job_that_panics_in_a_call_is_dropped() {
    silence();
    let options = options().maintenance(Maintenance::Manual);
    let mut panicked = 0;
    for more in (0..400).step_by(2) {
        let disk = SimDisk::new(1);
        let store = options.open_on(&disk, DIR).unwrap();
        let mut acknowledged = Acknowledged::new();
        work(&store, &mut acknowledged, || {}).unwrap();
        store.sync().unwrap();
        disk.panic_at(disk.calls() + more);
        let compact = || while store.compact().unwrap() == CompactOutcome::More {};
        if catch_unwind(AssertUnwindSafe(compact)).is_ok() {
            disk.clear_faults();
            break;
        }
        panicked += 1;
        assert!(store.health().poisoned, "call {more}");
        assert_eq!(store.compact().unwrap_err().kind(), ErrorKind::Poisoned);
        assert!(store.close().is_err());
        drop(store);
        check(&disk.fork_synced(), &acknowledged);
        check(&disk, &acknowledged);
    }
    assert!(panicked > 3, "{panicked}");
}

#[test]
fn a_panic_wakes_futures() {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    silence();
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let store = options().open_stepped(&disk, &tasks, DIR).unwrap();
    tasks.run_for(SECOND);
    let agent = store.agent("a").unwrap();
    let mut commit = store.batch().append(&agent, NewEntry::user("x")).submit();
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    assert!(Pin::new(&mut commit).poll(&mut context).is_pending());
    disk.panic_at(disk.calls());
    tasks.run_for(SECOND);
    assert!(woken.0.load(Ordering::SeqCst));
    let Poll::Ready(Err(error)) = Pin::new(&mut commit).poll(&mut context) else { panic!() };
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    assert!(error.to_string().contains("memlog-log"), "{error}");
}

/// A handle that outlives its store is no reason to wait.
#[test]
fn a_poisoned_store_is_let_go_of() {
    silence();
    let disk = SimDisk::new(1);
    let tasks = SimTasks::new(&disk, 2);
    let store = Arc::new(options().open_stepped(&disk, &tasks, DIR).unwrap());
    append(&store, "a", 40_000, Durability::Sync).unwrap();
    // While the next segment is made.
    disk.panic_at(disk.calls() + 1);
    let _ = catch_unwind(AssertUnwindSafe(|| tasks.run_for(SECOND)));
    drop(store);
    assert!(tasks.names().is_empty());
    options().open_on(&disk, DIR).unwrap().close().unwrap();
}
