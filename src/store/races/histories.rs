//! Clients that do anything to a few agents, beside background work: what they were answered fits some
//! order of their calls.

use std::sync::atomic::{AtomicU64, Ordering};

use super::check::check;
use super::clients::{Client, World};
use super::*;

const CLIENTS: usize = 3;
const AGENTS: usize = 4;

fn now() -> u64 {
    static NOW: AtomicU64 = AtomicU64::new(0);
    NOW.fetch_add(1, Ordering::SeqCst)
}

fn chance(end: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..end)
}

/// What the store's owner does meanwhile.
fn tend(store: &Store) {
    for _ in 0..3 {
        match pick(6) {
            0 => drop(store.purge().unwrap()),
            1 => store.sync().unwrap(),
            2 => assert_eq!(store.compact().unwrap(), crate::CompactOutcome::Done),
            3 => store.agents("").for_each(|agent| drop(agent.unwrap())),
            _ => store.engine().seal_active().unwrap(),
        }
    }
}

fn history(options: &Options) {
    let disk = disk();
    let store = open(&disk, options);
    let world = World::new(&store, AGENTS, &now, 100);
    let mut calls = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|id| {
                let world = &world;
                scope.spawn(move || Client::new(world, id, chance).run(6))
            })
            .collect();
        let store = store.clone();
        scope.spawn(move || tend(&store));
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    calls.extend(Client::new(&world, CLIENTS, chance).see_all());
    drop(world);
    store.close().unwrap();
    drop(store);
    let store = reopened(&disk);
    calls.extend(Client::new(&World::new(&store, AGENTS, &now, 0), CLIENTS, chance).see_all());
    assert_eq!(check(&calls), Ok(()));
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn histories_fit_an_order() {
    explore("histories", || history(&options()));
}

#[test]
fn histories_fit_an_order_where_nothing_stays_resident() {
    explore("histories_without_residents", || history(&options().resident_bytes(0)));
}
