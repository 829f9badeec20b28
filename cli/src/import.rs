//! `memlog import`: JSONL into the store, many lines a batch.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Instant;

use indicatif::ProgressBar;
use memlog::{Agent, Batch, Durability, ErrorKind, Options, Store};
use serde::Serialize;

use crate::args::{Globals, ImportArgs};
use crate::failure::Failure;
use crate::line::Message;
use crate::lines::Lines;
use crate::open::{Access, open_with};
use crate::output::{self, count, plural};
use crate::say::{self, Place};

/// A batch ends when it holds this much.
const BATCH_BYTES: usize = 1 << 20;
/// So many left-out lines are reported one by one; the others are only counted.
const REPORTED: u64 = 20;

/// What an import did.
#[derive(Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) entries: u64,
    agents: u64,
    bytes: u64,
    skipped: u64,
    seconds: f64,
}

pub(crate) fn run(globals: &Globals, args: &ImportArgs) -> Result<(), Failure> {
    let begun = Instant::now();
    let durability = Durability::from(args.durability);
    // Open the first file before a store is created for a mistyped name.
    let mut inputs = Vec::new();
    for file in &args.files {
        inputs.push(Lines::open(file)?);
    }
    let store = open_with(globals, Access::Create, Options::new().durability(durability))?;
    let bar = output::bytes_bar(total_bytes(&args.files), "importing");
    let mut import = Import::new(&store, durability, args);
    let mut before = 0;
    for lines in &mut inputs {
        import.file(lines, args.skip_malformed, &bar, before)?;
        before += lines.bytes();
    }
    import.flush()?;
    if durability != Durability::Sync {
        store.sync()?;
    }
    bar.finish_and_clear();
    let mut totals = import.totals;
    totals.agents = output::len(&import.agents.into_values().collect::<Vec<_>>());
    store.close()?;
    totals.seconds = begun.elapsed().as_secs_f64();
    report(globals, &totals)
}

fn report(globals: &Globals, totals: &Totals) -> Result<(), Failure> {
    if globals.json {
        return output::json_answer(totals);
    }
    let skipped = match totals.skipped {
        0 => String::new(),
        n => format!(", {} skipped", plural(n, "malformed line", "malformed lines")),
    };
    output::text_answer(&format!(
        "imported {} of {}, {} in {:.2} s{skipped}\n",
        plural(totals.entries, "entry", "entries"),
        plural(totals.agents, "agent", "agents"),
        output::bytes(totals.bytes),
        totals.seconds,
    ))
}

/// The size of all files together, if all are files.
fn total_bytes(files: &[PathBuf]) -> Option<u64> {
    files.iter().try_fold(0_u64, |sum, file| {
        let meta = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
        sum.checked_add(meta.len())
    })
}

/// A batch that is being filled, and what went before.
pub(crate) struct Import<'a> {
    store: &'a Store,
    durability: Durability,
    max_lines: usize,
    agents: HashMap<String, Agent>,
    batch: Batch,
    lines: usize,
    bytes: usize,
    /// Payload and meta of the batch, for the totals.
    content: u64,
    /// How many entries of each agent this batch holds, and which of them are to be redacted.
    pending: BTreeMap<String, (u64, Vec<u64>)>,
    pub(crate) totals: Totals,
}

impl<'a> Import<'a> {
    pub(crate) fn new(store: &'a Store, durability: Durability, args: &ImportArgs) -> Self {
        Import {
            store,
            durability,
            max_lines: usize::try_from(args.batch).unwrap_or(1),
            agents: HashMap::new(),
            batch: store.batch(),
            lines: 0,
            bytes: 0,
            content: 0,
            pending: BTreeMap::new(),
            totals: Totals::default(),
        }
    }

    /// Imports one file.
    pub(crate) fn file(
        &mut self,
        lines: &mut Lines,
        skip: bool,
        bar: &ProgressBar,
        before: u64,
    ) -> Result<(), Failure> {
        while let Some(line) = lines.next()? {
            let malformed = match line.and_then(Message::parse) {
                Ok(message) => self.add(&message)?,
                Err(reason) => Some(reason),
            };
            if let Some(reason) = malformed {
                if !skip {
                    bar.finish_and_clear();
                    return Err(self.refuse(lines, &reason));
                }
                self.totals.skipped += 1;
                if self.totals.skipped <= REPORTED {
                    let place = lines.place();
                    let message = format!("{place}: skipped: {reason}");
                    bar.suspend(|| say::warning("skipped", &message, &Place::default()));
                }
            }
            bar.set_position(before + lines.bytes());
        }
        Ok(())
    }

    /// Takes a message into the batch, or says why it cannot be.
    fn add(&mut self, message: &Message) -> Result<Option<String>, Failure> {
        if !self.agents.contains_key(&message.agent) {
            match self.store.agent(&message.agent) {
                Ok(agent) => drop(self.agents.insert(message.agent.clone(), agent)),
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    return Ok(Some("agent is not a name of 1 to 512 bytes".to_owned()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        // A large message gets a batch of its own, so that no batch is over the engine's limit.
        if self.bytes > 0 && self.bytes + message.payload.len() > BATCH_BYTES {
            self.flush()?;
        }
        let Some(agent) = self.agents.get(&message.agent) else { return Ok(None) };
        self.batch.append(agent, message.entry());
        let (entries, redacted) = self.pending.entry(message.agent.clone()).or_default();
        if message.redacted {
            redacted.push(*entries);
        }
        *entries += 1;
        self.lines += 1;
        let content = message.payload.len() + message.meta.len();
        self.content += u64::try_from(content).unwrap_or(0);
        self.bytes += content + message.agent.len() + 64;
        if self.lines >= self.max_lines || self.bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(None)
    }

    /// Commits the batch, and then redacts what came as redacted.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if self.lines == 0 {
            return Ok(());
        }
        let content = std::mem::take(&mut self.content);
        let lines = u64::try_from(self.lines).unwrap_or(u64::MAX);
        (self.lines, self.bytes) = (0, 0);
        self.batch.durability(self.durability);
        let receipt = self.batch.commit().map_err(|error| self.stopped(error))?;
        self.totals.entries += lines;
        self.totals.bytes += content;
        let mut redacts = false;
        for (name, (_, redacted)) in std::mem::take(&mut self.pending) {
            let Some(agent) = self.agents.get(&name) else { continue };
            let first = receipt.seqs(agent).start;
            for at in redacted {
                self.batch.redact(agent, first + at);
                redacts = true;
            }
        }
        if redacts {
            self.batch.durability(self.durability);
            self.batch.commit().map_err(|error| self.stopped(error))?;
        }
        Ok(())
    }

    fn stopped(&self, error: memlog::Error) -> Failure {
        let kept = plural(self.totals.entries, "entry", "entries");
        Failure::from(error).within(&format!("stopped after {kept}, which are kept"))
    }

    /// Keeps what came before a malformed line and says so.
    fn refuse(&mut self, lines: &Lines, reason: &str) -> Failure {
        let place = lines.place();
        let kept = self.flush().and_then(|()| Ok(self.store.sync()?));
        if let Err(failure) = kept {
            return failure.within(&format!("{place}: {reason}; keeping the lines before it"));
        }
        Failure::usage(format!(
            "{place}: {reason}; nothing of this line or after it was imported; {}",
            match self.totals.entries {
                0 => "nothing was before it".to_owned(),
                1 => "the entry before it is imported and kept".to_owned(),
                n => format!("the {} entries before it are imported and kept", count(n)),
            }
        ))
        .hint(format!(
            "correct the line and import the rest (tail -n +{} FILE | memlog import -), or leave \
             malformed lines out with --skip-malformed",
            lines.number()
        ))
    }
}
