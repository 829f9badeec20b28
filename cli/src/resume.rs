//! How far a source has been imported: kept in the store, in the very batches that hold its entries.
//!
//! The records are state of an agent that the command keeps for itself. A key is the hash of the
//! source's first line and of `--agent`; sources that begin alike have a number each.

use std::fs;
use std::path::Path;

use memlog::{Agent, Batch, Store};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::args::ImportArgs;
use crate::failure::{Failure, code};
use crate::lines::{Lines, Mark};
use crate::output::{self, plural};
use crate::say::{self, Place};

/// The agent whose state has the records.
const AGENT: &str = ".memlog/import";

/// How far a source was imported, as it is kept in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    path: String,
    agent: Option<String>,
    /// Of whole lines.
    bytes: u64,
    lines: u64,
    /// Of these bytes, in hexadecimal digits.
    hash: String,
    /// Messages of the line after them.
    within: u64,
    entries: u64,
    /// Up to its end at that time.
    done: bool,
}

impl Record {
    fn mark(&self) -> Mark {
        let hash = u128::from_str_radix(&self.hash, 16).unwrap_or_default();
        Mark { bytes: self.bytes, lines: self.lines, hash }
    }
}

/// A source whose progress is kept.
pub(crate) struct Tracked {
    agent: Agent,
    key: String,
    record: Record,
}

/// What is to be done with a source.
pub(crate) enum Begin {
    /// Import goes on at the current line; this many messages of that line are there already.
    From { tracked: Option<Tracked>, skip: u64 },
    /// Everything in it was imported.
    Nothing,
}

/// What the store says of the sources that were imported.
pub(crate) struct Known {
    agent: Agent,
    records: Vec<(String, Record)>,
}

impl Known {
    /// Reads all records.
    pub(crate) fn load(store: &Store) -> Result<Known, Failure> {
        let (agent, mut records) = (store.agent(AGENT)?, Vec::new());
        for state in agent.view()?.states("") {
            let state = state?;
            // A record that a later version of the command wrote is left alone.
            if let Ok(record) = serde_json::from_slice(state.value()) {
                records.push((state.key().to_owned(), record));
            }
        }
        Ok(Known { agent, records })
    }

    /// Takes up how far a source was imported now.
    pub(crate) fn note(&mut self, tracked: Tracked) {
        self.records.retain(|(key, _)| *key != tracked.key);
        self.records.push((tracked.key, tracked.record));
    }

    /// Finds out how far a source was imported, and brings its lines there.
    pub(crate) fn begin(
        &self,
        path: &Path,
        lines: &mut Lines,
        args: &ImportArgs,
    ) -> Result<Begin, Failure> {
        let is_file = fs::metadata(path).is_ok_and(|meta| meta.is_file());
        if path.as_os_str() == "-" || !is_file {
            return without_memory(lines, args);
        }
        let name = fs::canonicalize(path).map_err(|error| Failure::io("find", path, &error))?;
        let name = name.to_string_lossy().into_owned();
        let prefix = prefix(path, args.agent.as_deref())?;
        // The record with the most bytes that the file still begins with.
        let mut same: Option<&(String, Record)> = None;
        for known in self.records.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            let longer = same.is_none_or(|(_, best)| best.bytes < known.1.bytes);
            if longer && Lines::open(path)?.pass(&known.1.mark())? {
                same = Some(known);
            }
        }
        let Some((key, record)) = same.cloned() else {
            other_under_this_name(&self.records, &name, path, args)?;
            let tracked = Some(self.fresh(&prefix, name, args));
            return Ok(Begin::From { tracked, skip: 0 });
        };
        let record = Record { path: name, ..record };
        let len = fs::metadata(path).map_err(|error| Failure::io("read", path, &error))?.len();
        let tracked = |record| Some(Tracked { agent: self.agent.clone(), key, record });
        if args.again {
            let fresh = Record { bytes: 0, lines: 0, within: 0, entries: 0, done: false, ..record };
            return Ok(Begin::From { tracked: tracked(fresh), skip: 0 });
        }
        if !args.resume {
            return Err(imported_before(path, &record, len));
        }
        if record.done && record.bytes == len {
            return Ok(Begin::Nothing);
        }
        if !lines.pass(&record.mark())? {
            let message = format!("{} has changed while it was read", path.display());
            return Err(Failure::new(code::CONFLICT, message).hint("import it when it is at rest"));
        }
        let skip = record.within;
        Ok(Begin::From { tracked: tracked(record), skip })
    }

    /// A source that was never imported.
    fn fresh(&self, prefix: &str, path: String, args: &ImportArgs) -> Tracked {
        let taken = |n: &u32| self.records.iter().any(|(key, _)| *key == format!("{prefix}{n}"));
        let free = (0..).find(|n| !taken(n)).unwrap_or_default();
        let record = Record {
            path,
            agent: args.agent.clone(),
            bytes: 0,
            lines: 0,
            hash: format!("{:032x}", Mark::default().hash),
            within: 0,
            entries: 0,
            done: false,
        };
        Tracked { agent: self.agent.clone(), key: format!("{prefix}{free}"), record }
    }
}

/// A source that is not remembered: it cannot be read again.
fn without_memory(lines: &Lines, args: &ImportArgs) -> Result<Begin, Failure> {
    if !args.resume {
        return Ok(Begin::From { tracked: None, skip: 0 });
    }
    Err(Failure::usage(format!("--resume: {} cannot be read again", lines.name().display()))
        .hint("name a file: what of it was imported is checked, and passed over"))
}

/// What the keys of sources with the same first line and agent begin with.
fn prefix(path: &Path, agent: Option<&str>) -> Result<String, Failure> {
    let mut lines = Lines::open(path)?;
    let mut hasher = Xxh3::new();
    if let Some(Ok(line)) = lines.next()? {
        // A last line may get its end only later.
        hasher.update(line.trim_ascii());
    }
    hasher.update(b"\n");
    hasher.update(agent.unwrap_or_default().as_bytes());
    Ok(format!("{:016x}/", hasher.digest()))
}

/// A source of the same name that begins otherwise than what was imported.
fn other_under_this_name(
    known: &[(String, Record)],
    name: &str,
    path: &Path,
    args: &ImportArgs,
) -> Result<(), Failure> {
    let is_it = |record: &Record| record.path == name && record.agent == args.agent;
    let Some((_, record)) = known.iter().find(|(_, record)| is_it(record)) else { return Ok(()) };
    let place = Place { file: Some(path.to_owned()), ..Place::default() };
    let message = format!(
        "{} is not what was imported under this name before: its first {} are others now",
        path.display(),
        plural(record.bytes, "byte", "bytes"),
    );
    if args.resume {
        return Err(Failure::new(code::CONFLICT, message).at(place).hint(
            "if all of it is new, import it without --resume; if some of it was imported, import \
             only the rest",
        ));
    }
    say::warning("changed", &format!("{message}; all of it is imported"), &place);
    Ok(())
}

fn imported_before(path: &Path, record: &Record, len: u64) -> Failure {
    let entries = plural(record.entries, "entry", "entries");
    let (what, hint) = match record.done {
        true if record.bytes == len => (
            format!("was imported before, all {entries} of it"),
            "nothing changed; --again appends all of it once more",
        ),
        true => (
            format!(
                "was imported before, and has grown from {} to {len} bytes since",
                record.bytes
            ),
            "nothing changed; --resume appends what is new, --again all of it once more",
        ),
        false => (
            format!("was imported in part: {entries}, {} of {len} bytes", record.bytes),
            "nothing changed; --resume goes on there, --again appends all of it once more",
        ),
    };
    let place = Place { file: Some(path.to_owned()), ..Place::default() };
    Failure::new(code::CONFLICT, format!("{} {what}", path.display())).at(place).hint(hint)
}

impl Tracked {
    /// Says in a batch how far the source is imported once the batch is committed: up to `mark`, and
    /// `within` messages more, which are `entries` more than before.
    pub(crate) fn note(
        &mut self,
        batch: &mut Batch,
        mark: &Mark,
        within: u64,
        entries: u64,
        done: bool,
    ) -> Result<(), Failure> {
        let record = &mut self.record;
        (record.bytes, record.lines, record.within) = (mark.bytes, mark.lines, within);
        record.hash = format!("{:032x}", mark.hash);
        record.entries = record.entries.saturating_add(entries);
        record.done = done;
        let value = serde_json::to_vec(record).map_err(|error| {
            Failure::other(format!("cannot write down how far the import is: {error}"))
        })?;
        batch.set(&self.agent, &self.key, &value);
        Ok(())
    }

    /// Where the source was gone on with.
    pub(crate) fn mark(&self) -> Mark {
        self.record.mark()
    }
}

/// What a report says of the bytes that were passed over.
pub(crate) fn passed(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        n => format!(", after {} that were imported before", output::bytes(n)),
    }
}
