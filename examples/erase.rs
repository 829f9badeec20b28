//! Forgetting, down to the last byte: how long erasing takes, that nothing is left in any file of
//! the store, that others go on meanwhile, and that a backup can be taken while all write.
//!
//! ```text
//! cargo run --release --example erase -- --agents 20000
//! cargo run --release --example erase -- --agents 2000 --crowd 10000
//! ```
//! Each agent has 100 entries of 1 KiB, appended in turn and compacted. Some of them, the
//! *marked* ones, have a marker of random bytes in each payload, in a meta and in a state value.
//! Each of them is forgotten and purged in another situation, and the files are searched for its marker before
//! and after. Then half of the agents are forgotten and the store is compacted; tenants of many
//! small agents are forgotten by their prefix; and a backup is taken, opened and verified.
//!
//! `--agents N`, `--entries N` (of each), `--entry N` (bytes), `--crowd N` (agents of a tenant),
//! `--tenants N`, `--writers N`, `--writer-rate N` (entries a second of each; 0: all it can),
//! `--no-compact` (purge from the log as it was written), `--dir DIR`, `--check` (fail if a bound
//! is missed).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]

#[path = "../benches/common/mod.rs"]
mod common;
mod support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Dice, Run, median};
use memlog::{Agent, Durability, Kind, NewEntry, Store};
use support::disk::{allocated, search};
use support::fill::{Shape, belongs_to, load, name};
use support::watch::Busy;
use support::{Args, Place, Table, compact_all, fill, mib, ms, watch};

/// The bounds.
const PURGE_WARM_S: f64 = 10.0;
const PURGE_COLD_S: f64 = 20.0;
const LONGEST_APPEND_MS: f64 = 20.0;
const GIVEN_BACK: f64 = 45.0;
/// Of the commit that forgets a prefix to an ordinary one that forgets an agent.
const PREFIX_BY_FORGET: f64 = 1.25;
const LOADS_AFTER: f64 = 1.1;

const LATEST: usize = 50;

/// A situation in which an agent is erased.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Situation {
    Warm,
    Busy,
    Cold,
}

const SITUATIONS: [Situation; 3] = [Situation::Warm, Situation::Busy, Situation::Cold];

impl Situation {
    fn text(self) -> &'static str {
        match self {
            Situation::Warm => "warm",
            Situation::Busy => "warm, while others write",
            Situation::Cold => "cold",
        }
    }
}

struct Work<'a> {
    args: &'a Args,
    place: Place,
    dir: PathBuf,
    shape: Shape,
    /// `None` only while it is opened anew.
    store: Option<Store>,
    table: Table,
    dice: Dice,
}

fn main() -> ExitCode {
    let values = ["--agents", "--entries", "--entry", "--crowd", "--tenants", "--writers"];
    let values = [&values[..], &["--writer-rate", "--dir"]].concat();
    let args = Args::read(&values, &["--no-compact", "--check"]);
    let shape = Shape {
        agents: args.size("--agents", 20_000).max(10),
        entries: args.size("--entries", 100).max(1),
        bytes: args.size("--entry", 1024).max(256) as usize,
    };
    let place = Place::new(&args);
    let dir = place.path("store");
    let store = Some(fill::options().open(&dir).unwrap());
    let seed = std::process::id().into();
    let (table, dice) = (Table::default(), Dice::new(seed));
    let mut work = Work { args: &args, place, dir, shape, store, table, dice };
    println!("{} agents, {} MB", shape.agents, shape.logical() / 1_000_000);
    let marked = work.build();
    for (situation, (name, marker)) in SITUATIONS.into_iter().zip(&marked) {
        work.erase(situation, name, marker);
    }
    work.forget_half();
    work.forget_tenants();
    work.back_up();
    let damage = work.store().verify().unwrap().len();
    work.table.title("in the end");
    work.table.is_so("damage that verifying finds", damage as f64, "", damage == 0);
    work.store().close().unwrap();
    work.table.end(&args)
}

impl Work<'_> {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Thirty-two random bytes, which occur nowhere by chance.
    fn marker(&mut self) -> Vec<u8> {
        (0..4).flat_map(|_| self.dice.roll().to_le_bytes()).collect()
    }

    /// Fills the store; gives the marked agents and their markers.
    fn build(&mut self) -> Vec<(String, Vec<u8>)> {
        let store = self.store().clone();
        let mut agents = fill::agents(&store, 0..self.shape.agents);
        let mut marked = vec![];
        for number in 0..SITUATIONS.len() {
            let name = format!("tenant-{}/marked-{number}", 17 + number * 31);
            let (agent, marker) = (store.agent(&name).unwrap(), self.marker());
            let mut batch = store.batch();
            let entry = NewEntry::new(Kind::USER, &marker).meta(&marker);
            batch.append(&agent, entry).set(&agent, "secret", &marker).commit().unwrap();
            marked.push((name, marker.clone()));
            agents.push((agent, marker));
        }
        let took = fill::round_robin(&store, &agents, &self.shape);
        self.table.row("filled in", took.as_secs_f64(), "s");
        if !self.args.on("--no-compact") {
            let (took, _) = compact_all(&store);
            self.table.row("compacted in", took.as_secs_f64(), "s");
        }
        self.table.row("on disk", mib(allocated(&self.dir)), "MiB");
        marked
    }

    /// Agents that are neither marked nor of a crowd.
    fn others(&self) -> Vec<Agent> {
        let store = self.store();
        (0..self.shape.agents).map(|agent| store.agent(&name(agent)).unwrap()).collect()
    }

    fn writers(&self) -> Busy {
        let threads = self.args.size("--writers", 2).max(1);
        let rate = self.args.number("--writer-rate", 5000.0);
        Busy::start(&self.place.path("probe"), &self.others(), threads, rate)
    }

    fn reopen_cold(&mut self) {
        fill::close_and_evict(self.store.take().unwrap(), &self.dir);
        self.store = Some(fill::options().open(&self.dir).unwrap());
    }

    /// Forgets an agent and purges; the marker is found before, and not after.
    fn erase(&mut self, situation: Situation, name: &str, marker: &[u8]) {
        let text = situation.text();
        self.table.title(&format!("an agent is erased, {text}"));
        let other = self.marker();
        self.store().sync().unwrap();
        let (before, _, searched) = search(&self.dir, marker).unwrap();
        let (never, _, _) = search(&self.dir, &other).unwrap();
        self.table.row("searched", mib(searched), "MiB");
        // In each entry, and in one entry more, its meta and the state.
        let all = before >= self.shape.entries + 3;
        self.table.is_so(
            "the marker before it, in all that it was given",
            before as f64,
            "hits",
            all,
        );
        self.table.is_so("a marker never written", never as f64, "hits", never == 0);
        if situation == Situation::Cold {
            self.reopen_cold();
        }
        let busy = (situation == Situation::Busy).then(|| self.writers());
        if busy.is_some() {
            std::thread::sleep(Duration::from_millis(200));
        }
        let start = Instant::now();
        self.store().agent(name).unwrap().forget().unwrap();
        let report = self.store().purge().unwrap();
        let took = start.elapsed().as_secs_f64();
        let bound = if situation == Situation::Cold { PURGE_COLD_S } else { PURGE_WARM_S };
        self.table.at_most(&format!("forget and purge, {text}"), took, "s", bound);
        self.table.row("files written anew", report.rewritten.len() as f64, "");
        self.table.row("files unlinked", report.unlinked.len() as f64, "");
        let pinned = report.pinned.len();
        self.table.is_so("files still held by somebody", pinned as f64, "", pinned == 0);
        let (after, holders, _) = search(&self.dir, marker).unwrap();
        self.table.is_so("the marker after it", after as f64, "hits", after == 0);
        let names = holders.iter().filter_map(|path| path.file_name());
        names.take(3).for_each(|name| println!("    in {}", name.display()));
        if let Some(busy) = busy {
            let (watch, notices) = busy.stop();
            watch::print(&mut self.table, "an append", &watch, &notices, Some(LONGEST_APPEND_MS));
        }
    }

    fn forget_half(&mut self) {
        self.table.title("half of the agents are forgotten, then it is compacted");
        let store = self.store().clone();
        store.sync().unwrap();
        let before = allocated(&self.dir);
        let mut others = self.others();
        self.dice.shuffle(&mut others);
        let start = Instant::now();
        for some in others[..others.len() / 2].chunks(500) {
            let mut batch = store.batch();
            for agent in some {
                batch.forget(agent);
            }
            batch.commit().unwrap();
        }
        self.table.row("forgotten in", ms(start.elapsed()), "ms");
        let (took, _) = compact_all(&store);
        self.table.row("compacted in", took.as_secs_f64(), "s");
        let after = allocated(&self.dir);
        self.table.row("on disk before", mib(before), "MiB");
        self.table.row("on disk after", mib(after), "MiB");
        let back = before.saturating_sub(after) as f64 / before as f64 * 100.0;
        self.table.at_least("given back", back, "%", GIVEN_BACK);
        // Whoever is left is whole.
        let left = &others[others.len() / 2..];
        let bytes = self.shape.bytes as u64 * (LATEST as u64).min(self.shape.entries);
        let whole = left.iter().filter(|agent| load(&store, agent.name(), LATEST) == bytes);
        let missing = left.len() - whole.count();
        self.table.is_so("agents left that lack something", missing as f64, "", missing == 0);
    }

    fn forget_tenants(&mut self) {
        let tenants = self.args.size("--tenants", 5).max(1);
        let crowd = self.args.size("--crowd", 100_000).max(100);
        self.table.title(&format!("{tenants} tenants of {crowd} small agents are forgotten"));
        let store = self.store().clone();
        for tenant in 0..tenants {
            fill_crowd(&store, tenant, crowd);
        }
        store.sync().unwrap();
        let others = self.others();
        let kept: Vec<&Agent> =
            others.iter().filter(|agent| agent.view().unwrap().next_seq() > 1).take(300).collect();
        let (mut turns, mut ratios) = (Turns::default(), vec![]);
        let [mut forget, mut prefix] = [const { vec![] }; 2];
        // The first loads verify what they read, which is not the question here.
        loads_of(&store, &kept);
        let (mut before, mut left) = (Run::new(), 0);
        for tenant in 0..tenants {
            turns.take(&store, tenant, &kept);
            // A flush behind a pause takes longer than one behind another, whatever it is for: the
            // forgets of one agent come behind as long a pause as that of the prefix.
            for number in 0..5 {
                loads_of(&store, &kept);
                let small = store.agent(&crowd_name(tenant, Turns::EACH + number)).unwrap();
                forget.push(timed(|| small.forget().unwrap()));
            }
            let loads = loads_of(&store, &kept);
            prefix.push(timed(|| store.forget_prefix(&format!("crowd-{tenant}/")).unwrap()));
            ratios.push(loads_of(&store, &kept).us(0.5) / loads.us(0.5));
            before.add(&loads);
            left += store.agents(&format!("crowd-{tenant}/")).count();
        }
        let [forget, prefix] = [forget, prefix].map(|mut all| median(&mut all));
        let table = &mut self.table;
        turns.print(table);
        table.row("forgetting one agent after a pause, median", forget, "us");
        table.row("forgetting a tenant after a pause, median", prefix, "us");
        table.at_most("the latter by the former", prefix / forget, "", PREFIX_BY_FORGET);
        table.is_so("agents left under the prefixes", left as f64, "", left == 0);
        table.row("loading another agent before, p50", before.us(0.5), "us");
        table.at_most("after by before, median", median(&mut ratios), "", LOADS_AFTER);
    }

    fn back_up(&mut self) {
        self.table.title("a backup while others write");
        let store = self.store().clone();
        let to = self.place.path("backup");
        let busy = self.writers();
        std::thread::sleep(Duration::from_millis(200));
        let others = self.others();
        // What can be seen before the backup begins has to be in it.
        let known: Vec<(&Agent, u64)> = others
            .iter()
            .step_by(7)
            .map(|agent| (agent, agent.view().unwrap().next_seq()))
            .collect();
        let start = Instant::now();
        let lsn = store.backup(&to).unwrap();
        self.table.row("it took", ms(start.elapsed()), "ms");
        let (watch, notices) = busy.stop();
        let far = lsn <= store.stats().next_lsn;
        self.table.is_so("its lsn is one of the store's", lsn.0 as f64, "", far);
        watch::print(&mut self.table, "an append", &watch, &notices, Some(LONGEST_APPEND_MS));
        let start = Instant::now();
        let copy = Store::open(&to).unwrap();
        self.table.row("opened in", ms(start.elapsed()), "ms");
        let start = Instant::now();
        let damage = copy.verify().unwrap().len();
        self.table.row("verified in", ms(start.elapsed()), "ms");
        self.table.is_so("damage", damage as f64, "", damage == 0);
        let wrong = known.iter().filter(|(agent, next)| !is_in(&copy, agent, *next)).count();
        self.table.is_so("agents that lack something", wrong as f64, "", wrong == 0);
        copy.close().unwrap();
    }
}

/// Whether the copy has the agent up to `next`, and all that it has is the agent's.
fn is_in(copy: &Store, agent: &Agent, next: u64) -> bool {
    let view = copy.agent(agent.name()).unwrap().view().unwrap();
    let mut entries = view.latest(LATEST).map(|entry| entry.unwrap());
    view.next_seq() >= next && entries.all(|entry| belongs_to(entry.payload(), agent.name()))
}

fn crowd_name(tenant: u64, agent: u64) -> String {
    format!("crowd-{tenant}/small-{agent}")
}

fn fill_crowd(store: &Store, tenant: u64, crowd: u64) {
    let text = common::text(100);
    for from in (0..crowd).step_by(100) {
        let mut batch = store.batch();
        for agent in from..(from + 100).min(crowd) {
            let agent = store.agent(&crowd_name(tenant, agent)).unwrap();
            batch.append(&agent, NewEntry::new(Kind::USER, &text));
        }
        batch.commit().unwrap();
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e6
}

/// How long commits took that came by turns, one right behind the other, in us.
#[derive(Default)]
struct Turns {
    append: Vec<f64>,
    forget: Vec<f64>,
    prefix: Vec<f64>,
}

impl Turns {
    /// Turns taken at a time.
    const EACH: u64 = 20;

    /// Appends at `Sync`, forgets of one agent of a crowd, and of prefixes of two agents each.
    fn take(&mut self, store: &Store, tenant: u64, kept: &[&Agent]) {
        for turn in 0..Self::EACH {
            let prefix = format!("pair-{tenant}-{turn}/");
            for agent in ["a", "b"] {
                let agent = store.agent(&format!("{prefix}{agent}")).unwrap();
                agent.append(NewEntry::user("one of two")).unwrap();
            }
            let agent = kept[turn as usize % kept.len()];
            let mut batch = store.batch();
            let text = format!("{} to stable storage", agent.name());
            batch.append(agent, NewEntry::user(&text)).durability(Durability::Sync);
            self.append.push(timed(|| batch.commit().unwrap()));
            let small = store.agent(&crowd_name(tenant, turn)).unwrap();
            self.forget.push(timed(|| small.forget().unwrap()));
            self.prefix.push(timed(|| store.forget_prefix(&prefix).unwrap()));
        }
    }

    fn print(&mut self, table: &mut Table) {
        let [append, forget, prefix] =
            [&mut self.append, &mut self.forget, &mut self.prefix].map(|all| median(all));
        table.row("an append at Sync, by turns, median", append, "us");
        table.row("forgetting one agent, by turns, median", forget, "us");
        table.row("forgetting a prefix of two, by turns, median", prefix, "us");
        table.at_most("the latter by the former", prefix / forget, "", PREFIX_BY_FORGET);
    }
}

/// Loads of agents that are in memory.
fn loads_of(store: &Store, agents: &[&Agent]) -> Run {
    let mut run = Run::new();
    for agent in agents.iter().cycle().take(agents.len() * 10) {
        let start = Instant::now();
        load(store, agent.name(), LATEST);
        run.latency.record(start.elapsed().as_nanos() as u64).unwrap();
    }
    run
}
