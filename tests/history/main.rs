//! Histories of many threads over few agents, with background work beside them: what the clients were
//! answered fits some order of their calls. `check` says what that means.
//!
//! `MEMLOG_HISTORIES` says how many, `MEMLOG_HISTORY_CALLS` how many calls each client makes, and
//! `MEMLOG_SEED` with which seed they begin. A seed repeats what the clients try, and not how the
//! system interleaves them: a failing history is printed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod check;
mod clients;
mod model;
mod planted;
mod record;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memlog::{CompactOutcome, Options, Store};

use check::check;
use clients::{Client, World};
use record::{Call, What};

const CLIENTS: usize = 6;
const AGENTS: usize = 4;

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| value.parse().unwrap())
}

fn options(seed: u64) -> Options {
    let options = Options::new().segment_bytes(256 << 10).extent_bytes(4 << 10);
    let options = options.flush_interval(Duration::from_millis(1 + seed % 5));
    // Every other store lets go of agents as soon as it may.
    if seed.is_multiple_of(2) { options.resident_bytes(0) } else { options }
}

/// Numbers by chance (splitmix64).
fn chance(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |end| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }
}

/// Clients that begin at once, somebody who compacts, purges and syncs beside them, and a look at
/// everything before and after.
fn history(store: &Store, seed: u64, run: usize, calls: usize, started: Instant) -> Vec<Call> {
    let now = || u64::try_from(started.elapsed().as_nanos()).unwrap();
    let world = World::new(store, AGENTS, &now, 6000);
    let client = |id: usize| {
        let id = run * (CLIENTS + 1) + id;
        Client::new(&world, id, chance(seed << 8 | id as u64))
    };
    let (done, looking) = (AtomicBool::new(false), client(CLIENTS).see_all());
    let mut history = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|id| {
                let client = &client;
                scope.spawn(move || client(id).run(calls))
            })
            .collect();
        scope.spawn(|| tend(store, seed, &done));
        let history: Vec<_> =
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        done.store(true, Ordering::SeqCst);
        history
    });
    history.extend(looking);
    history.extend(client(CLIENTS).see_all());
    history
}

fn tend(store: &Store, seed: u64, done: &AtomicBool) {
    for turn in seed.. {
        if done.load(Ordering::SeqCst) {
            break;
        }
        match turn % 4 {
            0 => drop(store.purge().unwrap()),
            1 => store.sync().unwrap(),
            2 => assert_eq!(store.compact().unwrap(), CompactOutcome::Done),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// One store in three runs: each goes on from what the one before it left.
fn store_in_three_runs(seed: u64, calls: usize) -> Vec<Call> {
    let dir = tempfile::tempdir().unwrap();
    let (started, mut all) = (Instant::now(), Vec::new());
    for run in 0..3 {
        let store = options(seed).open(dir.path().join("mem")).unwrap();
        all.extend(history(&store, seed, run, calls, started));
        assert_eq!(store.verify().unwrap(), []);
        store.close().unwrap();
    }
    all
}

#[test]
fn histories_fit_an_order_that_respects_agents_and_clients() {
    let histories = setting("MEMLOG_HISTORIES", 4);
    let calls = setting("MEMLOG_HISTORY_CALLS", 150);
    let first = setting("MEMLOG_SEED", 1);
    let started = Instant::now();
    let (mut made, mut refused) = (0, 0);
    for seed in first..first + histories {
        let history = store_in_three_runs(seed, usize::try_from(calls).unwrap());
        made += history.len();
        refused += history.iter().filter(|call| matches!(call.what, What::Refused { .. })).count();
        if let Err(wrong) = check(&history) {
            panic!("MEMLOG_SEED={seed}: {wrong}");
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{histories} histories, {made} calls, {refused} of them refused: {seconds:.1} s");
    assert!(refused > 0 && refused < made / 2, "clients get in each other's way, and get on");
}
