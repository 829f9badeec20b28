//! The command `memlog`: import, look at, export, compact, back up, verify and repair stores.
//!
//! It is a library for the sake of its fuzz target only: nothing of it is stable.

mod append;
mod args;
mod backup;
mod beside;
mod change;
mod demo;
mod export;
mod failure;
mod import;
#[cfg(feature = "unstable-internals")]
#[doc(hidden)]
pub mod internals;
mod line;
mod lines;
mod list;
mod manage;
mod open;
mod output;
mod refusal;
mod repair;
mod resume;
mod retention;
mod role;
mod say;
mod shape;
mod show;
mod space;
mod state;
mod transcript;
mod when;

use std::process::ExitCode;

use crate::args::{Cli, Command};
use crate::failure::Failure;

/// Runs the command with the arguments of the process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match args::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let globals = &cli.globals;
    match &cli.command {
        Command::Import(args) => import::run(globals, args),
        Command::Export(args) => export::run(globals, args),
        Command::Append(args) => append::run(globals, args),
        Command::Show(args) => show::run(globals, args),
        Command::Agents(args) => list::run(globals, args),
        Command::State(command) => state::run(globals, command),
        Command::Forget(args) => manage::forget(globals, args),
        Command::Truncate(args) => change::truncate(globals, args),
        Command::Redact(args) => change::redact(globals, args),
        Command::Retention(command) => retention::run(globals, command),
        Command::Usage(args) => retention::usage(globals, args),
        Command::Stats => space::stats(globals),
        Command::Compact => space::compact(globals),
        Command::Purge => space::purge(globals),
        Command::Backup(args) => backup::backup(globals, args),
        Command::Restore(args) => backup::restore(globals, args),
        Command::Verify => manage::verify(globals),
        Command::Repair(args) => repair::repair(globals, args),
        Command::AcceptHoles(args) => repair::accept_holes(globals, args),
        Command::Demo(args) => demo::run(globals, args),
        Command::DemoWriter(args) => demo::writer::run(globals, args),
    }
}
