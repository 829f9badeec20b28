//! Loads of the latest 50 entries of agents whose data are not in memory, after compaction, by
//! turns with bare reads of as many bytes from a like file.
//!
//! ```text
//! cargo run --release --example cold -- --agents 20000
//! cargo run --release --example cold -- --agents 2000 --loads 200
//! ```
//! Each agent gets 100 entries of 1 KiB, in turn, so that all of them are scattered over the log.
//! The store is compacted and closed, and its files leave the page cache. Then it is opened, and
//! random agents are loaded, no agent twice; that is done a few times over. The first load of each
//! time finds nothing in memory, the later ones parts of the indexes.
//!
//! `--agents N`, `--entries N` (of each), `--entry N` (bytes), `--latest N`, `--loads N` (each
//! time), `--times N`, `--clustered` (append agent by agent, as a control: no compaction can do
//! better), `--no-compact` (the other control), `--dir DIR`, `--check` (fail if a bound is missed).
//!
//! Reads are those that the device under the store has completed, looked up before a load and once
//! nothing is under way after it, so that read-ahead counts too. Others must leave the device alone.
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

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use common::{Dice, Run, text, touch};
use hdrhistogram::Histogram;
use memlog::Store;
use support::disk::{Counters, Device, allocated, bytes_read, evict, read_at_random};
use support::fill::{Shape, load, name};
use support::{Args, Place, Table, compact_all, fill, mib};

/// The bounds: of the p50 and the p99 to those of the bare reads, and of reads at the p99.
const P50: f64 = 2.0;
const P99: f64 = 6.0;
const READS: f64 = 3.0;

/// Bytes of a bare read: what 50 entries of 1 KiB take.
const BARE: usize = 52 << 10;
const PAGE: u64 = 4096;

fn main() -> ExitCode {
    let values = ["--agents", "--entries", "--entry", "--latest", "--loads", "--times", "--dir"];
    let args = Args::read(&values, &["--clustered", "--no-compact", "--check"]);
    let shape = Shape {
        agents: args.size("--agents", 20_000).max(1),
        entries: args.size("--entries", 100).max(1),
        bytes: args.size("--entry", 1024) as usize,
    };
    let place = Place::new(&args);
    let (dir, bare) = (place.path("store"), place.path("bare"));
    std::fs::create_dir_all(&bare).unwrap();
    let mut table = Table::default();
    println!("{} agents, {} MB", shape.agents, shape.logical() / 1_000_000);
    build(&args, &mut table, &dir, &shape);
    let file = bare.join("file");
    write_bare(&file, allocated(&dir).max(4 << 20));
    let mut seen = Seen::new(&dir);
    for time in 0..args.size("--times", 4) {
        evict(&dir).unwrap();
        evict(&bare).unwrap();
        let loads = args.size("--loads", 500).min(shape.agents);
        let latest = args.size("--latest", 50) as usize;
        seen.round(&dir, &file, &shape, Round { seed: time, loads, latest });
    }
    report(&mut table, &seen);
    table.end(&args)
}

fn build(args: &Args, table: &mut Table, dir: &Path, shape: &Shape) {
    let store = fill::options().open(dir).unwrap();
    let agents = fill::agents(&store, 0..shape.agents);
    let took = if args.on("--clustered") {
        fill::clustered(&store, &agents, shape)
    } else {
        fill::round_robin(&store, &agents, shape)
    };
    table.row("filled in", took.as_secs_f64(), "s");
    drop(agents);
    if !args.on("--no-compact") {
        let (took, calls) = compact_all(&store);
        table.row("compacted in", took.as_secs_f64(), "s");
        table.row("calls for it", calls as f64, "");
    }
    table.row("sealed segments", store.stats().segments as f64, "");
    store.close().unwrap();
    table.row("on disk", mib(allocated(dir)), "MiB");
}

/// A file of that many bytes, written from its beginning to its end.
fn write_bare(path: &Path, len: u64) {
    let file = File::create_new(path).unwrap();
    let text = text(1 << 20);
    for at in 0..len >> 20 {
        file.write_all_at(&text, at << 20).unwrap();
    }
    file.sync_all().unwrap();
}

#[derive(Clone, Copy)]
struct Round {
    seed: u64,
    loads: u64,
    latest: usize,
}

/// Latencies, and reads and bytes of the device, of one kind of operation.
struct Kind {
    run: Run,
    reads: Histogram<u64>,
    bytes: u64,
}

impl Kind {
    fn new() -> Kind {
        Kind { run: Run::new(), reads: Histogram::new(3).unwrap(), bytes: 0 }
    }

    /// Measures one operation.
    fn measure(&mut self, device: Option<&Device>, work: impl FnOnce()) {
        let counters = || device.map(Device::settled).unwrap_or_default();
        let (before, start) = (counters(), Instant::now());
        work();
        self.run.latency.record(start.elapsed().as_nanos() as u64).unwrap();
        let Counters { reads, read_bytes, .. } = counters();
        self.reads.record(reads - before.reads).unwrap();
        self.bytes += read_bytes - before.read_bytes;
        self.run.ops += 1;
    }

    fn mean_kib(&self) -> f64 {
        self.bytes as f64 / self.run.ops.max(1) as f64 / 1024.0
    }
}

struct Seen {
    device: Option<Device>,
    /// The first load after the store was opened, each time.
    first: Kind,
    cold: Kind,
    bare: Kind,
    hot: Run,
    /// Bytes that the process itself caused to be read by its cold loads.
    process: u64,
}

impl Seen {
    fn new(dir: &Path) -> Seen {
        Seen {
            device: Device::under(dir),
            first: Kind::new(),
            cold: Kind::new(),
            bare: Kind::new(),
            hot: Run::new(),
            process: 0,
        }
    }

    fn round(&mut self, dir: &Path, file: &Path, shape: &Shape, round: Round) {
        let mut dice = Dice::new(99 + round.seed);
        let mut agents: Vec<u64> = (0..shape.agents).collect();
        dice.shuffle(&mut agents);
        let names: Vec<String> = agents.into_iter().take(round.loads as usize).map(name).collect();
        let store = Store::open(dir).unwrap();
        let file = File::open(file).unwrap();
        read_at_random(&file).unwrap();
        let mut places = places(&file, &mut dice);
        let mut buffer = vec![0; BARE];
        let device = self.device.as_ref();
        for (turn, name) in names.iter().enumerate() {
            let Some(place) = places.pop() else { break };
            let mut read = || {
                self.bare.measure(device, || {
                    file.read_exact_at(&mut buffer, place).unwrap();
                    touch(&buffer);
                });
            };
            if turn % 2 == 0 {
                read();
            }
            let before = bytes_read().unwrap_or(0);
            let kind = if turn == 0 { &mut self.first } else { &mut self.cold };
            kind.measure(device, || _ = load(&store, name, round.latest));
            self.process += bytes_read().unwrap_or(0) - before;
            if turn % 2 == 1 {
                read();
            }
        }
        self.hot(&store, &names, round.latest);
        store.close().unwrap();
    }

    /// The same agents again, as long as they are in memory.
    fn hot(&mut self, store: &Store, names: &[String], latest: usize) {
        for name in names.iter().cycle().take(names.len() * 5) {
            let start = Instant::now();
            load(store, name, latest);
            self.hot.latency.record(start.elapsed().as_nanos() as u64).unwrap();
        }
    }
}

/// Page-aligned places for bare reads in random order, none of which touches another.
fn places(file: &File, dice: &mut Dice) -> Vec<u64> {
    let stride = (BARE as u64).next_multiple_of(PAGE);
    let len = file.metadata().unwrap().len();
    let mut places: Vec<u64> =
        (0..len / stride).map(|at| at * stride).filter(|at| at + BARE as u64 <= len).collect();
    dice.shuffle(&mut places);
    places
}

fn report(table: &mut Table, seen: &Seen) {
    table.title("latency");
    for (what, run) in [("a bare read of 52 KiB", &seen.bare.run), ("a cold load", &seen.cold.run)]
    {
        table.row(&format!("{what}, p50"), run.us(0.5), "us");
        table.row(&format!("{what}, p99"), run.us(0.99), "us");
    }
    let ratio = |share: f64| seen.cold.run.us(share) / seen.bare.run.us(share);
    table.below("a cold load by a bare read, p50", ratio(0.5), "", P50);
    table.below("a cold load by a bare read, p99", ratio(0.99), "", P99);
    table.row("the first load after opening, p50", seen.first.run.us(0.5), "us");
    table.row("a hot load, p50", seen.hot.us(0.5), "us");
    table.row("a hot load, p99", seen.hot.us(0.99), "us");
    table.title("reads of the device");
    if seen.device.is_none() {
        println!("  no counters of the device here");
        return;
    }
    let at = |kind: &Kind, share: f64| kind.reads.value_at_quantile(share) as f64;
    table.row("a bare read, p99", at(&seen.bare, 0.99), "reads");
    table.row("a cold load, p50", at(&seen.cold, 0.5), "reads");
    table.at_most("a cold load, p99", at(&seen.cold, 0.99), "reads", READS);
    table.row("a cold load, at most", seen.cold.reads.max() as f64, "reads");
    table.row("the first load after opening, at most", seen.first.reads.max() as f64, "reads");
    table.row("read for a bare read, on average", seen.bare.mean_kib(), "KiB");
    table.row("read for a cold load, on average", seen.cold.mean_kib(), "KiB");
    let loads = (seen.cold.run.ops + seen.first.run.ops).max(1) as f64;
    table.row("so the process itself says", seen.process as f64 / loads / 1024.0, "KiB");
}
