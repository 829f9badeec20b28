//! Reads of a store as its entries arrived, and then compacted: the latest 50 entries of a random
//! agent, one random entry, a range, and a time; beside each the same bytes through a bare map, in
//! the order of arrival and agent by agent.
//!
//! `MEMLOG_BENCH_BYTES=2G` is the size meant (20,000 agents of 100 entries of about 1 KB);
//! the default is 512M, and there are as many agents as then have 100 entries each. Everything is
//! read once before, so checksums are verified and pages are mapped: hot. All bytes of the payloads
//! are made to come from memory, by reading one byte of each cache line. Latencies go to stderr.
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
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Dice, Run, size_from_env, text, touch, workdir};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memlog::{Agent, CompactOutcome, Durability, Entry, Kind, NewEntry, Options, Store, Verify};
use memmap2::{Advice, Mmap};

/// Entries of each agent.
const ENTRIES: usize = 100;
const LATEST: usize = 50;
const LARGEST: usize = 16_000;
/// Bytes an entry, about.
const AVERAGE: u64 = 1024;
/// What the flat file has between two entries, as the store has headers of frames and records.
const GAP: usize = 100;

/// The length of an entry as conversations have them: median 350 B, p90 2 KB, p99 12 KB.
fn entry_len(dice: &mut Dice) -> usize {
    let share = dice.below(1000);
    let (least, most) = match share {
        0..500 => (50, 350),
        500..900 => (350, 2000),
        900..990 => (2000, 12_000),
        _ => (12_000, LARGEST),
    };
    let along = dice.below(1 << 20) as f64 / f64::from(1 << 20);
    (least as f64 * (most as f64 / least as f64).powf(along)) as usize
}

/// When the entry of that number was said.
fn moment(number: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + number * 1000)
}

/// The same entries in a store and, in the same order, in a flat file.
struct Data {
    store: Store,
    agents: Vec<Agent>,
    flat: Mmap,
    /// Where each agent's entries lie in the flat file.
    places: Vec<Vec<(u64, u32)>>,
    bytes: u64,
}

impl Data {
    fn new(dir: &Path) -> Data {
        let agents = size_from_env("MEMLOG_BENCH_BYTES", 512 << 20) / AVERAGE / ENTRIES as u64;
        let started = Instant::now();
        let (places, bytes) = write(dir, agents.max(1) as usize);
        let flat = map(&dir.join("flat"));
        let store = Store::open(dir.join("store")).unwrap();
        let agents = (0..places.len()).map(|i| store.agent(&name(i)).unwrap()).collect();
        let data = Data { store, agents, flat, places, bytes };
        data.warm();
        let stats = data.store.stats();
        eprintln!(
            "{} agents, {} entries, {:.0} MB in {} segments, made in {:.1} s; resident agents take \
             {:.1} MB",
            data.agents.len(),
            data.agents.len() * ENTRIES,
            data.bytes as f64 / 1e6,
            stats.segments,
            started.elapsed().as_secs_f64(),
            stats.resident_bytes as f64 / 1e6,
        );
        data
    }

    /// Reads everything, and sees that store and file agree.
    fn warm(&self) {
        for (agent, places) in self.agents.iter().zip(&self.places) {
            let view = agent.view().unwrap();
            assert_eq!(view.next_seq() as usize, places.len() + 1);
            for (entry, (at, len)) in view.iter().zip(places) {
                assert!(entry.unwrap().payload() == self.flat(*at, *len), "store and file differ");
            }
        }
    }

    /// Compacts the store, and puts the entries of an agent beside each other in the flat file, too.
    fn compact(&mut self, dir: &Path) {
        let started = Instant::now();
        while self.store.compact().unwrap() != CompactOutcome::Done {}
        let path = dir.join("clustered");
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).unwrap());
        let mut end = 0;
        let mut places = self.places.clone();
        for (at, len) in places.iter_mut().flatten() {
            file.write_all(self.flat(*at, *len)).unwrap();
            file.write_all(&[0; GAP]).unwrap();
            *at = end;
            end += u64::from(*len) + GAP as u64;
        }
        file.flush().unwrap();
        self.places = places;
        self.flat = map(&path);
        self.warm();
        let segments = self.store.stats().segments;
        eprintln!("compacted in {:.1} s: {segments} segments", started.elapsed().as_secs_f64());
    }

    /// Opens the store anew, with that way to verify.
    fn reopen(&mut self, dir: &Path, verify: Verify) {
        self.store.close().unwrap();
        self.store = Options::new().verify(verify).open(dir.join("store")).unwrap();
        self.agents = (0..self.places.len()).map(|i| self.store.agent(&name(i)).unwrap()).collect();
        self.warm();
    }

    fn flat(&self, at: u64, len: u32) -> &[u8] {
        &self.flat[at as usize..at as usize + len as usize]
    }

    fn touch_flat(&self, agent: usize, entries: std::ops::Range<usize>) -> u64 {
        let places = &self.places[agent][entries];
        places.iter().map(|(at, len)| touch(self.flat(*at, *len))).fold(0, u64::wrapping_add)
    }
}

fn map(path: &Path) -> Mmap {
    let file = File::open(path).unwrap();
    // SAFETY: the file is this benchmark's own, and nobody writes to it any more.
    let map = unsafe { Mmap::map(&file).unwrap() };
    map.advise(Advice::Random).unwrap();
    map
}

fn name(agent: usize) -> String {
    format!("tenant-{}/user-{}/thread-{agent}", agent % 100, agent % 1000)
}

/// Writes store and flat file, agents in random order.
fn write(dir: &Path, agents: usize) -> (Vec<Vec<(u64, u32)>>, u64) {
    let store = Options::new().durability(Durability::Buffer).open(dir.join("store")).unwrap();
    let mut flat = BufWriter::with_capacity(1 << 20, File::create(dir.join("flat")).unwrap());
    let handles: Vec<_> = (0..agents).map(|i| store.agent(&name(i)).unwrap()).collect();
    let mut places = vec![Vec::with_capacity(ENTRIES); agents];
    let mut order: Vec<u32> = (0..agents * ENTRIES).map(|i| (i % agents) as u32).collect();
    let mut dice = Dice::new(7);
    dice.shuffle(&mut order);
    let text = text(2 * LARGEST);
    let (mut at, mut bytes) = (0, 0);
    for (number, agent) in order.into_iter().enumerate() {
        let agent = agent as usize;
        let len = entry_len(&mut dice);
        let from = dice.below(LARGEST as u64) as usize;
        let payload = &text[from..from + len];
        let entry = NewEntry::new(Kind::ASSISTANT, payload).at(moment(number as u64));
        handles[agent].append(entry).unwrap();
        flat.write_all(payload).unwrap();
        flat.write_all(&[0; GAP]).unwrap();
        places[agent].push((at, len as u32));
        at += (len + GAP) as u64;
        bytes += len as u64;
    }
    flat.flush().unwrap();
    store.close().unwrap();
    (places, bytes)
}

fn touch_entry(entry: memlog::Result<Entry<'_>>) -> u64 {
    touch(entry.unwrap().payload())
}

/// One thing to measure: given the data, a random agent and the dice, touches bytes.
type Work = fn(&Data, usize, &mut Dice) -> u64;

const LATEST_MEMLOG: Work = |data, agent, _| {
    let view = data.agents[agent].view().unwrap();
    view.latest(LATEST).map(touch_entry).fold(0, u64::wrapping_add)
};
const LATEST_MAP: Work = |data, agent, _| data.touch_flat(agent, ENTRIES - LATEST..ENTRIES);
const GET_MEMLOG: Work = |data, agent, dice| {
    let view = data.agents[agent].view().unwrap();
    let seq = dice.below(ENTRIES as u64) + 1;
    touch(view.get(seq).unwrap().unwrap().payload())
};
const GET_MAP: Work = |data, agent, dice| {
    let at = dice.below(ENTRIES as u64) as usize;
    data.touch_flat(agent, at..at + 1)
};
const RANGE_MEMLOG: Work = |data, agent, dice| {
    let view = data.agents[agent].view().unwrap();
    let from = dice.below((ENTRIES - 20) as u64) + 1;
    view.range(from..from + 20).map(touch_entry).fold(0, u64::wrapping_add)
};
const RANGE_MAP: Work = |data, agent, dice| {
    let at = dice.below((ENTRIES - 20) as u64) as usize;
    data.touch_flat(agent, at..at + 20)
};
const SINCE_MEMLOG: Work = |data, agent, _| {
    let view = data.agents[agent].view().unwrap();
    let half = moment((data.agents.len() * ENTRIES / 2) as u64);
    view.since(half).map(touch_entry).fold(0, u64::wrapping_add)
};
const VIEW_MEMLOG: Work = |data, agent, _| data.agents[agent].view().unwrap().next_seq();

/// What a store has been through when it is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum State {
    Arrived,
    Compacted,
    /// Compacted, and every read verifies.
    Verified,
}

/// The data, made when the first benchmark asks for it: it takes a while.
struct Stage {
    dir: tempfile::TempDir,
    data: Data,
    state: State,
}

impl Stage {
    fn at(stage: &mut Option<Stage>, state: State) -> &Data {
        let stage = stage.get_or_insert_with(|| {
            let dir = workdir();
            let data = Data::new(dir.path());
            Stage { dir, data, state: State::Arrived }
        });
        if state > State::Arrived && stage.state == State::Arrived {
            stage.data.compact(stage.dir.path());
            stage.state = State::Compacted;
        }
        if state > stage.state {
            stage.data.reopen(stage.dir.path(), Verify::Always);
            stage.state = state;
        }
        &stage.data
    }
}

fn bench(c: &mut Criterion, stage: &mut Option<Stage>, state: State, name: &str, work: Work) {
    let mut group = c.benchmark_group(match state {
        State::Arrived => "load",
        State::Compacted => "load, compacted",
        State::Verified => "load, compacted, verified each time",
    });
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut dice = Dice::new(11);
    let mut run = Run::new();
    group.bench_function(name, |b| {
        let data = Stage::at(stage, state);
        b.iter_custom(|iters| {
            let start = Instant::now();
            let mut last = start;
            for _ in 0..iters {
                let agent = dice.below(data.agents.len() as u64) as usize;
                std::hint::black_box(work(data, agent, &mut dice));
                let now = Instant::now();
                run.latency.record((now - last).as_nanos() as u64).unwrap();
                last = now;
            }
            run.ops += iters;
            run.took += last - start;
            last - start
        });
    });
    if run.ops > 0 {
        run.print(name, 0);
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    let mut stage = None;
    for state in [State::Arrived, State::Compacted] {
        for (name, work) in [
            ("latest 50/map", LATEST_MAP),
            ("latest 50/memlog", LATEST_MEMLOG),
            ("get/map", GET_MAP),
            ("get/memlog", GET_MEMLOG),
            ("range of 20/map", RANGE_MAP),
            ("range of 20/memlog", RANGE_MEMLOG),
            ("since half/memlog", SINCE_MEMLOG),
            ("view alone/memlog", VIEW_MEMLOG),
        ] {
            bench(c, &mut stage, state, name, work);
        }
    }
    for (name, work) in [("latest 50/memlog", LATEST_MEMLOG), ("get/memlog", GET_MEMLOG)] {
        bench(c, &mut stage, State::Verified, name, work);
    }
}

criterion_group!(benches, load);
criterion_main!(benches);
