//! Every system call of a workload fails once, and for good, and cut short, and as the last one
//! before kill -9: typed errors, no panic, nothing acknowledged is lost, and the store goes on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use memlog::Durability;

use crate::linux::acks::{Ack, What, read_all};
use crate::linux::check::{Told, check};
use crate::linux::history::History;
use crate::linux::trap::{self, Fault};
use crate::linux::writer::{Shared, WriterArgs, is_fitting, options, work};
use crate::linux::{FITTING, WRONG};

#[derive(clap::Args, Clone, Debug)]
pub struct InjectArgs {
    /// Only every so-manyth call.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// What the batches follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps of each of the two lanes.
    #[arg(long, default_value_t = 24)]
    steps: u64,
    /// Only this fault. Default: all.
    #[arg(long)]
    fault: Option<Fault>,
    /// Only this call.
    #[arg(long)]
    call: Option<u64>,
    /// With the store's threads and lanes side by side: other calls at each run.
    #[arg(long)]
    threads: bool,
    /// Workloads at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Where the stores are made. Default: the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What the command starts for each call.
#[derive(clap::Args, Clone, Debug)]
pub struct VictimArgs {
    #[command(flatten)]
    writer: WriterArgs,
    #[arg(long)]
    call: u64,
    #[arg(long)]
    fault: Fault,
    #[arg(long)]
    sticky: bool,
}

/// The workload itself, with the trap set. It opens the store too, so that openings fail as well.
pub fn victim(args: &VictimArgs) -> ExitCode {
    let history = History::read(&args.writer.history);
    let lanes = history.lanes();
    trap::install();
    trap::arm(args.call, args.fault, args.sticky);
    let store = match options(args.writer.manual).open(&args.writer.dir) {
        Ok(store) => store,
        Err(error) => return end(vec![error]),
    };
    let shared = Shared::new(&store, history.seed, &args.writer);
    let mut failures = work(&shared, lanes);
    failures.extend(store.close().err());
    drop(shared);
    drop(store);
    end(failures)
}

fn end(failures: Vec<memlog::Error>) -> ExitCode {
    trap::disarm();
    let (calls, hit) = trap::report();
    eprintln!("{calls} {hit}");
    for error in &failures {
        eprintln!("{:?}: {error}", error.kind());
    }
    if failures.iter().any(|error| !is_fitting(error)) {
        return ExitCode::from(WRONG);
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FITTING) }
}

struct Case {
    call: u64,
    fault: Fault,
    sticky: bool,
}

/// What became of one.
struct Outcome {
    /// Calls made.
    calls: u64,
    /// The call that was hit.
    hit: String,
    what: &'static str,
}

pub fn run(args: &InjectArgs) -> bool {
    let place = crate::linux::place(args.dir.as_deref());
    let began = Instant::now();
    let dry = Case { call: u64::MAX, fault: Fault::Io, sticky: false };
    let calls = match one(args, &dry, &place.path().join("dry")) {
        Ok(outcome) => outcome.calls,
        Err(reason) => {
            println!("FAILED without any fault: {reason}");
            return false;
        }
    };
    let cases = cases(args, calls);
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let (tally, failure) = (Mutex::new(BTreeMap::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at as usize) else { break };
                    let dir = place.path().join(at.to_string());
                    match one(args, case, &dir) {
                        Ok(outcome) => {
                            let key = (outcome.hit, case.fault as u64, outcome.what);
                            *tally.lock().unwrap().entry(key).or_insert(0) += 1;
                            fs::remove_dir_all(&dir).unwrap();
                        }
                        Err(reason) => {
                            failed.store(true, Ordering::Relaxed);
                            failure.lock().unwrap().get_or_insert((at, reason));
                        }
                    }
                }
            });
        }
    });
    let done = (next.load(Ordering::Relaxed).min(cases.len() as u64)) as f64;
    let seconds = began.elapsed().as_secs_f64();
    print_tally(&tally.into_inner().unwrap());
    println!(
        "inject: {done} faults at {calls} calls, {seconds:.1} s, {:.1} faults/s, seed {}",
        done / seconds,
        args.seed
    );
    let Some((at, reason)) = failure.into_inner().unwrap() else { return true };
    let case = &cases[at as usize];
    let fault = case.fault.to_possible_value().unwrap();
    println!("FAILED (sticky: {}): {reason}\nkept: {}/{at}", case.sticky, place.keep().display());
    println!(
        "again: memlog-torture inject --seed {} --steps {} --fault {} --call {}{}",
        args.seed,
        args.steps,
        fault.get_name(),
        case.call,
        if args.threads { " --threads" } else { "" }
    );
    false
}

fn print_tally(tally: &BTreeMap<(String, u64, &'static str), u64>) {
    let mut by_call: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for ((hit, _, what), count) in tally {
        *by_call.entry(hit).or_default().entry(what).or_default() += count;
    }
    for (hit, whats) in by_call {
        let parts: Vec<String> = whats.iter().map(|(what, n)| format!("{n} {what}")).collect();
        println!("  {hit:<10} {}", parts.join(", "));
    }
}

fn cases(args: &InjectArgs, calls: u64) -> Vec<Case> {
    let faults = Fault::value_variants().iter().filter(|f| args.fault.is_none_or(|o| o == **f));
    let mut cases = Vec::new();
    for fault in faults {
        let last = [Fault::Kill, Fault::KillBehind].contains(fault);
        let both: &[bool] = match fault {
            Fault::Io | Fault::Full => &[false, true],
            _ => &[false],
        };
        for sticky in both.iter().copied().filter(|sticky| !(last && *sticky)) {
            let range = args.call.map_or(1..=calls, |call| call..=call);
            let calls = range.step_by(args.every.max(1) as usize);
            cases.extend(calls.map(|call| Case { call, fault: *fault, sticky }));
        }
    }
    cases
}

/// One run: the victim, then the check of what it left.
fn one(args: &InjectArgs, case: &Case, dir: &Path) -> Result<Outcome, String> {
    fs::create_dir_all(dir.join("backups")).unwrap();
    let history = History::new(args.seed, 2);
    history.write(&dir.join("history"));
    let lanes = history.lanes();
    let mut told = Told::new(&lanes);
    let killed = [Fault::Kill, Fault::KillBehind].contains(&case.fault);
    let mut backups = Vec::new();
    let status = run_victim(args, case, dir, |ack| {
        told.hear(&ack, Durability::Write, true);
        if ack.what == What::BackedUp {
            backups.push(ack);
        }
    })?;
    let said = fs::read_to_string(dir.join("errors")).unwrap_or_default();
    let first = said.lines().next().unwrap_or_default();
    let (calls, hit) = first.split_once(' ').unwrap_or(("0", "unknown"));
    let what = match (status.code(), status.signal()) {
        (Some(0), _) => "unharmed",
        (Some(code), _) if code == i32::from(FITTING) => "typed errors",
        (_, Some(9)) if killed => "killed",
        _ => return Err(format!("the victim ended with {status}: {said}")),
    };
    let store = options(false).open(dir.join("store")).map_err(|e| format!("open: {e}\n{said}"))?;
    check(&store, args.seed, 1, &lanes, &told).map_err(|e| format!("{e}\n{said}"))?;
    goes_on(&store).map_err(|e| format!("it does not go on: {e}\n{said}"))?;
    for ack in &backups {
        let backup = options(false).open(dir.join("backups").join(ack.step.to_string()));
        let backup = backup.map_err(|e| format!("backup: {e}\n{said}"))?;
        check(&backup, args.seed, 1, &lanes, &told.up_to(ack.lsn))
            .map_err(|e| format!("backup: {e}\n{said}"))?;
    }
    Ok(Outcome { calls: calls.parse().unwrap_or(0), hit: hit.to_owned(), what })
}

fn goes_on(store: &memlog::Store) -> memlog::Result<()> {
    store.agent("clock-0")?.append(memlog::NewEntry::user("and on"))?;
    store.compact()?;
    store.close()
}

fn run_victim(
    args: &InjectArgs,
    case: &Case,
    dir: &Path,
    hear: impl FnMut(Ack) + Send,
) -> Result<std::process::ExitStatus, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("victim").arg("--dir").arg(dir.join("store"));
    command.arg("--history").arg(dir.join("history")).args(["--round", "1"]);
    command.arg("--steps").arg(args.steps.to_string());
    command.arg("--backups").arg(dir.join("backups"));
    command.arg("--call").arg(case.call.to_string());
    command.arg("--fault").arg(case.fault.to_possible_value().unwrap().get_name());
    if case.sticky {
        command.arg("--sticky");
    }
    if !args.threads {
        command.arg("--manual");
    }
    let errors = File::create(dir.join("errors")).unwrap();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
    let out = child.stdout.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| read_all(out, hear));
        // Others may hold this machine for a while: only a hang takes this long.
        let most = Instant::now() + Duration::from_secs(180);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return Ok(status);
            }
            if Instant::now() > most {
                child.kill().unwrap();
                child.wait().unwrap();
                return Err("the victim hangs".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    })
}
