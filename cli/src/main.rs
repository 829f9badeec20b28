//! The command `memlog`: import, look at, export, compact, back up, verify and repair stores.

mod append;
mod args;
mod backup;
mod demo;
mod export;
mod failure;
mod import;
mod line;
mod lines;
mod list;
mod manage;
mod open;
mod output;
mod role;
mod show;
mod space;
mod state;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
        Command::Stats => space::stats(globals),
        Command::Compact => space::compact(globals),
        Command::Purge => space::purge(globals),
        Command::Backup(args) => backup::backup(globals, args),
        Command::Restore(args) => backup::restore(globals, args),
        Command::Verify => manage::verify(globals),
        Command::Repair(args) => manage::repair(globals, args),
        Command::Demo(args) => demo::run(globals, args),
        Command::DemoWriter(args) => demo::writer::run(globals, args),
    }
}
