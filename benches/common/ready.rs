//! A store made ready for a burst: its active segment is filled with zeros, and nothing runs in the
//! background.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::stream::{FuturesUnordered, StreamExt};
use memlog::{Agent, Durability, Kind, NewEntry, Options, Store};

use crate::common::{Run, crew, text};

/// The default of `Options::segment_bytes`.
const SEGMENT: u64 = 64 << 20;
/// What a burst leaves of a segment, for headers of frames and for the footer.
const MARGIN: u64 = 4 << 20;
/// What is written between two flushes while a store is made ready: small enough that the filling
/// of spares is not given up.
const STEP: u64 = 4 << 20;
/// Bytes of the name, header and checksums of an entry, roughly.
const OVERHEAD: u64 = 128;

/// A store, its agents and the turn that is appended.
pub(crate) struct Ready {
    pub(crate) store: Store,
    agents: Vec<Agent>,
    turn: Vec<u8>,
    durability: Durability,
    grown: bool,
}

impl Ready {
    pub(crate) fn new(dir: &Path, durability: Durability, agents: usize, bytes: usize) -> Self {
        let store = Options::new().durability(durability).open(dir).unwrap();
        let name = |i: usize| format!("tenant-{}/user-{}/thread-{i}", i % 10, i % 100);
        let agents = (0..agents.max(1)).map(|i| store.agent(&name(i)).unwrap()).collect();
        Ready { store, agents, turn: text(bytes), durability, grown: false }
    }

    /// Appends the turn to the next agent, with the store's durability.
    pub(crate) fn append(&self, op: u64) {
        let agent = &self.agents[op as usize % self.agents.len()];
        agent.append(NewEntry::new(Kind::ASSISTANT, &self.turn)).unwrap();
    }

    /// How many turns of a burst fit into a segment, at most `mib` of them.
    pub(crate) fn burst(&self, mib: u64) -> u64 {
        (mib << 20).min(SEGMENT - 2 * MARGIN) / (self.turn.len() as u64 + OVERHEAD)
    }

    /// Appends `ops` turns from `threads` threads, without making anything ready.
    pub(crate) fn run(&self, threads: usize, ops: u64) -> Run {
        crew(threads, ops, |_, op| self.append(op))
    }

    /// Appends `ops` turns from one thread that has `tasks` of them under way at any time, and awaits
    /// whichever is there first.
    pub(crate) fn run_awaited(&self, tasks: usize, ops: u64) -> Run {
        let task = |op: u64| {
            let agent = &self.agents[op as usize % self.agents.len()];
            let mut batch = self.store.batch();
            batch.append(agent, NewEntry::new(Kind::ASSISTANT, &self.turn));
            let (begun, commit) = (Instant::now(), batch.submit());
            async move {
                commit.await.unwrap();
                begun.elapsed()
            }
        };
        let mut run = Run::new();
        let start = Instant::now();
        block_on(async {
            let mut under_way = FuturesUnordered::new();
            for op in 0..ops {
                under_way.push(task(op));
                if under_way.len() >= tasks {
                    let took = under_way.next().await.unwrap();
                    run.latency.record(took.as_nanos() as u64).unwrap();
                }
            }
            while let Some(took) = under_way.next().await {
                run.latency.record(took.as_nanos() as u64).unwrap();
            }
        });
        (run.ops, run.took) = (ops, start.elapsed());
        run
    }

    /// Sees to it that `ops` turns fit into the active segment, that it is filled, and that nothing
    /// else goes on.
    pub(crate) fn refresh(&mut self, ops: u64) {
        if !self.grown {
            // Segments start small and grow with the rate; the first full one was not filled.
            for _ in 0..16 {
                if self.use_up() > SEGMENT - MARGIN {
                    break;
                }
            }
            self.quiet();
            self.use_up();
            self.grown = true;
        }
        let need = ops * (self.turn.len() as u64 + OVERHEAD) + MARGIN;
        if self.store.stats().active_bytes + need > SEGMENT {
            self.use_up();
        }
        self.quiet();
    }

    /// Appends until the store goes over to its next segment; gives how full the last one was.
    ///
    /// Spares are filled with zeros only where small groups were flushed of late, and segments do not
    /// follow each other within moments.
    fn use_up(&self) -> u64 {
        const MOMENT: Duration = Duration::from_millis(600);
        if self.durability == Durability::Sync {
            std::thread::sleep(MOMENT);
            (0..3).for_each(|op| self.append(op));
        }
        let mut full = self.store.stats().active_bytes;
        let mut batch = self.store.batch();
        let mut unsynced = 0;
        for op in 0.. {
            let agent = &self.agents[op % self.agents.len()];
            batch.append(agent, NewEntry::new(Kind::ASSISTANT, &self.turn));
            batch.durability(Durability::Buffer).commit().unwrap();
            unsynced += self.turn.len() as u64;
            if unsynced > STEP {
                self.store.sync().unwrap();
                unsynced = 0;
            }
            let now = self.store.stats().active_bytes;
            if now < full {
                break;
            }
            full = now;
        }
        self.store.sync().unwrap();
        full
    }

    /// Waits until everything is synced and this process neither writes nor works any more.
    pub(crate) fn quiet(&self) {
        const STILL: Duration = Duration::from_millis(300);
        self.store.sync().unwrap();
        let started = Instant::now();
        let (mut seen, mut since) = (work_done(), Instant::now());
        while since.elapsed() < STILL && started.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(20));
            let now = work_done();
            let moved = match (seen, now) {
                // One tick is what looking takes.
                (Some(seen), Some(now)) => now.0 != seen.0 || now.1 > seen.1 + 1,
                _ => started.elapsed() < Duration::from_secs(3),
            };
            if moved {
                (seen, since) = (now, Instant::now());
            }
        }
    }
}

/// What this process has written so far, in bytes, and how long it has worked, in ticks; only Linux
/// tells.
fn work_done() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may have spaces: the state, and ten fields before the times.
    let times = stat.rsplit(')').next()?.split_whitespace().skip(11).take(2);
    Some((bytes_written()?, times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()))
}

/// What this process has written so far; only Linux tells.
pub(crate) fn bytes_written() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}
