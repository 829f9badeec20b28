//! Writers that are watched: how long each append took, and whose fault the longest were.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memlog::{Agent, Kind, NewEntry};

use super::fill::Payloads;
use super::{Table, ms};
use crate::common::{Dice, Run};

/// What counts as a stall.
pub(crate) const LONG: Duration = Duration::from_millis(10);
/// From when on the probe remembers something.
const SLOW: Duration = Duration::from_millis(3);
/// Operations between two looks at what the scheduler counted.
const LOOK: u64 = 1024;

/// An operation that took long. Times are since the beginning of the watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    /// For how long the thread could run and got no processor, at most.
    pub(crate) unscheduled: Duration,
}

/// One thread's operations.
pub(crate) struct Watch {
    origin: Instant,
    pub(crate) run: Run,
    pub(crate) stalls: Vec<Stall>,
    /// The longest operation that was no stall.
    calm: Duration,
    scheduler: Option<File>,
    waited: Duration,
}

impl Watch {
    /// To be made by the thread that is watched.
    pub(crate) fn new(origin: Instant) -> Watch {
        let scheduler = File::open("/proc/thread-self/schedstat").ok();
        let (run, stalls, zero) = (Run::new(), vec![], Duration::ZERO);
        let mut watch = Watch { origin, run, stalls, calm: zero, scheduler, waited: zero };
        watch.newly_waited();
        watch
    }

    pub(crate) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = work();
        let took = start.elapsed();
        self.run.latency.record(took.as_nanos() as u64).unwrap();
        self.run.ops += 1;
        if took >= LONG {
            let unscheduled = self.newly_waited().min(took);
            self.stalls.push(Stall { at: start - self.origin, took, unscheduled });
            return out;
        }
        self.calm = self.calm.max(took);
        if self.run.ops.is_multiple_of(LOOK) {
            self.newly_waited();
        }
        out
    }

    /// How long the thread has waited for a processor since the last look.
    fn newly_waited(&mut self) -> Duration {
        let mut text = [0; 64];
        let read = self.scheduler.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let text = std::str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or_default();
        let nanos = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
        let now = nanos.map_or(Duration::ZERO, Duration::from_nanos);
        let since = now.saturating_sub(self.waited);
        self.waited = now;
        since
    }

    pub(crate) fn add(&mut self, other: &Watch) {
        self.run.add(&other.run);
        self.calm = self.calm.max(other.calm);
        self.stalls.extend_from_slice(&other.stalls);
    }
}

/// Whose fault a stall was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A bare write at that moment took long as well.
    Disk,
    /// The thread could run and got no processor, or the probe did not.
    Processor,
    Store,
}

/// Something that the probe noticed.
struct Notice {
    from: Duration,
    to: Duration,
    cause: Cause,
}

/// A thread that writes 4 KiB to a file of its own every millisecond, without any flush: when that
/// takes long it was not the store's doing alone.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Notices>,
}

impl Probe {
    /// `path` is a file on the disk of the store, which is made if it is absent.
    pub(crate) fn start(path: &Path, origin: Instant) -> Probe {
        const PAGE: usize = 4096;
        const PAGES: u64 = 256;
        let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all_at(&vec![1; PAGE * PAGES as usize], 0).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (pause, page) = (Duration::from_millis(1), vec![2; PAGE]);
            let mut notices = Notices::default();
            for turn in 0u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let due = Instant::now() + pause;
                std::thread::sleep(pause);
                let woken = Instant::now();
                notices.note(origin, due, woken, Cause::Processor);
                file.write_all_at(&page, turn % PAGES * PAGE as u64).unwrap();
                notices.note(origin, woken, Instant::now(), Cause::Disk);
            }
            notices
        });
        Probe { stop, thread }
    }

    pub(crate) fn stop(self) -> Notices {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// All that the probe noticed.
#[derive(Default)]
pub(crate) struct Notices {
    slow: Vec<Notice>,
    longest_write: Duration,
    latest_waking: Duration,
}

impl Notices {
    fn note(&mut self, origin: Instant, from: Instant, to: Instant, cause: Cause) {
        let took = to.saturating_duration_since(from);
        let longest = match cause {
            Cause::Disk => &mut self.longest_write,
            _ => &mut self.latest_waking,
        };
        *longest = took.max(*longest);
        if took >= SLOW {
            self.slow.push(Notice { from: from - origin, to: to - origin, cause });
        }
    }

    /// A stall is the disk's or the scheduler's if at least half of it is.
    pub(crate) fn cause(&self, stall: &Stall) -> Cause {
        let (from, to) = (stall.at, stall.at + stall.took);
        let overlap = |cause: Cause| -> Duration {
            let notices = self.slow.iter().filter(|notice| notice.cause == cause);
            notices.map(|n| n.to.min(to).saturating_sub(n.from.max(from))).sum()
        };
        if overlap(Cause::Disk) * 2 >= stall.took {
            Cause::Disk
        } else if overlap(Cause::Processor).max(stall.unscheduled) * 2 >= stall.took {
            Cause::Processor
        } else {
            Cause::Store
        }
    }
}

/// Prints latencies, against a bound in ms if there is one, the longest stalls, and whose they were.
pub(crate) fn print(
    table: &mut Table,
    what: &str,
    watch: &Watch,
    notices: &Notices,
    bound: Option<f64>,
) {
    for (share, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
        table.row(&format!("{what}, {name}"), watch.run.us(share), "us");
    }
    let longest = watch.run.latency.max() as f64 / 1e6;
    let mut below = |what: &str, value: f64| match bound {
        Some(bound) => table.below(what, value, "ms", bound),
        None => table.row(what, value, "ms"),
    };
    below(&format!("{what}, the longest"), longest);
    let own = watch.stalls.iter().filter(|stall| notices.cause(stall) == Cause::Store);
    let own = own.map(|stall| stall.took).max().unwrap_or(watch.calm);
    below(&format!("{what}, the longest with no cause outside"), ms(own));
    for bound in [2u64, 5, 10] {
        let stalls = watch.run.latency.count_between(bound * 1_000_000, u64::MAX);
        table.row(&format!("{what}, of {bound} ms and more"), stalls as f64, "");
    }
    table.row("a bare write meanwhile, the longest", ms(notices.longest_write), "ms");
    let late = ms(notices.latest_waking);
    table.row("a sleeper that woke too late, the longest", late, "ms");
    let mut longest = watch.stalls.clone();
    longest.sort_by_key(|stall| std::cmp::Reverse(stall.took));
    for stall in longest.iter().take(8) {
        let whose = match notices.cause(stall) {
            Cause::Disk => "a bare write stalled too",
            Cause::Processor => "no processor was free",
            Cause::Store => "a bare write did not stall",
        };
        let (took, at, unscheduled) =
            (ms(stall.took), stall.at.as_secs_f64(), ms(stall.unscheduled));
        println!(
            "    {took:>7.1} ms at {at:>8.3} s: {whose} (without a processor {unscheduled:.1} ms)"
        );
    }
}

/// Threads that append entries at `Buffer` to random agents until they are stopped.
pub(crate) struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Watch>>,
    probe: Probe,
}

impl Busy {
    /// Each of the threads appends about `rate` entries a second; 0: as fast as it can.
    pub(crate) fn start(probe: &Path, agents: &[Agent], threads: u64, rate: f64) -> Busy {
        let origin = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let one = |thread: u64| {
            let (agents, stop) = (agents.to_vec(), Arc::clone(&stop));
            std::thread::spawn(move || keep_appending(&agents, &stop, origin, thread, rate))
        };
        let threads = (0..threads).map(one).collect();
        Busy { stop, threads, probe: Probe::start(probe, origin) }
    }

    pub(crate) fn stop(self) -> (Watch, Notices) {
        self.stop.store(true, Ordering::Relaxed);
        let mut watches = self.threads.into_iter().map(|thread| thread.join().unwrap());
        let mut all = watches.next().unwrap();
        watches.for_each(|watch| all.add(&watch));
        (all, self.probe.stop())
    }
}

fn keep_appending(
    agents: &[Agent],
    stop: &AtomicBool,
    origin: Instant,
    thread: u64,
    rate: f64,
) -> Watch {
    const BURST: u64 = 8;
    let mut watch = Watch::new(origin);
    let mut dice = Dice::new(1000 + thread);
    let mut payloads = Payloads::new(1024);
    while !stop.load(Ordering::Relaxed) {
        let agent = &agents[dice.below(agents.len() as u64) as usize];
        let entry = NewEntry::new(Kind::USER, payloads.of(agent, &[]));
        watch.time(|| agent.append(entry)).unwrap();
        if rate > 0.0 && watch.run.ops.is_multiple_of(BURST) {
            let due = Duration::from_secs_f64(watch.run.ops as f64 / rate);
            std::thread::sleep(due.saturating_sub(origin.elapsed()));
        }
    }
    watch
}
