//! How cost grows: loads with the length of a history, appends with the number of agents in use, and
//! what the first append to an agent costs that is new or at rest.
//!
//! Criterion's report plots each group over its sizes. The medians go to stderr, each with its ratio
//! to that of the smallest size. `MEMLOG_BENCH_MOST` (1,000,000) leaves out what is larger.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dice, Run, TURN, size_from_env, text, touch, workdir};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use memlog::{Agent, CompactOutcome, Durability, Kind, NewEntry, Options, Store};

/// Entries of a history.
const HISTORIES: [u64; 3] = [100, 10_000, 1_000_000];
/// Agents in use.
const AGENTS: [u64; 4] = [1000, 10_000, 100_000, 1_000_000];
const LATEST: usize = 50;
/// Bytes of an entry of a history.
const ENTRY: usize = 200;
/// Appends between two syncs, which nobody times: few enough that the store slows nobody down.
const BURST: u64 = 8000;
/// Agents that get their first append.
const FIRST: u64 = 20_000;

fn options() -> Options {
    Options::new().durability(Durability::Buffer).resident_bytes(8 << 30)
}

fn sizes(all: &[u64]) -> impl Iterator<Item = u64> {
    let most = size_from_env("MEMLOG_BENCH_MOST", 1_000_000);
    all.iter().copied().filter(move |size| *size <= most)
}

/// Prints medians as they come, beside the first.
#[derive(Default)]
struct Medians(Option<f64>);

impl Medians {
    fn print(&mut self, what: &str, run: &Run, bytes: usize) {
        if run.ops == 0 {
            return;
        }
        run.print(what, bytes);
        let first = *self.0.get_or_insert(run.us(0.5));
        eprintln!("    its p50 is {:.2} of the first", run.us(0.5) / first);
    }
}

/// Histories of all lengths in one store.
fn histories(dir: &Path) -> Store {
    let store = options().open(dir).unwrap();
    let entry = text(ENTRY);
    for length in sizes(&HISTORIES) {
        let agent = store.agent(&format!("history/{length}")).unwrap();
        let mut batch = store.batch();
        for number in 1..=length {
            batch.append(&agent, NewEntry::new(Kind::USER, &entry));
            if number % 100 == 0 {
                batch.commit().unwrap();
                batch = store.batch();
            }
        }
        batch.commit().unwrap();
    }
    store
}

fn latest(agent: &Agent) -> u64 {
    let view = agent.view().unwrap();
    view.latest(LATEST).map(|entry| touch(entry.unwrap().payload())).fold(0, u64::wrapping_add)
}

fn loads(c: &mut Criterion) {
    let dir = workdir();
    let mut store = histories(&dir.path().join("store"));
    for (name, compacted) in [("as it arrived", false), ("compacted", true)] {
        if compacted {
            while store.compact().unwrap() != CompactOutcome::Done {}
        }
        store.close().unwrap();
        store = options().open(dir.path().join("store")).unwrap();
        let mut group = c.benchmark_group(format!("growth: latest 50, {name}"));
        group.sample_size(20).measurement_time(Duration::from_secs(2));
        let mut medians = Medians::default();
        for length in sizes(&HISTORIES) {
            let agent = store.agent(&format!("history/{length}")).unwrap();
            assert_eq!(agent.view().unwrap().next_seq(), length + 1);
            let mut run = Run::new();
            group.bench_function(BenchmarkId::from_parameter(length), |b| {
                b.iter_custom(|iters| {
                    run.timed(iters, || {
                        let begun = Instant::now();
                        latest(&agent);
                        begun.elapsed()
                    })
                });
            });
            medians.print(&format!("a history of {length}"), &run, LATEST * ENTRY);
        }
    }
    store.close().unwrap();
}

fn agent(store: &Store, kind: &str, number: u64) -> Agent {
    store.agent(&format!("tenant-{}/{kind}-{number}", number % 100)).unwrap()
}

fn append(agent: &Agent, turn: &[u8]) -> Duration {
    let begun = Instant::now();
    agent.append(NewEntry::new(Kind::ASSISTANT, turn)).unwrap();
    begun.elapsed()
}

/// The least that an append to one of many takes of memory: the turn is copied to where a log is
/// written from, and two places of the agent's own are read and written.
fn bare(dice: &mut Dice, run: &mut Run, agents: u64, turn: &[u8], ops: u64) -> Duration {
    let mut all: Vec<Box<[u64; 64]>> = (0..agents).map(|i| Box::new([i; 64])).collect();
    let mut log = vec![0u8; 8 << 20];
    let mut at = 0;
    run.timed(ops, || {
        let agent = dice.below(agents) as usize;
        let begun = Instant::now();
        let places = &mut all[agent];
        places[0] += at as u64;
        places[63] += 1;
        at = if at + turn.len() > log.len() { 0 } else { at };
        log[at..at + turn.len()].copy_from_slice(turn);
        at += turn.len();
        begun.elapsed()
    })
}

/// Appends at a durability of which everybody hears by then.
fn durable(
    c: &mut Criterion,
    medians: &mut Medians,
    store: &Store,
    all: &[Agent],
    durability: Durability,
    turn: &[u8],
) {
    let mut group = c.benchmark_group(format!("growth: append at {durability:?}, agents in use"));
    group.sample_size(10).measurement_time(Duration::from_millis(500));
    let (mut dice, mut run) = (Dice::new(3), Run::new());
    let agents = all.len() as u64;
    group.bench_function(BenchmarkId::from_parameter(agents), |b| {
        b.iter_custom(|iters| {
            run.timed(iters, || {
                let agent = &all[dice.below(agents) as usize];
                let begun = Instant::now();
                let mut batch = store.batch();
                batch.append(agent, NewEntry::new(Kind::ASSISTANT, turn)).durability(durability);
                batch.commit().unwrap();
                begun.elapsed()
            })
        });
    });
    group.finish();
    medians.print(&format!("{durability:?}, {agents} agents in use"), &run, turn.len());
}

/// Appends to agents of which `agents` are in use, and to some that are not.
fn appends(c: &mut Criterion) {
    let turn = text(TURN);
    let (mut medians, mut limits, mut news, mut colds) =
        (Medians::default(), Medians::default(), Medians::default(), Medians::default());
    let (mut written, mut synced) = (Medians::default(), Medians::default());
    for agents in sizes(&AGENTS) {
        let dir = workdir();
        let mut store = options().open(dir.path().join("store")).unwrap();
        let all: Vec<Agent> = (0..agents).map(|i| agent(&store, "user", i)).collect();
        for agent in &all {
            append(agent, b"hello");
        }
        store.sync().unwrap();
        let (mut dice, mut run) = (Dice::new(agents), Run::new());
        let mut resident = c.benchmark_group("growth: append at Buffer, agents in use");
        resident.sample_size(20).measurement_time(Duration::from_secs(2));
        resident.bench_function(BenchmarkId::from_parameter(agents), |b| {
            b.iter_custom(|iters| {
                let bursts = (0..iters).step_by(BURST as usize).map(|at| BURST.min(iters - at));
                bursts
                    .map(|ops| {
                        store.sync().unwrap();
                        run.timed(ops, || append(&all[dice.below(agents) as usize], &turn))
                    })
                    .sum()
            });
        });
        resident.finish();
        medians.print(&format!("{agents} agents in use"), &run, TURN);
        let mut limit = Run::new();
        bare(&mut dice, &mut limit, agents, &turn, 500_000);
        limits.print(&format!("{agents} bare places in memory"), &limit, TURN);
        durable(c, &mut written, &store, &all, Durability::Write, &turn);
        durable(c, &mut synced, &store, &all, Durability::Sync, &turn);
        drop(all);
        first_appends(&mut news, &store, &format!("new, beside {agents}"), &turn, |i| (i, "new"));
        store.close().unwrap();
        store = options().open(dir.path().join("store")).unwrap();
        let most = agents.min(FIRST);
        first_appends(&mut colds, &store, &format!("at rest, of {agents}"), &turn, |i| {
            (i % most * (agents / most), "user")
        });
        store.close().unwrap();
    }
}

/// The first appends to agents that nobody has used since the store was opened.
fn first_appends(
    medians: &mut Medians,
    store: &Store,
    what: &str,
    turn: &[u8],
    who: impl Fn(u64) -> (u64, &'static str),
) {
    let mut run = Run::new();
    let mut number = 0;
    let mut seen = std::collections::HashSet::new();
    while number < FIRST {
        let (id, kind) = who(number);
        number += 1;
        if !seen.insert(id) {
            break;
        }
        let agent = agent(store, kind, id);
        run.timed(1, || append(&agent, turn));
        if number % BURST == 0 {
            store.sync().unwrap();
        }
    }
    medians.print(what, &run, turn.len());
}

criterion_group!(benches, loads, appends);
criterion_main!(benches);
