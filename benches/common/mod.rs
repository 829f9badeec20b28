//! What the benchmarks share: turns, threads that work side by side, latencies, and the machine's
//! own limits for the same work.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]

pub(crate) mod group;
pub(crate) mod limits;
pub(crate) mod ready;
pub(crate) mod stream;

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tempfile::TempDir;

/// Bytes of a turn: what a user says, what the model answers, and a tool call between.
pub(crate) const TURN: usize = 2500;

/// Numbers that look random and are the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// Text of that many bytes.
pub(crate) fn text(len: usize) -> Vec<u8> {
    let mut dice = Dice::new(len as u64);
    (0..len).map(|_| b"etaoin shrdlu, cmfwypvbgk."[dice.below(26) as usize]).collect()
}

/// A directory for the run, removed afterwards: in `MEMLOG_BENCH_DIR`, or beside the program, which
/// is on a disk, as a temporary directory often is not.
pub(crate) fn workdir() -> TempDir {
    let beside = || std::env::current_exe().ok()?.parent().map(PathBuf::from);
    let given = std::env::var_os("MEMLOG_BENCH_DIR").map(PathBuf::from);
    let dir = given.or_else(beside).unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&dir).unwrap();
    tempfile::Builder::new().prefix("memlog-bench-").tempdir_in(dir).unwrap()
}

/// A size given in the environment, such as `512M`.
pub(crate) fn size_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        parse_size(&text).unwrap_or_else(|| panic!("{name}={text}: not a size such as 512M"))
    })
}

/// Reads a number with an optional `K`, `M` or `G`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let shift = match text.chars().last()?.to_ascii_uppercase() {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// What a piece of work took.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) ops: u64,
    pub(crate) took: Duration,
    /// Nanoseconds of each operation.
    pub(crate) latency: Histogram<u64>,
}

impl Run {
    pub(crate) fn new() -> Self {
        Run { ops: 0, took: Duration::ZERO, latency: Histogram::new(3).unwrap() }
    }

    pub(crate) fn add(&mut self, other: &Run) {
        self.ops += other.ops;
        self.took += other.took;
        self.latency.add(&other.latency).unwrap();
    }

    /// Does something so often, notes how long it says that each took, and gives the sum.
    pub(crate) fn timed(&mut self, iters: u64, mut once: impl FnMut() -> Duration) -> Duration {
        let mut all = Duration::ZERO;
        for _ in 0..iters {
            let took = once();
            self.latency.record(took.as_nanos() as u64).unwrap();
            all += took;
        }
        self.ops += iters;
        self.took += all;
        all
    }

    pub(crate) fn rate(&self) -> f64 {
        self.ops as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The latency in us that this share of operations stayed within.
    pub(crate) fn us(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    /// A line of figures; `bytes` an operation.
    pub(crate) fn print(&self, what: &str, bytes: usize) {
        eprintln!(
            "  {what:<34} {:>11.0}/s {:>8.1} MB/s   p50 {:>8.2}  p99 {:>8.2}  p99.9 {:>8.2}  \
             max {:>9.1} us",
            self.rate(),
            self.rate() * bytes as f64 / 1e6,
            self.us(0.5),
            self.us(0.99),
            self.us(0.999),
            self.latency.max() as f64 / 1e3,
        );
    }
}

/// Threads that do `ops` operations together, each as fast as it can. `work` is given the number
/// of its thread and that of the operation. All of them start at once.
pub(crate) fn crew(threads: usize, ops: u64, work: impl Fn(usize, u64) + Sync) -> Run {
    // Handing out in strides keeps the counter out of what is measured.
    let stride = (ops / (threads as u64 * 16)).clamp(1, 32);
    let (next, barrier) = (AtomicU64::new(0), Barrier::new(threads));
    let one = |thread: usize| {
        let mut latency = Vec::with_capacity((ops as usize / threads + 1) * 2);
        barrier.wait();
        let start = Instant::now();
        let mut last = start;
        loop {
            let from = next.fetch_add(stride, Ordering::Relaxed);
            if from >= ops {
                return (start, last, latency);
            }
            for op in from..(from + stride).min(ops) {
                work(thread, op);
                let now = Instant::now();
                latency.push((now - last).as_nanos() as u64);
                last = now;
            }
        }
    };
    let ended: Vec<_> = if threads == 1 {
        vec![one(0)]
    } else {
        std::thread::scope(|scope| {
            let one = &one;
            let spawned: Vec<_> = (0..threads).map(|t| scope.spawn(move || one(t))).collect();
            spawned.into_iter().map(|t| t.join().unwrap()).collect()
        })
    };
    let start = ended.iter().map(|e| e.0).min().unwrap();
    let end = ended.iter().map(|e| e.1).max().unwrap();
    let mut run = Run { ops, took: end - start, ..Run::new() };
    for nanos in ended.iter().flat_map(|e| &e.2) {
        run.latency.record(*nanos).unwrap();
    }
    run
}

/// Reads a word of each cache line, so that all of the bytes come from memory, and nothing else.
#[inline]
pub(crate) fn touch(bytes: &[u8]) -> u64 {
    let mut sum = 0u64;
    for line in bytes.chunks(64) {
        sum = sum.wrapping_add(u64::from(line[0]));
    }
    if let Some(last) = bytes.last() {
        sum = sum.wrapping_add(u64::from(*last));
    }
    black_box(sum)
}

/// The middle of some figures.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
