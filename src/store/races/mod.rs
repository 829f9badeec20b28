//! Whole stores under schedules that a model checker chooses: at each lock, atomic, call of the disk
//! and reading of the clock another thread may go on. The threads are the store's own and a few that
//! use it; the disk is the simulated one, whose clock runs by itself.
//!
//! What can go wrong here is what no test of real threads meets in a lifetime: a wake-up that comes
//! too early, a window of two instructions, a lock taken in the other order. A deadlock is a failure.
//! Values are seen in one order by all threads: weak memory is Loom's business (`crate::sync`), and
//! Miri's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

// The clients and the checker of `tests/history`, which know the crate by its name.
#[path = "../../../tests/history/check.rs"]
mod check;
#[path = "../../../tests/history/clients.rs"]
mod clients;
mod histories;
#[path = "../../../tests/history/model.rs"]
mod model;
#[path = "../../../tests/history/record.rs"]
mod record;
mod scenarios;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, UrwRandomScheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use super::gate::{Op, gated};
use crate::io::sim::SimDisk;
use crate::io::{Clock, Io};
use crate::{Agent, Durability, Error, ErrorKind, Kind, Maintenance, NewEntry, Options, Store};

const DIR: &str = "/mem";
/// Schedules that follow from one seed.
const BATCH: usize = 10;
/// Batches of a usual run, for each scenario.
const BATCHES: u64 = 30;
/// A thread that goes round for so long never ends.
const STEPS: usize = 3_000_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Runs a scenario under many schedules: `MEMLOG_BATCHES` of ten, or for `MEMLOG_SECONDS`, from the
/// seed `MEMLOG_SEED` on. A failure prints the seed of its batch.
fn explore(name: &str, scenario: fn()) {
    let first = number("MEMLOG_SEED");
    let seconds = number("MEMLOG_SECONDS");
    let batches = number("MEMLOG_BATCHES").unwrap_or(if first.is_some() { 1 } else { BATCHES });
    let clock = crate::io::disk::system(0o600).clock;
    let started = clock.monotonic();
    let elapsed = || clock.monotonic().saturating_sub(started);
    let mut explored = 0;
    for seed in first.unwrap_or(1).. {
        let over = match seconds {
            Some(seconds) => elapsed() >= Duration::from_secs(seconds),
            None => explored >= batches,
        };
        if over {
            break;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run_batch(seed, scenario))) {
            eprintln!("{name}: a schedule failed; to repeat it: MEMLOG_SEED={seed}");
            resume_unwind(panic);
        }
        explored += 1;
    }
    let (schedules, seconds) = (explored * BATCH as u64, elapsed().as_secs_f64());
    println!("{name}: {schedules} schedules in {seconds:.1} s");
}

/// At random, by priorities with few changes (PCT), and at random by how much each has to do.
fn run_batch(seed: u64, scenario: fn()) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.silence_warnings = true;
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match seed % 4 {
        0 => Runner::new(UrwRandomScheduler::new_from_seed(mixed, BATCH), config).run(scenario),
        1 => Runner::new(PctScheduler::new_from_seed(mixed, 3, BATCH), config).run(scenario),
        2 => Runner::new(PctScheduler::new_from_seed(mixed, 10, BATCH), config).run(scenario),
        _ => Runner::new(RandomScheduler::new_from_seed(mixed, BATCH), config).run(scenario),
    };
}

/// One of `0..end`, as the schedule has it.
fn pick(end: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..end)
}

/// A clock that moves a little whenever it is read: the intervals of the store's threads pass.
struct Ticking(Arc<dyn Clock>, SimDisk);

impl Clock for Ticking {
    fn now(&self) -> u64 {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.1.advance(Duration::from_micros(200 << pick(6)));
        self.0.monotonic()
    }

    fn sleep(&self, time: Duration) {
        self.0.sleep(time);
        thread::yield_now();
    }
}

fn ticking(disk: &SimDisk, io: Io) -> Io {
    Io { clock: Arc::new(Ticking(Arc::clone(&io.clock), disk.clone())), ..io }
}

/// Small segments, and times that pass within a few turns.
fn options() -> Options {
    let options = Options::new().segment_bytes(256 << 10).max_unsynced(1 << 20);
    options.flush_interval(Duration::from_millis(5)).sync_interval(Duration::from_millis(20))
}

/// An empty disk, whose chances the schedule decides on.
fn disk() -> SimDisk {
    SimDisk::new(shuttle::rand::thread_rng().r#gen())
}

fn open(disk: &SimDisk, options: &Options) -> Store {
    options.open_with(ticking(disk, disk.io()), Path::new(DIR)).unwrap()
}

/// With a hook before each write, sync and punch.
fn open_gated(
    disk: &SimDisk,
    hook: impl Fn(Op, &Path) -> io::Result<()> + Send + Sync + 'static,
) -> Store {
    options().open_with(ticking(disk, gated(disk, hook)), Path::new(DIR)).unwrap()
}

/// What a disk has, to look at when the threads are gone.
fn reopened(disk: &SimDisk) -> Store {
    Options::new().maintenance(Maintenance::Manual).open_on(disk, DIR).unwrap()
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn(work)
}

/// The text of an entry says its agent, life and seq.
fn text(agent: &Agent, life: u64, seq: u64) -> String {
    format!("{} {life} {seq}", agent.name())
}

/// Appends what it expects to be the next entry.
fn append(agent: &Agent, seq: u64, durability: Durability) -> Result<(), Error> {
    append_large(agent, seq, durability, 0)
}

/// The same, with so many more bytes.
fn append_large(agent: &Agent, seq: u64, durability: Durability, more: usize) -> Result<(), Error> {
    let payload = format!("{}{}", text(agent, 0, seq), " ".repeat(more));
    let mut batch = agent.store().batch();
    batch.append(agent, NewEntry::new(Kind::USER, &payload)).expect_next(agent, seq);
    let receipt = batch.durability(durability).commit()?;
    assert_eq!(receipt.seqs(agent), seq..seq + 1);
    Ok(())
}

/// Reads all that a view shows: dense, each what was appended as that seq. Gives the next seq.
fn read_all(agent: &Agent) -> u64 {
    let view = agent.view().unwrap();
    let mut seq = view.floor();
    for entry in view.iter() {
        let entry = entry.unwrap();
        assert_eq!(entry.seq(), seq);
        assert_eq!(entry.text().unwrap().trim_end(), text(agent, 0, seq));
        seq += 1;
    }
    assert_eq!(seq, view.next_seq());
    seq
}

/// Reads all of both agents.
fn next_of_both(store: &Store) -> [u64; 2] {
    ["a0", "a1"].map(|name| read_all(&store.agent(name).unwrap()))
}

/// What may become of a call when the disk has failed.
fn is_of_a_failure(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Indeterminate | ErrorKind::Poisoned | ErrorKind::Io)
}
