//! `memlog import`: JSONL into the store, many lines a batch.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use memlog::{Agent, Batch, Durability, Options, Store};
use serde::Serialize;

use crate::args::{Globals, ImportArgs};
use crate::failure::Failure;
use crate::line::{self, Message};
use crate::lines::{Lines, Mark};
use crate::open::{Access, open_with};
use crate::output::{self, count, plural};
use crate::refusal::Refusal;
use crate::resume::{self, Begin, Known, Tracked};
use crate::say::{self, Place};
use crate::transcript;

/// A batch ends when it holds this much.
const BATCH_BYTES: usize = 1 << 20;
/// So many left-out lines are reported one by one; the others are only counted.
const REPORTED: u64 = 20;
/// A tool result is linked to a call at most this many entries before it.
const CALL_WITHIN: usize = 256;

/// What an import did.
#[derive(Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) entries: u64,
    agents: u64,
    bytes: u64,
    skipped: u64,
    /// Bytes of the sources that had been imported before, with `--resume`.
    passed_bytes: u64,
    seconds: f64,
}

pub(crate) fn run(globals: &Globals, args: &ImportArgs) -> Result<(), Failure> {
    let begun = Instant::now();
    let durability = Durability::from(args.durability);
    // Open the files before a store is created for a mistyped name.
    let mut inputs = Vec::new();
    for file in &args.files {
        inputs.push((file, Lines::open(file)?));
    }
    let store = open_with(globals, Access::Create, Options::new().durability(durability))?;
    let bar = output::bytes_bar(total_bytes(&args.files), "importing");
    let mut import = Import::new(&store, durability, args);
    import.command = go_on_by(globals, args);
    let (mut known, mut before) = (Known::load(&store)?, 0);
    for (file, lines) in &mut inputs {
        if let Begin::From { tracked, skip } = known.begin(file, lines, args)? {
            import.begin(tracked, skip);
            import.file(lines, args.skip_malformed, &bar, before)?;
            import.end()?.into_iter().for_each(|tracked| known.note(tracked));
        } else {
            import.totals.passed_bytes += std::fs::metadata(file).map_or(0, |meta| meta.len());
        }
        before += lines.bytes();
    }
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
        "imported {} of {}, {} in {:.2} s{}{skipped}\n",
        plural(totals.entries, "entry", "entries"),
        plural(totals.agents, "agent", "agents"),
        output::bytes(totals.bytes),
        totals.seconds,
        resume::passed(totals.passed_bytes),
    ))
}

/// The size of all files together, if all are files.
fn total_bytes(files: &[PathBuf]) -> Option<u64> {
    files.iter().try_fold(0_u64, |sum, file| {
        let meta = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
        sum.checked_add(meta.len())
    })
}

/// The command that goes on once a line is mended, up to the name of the file.
fn go_on_by(globals: &Globals, args: &ImportArgs) -> String {
    let mut command = format!("memlog --store {} import", quoted(&globals.store));
    if let Some(agent) = &args.agent {
        command.push_str(&format!(" --agent {}", quoted(Path::new(agent))));
    }
    command
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// An agent that is imported to.
struct Target {
    agent: Agent,
    /// The ids of the tool calls that the last entries may still answer; `None` if that was not
    /// looked for yet.
    open: Option<Vec<String>>,
    /// Entries of this batch.
    pending: u64,
}

/// A batch that is being filled, and what went before.
pub(crate) struct Import<'a> {
    store: &'a Store,
    durability: Durability,
    max_lines: usize,
    pattern: Option<String>,
    agents: HashMap<String, Target>,
    batch: Batch,
    lines: usize,
    bytes: usize,
    /// Payload and meta of the batch, for the totals.
    content: u64,
    tracked: Option<Tracked>,
    /// The place after the last line that is in the batch whole, and how many messages of the next
    /// line are in it.
    mark: Mark,
    within: u64,
    /// Messages of the first line that were imported before.
    skip: u64,
    /// What to type to go on.
    command: String,
    pub(crate) totals: Totals,
}

impl<'a> Import<'a> {
    pub(crate) fn new(store: &'a Store, durability: Durability, args: &ImportArgs) -> Self {
        Import {
            store,
            durability,
            max_lines: usize::try_from(args.batch).unwrap_or(1),
            pattern: args.agent.clone(),
            agents: HashMap::new(),
            batch: store.batch(),
            lines: 0,
            bytes: 0,
            content: 0,
            tracked: None,
            mark: Mark::default(),
            within: 0,
            skip: 0,
            command: "memlog import".to_owned(),
            totals: Totals::default(),
        }
    }

    /// Begins a file, whose lines are where its import goes on.
    fn begin(&mut self, tracked: Option<Tracked>, skip: u64) {
        self.totals.passed_bytes += tracked.as_ref().map_or(0, |tracked| tracked.mark().bytes);
        (self.tracked, self.skip) = (tracked, skip);
    }

    /// Imports one file, up to its end or to a line that is refused.
    pub(crate) fn file(
        &mut self,
        lines: &mut Lines,
        skip: bool,
        bar: &ProgressBar,
        before: u64,
    ) -> Result<(), Failure> {
        (self.mark, self.within) = (lines.mark(), 0);
        loop {
            let agent = self.pattern.as_deref().map(|pattern| {
                transcript::expand(pattern, lines.name(), lines.number().saturating_add(1))
            });
            let Some(line) = lines.next()? else { return Ok(()) };
            match line.and_then(|line| transcript::read(line, agent.as_deref())) {
                Ok(messages) => {
                    for message in messages {
                        self.add(message)?;
                    }
                }
                Err(refusal) if !skip => {
                    bar.finish_and_clear();
                    return Err(self.refuse(lines, &refusal));
                }
                Err(refusal) => {
                    self.totals.skipped += 1;
                    if self.totals.skipped <= REPORTED {
                        let message = format!(
                            "{}:{}: skipped: {}; {}",
                            lines.place(),
                            refusal.column,
                            refusal.what,
                            refusal.mend
                        );
                        let place = place(lines, &refusal);
                        bar.suspend(|| say::warning("skipped", &message, &place));
                    }
                }
            }
            (self.mark, self.within, self.skip) = (lines.mark(), 0, 0);
            bar.set_position(before.saturating_add(lines.bytes()));
        }
    }

    /// Takes a message into the batch.
    fn add(&mut self, mut message: Message) -> Result<(), Failure> {
        if self.within < self.skip {
            self.within += 1;
            return Ok(());
        }
        // A large message gets a batch of its own, so that no batch is over the engine's limit.
        if self.bytes > 0 && self.bytes + message.payload.len() > BATCH_BYTES {
            self.flush(false)?;
        }
        if !self.agents.contains_key(&message.agent) {
            let agent = self.store.agent(&message.agent)?;
            let target = Target { agent, open: None, pending: 0 };
            self.agents.insert(message.agent.clone(), target);
        }
        let Some(target) = self.agents.get_mut(&message.agent) else { return Ok(()) };
        target.join(&mut message)?;
        self.batch.append(&target.agent, message.entry());
        if message.redacted {
            let next = target.agent.view()?.next_seq();
            self.batch.redact(&target.agent, next.saturating_add(target.pending));
        }
        target.pending += 1;
        self.within += 1;
        self.lines += 1;
        let content = message.payload.len() + message.meta.len();
        self.content += u64::try_from(content).unwrap_or(0);
        self.bytes += content + message.agent.len() + 64;
        if self.lines >= self.max_lines || self.bytes >= BATCH_BYTES {
            self.flush(false)?;
        }
        Ok(())
    }

    /// Commits the rest of a file, and that all of it is imported; gives that back.
    pub(crate) fn end(&mut self) -> Result<Option<Tracked>, Failure> {
        self.flush(true)?;
        Ok(self.tracked.take())
    }

    /// Commits the batch, and with it how far the file is imported.
    fn flush(&mut self, done: bool) -> Result<(), Failure> {
        if self.lines == 0 && !(done && self.tracked.is_some()) {
            return Ok(());
        }
        let content = std::mem::take(&mut self.content);
        let lines = u64::try_from(self.lines).unwrap_or(u64::MAX);
        (self.lines, self.bytes) = (0, 0);
        if let Some(tracked) = &mut self.tracked {
            tracked.note(&mut self.batch, &self.mark, self.within, lines, done)?;
        }
        self.batch.durability(self.durability);
        self.batch.commit().map_err(|error| self.stopped(error))?;
        self.agents.values_mut().for_each(|target| target.pending = 0);
        self.totals.entries += lines;
        self.totals.bytes += content;
        Ok(())
    }

    fn stopped(&self, error: memlog::Error) -> Failure {
        let kept = plural(self.totals.entries, "entry", "entries");
        Failure::from(error).within(&format!("stopped after {kept}, which are kept"))
    }

    /// Keeps what came before a malformed line and says so.
    fn refuse(&mut self, lines: &Lines, refusal: &Refusal) -> Failure {
        let at = format!("{}:{}: {}", lines.place(), refusal.column, refusal.what);
        let kept = self.flush(false).and_then(|()| Ok(self.store.sync()?));
        if let Err(failure) = kept {
            return failure.within(&format!("{at}; keeping the lines before it"));
        }
        let go_on = match &self.tracked {
            Some(_) => format!("{} --resume {}", self.command, quoted(lines.name())),
            None => format!("tail -n +{} FILE | {} -", lines.number(), self.command),
        };
        let earlier = self.totals.passed_bytes > 0;
        Failure::usage(format!(
            "{at}; nothing of this line or after it was imported; {}",
            match self.totals.entries {
                0 if earlier => "what was imported before is kept".to_owned(),
                0 => "nothing was before it".to_owned(),
                1 => "the entry before it is imported and kept".to_owned(),
                n => format!("the {} entries before it are imported and kept", count(n)),
            }
        ))
        .at(place(lines, refusal))
        .hint(format!(
            "{}; then go on with: {go_on}; or leave malformed lines out with --skip-malformed",
            refusal.mend,
        ))
    }
}

impl Target {
    /// Joins a result to the call before it, where the line does not say whether it is.
    fn join(&mut self, message: &mut Message) -> Result<(), Failure> {
        if self.open.is_none() && !message.answers.is_empty() && message.joined.is_none() {
            self.open = Some(open_calls(&self.agent)?);
        }
        let open = self.open.get_or_insert_default();
        let answers = message.answers.iter().any(|id| open.contains(id));
        let joined = *message.joined.get_or_insert(answers);
        if joined {
            open.extend(message.calls.iter().cloned());
        } else {
            open.clone_from(&message.calls);
        }
        Ok(())
    }
}

/// The ids of the tool calls that the last entries of an agent make: of the last one, and of those
/// that it is joined to.
fn open_calls(agent: &Agent) -> Result<Vec<String>, Failure> {
    let (view, mut calls) = (agent.view()?, Vec::new());
    for entry in view.latest(CALL_WITHIN).rev() {
        let entry = entry?;
        calls.extend(line::calls_of(&entry));
        if !entry.is_joined() {
            break;
        }
    }
    Ok(calls)
}

/// Where a line was refused.
fn place(lines: &Lines, refusal: &Refusal) -> Place {
    Place {
        file: Some(lines.name().to_owned()),
        line: Some(lines.number()),
        column: Some(refusal.column),
        field: refusal.field.clone(),
        ..Place::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("./memlog-store")), "./memlog-store");
        assert_eq!(quoted(Path::new("it's here")), "'it'\\''s here'");
        assert_eq!(quoted(Path::new("")), "''");
    }
}
