//! Opening a store to the first load: after a clean close and after the process was killed, small
//! and with many agents; beside it reading and checking the bytes of the tail.
//!
//! `MEMLOG_BENCH_AGENTS=20000` makes the largest store smaller (default 1,000,000, ten entries each),
//! `MEMLOG_BENCH_TAIL=64M` the tail that is written before the kill longer (default 16M).
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

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Dice, Run, size_from_env, text, workdir};
use criterion::{Criterion, SamplingMode};
use memlog::{Durability, Kind, NewEntry, Options, Store};

/// Says that this process is the one that writes and dies: `DIR AGENTS BYTES`.
const CHILD: &str = "MEMLOG_BENCH_OPEN_CHILD";
const ENTRY: usize = 200;

fn name(agent: u64) -> String {
    format!("tenant-{}/user-{}/thread-{agent}", agent % 100, agent % 1000)
}

/// Writes `rounds` entries to each agent, in random order, and closes.
fn build(dir: &Path, agents: u64, rounds: u64) {
    let store = Options::new().durability(Durability::Buffer).open(dir).unwrap();
    let text = text(ENTRY);
    let mut order: Vec<u64> = (0..agents).collect();
    let mut dice = Dice::new(5);
    for _ in 0..rounds {
        dice.shuffle(&mut order);
        for agent in &order {
            let agent = store.agent(&name(*agent)).unwrap();
            agent.append(NewEntry::new(Kind::USER, &text)).unwrap();
        }
    }
    store.close().unwrap();
}

/// Opens, appends, and dies without a word.
fn write_and_die(task: &str) -> ! {
    let mut parts = task.rsplitn(3, ' ');
    let bytes: u64 = parts.next().unwrap().parse().unwrap();
    let agents: u64 = parts.next().unwrap().parse().unwrap();
    let store = Options::new().durability(Durability::Write).open(parts.next().unwrap()).unwrap();
    let text = text(ENTRY);
    let mut dice = Dice::new(std::process::id().into());
    for _ in 0..(bytes / ENTRY as u64).max(1) {
        let agent = store.agent(&name(dice.below(agents))).unwrap();
        let mut batch = store.batch();
        batch.append(&agent, NewEntry::new(Kind::USER, &text));
        batch.durability(Durability::Buffer).commit().unwrap();
    }
    store.agent(&name(0)).unwrap().append(NewEntry::user("the last one")).unwrap();
    std::process::abort();
}

fn kill_a_writer(dir: &Path, agents: u64, bytes: u64) {
    let task = format!("{} {agents} {bytes}", dir.display());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.env(CHILD, task).stdout(Stdio::null()).stderr(Stdio::null());
    let status = child.status().unwrap();
    assert!(!status.success(), "the writer was to die");
}

/// Opens, loads one agent, and gives the store and what that took.
fn open_and_load(dir: &Path, agent: u64) -> (Store, Duration) {
    let start = Instant::now();
    let store = Store::open(dir).unwrap();
    let view = store.agent(&name(agent)).unwrap().view().unwrap();
    let read: usize = view.latest(50).map(|entry| entry.unwrap().payload().len()).sum();
    let took = start.elapsed();
    assert!(read > 0, "the first load found nothing");
    (store, took)
}

struct Case {
    name: &'static str,
    agents: u64,
    tail: u64,
    dir: Option<PathBuf>,
}

impl Case {
    fn dir(&mut self, base: &Path) -> PathBuf {
        let (name, agents) = (self.name, self.agents);
        let made = self.dir.get_or_insert_with(|| {
            let dir = base.join(name);
            build(&dir, agents, if agents == 1 { 1 } else { 10 });
            dir
        });
        made.clone()
    }
}

fn open(c: &mut Criterion, base: &Path) {
    let tail = size_from_env("MEMLOG_BENCH_TAIL", 16 << 20);
    let most = size_from_env("MEMLOG_BENCH_AGENTS", 1_000_000);
    let mut cases = [
        Case { name: "one agent", agents: 1, tail: 1000, dir: None },
        Case { name: "many agents", agents: most.div_ceil(10), tail, dir: None },
        Case { name: "most agents", agents: most, tail, dir: None },
    ];
    let mut group = c.benchmark_group("open");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(500));
    for case in &mut cases {
        let (name, agents, tail) = (case.name, case.agents, case.tail);
        let mut dice = Dice::new(3);
        let mut run = Run::new();
        group.bench_function(format!("clean/{name}"), |b| {
            let dir = case.dir(base);
            b.iter_custom(|iters| {
                run.timed(iters, || {
                    let (store, took) = open_and_load(&dir, dice.below(agents));
                    store.close().unwrap();
                    took
                })
            });
        });
        report(&format!("clean, {name}"), &run);
        let mut run = Run::new();
        group.bench_function(format!("after a kill/{name}"), |b| {
            let dir = case.dir(base);
            b.iter_custom(|iters| {
                run.timed(iters, || {
                    kill_a_writer(&dir, agents, tail);
                    let (store, took) = open_and_load(&dir, dice.below(agents));
                    let report = store.recovery_report();
                    assert!(report.frames_kept > 0 && report.damage.is_empty());
                    store.close().unwrap();
                    took
                })
            });
        });
        report(&format!("after a kill, {name}"), &run);
    }
    let mut run = Run::new();
    group.bench_function("limit/read and crc32 of the tail", |b| {
        let path = base.join("tail");
        std::fs::write(&path, text(tail as usize)).unwrap();
        b.iter_custom(|iters| run.timed(iters, || read_and_check(&path)));
    });
    report("limit: read and crc32 of the tail", &run);
    group.finish();
}

fn report(name: &str, run: &Run) {
    if run.ops > 0 {
        run.print(name, 0);
    }
}

fn read_and_check(path: &Path) -> Duration {
    let start = Instant::now();
    let mut file = std::fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = crc32fast::Hasher::new();
    loop {
        let len = file.read(&mut buffer).unwrap();
        if len == 0 {
            break;
        }
        hasher.update(&buffer[..len]);
    }
    std::hint::black_box(hasher.finalize());
    start.elapsed()
}

fn main() {
    if let Ok(task) = std::env::var(CHILD) {
        write_and_die(&task);
    }
    let base = workdir();
    let mut criterion = Criterion::default().configure_from_args();
    open(&mut criterion, base.path());
    criterion.final_summary();
}
