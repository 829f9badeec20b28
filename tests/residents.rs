//! Memory of agents at rest stays within `resident_bytes`, whatever brought them in.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use memlog::sim::{SimDisk, SimTasks};
use memlog::{Agent, Durability, Kind, Maintenance, NewEntry, Options, Store};

const DIR: &str = "/mem";
/// A shard of the table goes by its part of the budget, rounded down.
const ROUNDING: u64 = 64;

/// One entry for each agent, in batches of 500.
fn append_to_all(store: &Store, agents: &[Agent], len: usize) {
    for few in agents.chunks(500) {
        let mut batch = store.batch();
        for agent in few {
            batch.append(agent, NewEntry::new(Kind::USER, &vec![7; len]));
        }
        batch.durability(Durability::Write).commit().unwrap();
    }
}

fn agents(store: &Store, count: usize) -> Vec<Agent> {
    (0..count).map(|i| store.agent(&format!("agent/{i}")).unwrap()).collect()
}

#[test]
fn agents_whose_segment_is_sealed_leave_the_memory() {
    let (disk, budget) = (SimDisk::new(1), 256 << 10);
    let tasks = SimTasks::new(&disk, 1);
    let options = Options::new().resident_bytes(budget);
    let store = options.open_stepped(&disk, &tasks, DIR).unwrap();
    append_to_all(&store, &agents(&store, 20_000), 20);
    assert!(store.stats().resident_bytes > 10 * budget as u64, "{:?}", store.stats());
    // What is appended next is little, and no agent comes after it.
    store.compact().unwrap();
    let resident = store.stats().resident_bytes;
    assert!(resident <= budget as u64 + ROUNDING, "{resident} bytes behind the seal");
}

#[test]
fn a_store_that_rests_lets_go_of_agents_that_handles_held() {
    let (disk, budget) = (SimDisk::new(2), 256 << 10);
    let tasks = SimTasks::new(&disk, 2);
    let options = Options::new().resident_bytes(budget);
    let store = options.open_stepped(&disk, &tasks, DIR).unwrap();
    let held = agents(&store, 20_000);
    append_to_all(&store, &held, 20);
    store.compact().unwrap();
    let views: Vec<_> = held.iter().map(|agent| agent.view().unwrap()).collect();
    drop((views, held));
    // It settles once nothing was appended for the interval of scans.
    tasks.run_for(Duration::from_secs(3600));
    let resident = store.stats().resident_bytes;
    assert!(resident <= budget as u64 + ROUNDING, "{resident} bytes at rest");
}

#[test]
fn what_is_loaded_of_agents_that_are_there_makes_room() {
    let (disk, budget) = (SimDisk::new(3), 768 << 10);
    let options = Options::new()
        .resident_bytes(budget)
        .segment_bytes(64 << 10)
        .maintenance(Maintenance::Manual);
    let store = options.open_on(&disk, DIR).unwrap();
    let names = agents(&store, 600);
    for _ in 0..80 {
        append_to_all(&store, &names, 40);
    }
    drop(names);
    let mut most = 0;
    for i in 0..600 {
        let view = store.agent(&format!("agent/{i}")).unwrap().view().unwrap();
        assert_eq!(view.iter().count(), 80);
        most = most.max(store.stats().resident_bytes);
    }
    // One view is open, and the agents of unsealed segments stay.
    assert!(most <= budget as u64 + (256 << 10), "{most} bytes while agents are read");
}

#[test]
fn agents_of_an_unsealed_segment_take_at_most_seven_times_its_bytes() {
    for (name, len) in [(2, 0), (8, 0), (8, 24), (24, 40), (200, 0), (8, 4000)] {
        for with_state in [false, true] {
            let disk = SimDisk::new(4);
            let options = Options::new().resident_bytes(0).maintenance(Maintenance::Manual);
            let store = options.open_on(&disk, DIR).unwrap();
            let bytes = vec![7; len];
            let mut batch = store.batch();
            for i in 0..250 {
                let agent = store.agent(&format!("{i:0>name$x}")).unwrap();
                if with_state {
                    batch.set(&agent, "k", &bytes);
                } else {
                    batch.append(&agent, NewEntry::new(Kind::USER, &bytes));
                }
            }
            batch.commit().unwrap();
            let (resident, unsealed) = (store.stats().resident_bytes, store.stats().active_bytes);
            assert!(resident > 0, "nothing is in memory");
            assert!(resident <= 7 * unsealed, "{resident} bytes for {unsealed}, {name} {len}");
        }
    }
}
