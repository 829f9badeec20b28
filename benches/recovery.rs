//! Recovery by the length of the tail: a store is opened whose files are as a killed process left
//! them, and a damaged one is repaired into a new directory; beside reading and checking the bytes
//! that were not sealed, and writing as many.
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

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Run, text, workdir};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use memlog::{Durability, Kind, Maintenance, NewEntry, Options, Store};

const AGENTS: u64 = 1000;
const ENTRY: usize = 1024;
/// What is copied at once.
const CHUNK: usize = 64 << 10;
/// Lengths of the tail in MiB, and how much of it was synced.
const TAILS: [(u64, u64); 4] = [(1, 0), (16, 0), (64, 48), (64, 0)];

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).durability(Durability::Buffer)
}

/// Leaves the files of a store in `image` as they were in the midst of it: all that was appended is
/// in the file, and of `mib` the first `synced` were synced.
fn crash(dir: &Path, image: &Path, mib: u64, synced: u64) {
    let _ = std::fs::remove_dir_all(dir);
    let store = options().max_unsynced(256 << 20).segment_bytes(128 << 20).open(dir).unwrap();
    let agents: Vec<_> = (0..AGENTS).map(|i| store.agent(&format!("agent-{i}")).unwrap()).collect();
    let text = text(ENTRY);
    let count = |mib: u64| (mib << 20) / (ENTRY as u64 + 100);
    for i in 0..count(mib) {
        agents[(i % AGENTS) as usize].append(NewEntry::new(Kind::USER, &text)).unwrap();
        if i + 1 == count(synced) {
            store.sync().unwrap();
        }
    }
    let mut last = store.batch();
    last.append(&agents[0], NewEntry::user("the last one"));
    last.durability(Durability::Write).commit().unwrap();
    copy_files(dir, image, 0);
    store.close().unwrap();
}

/// Copies the files of a directory. Of each the first `synced` bytes are on the disk then, and the
/// rest is in the system's memory, as what was killed had left them. What is zero takes no room.
fn copy_files(from: &Path, to: &Path, synced: usize) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let copy = std::fs::File::create(to.join(path.file_name().unwrap())).unwrap();
        copy.set_len(bytes.len() as u64).unwrap();
        let (before, behind) = bytes.split_at(synced.min(bytes.len()));
        write_chunks(&copy, before, 0);
        copy.sync_all().unwrap();
        write_chunks(&copy, behind, before.len() as u64);
    }
}

fn write_chunks(file: &std::fs::File, bytes: &[u8], at: u64) {
    for (chunk, at) in bytes.chunks(CHUNK).zip((at..).step_by(CHUNK)) {
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(chunk, at).unwrap();
        }
    }
}

/// Reads and checks `bytes`, and writes those of them that were not synced, with a flush.
fn limit(dir: &Path, bytes: u64, unsynced: u64) -> Duration {
    let (from, to) = (dir.join("from"), dir.join("to"));
    std::fs::write(&from, text(bytes as usize)).unwrap();
    let _ = std::fs::remove_file(&to);
    let start = Instant::now();
    let read = std::fs::read(&from).unwrap();
    std::hint::black_box(crc32fast::hash(&read));
    std::fs::write(&to, &read[..unsynced as usize]).unwrap();
    std::fs::File::open(&to).unwrap().sync_all().unwrap();
    start.elapsed()
}

fn opened(dir: &Path) -> Duration {
    let start = Instant::now();
    let store: Store = options().open(dir).unwrap();
    let took = start.elapsed();
    let report = store.recovery_report();
    assert!(report.frames_kept > 0 && report.damage.is_empty(), "{report:?}");
    store.close().unwrap();
    took
}

fn repaired(from: &Path, to: &Path) -> Duration {
    let _ = std::fs::remove_dir_all(to);
    let start = Instant::now();
    let report = options().repair(from, to).unwrap();
    let took = start.elapsed();
    assert!(report.entries > 0, "{report:?}");
    took
}

fn recovery(c: &mut Criterion, base: &Path) {
    let (dir, image, work) = (base.join("store"), base.join("image"), base.join("work"));
    let mut group = c.benchmark_group("recovery");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(10)).measurement_time(Duration::from_millis(500));
    for (mib, synced) in TAILS {
        let what = format!("{mib} MiB, {synced} of them synced");
        let mut made = false;
        let mut make = || {
            if !std::mem::replace(&mut made, true) {
                crash(&dir, &image, mib, synced);
            }
        };
        group.throughput(Throughput::Bytes(mib << 20));
        let (mut open, mut repair, mut bare) = (Run::new(), Run::new(), Run::new());
        group.bench_function(BenchmarkId::new("open", &what), |b| {
            make();
            b.iter_custom(|iters| {
                open.timed(iters, || {
                    copy_files(&image, &work, (synced << 20) as usize);
                    opened(&work)
                })
            });
        });
        group.bench_function(BenchmarkId::new("repair", &what), |b| {
            make();
            b.iter_custom(|iters| repair.timed(iters, || repaired(&image, &work)));
        });
        group.bench_function(BenchmarkId::new("limit", &what), |b| {
            let (bytes, unsynced) = (mib << 20, (mib - synced) << 20);
            b.iter_custom(|iters| bare.timed(iters, || limit(base, bytes, unsynced)));
        });
        eprintln!(
            "  {what}: open p50 {:.1} ms, repair {:.1} ms, read, crc32, write and flush {:.1} ms",
            open.us(0.5) / 1e3,
            repair.us(0.5) / 1e3,
            bare.us(0.5) / 1e3
        );
    }
    group.finish();
}

fn main() {
    let dir = workdir();
    let mut criterion = Criterion::default().configure_from_args();
    recovery(&mut criterion, dir.path());
    criterion.final_summary();
}
