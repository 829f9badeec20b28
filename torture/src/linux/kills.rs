//! kill -9 at any moment: of writers with all that goes on beside them, and of the recovery that
//! follows, and of the recovery of that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memlog::Durability;

use crate::linux::acks::{Ack, What, read_all};
use crate::linux::check::{Told, check};
use crate::linux::history::{History, Round};
use crate::linux::lane::Lane;
use crate::linux::rng::Rng;
use crate::linux::writer::options;

#[derive(clap::Args, Clone, Debug)]
pub struct KillArgs {
    /// How many kills.
    #[arg(long, default_value_t = 500)]
    kills: u64,
    /// What the moments and the batches follow from. Default: the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// Writing threads of each process.
    #[arg(long, default_value_t = 4)]
    lanes: u64,
    /// The longest life of a writer, in milliseconds.
    #[arg(long, default_value_t = 250)]
    life: u64,
    /// Kills of one store before the next is begun.
    #[arg(long, default_value_t = 12)]
    rounds: u64,
    /// Stores at a time.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Where the stores are made. Default: the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Default)]
struct Figures {
    kills: AtomicU64,
    recoveries_killed: AtomicU64,
    stores: AtomicU64,
    acknowledged: AtomicU64,
    backups: AtomicU64,
    compacted: AtomicU64,
    torn: AtomicU64,
}

/// Runs the campaign; gives whether all went well.
pub fn run(args: &KillArgs) -> bool {
    let seed = args.seed.unwrap_or_else(crate::linux::seed_of_the_clock);
    let place = crate::linux::place(args.dir.as_deref());
    let figures = Figures::default();
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let failure = Mutex::new(None);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed)
                    && figures.kills.load(Ordering::Relaxed) < args.kills
                {
                    let seed = seed.wrapping_add(next.fetch_add(1, Ordering::Relaxed));
                    let dir = place.path().join(seed.to_string());
                    if let Err(reason) = one_store(args, seed, &dir, &figures) {
                        failed.store(true, Ordering::Relaxed);
                        failure.lock().unwrap().get_or_insert((seed, dir, reason));
                    }
                }
            });
        }
    });
    let count = |what: &AtomicU64| what.load(Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "kills: {} writers and {} recoveries in {} stores, {:.1} s, {:.1} kills/s, seed {seed}: \
         {} batches acknowledged and checked, {} backups checked, \
         {} torn tails, {} MiB compacted",
        count(&figures.kills),
        count(&figures.recoveries_killed),
        count(&figures.stores),
        seconds,
        (count(&figures.kills) + count(&figures.recoveries_killed)) as f64 / seconds,
        count(&figures.acknowledged),
        count(&figures.backups),
        count(&figures.torn),
        count(&figures.compacted) >> 20,
    );
    let Some((seed, dir, reason)) = failure.into_inner().unwrap() else { return true };
    let kept = place.keep();
    println!("FAILED, seed {seed}: {reason}\nkept: {} ({})", dir.display(), kept.display());
    println!(
        "again: memlog-torture kills --jobs 1 --seed {seed} (moments are not repeated exactly)"
    );
    false
}

/// One store from its beginning through its rounds.
fn one_store(args: &KillArgs, seed: u64, dir: &Path, figures: &Figures) -> Result<(), String> {
    fs::create_dir_all(dir).unwrap();
    let mut history = History::new(seed, args.lanes);
    let mut lanes = history.lanes();
    let mut rng = Rng::of(&[seed, 77]);
    for number in 1..=args.rounds {
        let mut told = Told::new(&lanes);
        let (mut backups, mut compacted) = (Vec::new(), 0);
        let life = match rng.below(4) {
            0 => Duration::from_micros(rng.below(15_000)),
            _ => Duration::from_micros(rng.below(args.life * 1000)),
        };
        history.write(&dir.join("history"));
        killed(dir, number, false, life, |ack| {
            told.hear(&ack, Durability::Write, true);
            match ack.what {
                What::Reached => drop(figures.acknowledged.fetch_add(1, Ordering::Relaxed)),
                What::BackedUp => backups.push(ack),
                What::Compacted => compacted = ack.lsn,
                What::Opened => {}
            }
        })?;
        figures.compacted.fetch_add(compacted, Ordering::Relaxed);
        figures.kills.fetch_add(1, Ordering::Relaxed);
        copy_of_last(dir);
        while rng.one_in(3) {
            let life = Duration::from_micros(rng.below(12_000));
            killed(dir, number, true, life, |_| ())?;
            figures.recoveries_killed.fetch_add(1, Ordering::Relaxed);
        }
        check_backups(dir, seed, number, &lanes, &told, &backups)?;
        figures.backups.fetch_add(backups.len() as u64, Ordering::Relaxed);
        let after = recovered(dir, seed, number, &lanes, &told, figures)?;
        let reached = after.iter().map(|(lane, single)| (lane.done, *single)).collect();
        history.rounds.push(Round { number, reached });
        lanes = after.into_iter().map(|(lane, _)| lane).collect();
    }
    figures.stores.fetch_add(1, Ordering::Relaxed);
    fs::remove_dir_all(dir).unwrap();
    Ok(())
}

fn recovered(
    dir: &Path,
    seed: u64,
    round: u64,
    lanes: &[Lane],
    told: &Told,
    figures: &Figures,
) -> Result<Vec<(Lane, bool)>, String> {
    let store = options(false).open(dir.join("store")).map_err(|e| format!("open: {e}"))?;
    if store.recovery_report().bytes_cut > 0 {
        figures.torn.fetch_add(1, Ordering::Relaxed);
    }
    let after = check(&store, seed, round, lanes, told)?;
    store.close().map_err(|e| format!("close: {e}"))?;
    Ok(after)
}

fn check_backups(
    dir: &Path,
    seed: u64,
    round: u64,
    lanes: &[Lane],
    told: &Told,
    backups: &[Ack],
) -> Result<(), String> {
    for ack in backups {
        let path = dir.join("backups").join(ack.step.to_string());
        let store = options(false).open(&path).map_err(|e| format!("open a backup: {e}"))?;
        let told = told.up_to(ack.lsn);
        check(&store, seed, round, lanes, &told).map_err(|e| format!("backup: {e}"))?;
    }
    let _ = fs::remove_dir_all(dir.join("backups"));
    Ok(())
}

/// Starts a writer and kills it after a while. It must not end by itself.
fn killed(
    dir: &Path,
    round: u64,
    idle: bool,
    life: Duration,
    mut hear: impl FnMut(Ack) + Send,
) -> Result<(), String> {
    let _ = fs::create_dir(dir.join("backups"));
    let mut child = writer(dir, round, idle);
    let out = child.stdout.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| read_all(out, &mut hear));
        std::thread::sleep(life);
        child.kill().unwrap();
    });
    let status = child.wait().unwrap();
    if std::os::unix::process::ExitStatusExt::signal(&status) == Some(9) {
        return Ok(());
    }
    let said = fs::read_to_string(dir.join("errors")).unwrap_or_default();
    Err(format!("the writer ended by itself, {status}: {said}"))
}

fn writer(dir: &Path, round: u64, idle: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("writer").arg("--dir").arg(dir.join("store"));
    command.arg("--history").arg(dir.join("history"));
    command.arg("--round").arg(round.to_string());
    command.arg("--backups").arg(dir.join("backups"));
    if idle {
        command.arg("--idle");
    }
    let errors = File::create(dir.join("errors")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap()
}

/// Keeps the files as the kill left them, for whoever has to find out.
fn copy_of_last(dir: &Path) {
    let (from, to) = (dir.join("store"), dir.join("as-killed"));
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    let Ok(files) = fs::read_dir(from) else { return };
    for file in files {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
