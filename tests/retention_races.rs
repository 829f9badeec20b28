//! A policy of an agent's own is changed while others use the agent.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memlog::{Durability, NewEntry, Options, Retention, Store};

fn open(dir: &tempfile::TempDir) -> Store {
    Options::new().durability(Durability::Buffer).open(dir.path().join("mem")).unwrap()
}

#[test]
fn no_floor_that_was_seen_falls_when_a_policy_is_loosened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for round in 0..100 {
        let agent = store.agent(&format!("a{round}")).unwrap();
        agent.set_retention(Some(Retention::new().max_entries(2))).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut seen = 0;
                while !stop.load(Ordering::SeqCst) {
                    agent.append(NewEntry::user("x")).unwrap();
                    let floor = agent.view().unwrap().floor();
                    assert!(floor >= seen, "round {round}: {floor} after {seen}");
                    seen = floor;
                }
            });
            std::thread::sleep(Duration::from_millis(2));
            agent.set_retention(Some(Retention::new())).unwrap();
            std::thread::sleep(Duration::from_millis(1));
            stop.store(true, Ordering::SeqCst);
        });
    }
}

#[test]
fn a_change_of_policy_takes_nothing_from_a_new_life() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let agent = store.agent("acme/a").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                agent.set_retention(Some(Retention::new())).unwrap();
            }
        });
        let since = Instant::now();
        let mut lost = None;
        for round in 0.. {
            if lost.is_some() || since.elapsed() > Duration::from_secs(3) {
                break;
            }
            if round % 2 == 0 {
                agent.forget().unwrap();
            } else {
                store.forget_prefix("acme/").unwrap();
            }
            let mut batch = store.batch();
            for _ in 0..10 {
                batch.append(&agent, NewEntry::user("x"));
            }
            batch.commit().unwrap();
            lost = (0..3).map(|_| agent.view().unwrap().floor()).find(|floor| *floor != 1);
            agent.truncate_before(6).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        assert_eq!(lost, None, "the floor of a new life");
    });
}

#[test]
fn a_policy_is_changed_however_busy_the_agent_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let agent = store.agent("a").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    agent.append(NewEntry::user("x")).unwrap();
                }
            });
        }
        for most in 1..50 {
            agent.set_retention(Some(Retention::new().max_entries(most))).unwrap();
            agent.set_retention(None).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
    let view = agent.view().unwrap();
    assert_eq!(view.iter().count() as u64, view.next_seq() - view.floor());
}
