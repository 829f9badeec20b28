//! A store of a million agents and ten million entries: built, closed, opened, killed, opened; then
//! compacted, and all of that again.
//!
//! ```text
//! cargo run --release --example million_agents -- --check
//! ```
//! Each step is a process of its own, so that nothing is warm but the page cache, and heap is that
//! of the step alone. Where it may (root on Linux) it also drops the page cache and opens cold.
//!
//! `--agents N`, `--entries N`, `--entry-bytes N`, `--dir DIR` (made, and removed at the end unless
//! `--keep`; default: beside the program), `--kill-after S` (seconds of writing before the kill),
//! `--no-cold`, `--check` (fail if a bound is broken).
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

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use common::{Dice, Run, text, touch, workdir};
use memlog::{CompactOutcome, Durability, Kind, NewEntry, Options, Store};

/// Has entries appended at `Write`, whose seqs the killed process tells its parent.
const WITNESS: &str = "witness";

#[derive(Clone)]
struct Flags {
    agents: u64,
    entries: u64,
    bytes: usize,
    dir: Option<PathBuf>,
    kill_after: f64,
    keep: bool,
    cold: bool,
    check: bool,
    /// The step that this process is to do.
    step: Option<String>,
}

fn flags() -> Result<Flags, String> {
    let mut flags = Flags {
        agents: 1_000_000,
        entries: 10_000_000,
        bytes: 200,
        dir: None,
        kill_after: 3.0,
        keep: false,
        cold: true,
        check: false,
        step: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} needs a value"));
        let number = |text: String| -> Result<u64, String> {
            text.replace(['_', ','], "").parse().map_err(|_| format!("{text}: not a number"))
        };
        match flag.as_str() {
            "--agents" => flags.agents = number(value()?)?.max(1),
            "--entries" => flags.entries = number(value()?)?.max(1),
            "--entry-bytes" => flags.bytes = number(value()?)? as usize,
            "--dir" => flags.dir = Some(PathBuf::from(value()?)),
            "--kill-after" => flags.kill_after = value()?.parse().map_err(|e| format!("{e}"))?,
            "--keep" => flags.keep = true,
            "--no-cold" => flags.cold = false,
            "--check" => flags.check = true,
            "--step" => flags.step = Some(value()?),
            _ => return Err(format!("{flag}: no such flag; see the head of the source")),
        }
    }
    Ok(flags)
}

fn main() -> ExitCode {
    let flags = match flags() {
        Ok(flags) => flags,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let Some(step) = &flags.step else { return show(&flags) };
    let dir = flags.dir.clone().unwrap();
    match step.as_str() {
        "build" => build(&flags, &dir),
        "open" => open(&flags, &dir),
        "compact" => compact(&dir),
        "write" => write(&flags, &dir),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn name(agent: u64) -> String {
    format!("tenant-{}/user-{}/thread-{agent}", agent % 1000, agent % 100_000)
}

/// The sizes vary by a quarter around the one meant.
fn payload<'t>(flags: &Flags, text: &'t [u8], dice: &mut Dice) -> &'t [u8] {
    let quarter = flags.bytes as u64 / 4;
    &text[..flags.bytes - quarter as usize + dice.below(2 * quarter + 1) as usize]
}

fn say(key: &str, value: impl std::fmt::Display) {
    println!("{key}={value}");
    // The parent may be gone; then nobody is told.
    let _ = std::io::stdout().flush();
}

/// Each agent in turn, in another random order each time, until there are enough entries.
fn build(flags: &Flags, dir: &Path) {
    let store = Options::new().durability(Durability::Buffer).open(dir).unwrap();
    let text = text(flags.bytes * 2 + 1);
    let mut dice = Dice::new(1);
    let mut order: Vec<u32> = (0..flags.agents as u32).collect();
    let (start, mut done, mut bytes) = (Instant::now(), 0u64, 0u64);
    let mut said = Instant::now();
    while done < flags.entries {
        dice.shuffle(&mut order);
        for agent in &order {
            let agent = store.agent(&name(u64::from(*agent))).unwrap();
            let payload = payload(flags, &text, &mut dice);
            agent.append(NewEntry::new(Kind::USER, payload)).unwrap();
            bytes += payload.len() as u64;
            done += 1;
            if done == flags.entries {
                break;
            }
            if done % 1024 == 0 && said.elapsed() > Duration::from_secs(5) {
                eprintln!("  {done} entries, {:.0}/s", done as f64 / start.elapsed().as_secs_f64());
                said = Instant::now();
            }
        }
    }
    say("seconds", start.elapsed().as_secs_f64());
    say("bytes", bytes);
    say("heap", heap());
    let start = Instant::now();
    store.close().unwrap();
    say("close", start.elapsed().as_secs_f64());
    say("device", common::ready::bytes_written().unwrap_or(0));
}

/// Compacts until nothing is left that is worth doing.
fn compact(dir: &Path) {
    let store = Store::open(dir).unwrap();
    let start = Instant::now();
    while store.compact().unwrap() == CompactOutcome::More {}
    say("seconds", start.elapsed().as_secs_f64());
    say("heap", heap());
    store.close().unwrap();
}

fn open(flags: &Flags, dir: &Path) {
    let before = heap();
    let mut dice = Dice::new(std::process::id().into());
    let start = Instant::now();
    let store = Store::open(dir).unwrap();
    let opened = start.elapsed();
    let load = |agent: u64| {
        let view = store.agent(&name(agent)).unwrap().view().unwrap();
        let entries = view.latest(50).map(|e| touch(e.unwrap().payload()));
        (entries.fold(0, u64::wrapping_add), view.next_seq() - view.floor())
    };
    let (_, entries) = load(dice.below(flags.agents));
    let first = start.elapsed();
    say("open_ms", opened.as_secs_f64() * 1e3);
    say("first_ms", first.as_secs_f64() * 1e3);
    say("entries", entries);
    say("heap", heap());
    say("heap_before", before);
    let mut run = Run::new();
    for _ in 0..2000 {
        let start = Instant::now();
        load(dice.below(flags.agents));
        run.latency.record(start.elapsed().as_nanos() as u64).unwrap();
    }
    say("load_p50_us", run.us(0.5));
    say("load_p99_us", run.us(0.99));
    let report = store.recovery_report();
    say("frames_kept", report.frames_kept);
    say("bytes_kept", report.bytes_kept);
    say("bytes_cut", report.bytes_cut);
    say("damage", report.damage.len());
    let witness = store.agent(WITNESS).unwrap().view().unwrap();
    assert!(witness.iter().all(|entry| entry.is_ok()), "what was acknowledged can be read");
    say("witness", witness.next_seq() - 1);
    let stats = store.stats();
    say("segments", stats.segments);
    say("frames", stats.data_bytes);
    say("footers", stats.footer_bytes);
    store.close().unwrap();
}

/// Appends at `Buffer`, now and then at `Write`, until it is killed.
fn write(flags: &Flags, dir: &Path) {
    let store = Options::new().durability(Durability::Buffer).open(dir).unwrap();
    let text = text(flags.bytes * 2 + 1);
    let mut dice = Dice::new(std::process::id().into());
    for op in 0u64.. {
        let agent = store.agent(&name(dice.below(flags.agents))).unwrap();
        agent.append(NewEntry::new(Kind::USER, payload(flags, &text, &mut dice))).unwrap();
        if op % 1000 == 999 {
            let agent = store.agent(WITNESS).unwrap();
            let mut batch = store.batch();
            batch.append(&agent, NewEntry::user("written")).durability(Durability::Write);
            say("witness", batch.commit().unwrap().seqs(&agent).start);
            say("appended", op + 1);
        }
    }
}

/// Bytes of memory that are this process's own, files that it maps aside.
fn heap() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).map_or(0, |kb: u64| kb << 10)
}

/// What a step said.
type Said = HashMap<String, f64>;

fn start(flags: &Flags, dir: &Path, step: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--step", step, "--dir"]).arg(dir);
    command.args(["--agents", &flags.agents.to_string()]);
    command.args(["--entries", &flags.entries.to_string()]);
    command.args(["--entry-bytes", &flags.bytes.to_string()]);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn read(child: &mut Child, mut until: impl FnMut() -> bool) -> Said {
    let mut said = Said::new();
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok) {
        if let Some((key, value)) = line.split_once('=') {
            said.insert(key.into(), value.parse().unwrap_or(f64::NAN));
        }
        if until() {
            break;
        }
    }
    said
}

fn step(flags: &Flags, dir: &Path, step: &str) -> Said {
    let mut child = start(flags, dir, step);
    let said = read(&mut child, || false);
    assert!(child.wait().unwrap().success(), "the step {step} failed");
    said
}

/// Bytes of disk that the store takes; holes take none.
fn on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(dir).unwrap();
    files.filter_map(|file| Some(file.ok()?.metadata().ok()?.blocks() * 512)).sum()
}

/// Has a process write for some seconds and kills it; gives what it had said.
fn kill_a_writer(flags: &Flags, dir: &Path) -> Said {
    let started = Instant::now();
    let mut child = start(flags, dir, "write");
    let said = read(&mut child, || started.elapsed().as_secs_f64() > flags.kill_after);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    said
}

/// Empties the page cache; false where that is not allowed.
fn drop_caches(flags: &Flags) -> bool {
    let synced = || Command::new("sync").status().is_ok_and(|status| status.success());
    flags.cold && synced() && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// The table and whether the bounds hold.
struct Table {
    broken: usize,
}

impl Table {
    fn row(&mut self, what: &str, value: f64, unit: &str, bound: Option<f64>) {
        let verdict = match bound {
            None => String::new(),
            Some(bound) if value <= bound => format!("under {bound:.0} {unit}: holds"),
            Some(bound) => {
                self.broken += 1;
                format!("under {bound:.0} {unit}: BROKEN")
            }
        };
        println!("  {what:<46} {value:>12.1} {unit:<10} {verdict}");
    }

    fn opening(&mut self, what: &str, said: &Said, bound: f64) {
        self.row(&format!("{what}: to the first load"), said["first_ms"], "ms", Some(bound));
        let heap = (said["heap"] - said["heap_before"]) / f64::from(1 << 20);
        self.row(&format!("{what}: heap"), heap, "MiB", Some(64.0));
    }
}

fn show(flags: &Flags) -> ExitCode {
    let temp = workdir();
    let dir = flags.dir.clone().unwrap_or_else(|| temp.path().join("store"));
    println!("{} agents, {} entries of {} B", flags.agents, flags.entries, flags.bytes);
    let mut table = Table { broken: 0 };
    let built = step(flags, &dir, "build");
    let seconds = built["seconds"];
    table.row("built", flags.entries as f64 / seconds, "entries/s", None);
    table.row("built", built["bytes"] / seconds / 1e6, "MB/s", None);
    table.row("heap while it was built", built["heap"] / f64::from(1 << 20), "MiB", None);
    table.row("written to the device", built["device"] / 1e6, "MB", None);
    table.row("closed", built["close"] * 1e3, "ms", None);
    openings(flags, &dir, &mut table, "");
    let compacted = step(flags, &dir, "compact");
    table.row("compacted", compacted["seconds"], "s", None);
    table.row("heap while it was compacted", compacted["heap"] / f64::from(1 << 20), "MiB", None);
    openings(flags, &dir, &mut table, "compacted, ");
    if !flags.keep {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    match table.broken {
        0 => ExitCode::SUCCESS,
        broken => {
            println!("{broken} bounds broken");
            if flags.check { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

/// Opens the store after a close and after a kill, hot and cold.
fn openings(flags: &Flags, dir: &Path, table: &mut Table, state: &str) {
    let clean = step(flags, dir, "open");
    table.row("on disk", on_disk(dir) as f64 / 1e6, "MB", None);
    table.row("of it frames", clean["frames"] / 1e6, "MB", None);
    table.row("of it footers", clean["footers"] / 1e6, "MB", None);
    table.row("segments", clean["segments"], "", None);
    table.opening(&format!("{state}clean, hot"), &clean, 100.0);
    table.row(&format!("{state}a random agent, hot, p50"), clean["load_p50_us"], "us", None);
    table.row(&format!("{state}a random agent, hot, p99"), clean["load_p99_us"], "us", None);
    if drop_caches(flags) {
        table.opening(&format!("{state}clean, cold"), &step(flags, dir, "open"), 100.0);
    }
    killed(flags, dir, table, &format!("{state}killed, hot"));
    if drop_caches(flags) {
        killed(flags, dir, table, &format!("{state}killed, cold"));
    }
}

fn killed(flags: &Flags, dir: &Path, table: &mut Table, what: &str) {
    let wrote = kill_a_writer(flags, dir);
    if what.ends_with("cold") {
        drop_caches(flags);
    }
    let found = step(flags, dir, "open");
    let acknowledged = wrote.get("witness").copied().unwrap_or(0.0);
    table.row(&format!("{what}: appended before the kill"), wrote["appended"], "entries", None);
    table.row(&format!("{what}: frames found in the tail"), found["frames_kept"], "frames", None);
    table.row(&format!("{what}: bytes kept"), found["bytes_kept"] / 1e6, "MB", None);
    table.row(&format!("{what}: bytes cut"), found["bytes_cut"], "B", None);
    table.opening(what, &found, 1000.0);
    assert!(found["damage"] == 0.0, "recovery reports damage");
    assert!(found["witness"] >= acknowledged, "an acknowledged entry is missing");
}
