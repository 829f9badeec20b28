//! Compaction and erasure: segments in the order of arrival clustered by agent, segments of which
//! half is dead rewritten, and one agent purged; beside reading, checking and writing the bytes that
//! compaction writes, with one flush.
//!
//! `MEMLOG_BENCH_COMPACTED=1G` is how much is written before (default 128M). Maintenance is manual:
//! what is measured is one thread that does nothing else, without a limit of its rate.
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

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dice, Run, size_from_env, text, workdir};
use criterion::{Criterion, SamplingMode, Throughput};
use memlog::{CompactOutcome, Durability, Kind, Maintenance, NewEntry, Options, Store};

const AGENTS: u64 = 1000;
const ENTRY: usize = 1024;

fn name(agent: u64) -> String {
    format!("tenant-{}/thread-{agent}", agent % 10)
}

/// A store whose agents got their entries by turns.
fn build(dir: &Path, bytes: u64) -> Store {
    let _ = std::fs::remove_dir_all(dir);
    let options = Options::new().maintenance(Maintenance::Manual).durability(Durability::Buffer);
    let store = options.segment_bytes(16 << 20).open(dir).unwrap();
    let agents: Vec<_> = (0..AGENTS).map(|i| store.agent(&name(i)).unwrap()).collect();
    let (text, mut dice) = (text(ENTRY), Dice::new(1));
    for _ in 0..bytes / ENTRY as u64 {
        let agent = &agents[dice.below(AGENTS) as usize];
        agent.append(NewEntry::new(Kind::USER, &text)).unwrap();
    }
    store.sync().unwrap();
    store
}

fn compact(store: &Store) {
    loop {
        match store.compact().unwrap() {
            CompactOutcome::Done => return,
            CompactOutcome::More => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What is done to a store before, and what is measured.
struct Case {
    name: &'static str,
    before: fn(&Store),
    work: fn(&Store),
}

const CASES: [Case; 3] = [
    Case { name: "cluster what arrived", before: |_| (), work: compact },
    Case {
        name: "rewrite what is half dead",
        before: |store| {
            compact(store);
            (0..AGENTS).step_by(2).for_each(|i| store.agent(&name(i)).unwrap().forget().unwrap());
        },
        work: compact,
    },
    Case {
        name: "purge one agent",
        before: |store| {
            compact(store);
            store.agent(&name(7)).unwrap().forget().unwrap();
        },
        work: |store| assert!(store.purge().unwrap().is_complete()),
    },
];

/// Reads `bytes`, checks them, and writes them into a new file, with one flush.
fn copy(dir: &Path, bytes: u64) -> Duration {
    let (from, to) = (dir.join("from"), dir.join("to"));
    let mut buffer = text(1 << 20);
    if std::fs::metadata(&from).map_or(0, |m| m.len()) < bytes {
        let file = File::create(&from).unwrap();
        (0..=bytes >> 20).for_each(|i| file.write_all_at(&buffer, i << 20).unwrap());
        file.sync_all().unwrap();
    }
    let _ = std::fs::remove_file(&to);
    let start = Instant::now();
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    let mut at = 0;
    while at < bytes {
        let len = buffer.len().min((bytes - at) as usize);
        from.read_exact_at(&mut buffer[..len], at).unwrap();
        std::hint::black_box(crc32fast::hash(&buffer[..len]));
        to.write_all_at(&buffer[..len], at).unwrap();
        at += len as u64;
    }
    to.sync_data().unwrap();
    start.elapsed()
}

fn compaction(c: &mut Criterion, dir: &Path) {
    let bytes = size_from_env("MEMLOG_BENCH_COMPACTED", 128 << 20);
    let mut group = c.benchmark_group("compaction");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(10)).measurement_time(Duration::from_millis(500));
    for case in CASES {
        let (mut run, mut limit) = (Run::new(), Run::new());
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(case.name, |b| {
            b.iter_custom(|iters| {
                let mut all = Duration::ZERO;
                for _ in 0..iters {
                    let store = build(&dir.join("store"), bytes);
                    (case.before)(&store);
                    store.sync().unwrap();
                    let before = store.stats().compaction_bytes;
                    let start = Instant::now();
                    (case.work)(&store);
                    let took = start.elapsed();
                    let written = store.stats().compaction_bytes - before;
                    all += took;
                    note(&mut run, took, written);
                    note(&mut limit, copy(dir, written.max(4096)), written);
                }
                all
            });
        });
        if run.ops > 0 {
            report(case.name, &run, &limit);
        }
    }
    group.finish();
}

/// Notes a piece of work; its operations are the bytes it wrote.
fn note(run: &mut Run, took: Duration, written: u64) {
    run.ops += written;
    run.took += took;
    run.latency.record(took.as_nanos() as u64).unwrap();
}

fn report(name: &str, run: &Run, limit: &Run) {
    let rate = |run: &Run| run.rate() / 1e6;
    eprintln!(
        "  {name}: p50 {:.1} ms, {:.0} MB/s written; read, crc32 and write of as much: p50 {:.1} ms, \
         {:.0} MB/s; {:.2} x the limit's p50",
        run.us(0.5) / 1e3,
        rate(run),
        limit.us(0.5) / 1e3,
        rate(limit),
        run.us(0.5) / limit.us(0.5)
    );
}

fn main() {
    let dir = workdir();
    let mut criterion = Criterion::default().configure_from_args();
    compaction(&mut criterion, dir.path());
    criterion.final_summary();
}
