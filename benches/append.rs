//! Appends of a turn at each durability from 1 to 64 threads, by turns with the machine's own limit
//! for the same work; and from one thread that awaits as many at a time.
//!
//! `Sync` is measured in bursts that fit into a segment filled with zeros ahead, the others in
//! bursts that stay below the point where the store slows appenders down to the disk. Latencies
//! and ratios go to stderr: the median over the samples, each right beside its limit.
//!
//! `MEMLOG_BENCH_DIR` says where the store goes; `MEMLOG_BENCH_THREADS=1,64` which numbers of
//! threads are tried.
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
use std::time::Duration;

use common::group::{WAYS, Waiting, commits};
use common::limits::{ZeroFile, encode};
use common::ready::Ready;
use common::{Run, TURN, median, text, workdir};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use memlog::Durability;

const AGENTS: usize = 1000;
/// MiB of a burst that a filled segment holds.
const SYNC_BURST: u64 = 40;
/// MiB of a burst that the store need not pace.
const BURST: u64 = 28;
/// Durable appends of one thread in a burst: half a second, which is enough.
const SYNC_ALONE: u64 = 4000;

fn threads() -> Vec<usize> {
    let given = std::env::var("MEMLOG_BENCH_THREADS").unwrap_or("1,4,16,64".into());
    given.split(',').map(|n| n.trim().parse().expect("MEMLOG_BENCH_THREADS=1,64")).collect()
}

/// The machine's own limit for a burst of appends.
struct Limit<'a> {
    zero: &'a ZeroFile,
    turn: &'a [u8],
    durability: Durability,
    threads: usize,
    /// One thread awaits as many appends instead.
    awaited: bool,
    way: Waiting,
}

impl<'a> Limit<'a> {
    /// The limit, with whatever way of waiting suits this machine best.
    fn new(zero: &'a ZeroFile, turn: &'a [u8], durability: Durability, threads: usize) -> Self {
        let way = Waiting::Event;
        let mut limit = Limit { zero, turn, durability, threads, awaited: false, way };
        if durability == Durability::Sync && threads > 1 {
            let mut best = 0.0;
            for way in WAYS {
                let mut runs: Vec<Run> =
                    (0..3).map(|_| commits(zero, way, turn, threads, 4000)).collect();
                runs.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
                runs[1].print(&format!("ideal group commit, {way:?}"), turn.len());
                if runs[1].rate() > best {
                    best = runs[1].rate();
                    limit.way = way;
                }
            }
        }
        limit
    }

    fn name(&self) -> &'static str {
        match self.durability {
            Durability::Sync if self.threads == 1 => "bare write + flush",
            Durability::Sync => "ideal group commit",
            Durability::Write => "one bare write a turn",
            _ => "bare writes of 64 KiB",
        }
    }

    fn run(&self, ops: u64) -> Run {
        let (zero, turn, threads) = (self.zero, self.turn, self.threads);
        match self.durability {
            Durability::Sync if threads == 1 => zero.flushes(turn, ops),
            Durability::Sync => commits(zero, self.way, turn, threads, ops),
            Durability::Write => zero.writes(turn, threads, ops),
            _ => zero.chunks(turn, threads, ops),
        }
    }

    /// Runs a burst; gives what `iters` operations take at that rate.
    fn run_burst(&self, iters: u64, burst: u64) -> Duration {
        let run = self.run(burst);
        self.zero.flush();
        at_that_rate(&run, iters)
    }
}

/// What `iters` operations take at the rate of a run: criterion asks for few when making ready
/// takes long, and few would say nothing about threads that work together.
fn at_that_rate(run: &Run, iters: u64) -> Duration {
    Duration::from_secs_f64(run.took.as_secs_f64() * iters as f64 / run.ops as f64)
}

/// What came of the engine and its limit, by turns.
struct Compared {
    engine: Run,
    limit: Run,
    ratios: Vec<f64>,
}

impl Compared {
    fn print(&mut self, limit: &Limit<'_>, what: &str) {
        if self.ratios.is_empty() {
            return;
        }
        self.limit.print(limit.name(), TURN);
        self.engine.print(what, TURN);
        eprintln!(
            "  memlog: {:.0} % of the limit's rate, {:.2} x its p50",
            median(&mut self.ratios) * 100.0,
            self.engine.us(0.5) / self.limit.us(0.5)
        );
    }
}

fn probe(zero: &ZeroFile, turn: &[u8], when: &str) {
    zero.flushes(turn, 200).print(&format!("bare write + flush, {when}"), turn.len());
}

/// The engine's bursts, each with one of the limit before it.
fn engine(
    b: &mut criterion::Bencher<'_>,
    ready: &mut Ready,
    limit: &Limit<'_>,
    out: &mut Compared,
) {
    let sync = limit.durability == Durability::Sync;
    let mut burst = ready.burst(if sync { SYNC_BURST } else { BURST });
    if sync && limit.threads == 1 {
        burst = burst.min(SYNC_ALONE);
    }
    b.iter_custom(|iters| {
        ready.refresh(burst);
        let bare = limit.run(burst);
        limit.zero.flush();
        let run = match limit.awaited {
            true => ready.run_awaited(limit.threads, burst),
            false => ready.run(limit.threads, burst),
        };
        out.ratios.push(run.rate() / bare.rate());
        out.engine.add(&run);
        out.limit.add(&bare);
        at_that_rate(&run, iters)
    });
}

fn at_durability(c: &mut Criterion, dir: &Path, durability: Durability, name: &str) {
    let turn = text(TURN);
    let zero = ZeroFile::new(dir, "zero", 64 << 20);
    let store = dir.join(name);
    // Made when the first benchmark asks for it: it takes a while.
    let mut ready: Option<Ready> = None;
    let mut group = c.benchmark_group(format!("append/{name}"));
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(1000))
        .throughput(Throughput::ElementsAndBytes { elements: 1, bytes: TURN as u64 });
    for threads in threads() {
        let mut limit: Option<Limit<'_>> = None;
        let (mut out, ran) =
            (Compared { engine: Run::new(), limit: Run::new(), ratios: vec![] }, &mut false);
        group.bench_function(BenchmarkId::new("memlog", threads), |b| {
            let limit = limit.get_or_insert_with(|| {
                eprintln!();
                probe(&zero, &turn, "before");
                Limit::new(&zero, &turn, durability, threads)
            });
            let ready = ready.get_or_insert_with(|| Ready::new(&store, durability, AGENTS, TURN));
            *ran = true;
            engine(b, ready, limit, &mut out);
        });
        if let (Some(limit), true) = (&limit, *ran) {
            out.print(limit, &format!("memlog, {name}, {threads} threads"));
            probe(&zero, &turn, "after");
        }
        group.bench_function(BenchmarkId::new("limit", threads), |b| {
            let new = || Limit::new(&zero, &turn, durability, threads);
            let limit = limit.get_or_insert_with(new);
            let alone = durability == Durability::Sync && threads == 1;
            let burst = if alone { SYNC_ALONE / 8 } else { (BURST << 20) / TURN as u64 };
            b.iter_custom(|iters| limit.run_burst(iters, burst));
        });
    }
    // Below `Sync` nobody has anything to wait for, and alone a task waits as a thread does.
    let awaits = |tasks: &usize| durability == Durability::Sync && *tasks >= 16;
    for tasks in threads().into_iter().filter(awaits) {
        let mut out = Compared { engine: Run::new(), limit: Run::new(), ratios: vec![] };
        let mut limit: Option<Limit<'_>> = None;
        group.bench_function(BenchmarkId::new("memlog awaited", tasks), |b| {
            let limit = limit.get_or_insert_with(|| {
                let limit = Limit::new(&zero, &turn, durability, tasks);
                Limit { awaited: true, ..limit }
            });
            let ready = ready.get_or_insert_with(|| Ready::new(&store, durability, AGENTS, TURN));
            engine(b, ready, limit, &mut out);
        });
        if let Some(limit) = &limit {
            out.print(limit, &format!("memlog, {name}, {tasks} awaited"));
        }
    }
    group.finish();
}

fn append(c: &mut Criterion) {
    let dir = workdir();
    for (durability, name) in
        [(Durability::Sync, "sync"), (Durability::Write, "write"), (Durability::Buffer, "buffer")]
    {
        at_durability(c, dir.path(), durability, name);
    }
}

/// What encoding a turn cannot undercut.
fn encoding(c: &mut Criterion) {
    let turn = text(TURN);
    let mut group = c.benchmark_group("append/limit");
    group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: TURN as u64 });
    group.bench_function("copy and crc32", |b| {
        b.iter_custom(|iters| encode(&turn, iters).took);
    });
    group.finish();
}

criterion_group!(benches, append, encoding);
criterion_main!(benches);
