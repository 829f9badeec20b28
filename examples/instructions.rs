//! Counts the instructions and the allocations of the hot paths. Unlike time they are the same
//! whatever else the machine does.
//!
//! ```text
//! cargo run --release --example instructions
//! ```
//! It needs `valgrind` and compares with `benches/instructions.txt`; it fails where a path takes
//! more than 2 % more instructions, or more allocations. `--write` writes that file anew, `--path P`
//! counts only paths with that in their names. The counts are those of one compiler, C library and
//! processor: on other machines write the file before a change, and compare after it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss
)]

#[path = "../benches/common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{TURN, text, touch, workdir};
use memlog::{Agent, CompactOutcome, Durability, Kind, Maintenance, NewEntry, Options};
use memlog::{Store, Verify};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
/// How much worse a count may be, in percent: places in memory differ a little from run to run.
const SLACK: f64 = 2.0;
/// Operations counted, after as many that are not.
const OPS: u64 = 2000;
const AGENTS: u64 = 200;
const ENTRIES: u64 = 100;
/// Bytes of an entry that is read.
const ENTRY: usize = 1024;

/// The system's allocator, and how often it was asked.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is measured: makes a store in a directory, and gives the operation.
type Make = fn(&Path) -> Box<dyn FnMut(u64)>;

const PATHS: [(&str, Make); 13] = [
    ("append of 2,500 B at Buffer", |dir| append(dir, Durability::Buffer, TURN)),
    ("append of 2,500 B at Write", |dir| append(dir, Durability::Write, TURN)),
    ("append of 2,500 B at Sync", |dir| append(dir, Durability::Sync, TURN)),
    ("append of 100 B at Buffer", |dir| append(dir, Durability::Buffer, 100)),
    ("batch of 4 agents at Buffer", batch),
    ("state set at Buffer", set),
    ("view alone", |dir| {
        read(dir, true, Verify::FirstTouch, |agent, _| agent.view().unwrap().next_seq())
    }),
    ("get", |dir| read(dir, false, Verify::FirstTouch, get)),
    ("get, compacted", |dir| read(dir, true, Verify::FirstTouch, get)),
    ("latest 50", |dir| read(dir, false, Verify::FirstTouch, latest)),
    ("latest 50, compacted", |dir| read(dir, true, Verify::FirstTouch, latest)),
    ("latest 50, compacted, verified", |dir| read(dir, true, Verify::Always, latest)),
    ("range of 20, compacted", |dir| read(dir, true, Verify::FirstTouch, range)),
];

fn open(dir: &Path, durability: Durability, verify: Verify) -> (Store, Vec<Agent>) {
    open_with(dir, durability, verify, 64 << 20)
}

fn open_with(
    dir: &Path,
    durability: Durability,
    verify: Verify,
    segment_bytes: u64,
) -> (Store, Vec<Agent>) {
    let options = Options::new().maintenance(Maintenance::Manual).durability(durability);
    let store =
        options.verify(verify).segment_bytes(segment_bytes).open(dir.join("store")).unwrap();
    let name = |i| format!("tenant-{}/user-{}/thread-{i}", i % 10, i % 100);
    let agents = (0..AGENTS).map(|i| store.agent(&name(i)).unwrap()).collect();
    (store, agents)
}

/// Segments begin small and grow: goes on until there is room for everything that is counted.
fn grow(store: &Store) {
    let (agent, filler) = (store.agent("filler").unwrap(), text(256 << 10));
    let mut full = 0;
    while full < 48 << 20 {
        let before = store.stats().active_bytes;
        agent.append(NewEntry::new(Kind::OBSERVATION, &filler)).unwrap();
        if store.stats().active_bytes < before {
            full = before;
        }
    }
    store.sync().unwrap();
}

fn append(dir: &Path, durability: Durability, bytes: usize) -> Box<dyn FnMut(u64)> {
    let (store, agents) = open(dir, durability, Verify::FirstTouch);
    grow(&store);
    let turn = text(bytes);
    Box::new(move |op| {
        let _ = &store;
        agents[(op % AGENTS) as usize].append(NewEntry::new(Kind::ASSISTANT, &turn)).unwrap();
    })
}

fn batch(dir: &Path) -> Box<dyn FnMut(u64)> {
    let (store, agents) = open(dir, Durability::Buffer, Verify::FirstTouch);
    grow(&store);
    let turn = text(ENTRY);
    Box::new(move |op| {
        let mut batch = store.batch();
        for i in 0..4 {
            batch.append(
                &agents[((op + i * 50) % AGENTS) as usize],
                NewEntry::new(Kind::USER, &turn),
            );
        }
        batch.commit().unwrap();
    })
}

fn set(dir: &Path) -> Box<dyn FnMut(u64)> {
    let (store, agents) = open(dir, Durability::Buffer, Verify::FirstTouch);
    grow(&store);
    Box::new(move |op| {
        let mut batch = store.batch();
        batch.set(&agents[(op % AGENTS) as usize], "cursor", b"0123456789abcdef");
        batch.commit().unwrap();
    })
}

fn read(
    dir: &Path,
    compacted: bool,
    verify: Verify,
    work: fn(&Agent, u64) -> u64,
) -> Box<dyn FnMut(u64)> {
    // Of one size, whatever the time: else they grow by the rate at which they are filled.
    let (store, agents) = open_with(dir, Durability::Buffer, verify, 1 << 20);
    let entry = text(ENTRY);
    for op in 0..AGENTS * ENTRIES {
        agents[(op % AGENTS) as usize].append(NewEntry::new(Kind::USER, &entry)).unwrap();
    }
    if compacted {
        while store.compact().unwrap() == CompactOutcome::More {}
    }
    store.close().unwrap();
    let (store, agents) = open(dir, Durability::Buffer, verify);
    // Hot: verified once.
    for agent in &agents {
        assert_eq!(agent.view().unwrap().iter().count() as u64, ENTRIES);
    }
    Box::new(move |op| {
        let _ = &store;
        black_box(work(&agents[(op * 7 % AGENTS) as usize], op));
    })
}

fn get(agent: &Agent, op: u64) -> u64 {
    touch(agent.view().unwrap().get(1 + op * 13 % ENTRIES).unwrap().unwrap().payload())
}

fn latest(agent: &Agent, _: u64) -> u64 {
    let view = agent.view().unwrap();
    view.latest(50).map(|entry| touch(entry.unwrap().payload())).fold(0, u64::wrapping_add)
}

fn range(agent: &Agent, op: u64) -> u64 {
    let (view, from) = (agent.view().unwrap(), 1 + op % (ENTRIES - 20));
    let entries = view.range(from..from + 20);
    entries.map(|entry| touch(entry.unwrap().payload())).fold(0, u64::wrapping_add)
}

/// Instructions are counted within this function only.
#[inline(never)]
fn measured(work: &mut dyn FnMut(u64), from: u64) {
    for op in from..from + OPS {
        work(op);
    }
    black_box(from);
}

/// The part that runs under valgrind: prints how many allocations there were.
fn count(name: &str, dir: &Path) {
    let (_, make) = PATHS.into_iter().find(|(path, _)| *path == name).unwrap();
    let mut work = make(dir);
    (0..OPS).for_each(&mut work);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    measured(&mut work, OPS);
    println!("{}", ALLOCATIONS.load(Ordering::Relaxed) - before);
}

/// Instructions and allocations of one operation.
#[derive(Clone, Copy)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

fn cost(name: &str) -> Result<Cost, String> {
    let dir = workdir();
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=instructions::measured*")
        .arg(program)
        .args(["--count", name])
        .arg(dir.path())
        .output()
        .map_err(|e| format!("cannot run valgrind, which this needs: {e}"))?;
    let text = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        return Err(format!("{name}: {text}"));
    }
    let collected = text.lines().find_map(|line| line.split("Collected : ").nth(1));
    let instructions: f64 = collected.and_then(|n| n.trim().parse().ok()).unwrap_or(0.0);
    if instructions == 0.0 {
        return Err(format!("{name}: valgrind counted nothing: {text}"));
    }
    let allocations = String::from_utf8_lossy(&out.stdout).trim().parse::<f64>();
    let allocations = allocations.map_err(|e| e.to_string())? / OPS as f64;
    Ok(Cost { instructions: instructions / OPS as f64, allocations })
}

/// The file's lines: a path, its instructions and its allocations, with tabs between.
fn baseline() -> BTreeMap<String, Cost> {
    let text = std::fs::read_to_string(BASELINE).unwrap_or_default();
    let line = |line: &str| {
        let mut parts = line.split('\t');
        let name = parts.next()?.to_owned();
        let mut number = || parts.next()?.parse().ok();
        Some((name, Cost { instructions: number()?, allocations: number()? }))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

fn compare(only: &str, write: bool) -> Result<bool, String> {
    let before = baseline();
    let mut lines = "# Instructions and allocations of one operation, counted by\n\
                     # cargo run --release --example instructions -- --write\n"
        .to_owned();
    let mut worse = false;
    println!("{:<34} {:>12} {:>12} {:>8} {:>12}", "", "instructions", "before", "", "allocations");
    for (name, _) in PATHS.into_iter().filter(|(name, _)| name.contains(only)) {
        let now = cost(name)?;
        lines += &format!("{name}\t{:.0}\t{:.2}\n", now.instructions, now.allocations);
        let Some(was) = before.get(name) else {
            println!("{name:<34} {:>12.0} {:>34.2}", now.instructions, now.allocations);
            continue;
        };
        let change = (now.instructions / was.instructions - 1.0) * 100.0;
        let bad = change > SLACK || now.allocations > was.allocations + 0.02;
        worse |= bad;
        println!(
            "{name:<34} {:>12.0} {:>12.0} {change:>+7.1}% {:>12.2}{}",
            now.instructions,
            was.instructions,
            now.allocations,
            if bad { "  worse" } else { "" }
        );
    }
    if write {
        std::fs::write(BASELINE, lines).map_err(|e| format!("{BASELINE}: {e}"))?;
    }
    Ok(write || !worse)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["--count", name, dir] => {
            count(name, Path::new(dir));
            return ExitCode::SUCCESS;
        }
        [] => compare("", false),
        ["--path", only] => compare(only, false),
        ["--write"] => compare("", true),
        _ => Err("see the head of the source for what flags there are".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
