//! Import and export of lines for the fuzz target of `fuzz/`, and for nobody else.

use std::io::Cursor;
use std::path::PathBuf;

use indicatif::ProgressBar;
use memlog::{Durability, Store};

use crate::args::{DurabilityArg, ImportArgs};
use crate::import::Import;
use crate::line;
use crate::lines::Lines;

/// Lines of one batch: few, so that short inputs have several.
const BATCH: u32 = 3;

/// Imports JSONL as the command does; gives how many entries it took.
///
/// # Errors
/// What the command would print before it stopped.
pub fn import(store: &Store, jsonl: Vec<u8>) -> Result<u64, String> {
    let durability = DurabilityArg::Buffer;
    let args = ImportArgs {
        files: Vec::new(),
        agent: Some("{file}/{line}".to_owned()),
        durability,
        batch: BATCH,
        skip_malformed: false,
        resume: false,
        again: false,
    };
    let mut lines = Lines::new(PathBuf::from("fuzz"), Box::new(Cursor::new(jsonl)));
    let mut import = Import::new(store, Durability::Buffer, &args);
    let outcome = import
        .file(&mut lines, false, &ProgressBar::hidden(), 0)
        .and_then(|()| import.end().map(drop));
    outcome.map_err(|failure| format!("{failure:?}")).map(|()| import.totals.entries)
}

/// Exports all agents as JSONL, as the command does.
///
/// # Errors
/// What cannot be read.
pub fn export(store: &Store) -> memlog::Result<Vec<u8>> {
    let mut out = Vec::new();
    for agent in store.agents("") {
        let agent = agent?;
        for entry in agent.view()?.iter() {
            line::write(&mut out, agent.name(), &entry?);
        }
    }
    Ok(out)
}
