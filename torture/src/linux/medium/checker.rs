//! Opens a store that was recovered from a medium, checks it against what was acknowledged, and
//! goes on with it: a process of its own, for nothing may be mapped when the medium is changed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use memlog::Durability;

use super::said;
use crate::linux::acks::{Ack, read_all};
use crate::linux::check::{self, Told};
use crate::linux::history::History;
use crate::linux::writer::options;

#[derive(clap::Args, Clone, Debug)]
pub struct CheckerArgs {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    history: PathBuf,
    /// What was acknowledged, as records.
    #[arg(long)]
    acks: PathBuf,
    /// What was acknowledged later than after so many events may be lost.
    #[arg(long)]
    upto: u64,
}

pub fn write_acks(path: &Path, acks: &[Ack]) {
    let bytes: Vec<u8> = acks.iter().flat_map(Ack::encode).collect();
    fs::write(path, bytes).unwrap();
}

/// Has another process open the store in `dir` and check it.
pub fn check(dir: &Path, history: &Path, acks: &Path, upto: u64) -> Result<(), String> {
    said(&mut command(dir, history, acks, upto)).map(drop)
}

pub fn command(dir: &Path, history: &Path, acks: &Path, upto: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("checker").arg("--dir").arg(dir);
    command.arg("--history").arg(history);
    command.arg("--acks").arg(acks).arg("--upto").arg(upto.to_string());
    command
}

pub fn run_checker(args: &CheckerArgs) -> bool {
    match checked(args) {
        Ok(()) => true,
        Err(reason) => {
            println!("{reason}");
            false
        }
    }
}

fn checked(args: &CheckerArgs) -> Result<(), String> {
    let error = |error: memlog::Error| format!("{error} ({:?})", error.kind());
    let history = History::read(&args.history);
    let lanes = history.lanes();
    let mut told = Told::new(&lanes);
    let acks = File::open(&args.acks).unwrap();
    read_all(acks, |ack| told.hear(&ack, Durability::Sync, ack.stamp <= args.upto));
    let store = options(false).open(&args.dir).map_err(|e| format!("open: {}", error(e)))?;
    let first = check::check(&store, history.seed, 1, &lanes, &told)?;
    store.sync().map_err(error)?;
    store.close().map_err(error)?;
    // A second opening gives the same store, which then goes on.
    let store = options(true).open(&args.dir).map_err(|e| format!("open again: {}", error(e)))?;
    let second = check::check(&store, history.seed, 1, &lanes, &told)?;
    if first.iter().zip(&second).any(|((a, _), (b, _))| a.done != b.done) {
        return Err("a second opening gives another store".to_owned());
    }
    let agent = store.agent("clock-0").map_err(error)?;
    agent.append(memlog::NewEntry::user("and on")).map_err(|e| format!("on: {}", error(e)))?;
    store.close().map_err(error)
}
