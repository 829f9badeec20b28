//! Which figures stand in which table and plot.

use super::Data;

/// A table with its plot.
pub struct Section {
    /// Name of the plot's file.
    pub name: &'static str,
    pub title: &'static str,
    pub columns: Vec<Column>,
    pub bars: Vec<Column>,
    /// Unit of the bars.
    pub unit: &'static str,
}

/// One or more figures of a workload.
pub struct Column {
    pub title: String,
    pub work: String,
    pub figures: Vec<Figure>,
}

/// How a figure is shown, and which is better.
#[derive(Clone, Copy)]
pub struct Figure {
    pub name: &'static str,
    pub words: &'static str,
    pub scale: f64,
    /// Whether more is better.
    pub more: bool,
}

const RATE: Figure = more("rate", "a second");
const P50: Figure = less("p50_us", "p50 in us");
const P99: Figure = less("p99_us", "p99 in us");
const LONGEST: Figure =
    Figure { name: "longest_us", words: "longest in ms", scale: 1e-3, more: false };
const OPEN: Figure = less("loaded_ms", "first load in ms");
const MEMORY: Figure = less("resident_mb", "memory in MB");
const WRITTEN: Figure = less("written_per_byte", "device writes over appended");
const DISK_MOST: Figure = less("disk_per_byte_most", "disk over live, most");
const DISK: Figure = less("disk_per_byte", "disk over live, at the end");

const fn less(name: &'static str, words: &'static str) -> Figure {
    Figure { name, words, scale: 1.0, more: false }
}

const fn more(name: &'static str, words: &'static str) -> Figure {
    Figure { name, words, scale: 1.0, more: true }
}

fn column(title: impl Into<String>, work: &str, figures: &[Figure]) -> Column {
    Column { title: title.into(), work: work.to_owned(), figures: figures.to_vec() }
}

/// Those for which something was measured.
pub fn sections(data: &Data) -> Vec<Section> {
    let all = [appends(), synced(data), loads(), gets(), opens(), churn(), mixed()];
    let measured = |section: &Section| {
        section.columns.iter().any(|column| data.works().contains(&column.work.as_str()))
    };
    all.into_iter().filter(measured).collect()
}

fn appends() -> Section {
    let acknowledged = [more("rate_acknowledged", "acknowledged a second")];
    Section {
        name: "append-buffer",
        title: "Buffered append",
        columns: vec![
            column("1 thread, turns/s with the final sync", "append-buffer/1", &[RATE]),
            column("acknowledged, turns/s", "append-buffer/1", &acknowledged),
            column("p50 / p99, us", "append-buffer/1", &[P50, P99]),
            column("longest, ms", "append-buffer/1", &[LONGEST]),
            column("4 threads, turns/s with the final sync", "append-buffer/4", &[RATE]),
            column("acknowledged, turns/s", "append-buffer/4", &acknowledged),
            column("longest, ms", "append-buffer/4", &[LONGEST]),
        ],
        bars: vec![
            column("1 thread, with the final sync", "append-buffer/1", &[RATE]),
            column("4 threads, with the final sync", "append-buffer/4", &[RATE]),
        ],
        unit: "turns/s, more is better",
    }
}

fn synced(data: &Data) -> Section {
    let mut threads: Vec<u32> = data
        .works()
        .iter()
        .filter_map(|work| work.strip_prefix("append-sync/")?.parse().ok())
        .collect();
    threads.sort_unstable();
    let (mut columns, mut bars) = (vec![], vec![]);
    for threads in threads {
        let work = format!("append-sync/{threads}");
        let name = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        columns.push(column(format!("{name}, turns/s"), &work, &[RATE]));
        columns.push(column("p50 / p99, us", &work, &[P50, P99]));
        bars.push(column(name, &work, &[RATE]));
    }
    Section {
        name: "append-sync",
        title: "Durable append",
        columns,
        bars,
        unit: "turns/s, more is better",
    }
}

fn loads() -> Section {
    Section {
        name: "load",
        title: "The latest 50 of an agent",
        columns: vec![
            column("hot: p50 / p99, us", "load-hot", &[P50, P99]),
            column("longest, ms", "load-hot", &[LONGEST]),
            column("loads/s", "load-hot", &[RATE]),
            column("memory, MB", "load-hot", &[MEMORY]),
            column("cold: p50 / p99, us", "load-cold", &[P50, P99]),
            column("loads/s", "load-cold", &[RATE]),
            column("longest, ms", "load-cold", &[LONGEST]),
        ],
        bars: vec![
            column("hot, p50", "load-hot", &[P50]),
            column("hot, p99", "load-hot", &[P99]),
            column("cold, p50", "load-cold", &[P50]),
            column("cold, p99", "load-cold", &[P99]),
        ],
        unit: "us, less is better, logarithmic scale",
    }
}

fn gets() -> Section {
    Section {
        name: "get",
        title: "One random turn, hot",
        columns: vec![
            column("p50 / p99, us", "get", &[P50, P99]),
            column("longest, ms", "get", &[LONGEST]),
            column("gets/s", "get", &[RATE]),
        ],
        bars: vec![column("p50", "get", &[P50]), column("p99", "get", &[P99])],
        unit: "us, less is better, logarithmic scale",
    }
}

fn opens() -> Section {
    let figures = [less("open_ms", "open in ms"), OPEN];
    let memory = [MEMORY];
    Section {
        name: "open",
        title: "Opening",
        columns: vec![
            column("clean, hot: open / first load, ms", "open-hot", &figures),
            column("memory, MB", "open-hot", &memory),
            column("clean, cold: open / first load, ms", "open-cold", &figures),
            column("after kill -9: open / first load, ms", "open-killed", &figures),
            column("memory, MB", "open-killed", &memory),
        ],
        bars: vec![
            column("clean, hot", "open-hot", &[OPEN]),
            column("clean, cold", "open-cold", &[OPEN]),
            column("after kill -9, hot", "open-killed", &[OPEN]),
        ],
        unit: "ms until the first load, less is better, logarithmic scale",
    }
}

fn churn() -> Section {
    let disk = [DISK_MOST, DISK];
    let truncate = [
        less("truncate_p50_us", "p50 of truncations in us"),
        less("truncate_p99_us", "p99 of truncations in us"),
    ];
    Section {
        name: "churn",
        title: "Churn",
        columns: vec![
            column("turns/s with the final sync", "churn", &[RATE]),
            column("longest stall, ms", "churn", &[LONGEST]),
            column("truncate p50 / p99, us", "churn", &truncate),
            column("device writes / appended", "churn", &[WRITTEN]),
            column("disk / live: most, at the end", "churn", &disk),
        ],
        bars: vec![
            column("device writes / appended", "churn", &[WRITTEN]),
            column("disk / live, most", "churn", &[DISK_MOST]),
            column("disk / live, at the end", "churn", &[DISK]),
        ],
        unit: "bytes for each byte, less is better",
    }
}

fn mixed() -> Section {
    let (mut columns, mut bars) = (vec![], vec![]);
    for (name, work) in [("1 thread", "mixed/1"), ("16 threads", "mixed/16")] {
        columns.push(column(format!("{name}, turns/s"), work, &[RATE]));
        columns.push(column("p50 / p99, us", work, &[P50, P99]));
        columns.push(column("longest, ms", work, &[LONGEST]));
        bars.push(column(name, work, &[RATE]));
    }
    Section {
        name: "mixed",
        title: "Load 50, then append durably",
        columns,
        bars,
        unit: "turns/s, more is better",
    }
}
