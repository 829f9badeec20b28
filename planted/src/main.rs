//! Faults planted into the engine on purpose, to see whether the tests see them.
//!
//! The source stays clean: the faults are edits, kept in `faults/`. The tool copies the tree, makes
//! all edits in the copy at once, each behind a switch, and builds the tests of the copy. Then it
//! runs them with one fault switched on at a time, the layer that is expected to see it first, and
//! tells which test did.

mod fault;
mod layers;
mod run;
mod table;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::fault::Fault;
use crate::run::{Breadth, Outcome, Runner};

/// What goes wrong with the tool itself, in words.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Plants faults into memlog, one at a time, and tells which test sees each.
#[derive(Parser)]
struct Args {
    /// Only tell which faults there are.
    #[arg(long)]
    list: bool,
    /// Only these faults.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Run all layers for each, and not just up to the first that sees it.
    #[arg(long)]
    all: bool,
    /// Run only the layers that are expected to see a fault, and none if they do not.
    #[arg(long, conflicts_with_all = ["all", "write"])]
    expected: bool,
    /// Write what was found into the table of `docs/testing.md`.
    #[arg(long)]
    write: bool,
    /// Where the copy and what is built of it are kept between runs.
    #[arg(long)]
    work: Option<PathBuf>,
}

fn main() -> ExitCode {
    match plant(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// True if every fault was seen.
fn plant(args: &Args) -> Result<bool> {
    let root = tree::root();
    let faults = fault::all(&root)?;
    if let Some(unknown) = args.only.iter().find(|id| !faults.iter().any(|f| f.id == **id)) {
        return Err(format!("there is no fault {unknown}"));
    }
    let is_wanted = |fault: &&Fault| args.only.is_empty() || args.only.contains(&fault.id);
    let wanted: Vec<&Fault> = faults.iter().filter(is_wanted).collect();
    if args.list {
        for fault in &wanted {
            println!("{}: {} ({})", fault.id, fault.sentence, fault.file());
        }
        println!("{} faults", wanted.len());
        return Ok(true);
    }
    let work = args.work.clone().unwrap_or_else(|| root.join("target/planted"));
    tree::copy(&root, &work.join("tree"), &faults)?;
    let mut runner = Runner::new(&work);
    let mut rows = Vec::new();
    for (number, fault) in wanted.iter().enumerate() {
        let breadth = match (args.all, args.expected) {
            (true, _) => Breadth::All,
            (_, true) => Breadth::Expected,
            _ => Breadth::First,
        };
        let outcome = runner.fault(fault, breadth)?;
        println!("{}/{} {}", number + 1, wanted.len(), table::row(fault, &outcome));
        if args.write {
            table::write(&root, &faults, fault, &outcome)?;
        }
        rows.push((*fault, outcome));
    }
    let survived: Vec<&str> = rows
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Survived)
        .map(|(fault, _)| fault.id.as_str())
        .collect();
    println!("{} faults, {} not seen: {}", rows.len(), survived.len(), survived.join(" "));
    Ok(survived.is_empty())
}
