//! The workloads: what one measurement does with an engine, in a process of its own.

mod append;
mod churn;
mod fill;
mod mixed;
mod model;
mod open;
mod read;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Res;
use crate::engine::{Engine, Name, OpenSpec};
use crate::load::{Load, LoadSpec};
use crate::measure::Latencies;

/// What is measured, as flags name it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Appends without durability, 1 and 4 threads
    AppendBuffer,
    /// Appends on stable storage
    AppendSync,
    /// The latest 50 of an agent, everything in memory
    LoadHot,
    /// The latest 50 of an agent, nothing in memory
    LoadCold,
    /// One turn, everything in memory
    Get,
    /// Opening after a clean close, hot and cold, and after kill -9
    Open,
    /// Appends and truncations
    Churn,
    /// The latest 50 and a durable append, 1 and 16 threads
    Mixed,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::AppendBuffer,
        Kind::AppendSync,
        Kind::LoadHot,
        Kind::LoadCold,
        Kind::Get,
        Kind::Open,
        Kind::Churn,
        Kind::Mixed,
    ];

    /// Whether it needs a store that was filled before.
    pub fn needs_store(self) -> bool {
        !matches!(self, Kind::AppendBuffer | Kind::AppendSync | Kind::Churn)
    }
}

/// What a child process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    Fill {
        each: u64,
    },
    AppendBuffer {
        threads: u32,
        turns: usize,
    },
    AppendSync {
        threads: u32,
        seconds: f64,
    },
    LoadHot {
        loads: usize,
    },
    LoadCold {
        loads: usize,
    },
    Get {
        gets: usize,
    },
    Open {
        cold: bool,
    },
    /// Appends, and is killed by itself.
    Kill {
        turns: usize,
    },
    Churn {
        keep: u64,
        turns: usize,
    },
    Mixed {
        threads: u32,
        seconds: f64,
    },
    Verify,
}

/// All that a child process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub engine: Name,
    pub load: LoadSpec,
    pub open: OpenSpec,
    /// What the store has to hold; a file.
    pub model: PathBuf,
    pub work: Work,
    /// Differs from repetition to repetition.
    pub salt: u64,
}

/// Figures by their names.
pub type Figures = BTreeMap<String, f64>;

/// Entries that an agent is woken with.
const LATEST: u64 = 50;

impl Job {
    fn open(&self, load: &Load) -> Res<Box<dyn Engine>> {
        self.engine.open(&OpenSpec { agents: load.agents(), ..self.open.clone() })
    }

    /// Does it.
    pub fn run(&self) -> Res<Figures> {
        let load = Load::new(&self.load)?;
        match self.work {
            Work::Fill { each } => fill::fill(self, &load, each),
            Work::AppendBuffer { threads, turns } => append::buffer(self, &load, threads, turns),
            Work::AppendSync { threads, seconds } => append::sync(self, &load, threads, seconds),
            Work::LoadHot { loads } => read::hot(self, &load, loads),
            Work::LoadCold { loads } => read::cold(self, &load, loads),
            Work::Get { gets } => read::get(self, &load, gets),
            Work::Open { cold } => open::open(self, &load, cold),
            Work::Kill { turns } => open::kill(self, &load, turns),
            Work::Churn { keep, turns } => churn::churn(self, &load, keep, turns),
            Work::Mixed { threads, seconds } => mixed::mixed(self, &load, threads, seconds),
            Work::Verify => verify::verify(self, &load),
        }
    }
}

/// Figures from pairs.
fn figures<const N: usize>(pairs: [(&str, f64); N]) -> Figures {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What every distribution of times gives.
fn times(latencies: &Latencies) -> Figures {
    figures([
        ("p50_us", latencies.us(0.5)),
        ("p99_us", latencies.us(0.99)),
        ("longest_us", latencies.longest()),
        ("count", latencies.count() as f64),
    ])
}

/// Runs a body on some threads; gives all their latencies, and the time that the whole took.
fn crew<F>(threads: u32, body: F) -> Res<(Latencies, Duration)>
where
    F: Fn(u32, &mut Latencies) -> Res<()> + Sync,
{
    let barrier = std::sync::Barrier::new(threads as usize + 1);
    std::thread::scope(|scope| {
        let crew: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, body) = (&barrier, &body);
                scope.spawn(move || {
                    let mut latencies = Latencies::new();
                    barrier.wait();
                    body(thread, &mut latencies).map(|()| latencies)
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let mut all = Latencies::new();
        for thread in crew {
            match thread.join() {
                Ok(latencies) => all.merge(&latencies?),
                Err(_) => return Err("a thread panicked".into()),
            }
        }
        Ok((all, start.elapsed()))
    })
}
