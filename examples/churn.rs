//! What a store costs whose entries die as fast as they come: bytes written to the device for each
//! byte appended, bytes of disk for each live byte, the longest append, and how even the rate is.
//!
//! ```text
//! cargo run --release --example churn -- --live 2G --times 10 --entry 2500
//! cargo run --release --example churn -- --live 2G --times 10 --entry 1024
//! ```
//! The agents keep their latest 200 entries, by the store's default retention. First each of them
//! gets that many, in turn, so that from then on as much dies as is appended. Then two threads
//! append at `Buffer` to agents drawn by Zipf's law, and everything is measured over that stretch.
//!
//! `--live N` (bytes that are live), `--times N` (so many times that is appended), `--entry N`
//! (bytes, on average), `--keep N` (entries of an agent), `--skew S` (Zipf's exponent),
//! `--threads N`, `--rate N` (entries a second of each thread; 0: all it can), `--dir DIR`,
//! `--check` (fail if a bound is missed), `--no-limit` (leave out what follows).
//!
//! Behind it the same is done for as long without a store: what stalls there is the machine's.
//!
//! Bytes written are those that the device under the store has counted, which takes in the zeros
//! written ahead, footers, the file system's own, and whatever else uses the device: nothing else
//! should. Beside them is `write_bytes` of the process, which counts pages of the cache, whole, when
//! they become dirty. Both are taken after everything written has gone to the device.
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

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::ready::bytes_written;
use common::{Dice, text};
use memlog::{Agent, Kind, NewEntry, Retention, Stats, Store};
use support::disk::{Device, SAMPLE, allocated, flush_all, unlinked_and_mapped};
use support::watch::{Probe, Watch};
use support::{Args, Place, Table, bare, fill, mib, watch};

/// The bounds. Written: for each byte of payload appended. Disk: for each byte of payload live.
const WRITTEN: f64 = 2.2;
const DISK_AT_THE_END: f64 = 1.5;
const DISK_AT_MOST: f64 = 2.0;
const LONGEST_MS: f64 = 10.0;
const EVENNESS: f64 = 0.5;

/// Entries that a thread takes to append at a time.
const STRIDE: u64 = 64;

struct Flags {
    live: u64,
    times: f64,
    entry: u64,
    keep: u64,
    skew: f64,
    threads: u64,
    rate: f64,
}

impl Flags {
    fn read(args: &Args) -> Flags {
        Flags {
            live: args.size("--live", 2 << 30),
            times: args.number("--times", 10.0),
            entry: args.size("--entry", 1024).max(8),
            keep: args.size("--keep", 200).max(1),
            skew: args.number("--skew", 1.0),
            threads: args.size("--threads", 2).max(1),
            rate: args.number("--rate", 0.0),
        }
    }

    fn agents(&self) -> u64 {
        self.live.div_ceil(self.entry * self.keep).max(1)
    }

    /// Entries appended while it is measured.
    fn entries(&self) -> u64 {
        ((self.live as f64 * self.times / self.entry as f64) as u64).max(10 * STRIDE)
    }
}

fn main() -> ExitCode {
    let values = ["--live", "--times", "--entry", "--keep", "--skew", "--threads", "--rate"];
    let args = Args::read(&[&values[..], &["--dir"]].concat(), &["--check", "--no-limit"]);
    let flags = Flags::read(&args);
    let place = Place::new(&args);
    let dir = place.path("store");
    let retention = Retention::new().max_entries(flags.keep);
    let store = fill::options().retention(retention).open(&dir).unwrap();
    let agents: Vec<Agent> =
        (0..flags.agents()).map(|agent| store.agent(&fill::name(agent)).unwrap()).collect();
    let mut table = Table::default();
    println!("{} agents, each with its latest {} entries", agents.len(), flags.keep);
    let start = Instant::now();
    fill_up(&flags, &agents);
    store.sync().unwrap();
    table.row("filled in", start.elapsed().as_secs_f64(), "s");
    let seen = churn(&flags, &store, &agents, &dir, &place.path("probe"));
    let live = agents.iter().map(|agent| agent.usage().unwrap().live_bytes).sum();
    report(&mut table, &flags, &seen, live);
    store.close().unwrap();
    table.row("disk after the store is closed", mib(allocated(&dir)), "MiB");
    if !args.on("--no-limit") {
        without_a_store(&mut table, &flags, &seen, &place.path("bare"));
    }
    table.end(&args)
}

/// Sizes vary by a quarter around the average.
fn payload<'t>(text: &'t [u8], dice: &mut Dice) -> &'t [u8] {
    let quarter = text.len() as u64 / 5;
    &text[..(3 * quarter + dice.below(2 * quarter + 1)) as usize]
}

/// Text from which `payload` takes pieces of `flags.entry` bytes on average.
fn source(flags: &Flags) -> Vec<u8> {
    text((flags.entry * 5 / 4) as usize)
}

fn fill_up(flags: &Flags, agents: &[Agent]) {
    std::thread::scope(|scope| {
        for thread in 0..flags.threads {
            scope.spawn(move || {
                let (text, mut dice) = (source(flags), Dice::new(thread));
                let share = agents.iter().skip(thread as usize).step_by(flags.threads as usize);
                let mut share: Vec<&Agent> = share.collect();
                for _ in 0..flags.keep {
                    dice.shuffle(&mut share);
                    for agent in &share {
                        let entry = NewEntry::new(Kind::USER, payload(&text, &mut dice));
                        agent.append(entry).unwrap();
                    }
                }
            });
        }
    });
}

/// Draws agents by Zipf's law; which of them are drawn often has nothing to do with their names.
struct Zipf {
    cumulative: Vec<f64>,
    agents: Vec<u32>,
}

impl Zipf {
    fn new(agents: usize, skew: f64) -> Zipf {
        let mut sum = 0.0;
        let weigh = |rank: usize| {
            sum += (rank as f64).powf(-skew);
            sum
        };
        let cumulative = (1..=agents).map(weigh).collect();
        let mut agents: Vec<u32> = (0..agents as u32).collect();
        Dice::new(3).shuffle(&mut agents);
        Zipf { cumulative, agents }
    }

    fn draw(&self, dice: &mut Dice) -> usize {
        let share = (dice.roll() >> 11) as f64 / (1u64 << 53) as f64;
        let at = share * self.cumulative.last().unwrap();
        let rank = self.cumulative.partition_point(|sum| *sum <= at);
        self.agents[rank.min(self.agents.len() - 1)] as usize
    }
}

/// What the store tells of its space.
struct Space {
    pinned_bytes: u64,
    /// Written by compaction since the store was opened.
    compaction_bytes: u64,
    /// Zeros written ahead of commits since the store was opened, if the store tells.
    zero_bytes: Option<u64>,
}

/// The one place that reads those figures.
fn space(stats: &Stats) -> Space {
    Space {
        pinned_bytes: stats.pinned_bytes,
        compaction_bytes: stats.compaction_bytes,
        zero_bytes: None,
    }
}

/// Bytes of disk at a moment.
#[derive(Clone, Copy, Default)]
struct Used {
    files: u64,
    /// Unlinked, and still held by somebody's view.
    pinned: u64,
}

impl Used {
    fn now(store: &Store, dir: &Path) -> Used {
        let told = space(&store.stats()).pinned_bytes;
        Used { files: allocated(dir), pinned: told.max(unlinked_and_mapped(dir)) }
    }

    fn sum(self) -> u64 {
        self.files + self.pinned
    }
}

/// What was seen while it was measured.
struct Seen {
    watch: Watch,
    notices: watch::Notices,
    took: Duration,
    appended: u64,
    /// When each tenth of the entries was done.
    tenths: Vec<Duration>,
    used: Vec<Used>,
    device: Option<u64>,
    process: Option<u64>,
    compaction: u64,
    zeros: Option<u64>,
}

fn churn(flags: &Flags, store: &Store, agents: &[Agent], dir: &Path, probe: &Path) -> Seen {
    let zipf = Zipf::new(agents.len(), flags.skew);
    let device = Device::under(dir);
    let written = || {
        flush_all();
        (device.as_ref().map(|d| d.counters().written_bytes), bytes_written())
    };
    let before = (written(), space(&store.stats()));
    let origin = Instant::now();
    let probe = Probe::start(probe, origin);
    let (next, total, done) = (AtomicU64::new(0), flags.entries(), AtomicBool::new(false));
    let tenths = Mutex::new(vec![]);
    let work = Work { flags, agents, zipf: &zipf, next: &next, total, tenths: &tenths, origin };
    let (watch, appended, took, used) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(store, dir, &done));
        let work = &work;
        let writers: Vec<_> =
            (0..flags.threads).map(|t| scope.spawn(move || write(work, 100 + t))).collect();
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let took = origin.elapsed();
        done.store(true, Ordering::Relaxed);
        let mut all = Watch::new(origin);
        ended.iter().for_each(|(watch, _)| all.add(watch));
        let appended = ended.iter().map(|(_, bytes)| bytes).sum();
        (all, appended, took, sampler.join().unwrap())
    });
    let notices = probe.stop();
    store.sync().unwrap();
    let after = (written(), space(&store.stats()));
    let more = |after: Option<u64>, before: Option<u64>| Some(after? - before?);
    let mut tenths = tenths.into_inner().unwrap();
    tenths.sort();
    Seen {
        watch,
        notices,
        took,
        appended,
        tenths,
        used,
        device: more(after.0.0, before.0.0),
        process: more(after.0.1, before.0.1),
        compaction: after.1.compaction_bytes - before.1.compaction_bytes,
        zeros: more(after.1.zero_bytes, before.1.zero_bytes),
    }
}

/// What the writers share.
struct Work<'w> {
    flags: &'w Flags,
    agents: &'w [Agent],
    zipf: &'w Zipf,
    next: &'w AtomicU64,
    total: u64,
    tenths: &'w Mutex<Vec<Duration>>,
    origin: Instant,
}

/// A writer; gives what it saw and the bytes that it has appended.
fn write(work: &Work<'_>, seed: u64) -> (Watch, u64) {
    let (text, mut dice) = (source(work.flags), Dice::new(seed));
    let mut watch = Watch::new(work.origin);
    let mut bytes = 0;
    loop {
        let from = work.next.fetch_add(STRIDE, Ordering::Relaxed);
        if from >= work.total {
            return (watch, bytes);
        }
        for _ in 0..STRIDE.min(work.total - from) {
            let agent = &work.agents[work.zipf.draw(&mut dice)];
            let payload = payload(&text, &mut dice);
            watch.time(|| agent.append(NewEntry::new(Kind::USER, payload))).unwrap();
            bytes += payload.len() as u64;
        }
        let tenth = |entries: u64| entries * 10 / work.total;
        if tenth(from) != tenth((from + STRIDE).min(work.total)) {
            work.tenths.lock().unwrap().push(work.origin.elapsed());
        }
        if work.flags.rate > 0.0 {
            let due = Duration::from_secs_f64(watch.run.ops as f64 / work.flags.rate);
            std::thread::sleep(due.saturating_sub(work.origin.elapsed()));
        }
    }
}

/// Looks at the disk ten times a second.
fn sample(store: &Store, dir: &Path, done: &AtomicBool) -> Vec<Used> {
    let mut used = vec![];
    loop {
        let last = done.load(Ordering::Relaxed);
        used.push(Used::now(store, dir));
        if last {
            return used;
        }
        std::thread::sleep(SAMPLE);
    }
}

fn report(table: &mut Table, flags: &Flags, seen: &Seen, live: u64) {
    let (appended, seconds) = (seen.appended as f64, seen.took.as_secs_f64());
    table.row("live, payloads", mib(live), "MiB");
    table.row("appended, payloads", mib(seen.appended), "MiB");
    table.row("appended", mib(seen.appended) / seconds, "MiB/s");
    table.row("appended", seen.watch.run.ops as f64 / seconds, "entries/s");
    table.title("bytes written for each byte appended");
    let device = seen.device.or(seen.process).map_or(f64::NAN, |bytes| bytes as f64);
    let zeros = seen.zeros.unwrap_or(0) as f64;
    table.at_most("by the device, all in all", device / appended, "", WRITTEN);
    if let Some(process) = seen.process {
        table.row("by the process, as pages made dirty", process as f64 / appended, "");
    }
    table.row("of it by compaction", seen.compaction as f64 / appended, "");
    match seen.zeros {
        Some(_) => {
            table.row("of it zeros, ahead of commits", zeros / appended, "");
            table.row("without those zeros", (device - zeros) / appended, "");
        }
        None => println!("  (zeros written ahead are in it; the store does not tell how many)"),
    }
    table.title("bytes of disk for each live byte");
    let live = live as f64;
    let end = *seen.used.last().unwrap();
    let most = seen.used.iter().map(|used| used.sum()).max().unwrap() as f64;
    let pinned = seen.used.iter().map(|used| used.pinned).max().unwrap();
    let mean = seen.used.iter().map(|used| used.sum()).sum::<u64>() / seen.used.len() as u64;
    table.at_most("at the end", end.sum() as f64 / live, "", DISK_AT_THE_END);
    table.at_most("at most", most / live, "", DISK_AT_MOST);
    table.row("on average", mean as f64 / live, "");
    table.row("unlinked and still held, at most", mib(pinned), "MiB");
    table.title(&format!("appends at Buffer, {} threads", flags.threads));
    watch::print(table, "an append", &seen.watch, &seen.notices, Some(LONGEST_MS));
    table.title("entries a second, in each tenth of the run");
    let (slowest, fastest) = rates(seen);
    table.row("the slowest", slowest, "entries/s");
    table.row("the fastest", fastest, "entries/s");
    table.at_least("the slowest by the fastest", slowest / fastest, "", EVENNESS);
}

/// The same bytes at the same rate, as copies of payloads in plain files.
fn without_a_store(table: &mut Table, flags: &Flags, seen: &Seen, dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let work = bare::Work {
        threads: flags.threads,
        rate: seen.watch.run.ops as f64 / seen.took.as_secs_f64() / flags.threads as f64,
        time: seen.took,
        copied: seen.compaction as f64 / seen.appended as f64,
        most: flags.live / 2 * 3,
    };
    let text = source(flags);
    let (watch, notices) = bare::churn(&work, dir, |dice| payload(&text, dice));
    table.title("the same writes and copies for as long, without a store");
    table.row("appended", watch.run.ops as f64 / work.time.as_secs_f64(), "entries/s");
    watch::print(table, "an append", &watch, &notices, None);
}

fn rates(seen: &Seen) -> (f64, f64) {
    let entries = seen.watch.run.ops as f64 / seen.tenths.len() as f64;
    let mut before = Duration::ZERO;
    let rates = seen.tenths.iter().map(|at| {
        let took = at.saturating_sub(std::mem::replace(&mut before, *at));
        entries / took.as_secs_f64().max(1e-9)
    });
    let rates: Vec<f64> = rates.collect();
    let text: Vec<String> = rates.iter().map(|rate| format!("{:.0}", rate / 1e3)).collect();
    println!("    in thousands: {}", text.join(" "));
    (rates.iter().copied().fold(f64::MAX, f64::min), rates.iter().copied().fold(0.0, f64::max))
}
