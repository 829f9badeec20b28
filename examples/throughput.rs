//! Appends as fast as it can and prints the figures, beside what the bare disk does.
//!
//! ```text
//! cargo run --release --example throughput -- --durability sync --threads 64 --seconds 5
//! ```
//! `--durability sync|write|buffer`, `--threads N`, `--seconds S` (of measured time), `--bytes B`
//! (of a turn), `--agents N`, `--dir DIR`, `--burst MIB` (of a burst between two preparations),
//! `--sustained` (no bursts: whatever the store does in the background counts), `--no-limit`
//! (leave out the machine's own limit, for profiling).
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

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::group::{WAYS, Waiting, commits};
use common::limits::{ZeroFile, encode};
use common::ready::Ready;
use common::stream::{beside_a_sleeper, stream};
use common::{Run, TURN, median, parse_size, text, workdir};
use memlog::Durability;

struct Flags {
    durability: Durability,
    threads: usize,
    seconds: f64,
    bytes: usize,
    agents: usize,
    dir: Option<PathBuf>,
    burst: Option<u64>,
    sustained: bool,
    limit: bool,
}

fn flags() -> Result<Flags, String> {
    let mut flags = Flags {
        durability: Durability::Sync,
        threads: 1,
        seconds: 3.0,
        bytes: TURN,
        agents: 1000,
        dir: None,
        burst: None,
        sustained: false,
        limit: true,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} needs a value"));
        let number = |text: String| parse_size(&text).ok_or(format!("{text}: not a number"));
        match flag.as_str() {
            "--durability" => flags.durability = durability(&value()?)?,
            "--threads" => flags.threads = number(value()?)?.max(1) as usize,
            "--seconds" => flags.seconds = value()?.parse().map_err(|e| format!("{e}"))?,
            "--bytes" => flags.bytes = number(value()?)?.max(1) as usize,
            "--agents" => flags.agents = number(value()?)?.max(1) as usize,
            "--dir" => flags.dir = Some(PathBuf::from(value()?)),
            "--burst" => flags.burst = Some(number(value()?)?),
            "--sustained" => flags.sustained = true,
            "--no-limit" => flags.limit = false,
            _ => return Err(format!("{flag}: no such flag; see the head of the source")),
        }
    }
    Ok(flags)
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "sync" => Ok(Durability::Sync),
        "write" => Ok(Durability::Write),
        "buffer" => Ok(Durability::Buffer),
        _ => Err(format!("{text}: sync, write or buffer")),
    }
}

fn main() {
    let flags = flags().unwrap_or_else(|message| {
        eprintln!("{message}");
        std::process::exit(2);
    });
    let temp = workdir();
    let dir = flags.dir.clone().unwrap_or_else(|| temp.path().join("store"));
    let turn = text(flags.bytes);
    let zero = ZeroFile::new(temp.path(), "zero", 64 << 20);
    let probe = |when: &str| zero.flushes(&turn, 300).print(when, turn.len());
    probe("bare write + flush, before");
    if flags.sustained {
        sustained(&flags, &dir, temp.path(), &turn);
    } else {
        bursts(&flags, &dir, &zero, &turn);
    }
    probe("bare write + flush, after");
    encode(&turn, 200_000).print("copy + crc32, one thread", turn.len());
}

/// Bursts that the active segment has room for, by turns with the machine's own limit.
fn bursts(flags: &Flags, dir: &Path, zero: &ZeroFile, turn: &[u8]) {
    // Below Sync the store slows appenders down once 32 MiB wait for the disk.
    let default = if flags.durability == Durability::Sync { 40 } else { 28 };
    let mut ready = Ready::new(dir, flags.durability, flags.agents, flags.bytes);
    let mut ops = ready.burst(flags.burst.unwrap_or(default));
    if flags.durability == Durability::Sync && flags.threads == 1 {
        ops = ops.min(5000);
    }
    let mut names = vec![];
    if flags.limit {
        names = limits(flags).iter().map(|l| l.0.clone()).collect();
    }
    let mut limit_runs: Vec<Run> = names.iter().map(|_| Run::new()).collect();
    let mut all = Run::new();
    let mut ratios = vec![vec![]; names.len()];
    while all.took.as_secs_f64() < flags.seconds {
        ready.refresh(ops);
        let run = ready.run(flags.threads, ops);
        if flags.limit {
            for (i, (_, limit)) in limits(flags).iter().enumerate() {
                let bare = limit(zero, turn, ops);
                ratios[i].push(run.rate() / bare.rate());
                limit_runs[i].add(&bare);
            }
            zero.flush();
        }
        all.add(&run);
    }
    for (i, name) in names.iter().enumerate() {
        limit_runs[i].print(name, turn.len());
    }
    all.print(&format!("memlog, {:?}, {} threads", flags.durability, flags.threads), turn.len());
    for (i, name) in names.iter().enumerate() {
        let p50 = all.us(0.5) / limit_runs[i].us(0.5);
        let rate = median(&mut ratios[i]) * 100.0;
        eprintln!("  memlog against {name}: {rate:.0} % of the rate, {p50:.2} x the p50");
    }
}

type Limit<'a> = Box<dyn Fn(&ZeroFile, &[u8], u64) -> Run + 'a>;

/// The machine's own limits for the work.
fn limits(flags: &Flags) -> Vec<(String, Limit<'_>)> {
    let threads = flags.threads;
    let group = |way: Waiting| -> (String, Limit<'_>) {
        let run: Limit<'_> = Box::new(move |z, t, ops| commits(z, way, t, threads, ops));
        (format!("ideal group commit, {way:?}"), run)
    };
    match flags.durability {
        Durability::Sync if threads == 1 => {
            vec![("bare write + flush".into(), Box::new(|z, t, ops| z.flushes(t, ops)))]
        }
        Durability::Sync => WAYS.into_iter().map(group).collect(),
        Durability::Write => {
            let over: Limit<'_> = Box::new(move |z, t, ops| z.writes(t, threads, ops));
            let new: Limit<'_> = Box::new(move |z, t, ops| z.anew(|z| z.writes(t, threads, ops)));
            vec![("one bare write a turn".into(), over), ("the same, new file".into(), new)]
        }
        _ => {
            let over: Limit<'_> = Box::new(move |z, t, ops| z.chunks(t, threads, ops));
            let new: Limit<'_> = Box::new(move |z, t, ops| z.anew(|z| z.chunks(t, threads, ops)));
            vec![
                ("bare writes of 64 KiB".into(), over),
                ("bare writes of 64 KiB, new file".into(), new),
            ]
        }
    }
}

/// As long as asked for, whatever the store has to do meanwhile, by turns with a bare stream of
/// writes; a line a second.
fn sustained(flags: &Flags, dir: &Path, beside: &Path, turn: &[u8]) {
    /// Seconds of one turn.
    const SLICE: f64 = 4.0;
    /// The default of `Options::max_unsynced`.
    const MOST: u64 = 64 << 20;
    let ready = Ready::new(dir, flags.durability, flags.agents, flags.bytes);
    let (mut all, mut bare) = (Run::new(), Run::new());
    let (mut naps, mut bare_naps) = (Run::new(), Run::new());
    let mut ops = 1000;
    while all.took.as_secs_f64() < flags.seconds {
        if flags.limit {
            let (run, late) = beside_a_sleeper(|| stream(beside, turn, SLICE, MOST));
            run.print("bare stream of 64 KiB writes", turn.len());
            bare.add(&run);
            bare_naps.add(&late);
        }
        let until = all.took.as_secs_f64() + SLICE;
        while all.took.as_secs_f64() < until.min(flags.seconds) {
            let (run, late) = beside_a_sleeper(|| ready.run(flags.threads, ops));
            let when = format!("after {:.1} s", all.took.as_secs_f64());
            run.print(&when, flags.bytes);
            let second = run.took.max(Duration::from_millis(1)).as_secs_f64();
            ops = ((ops as f64 / second) as u64).clamp(ops / 2, ops * 4).max(100);
            all.add(&run);
            naps.add(&late);
        }
        if flags.limit {
            ready.quiet();
        }
    }
    if flags.limit {
        bare.print("bare stream of 64 KiB writes", turn.len());
        bare_naps.print("how late a sleeper wakes beside it", 0);
    }
    let what = format!("memlog, {:?}, {} threads", flags.durability, flags.threads);
    all.print(&what, flags.bytes);
    naps.print("how late a sleeper wakes beside it", 0);
    if flags.limit {
        eprintln!("  memlog against it: {:.0} % of the rate", all.rate() / bare.rate() * 100.0);
    }
}
