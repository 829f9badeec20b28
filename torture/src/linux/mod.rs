//! All of it: what there is to run, and what the campaigns share.

mod acks;
mod check;
mod fork;
mod history;
mod inject;
mod kills;
mod lane;
mod medium;
mod processes;
mod rng;
mod soak;
mod trail;
mod trap;
mod writer;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// How a process ends that met errors which a failing call or medium may lead to,
const FITTING: u8 = 10;
/// and others.
const WRONG: u8 = 11;

#[derive(Parser)]
#[command(about = "Kills, failing system calls and failing media against memlog")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// kill -9 of writing processes, and of recoveries
    Kills(kills::KillArgs),
    /// Each system call of a workload fails, in turn
    Inject(inject::InjectArgs),
    /// Two processes, forks, and files cut or removed under a store
    Processes(processes::ProcessArgs),
    /// Power failures, errors and want of room under a real file system (needs root)
    Medium(medium::MediumArgs),
    /// A store in use for hours, with figures for each minute
    Soak(soak::SoakArgs),
    /// What the other commands start
    #[command(hide = true)]
    Writer(writer::WriterArgs),
    /// What `processes` starts
    #[command(hide = true)]
    Holder(processes::HolderArgs),
    /// What `medium` starts
    #[command(hide = true)]
    Checker(medium::CheckerArgs),
    /// What `inject` starts
    #[command(hide = true)]
    Victim(inject::VictimArgs),
}

pub fn main() -> ExitCode {
    let well = match Args::parse().what {
        What::Kills(args) => kills::run(&args),
        What::Soak(args) => soak::run(&args),
        What::Inject(args) => inject::run(&args),
        What::Victim(args) => return inject::victim(&args),
        What::Processes(args) => processes::run(&args),
        What::Holder(args) => processes::hold(&args),
        What::Medium(args) => medium::run(&args),
        What::Checker(args) => medium::run_checker(&args),
        What::Writer(args) => match writer::run(&args) {
            Ok(()) => true,
            Err(error) => {
                eprintln!("{:?}: {error}", error.kind());
                return ExitCode::from(if writer::is_fitting(&error) { FITTING } else { WRONG });
            }
        },
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A seed for who names none. It is printed.
fn seed_of_the_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_millis() as u64 % 1_000_000_000 * 1000
}

/// A directory of our own, removed at the end unless something failed.
fn place(dir: Option<&Path>) -> tempfile::TempDir {
    let builder = tempfile::Builder::new().prefix("memlog-torture-").to_owned();
    match dir {
        Some(dir) => builder.tempdir_in(dir).unwrap(),
        None => builder.tempdir().unwrap(),
    }
}
