//! A store on the real disk for hours: trickles, bursts, rests, churn and forgetting, in turn, with a
//! row of figures for each minute and a plot of them at the end.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memlog::{Durability, Kind, NewEntry, Options, Retention, Store};

use crate::linux::rng::Rng;

#[derive(clap::Args, Clone, Debug)]
pub struct SoakArgs {
    /// Where the store is made. Default: the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long, default_value_t = 120)]
    minutes: u64,
    /// Where the rows go, and the plot beside them.
    #[arg(long, default_value = "soak.csv")]
    out: PathBuf,
}

/// Agents of the store, entries that each keeps, bytes of one.
const AGENTS: u64 = 2000;
const KEEPS: u64 = 200;
const BYTES: usize = 1000;
/// What one burst appends.
const BURST: u64 = 200_000;
/// The probes of latency, so often.
const PROBES: Duration = Duration::from_millis(50);

/// What happens in a minute.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Trickle,
    Burst,
    Rest,
    Churn,
    Forget,
}

/// The minutes of a cycle.
const CYCLE: [Phase; 10] = [
    Phase::Trickle,
    Phase::Trickle,
    Phase::Burst,
    Phase::Trickle,
    Phase::Rest,
    Phase::Rest,
    Phase::Churn,
    Phase::Churn,
    Phase::Forget,
    Phase::Rest,
];

/// Latencies of a minute, in microseconds.
#[derive(Default)]
struct Latencies {
    appends: Vec<u64>,
    loads: Vec<u64>,
}

pub fn run(args: &SoakArgs) -> bool {
    let place = crate::linux::place(args.dir.as_deref());
    let dir = place.path().join("store");
    let retention = Retention::new().max_entries(KEEPS);
    let options = Options::new().retention(retention).erase_within(Duration::from_secs(300));
    let store = options.open(&dir).unwrap();
    let ended = AtomicBool::new(false);
    let latencies = Mutex::new(Latencies::default());
    let mut rows = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| probe(&store, &ended, &latencies));
        let mut out = fs::File::create(&args.out).unwrap();
        writeln!(out, "{}", Row::HEAD).unwrap();
        let begun = Instant::now();
        let mut rng = Rng::of(&[1]);
        for minute in 1..=args.minutes {
            let phase = CYCLE[(minute - 1) as usize % CYCLE.len()];
            let until = begun + Duration::from_secs(60 * minute);
            live(&store, phase, until, &mut rng);
            let taken = std::mem::take(&mut *latencies.lock().unwrap());
            let row = Row::new(minute, phase, &store, &dir, taken);
            writeln!(out, "{row}").unwrap();
            println!("{row}");
            rows.push(row);
        }
        ended.store(true, Ordering::Relaxed);
    });
    let health = store.health();
    assert!(health.last_error.is_none() && !health.poisoned, "{health:?}");
    let closing = Instant::now();
    store.close().unwrap();
    println!("closed in {:?}", closing.elapsed());
    fs::write(args.out.with_extension("svg"), plot(&rows)).unwrap();
    let verified = options.open(&dir).unwrap().verify().unwrap();
    assert!(verified.is_empty(), "{verified:?}");
    true
}

fn name(rng: &mut Rng) -> String {
    format!("tenant-{}/agent-{}", rng.below(20), rng.below(AGENTS / 20))
}

fn append(store: &Store, rng: &mut Rng, durability: Durability, entries: u64) {
    let mut batch = store.batch();
    let payload = [b'x'; BYTES];
    for _ in 0..entries {
        let agent = store.agent(&name(rng)).unwrap();
        batch.append(&agent, NewEntry::new(Kind::ASSISTANT, &payload));
    }
    batch.durability(durability).commit().unwrap();
}

/// What is done until then.
fn live(store: &Store, phase: Phase, until: Instant, rng: &mut Rng) {
    let rest = |time: Duration| {
        std::thread::sleep(time.min(until.saturating_duration_since(Instant::now())));
    };
    match phase {
        Phase::Rest => {}
        Phase::Trickle => {
            while Instant::now() < until {
                append(store, rng, Durability::Sync, 2);
                rest(Duration::from_millis(40));
            }
        }
        Phase::Burst => {
            let mut left = BURST;
            while left > 0 && Instant::now() < until {
                append(store, rng, Durability::Buffer, 20);
                left -= 20;
            }
        }
        Phase::Churn => {
            while Instant::now() < until {
                append(store, rng, Durability::Write, 10);
                let agent = store.agent(&name(rng)).unwrap();
                let value = [b'v'; 300];
                store.batch().set(&agent, "scratch", &value).commit().unwrap();
                rest(Duration::from_millis(5));
            }
        }
        Phase::Forget => {
            for _ in 0..100 {
                store.agent(&name(rng)).unwrap().forget().unwrap();
            }
            store.forget_prefix(&format!("tenant-{}/", rng.below(20))).unwrap();
        }
    }
    rest(Duration::from_secs(60));
}

/// Appends durably and loads the latest 50 of some agent, now and then.
fn probe(store: &Store, ended: &AtomicBool, latencies: &Mutex<Latencies>) {
    let mut rng = Rng::of(&[2]);
    while !ended.load(Ordering::Relaxed) {
        let begun = Instant::now();
        append(store, &mut rng, Durability::Sync, 1);
        let appended = begun.elapsed();
        let begun = Instant::now();
        let view = store.agent(&name(&mut rng)).unwrap().view().unwrap();
        let bytes: usize = view.latest(50).map(|entry| entry.unwrap().payload().len()).sum();
        let loaded = begun.elapsed();
        std::hint::black_box(bytes);
        let mut all = latencies.lock().unwrap();
        all.appends.push(appended.as_micros() as u64);
        all.loads.push(loaded.as_micros() as u64);
        drop(all);
        std::thread::sleep(PROBES);
    }
}

/// The figures of a minute.
struct Row {
    minute: u64,
    phase: Phase,
    disk: u64,
    live: u64,
    segments: u64,
    maps: u64,
    anonymous: u64,
    appends: [u64; 3],
    loads: [u64; 3],
    written: u64,
    backlog: u64,
}

impl Row {
    const HEAD: &str = "minute,phase,disk_mb,live_mb,ratio,segments,maps,anonymous_mb,\
        append_p50_us,append_p99_us,append_max_us,load_p50_us,load_p99_us,load_max_us,\
        compacted_mb,backlog_mb";

    fn new(minute: u64, phase: Phase, store: &Store, dir: &Path, mut taken: Latencies) -> Row {
        let stats = store.stats();
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let store_maps = maps.lines().filter(|line| line.contains(&*dir.to_string_lossy()));
        Row {
            minute,
            phase,
            disk: used(dir),
            live: stats.live_bytes.max(1),
            segments: stats.segments,
            maps: store_maps.count() as u64,
            anonymous: anonymous(),
            appends: percentiles(&mut taken.appends),
            loads: percentiles(&mut taken.loads),
            written: stats.compaction_bytes,
            backlog: store.health().clustering_backlog_bytes,
        }
    }

    fn ratio(&self) -> f64 {
        self.disk as f64 / self.live as f64
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mb = |bytes: u64| bytes / 1_000_000;
        let ([a, b, c], [x, y, z]) = (self.appends, self.loads);
        write!(f, "{},{:?},{},{}", self.minute, self.phase, mb(self.disk), mb(self.live))?;
        write!(f, ",{:.2},{},{}", self.ratio(), self.segments, self.maps)?;
        write!(f, ",{},{a},{b},{c},{x},{y},{z}", mb(self.anonymous))?;
        write!(f, ",{},{}", mb(self.written), mb(self.backlog))
    }
}

/// Bytes that the files of a directory take of the disk.
fn used(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = fs::read_dir(dir).unwrap().filter_map(|file| file.ok()?.metadata().ok());
    files.map(|file| file.blocks() * 512).sum()
}

/// Anonymous memory of this process, in bytes.
fn anonymous() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// p50, p99 and the longest.
fn percentiles(all: &mut [u64]) -> [u64; 3] {
    all.sort_unstable();
    let at = |share: f64| all.get((all.len() as f64 * share) as usize).or(all.last()).copied();
    [at(0.5), at(0.99), all.last().copied()].map(Option::unwrap_or_default)
}

/// Lines over the minutes, one below the other, each in its own scale from 0.
fn plot(rows: &[Row]) -> String {
    type Line = (&'static str, fn(&Row) -> f64);
    const LINES: [Line; 6] = [
        ("disk / live", Row::ratio),
        ("segments", |row| row.segments as f64),
        ("maps", |row| row.maps as f64),
        ("anonymous memory, MB", |row| row.anonymous as f64 / 1e6),
        ("append at Sync, p99, us", |row| row.appends[1] as f64),
        ("latest 50, p99, us", |row| row.loads[1] as f64),
    ];
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 110.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n",
        WIDTH + 20.0,
        (HEIGHT + 30.0) * LINES.len() as f64
    );
    for (number, (what, figure)) in LINES.iter().enumerate() {
        let top = (HEIGHT + 30.0) * number as f64 + 20.0;
        let most = rows.iter().map(figure).fold(1e-9, f64::max);
        let step = WIDTH / rows.len().max(1) as f64;
        let point = |(at, row): (usize, &Row)| {
            let x = 10.0 + at as f64 * step;
            format!("{x:.1},{:.1}", top + HEIGHT * (1.0 - figure(row) / most))
        };
        let points: Vec<String> = rows.iter().enumerate().map(point).collect();
        out += &format!(
            "<text x=\"10\" y=\"{}\">{what}, up to {most:.2}</text>\n\
             <polyline fill=\"none\" stroke=\"#06c\" points=\"{}\"/>\n",
            top - 5.0,
            points.join(" ")
        );
    }
    out + "</svg>\n"
}
