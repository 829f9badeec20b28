//! `memlog demo`: write, kill, reopen, check, load; and say what was seen.

mod acks;
mod check;
mod report;
mod source;
pub(crate) mod writer;

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use memlog::{NewEntry, Options};

use crate::args::Globals;
use crate::backup::check_target;
use crate::failure::Failure;
use crate::output;
use crate::say::{self, Place};
use acks::{Acks, Progress};
use report::Report;
use source::Source;

/// With no acknowledgement for this long, the writer is taken to be stuck.
const FIRST_ACK: Duration = Duration::from_secs(30);

const DEMO_HELP: &str = "\
Shows on this machine what memlog promises:

  1. A process of its own writes the conversations of many agents at once, at durability sync, \
and reports each acknowledged entry.
  2. It is killed (SIGKILL) at a random moment.
  3. The store is opened again. Every acknowledged entry must be there, equal to what was \
written, and nothing may be half there: each timeline is an exact beginning of its conversation, \
and a tool call, its result and the state set with them are there together or not at all.
  4. The latest 50 entries of every agent are loaded, and writing goes on.

The store lies in a new directory and is removed in the end, unless --store names one, new or empty, \
which stays. The exit code is not 0 if anything \
of this fails. A killed process is not a power failure: what the disk itself promises is not \
tested.";

/// `demo`
#[derive(Args)]
#[command(long_about = DEMO_HELP)]
pub(crate) struct DemoArgs {
    /// Conversations to write, JSONL as in `import`; absent: a small built-in set
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Agents that are written at the same time
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) agents: u32,
    /// Threads that append
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) threads: u32,
    /// The writer is killed after a quarter to three quarters of this time
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Where to make the directory of the store [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the store and say where it is
    #[arg(long)]
    pub(crate) keep: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("between 0.1 and 3600 seconds".to_owned())
    }
}

pub(crate) fn run(globals: &Globals, args: &DemoArgs) -> Result<(), Failure> {
    let source = Source::load(args.input.as_deref())?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let (directory, store) = match &globals.named {
        Some(_) if args.dir.is_some() => {
            return Err(Failure::usage("--store and --dir both say where the store is to be")
                .hint("--store names its directory, --dir one to make it in: leave one out"));
        }
        Some(store) => {
            check_target(store)?;
            (None, store.clone())
        }
        None => {
            let mut directory = tempfile::Builder::new()
                .prefix("memlog-demo-")
                .tempdir_in(&parent)
                .map_err(|error| Failure::io("make a directory in", &parent, &error))?;
            directory.disable_cleanup(args.keep);
            let store = directory.path().join("store");
            (Some(directory), store)
        }
    };
    let outcome = show(&source, args, &store);
    if args.keep || directory.is_none() {
        let place = Place { file: Some(store.clone()), ..Place::default() };
        say::warning("kept", &format!("the store is kept at {}", store.display()), &place);
    }
    let report = outcome.map_err(|failure| failure.within("the demo failed"))?;
    if globals.json { output::json_answer(&report) } else { output::text_answer(&report.text()) }
}

/// The whole of it, in a store of its own.
fn show(source: &Source, args: &DemoArgs, dir: &Path) -> Result<Report, Failure> {
    let written = write_and_kill(args, dir)?;
    let bar = output::spinner("reopening and checking");
    let begun = Instant::now();
    let store = Options::new().create(false).open(dir)?;
    let opened = begun.elapsed();
    let recovery = store.recovery_report().clone();
    let agents = check::agents(&store, source)?;
    let first = check::load(&agents)?;
    let again = check::load(&agents)?;
    let checked = check::timelines(&agents, source, &written.acks)?;
    let damage = store.verify()?;
    if let Some(found) = damage.first() {
        return Err(check::failed(format!("verify found damage: {found}")));
    }
    // Writing goes on behind what was recovered.
    let agent = store.agent("after/the-kill")?;
    let seq = agent.append(NewEntry::user("writing goes on"))?;
    if seq != 1 || agent.view()?.latest(1).count() != 1 {
        return Err(check::failed("an entry appended after reopening is not there".to_owned()));
    }
    store.close()?;
    bar.finish_and_clear();
    Report::new(source, args, &written, opened, &recovery, checked, &first, &again, dir)
}

/// What the writer did until it was killed.
pub(crate) struct Written {
    pub(crate) acks: Acks,
    /// From the first acknowledgement to the kill.
    pub(crate) ran: Duration,
}

fn write_and_kill(args: &DemoArgs, dir: &Path) -> Result<Written, Failure> {
    let mut child = start(args, dir)?;
    let Some(pipe) = child.stdout.take() else {
        stop(&mut child);
        return Err(Failure::other("the writer has no output"));
    };
    let progress = Arc::new(Progress::default());
    let reader = {
        let progress = Arc::clone(&progress);
        std::thread::spawn(move || acks::read(pipe, &progress))
    };
    let waited = wait_for_the_moment(&mut child, &progress, args.seconds);
    stop(&mut child);
    // What was acknowledged before the kill is still in the pipe: it counts.
    let acks = reader
        .join()
        .map_err(|_| Failure::other("reading the acknowledgements failed"))?
        .map_err(|error| Failure::other(format!("cannot read from the writer: {error}")))?;
    let ran = waited?;
    Ok(Written { acks, ran })
}

fn start(args: &DemoArgs, dir: &Path) -> Result<Child, Failure> {
    let failed = |error| Failure::other(format!("cannot start the writer: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("--store").arg(dir).arg("demo-writer");
    command.arg("--agents").arg(args.agents.to_string());
    command.arg("--threads").arg(args.threads.to_string());
    if let Some(input) = &args.input {
        let mut option = OsString::from("--input=");
        option.push(input);
        command.arg(option);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)
}

/// Kills the writer and waits for its end. `kill` is SIGKILL on Unix.
fn stop(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits for the first acknowledgement, and then for a random time.
fn wait_for_the_moment(
    child: &mut Child,
    progress: &Progress,
    seconds: f64,
) -> Result<Duration, Failure> {
    const STEP: Duration = Duration::from_millis(2);
    let bar = output::spinner("writing");
    let ended =
        |status: ExitStatus| Failure::other(format!("the writer ended by itself: {status}"));
    let failed = |error| Failure::other(format!("cannot watch the writer: {error}"));
    let begun = Instant::now();
    while progress.entries.load(Ordering::Relaxed) == 0 {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Err(ended(status));
        }
        if begun.elapsed() > FIRST_ACK {
            return Err(Failure::other("the writer acknowledged nothing in 30 seconds"));
        }
        std::thread::sleep(STEP);
    }
    let begun = Instant::now();
    let moment = Duration::from_secs_f64(seconds * (0.25 + 0.5 * random_share()));
    while begun.elapsed() < moment {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Err(ended(status));
        }
        bar.set_message(format!(
            "writing: {} entries acknowledged",
            output::count(progress.entries.load(Ordering::Relaxed))
        ));
        std::thread::sleep(STEP.min(moment.saturating_sub(begun.elapsed())));
    }
    bar.finish_and_clear();
    Ok(begun.elapsed())
}

/// A random number from 0 to 1.
fn random_share() -> f64 {
    let bits = RandomState::new().hash_one(std::process::id()) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
