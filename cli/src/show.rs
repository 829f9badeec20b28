//! `memlog show`: the timeline of an agent, for people or for scripts.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use memlog::{Entry, Options, View};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::{Globals, ShowArgs};
use crate::failure::{Failure, code};
use crate::line;
use crate::open::{Access, exists, open, utf8, walk};
use crate::output::{self, escape, escape_line, millis};
use crate::say::{self, Place};

/// How often `--follow` looks.
const EVERY: Duration = Duration::from_millis(500);
/// So many looks in a row may find the same entry or the store unreadable: a writer may be at it.
const PATIENCE: u32 = 6;

/// Seqs from the first to before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeqRange(u64, u64);

/// Reads `A..B`, `A..=B`, `A..` and `..B`.
pub(crate) fn seq_range(text: &str) -> Result<SeqRange, String> {
    let wrong = || "a range is A..B (without B), A..=B, A.. or ..B".to_owned();
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (to, closed) = to.strip_prefix('=').map_or((to, false), |to| (to, true));
    let number = |text: &str, absent: u64| {
        if text.is_empty() { Ok(absent) } else { text.parse().map_err(|_| wrong()) }
    };
    if closed && to.is_empty() {
        return Err(wrong());
    }
    let (from, to) = (number(from, 1)?, number(to, u64::MAX)?);
    if from == 0 {
        return Err("seqs begin at 1".to_owned());
    }
    Ok(SeqRange(from, if closed { to.saturating_add(1) } else { to }))
}

pub(crate) fn run(globals: &Globals, args: &ShowArgs) -> Result<(), Failure> {
    let name = utf8("the agent's name", &args.agent)?;
    if args.follow {
        return follow(globals, name, args.latest);
    }
    let store = open(globals, Access::Read)?;
    let view = store.agent(name)?.view()?;
    if view.next_seq() == 1 && !exists(&store, name)? {
        return Err(Failure::no_agent(name));
    }
    let range = match (args.range, args.latest) {
        (Some(SeqRange(from, to)), _) => from.max(view.floor())..to.min(view.next_seq()),
        (None, latest) => tail(&view, latest),
    };
    let mut out = output::stdout();
    let mut damaged = 0_u64;
    walk(
        &view,
        range,
        |entry| print(&mut out, globals.json, name, entry),
        |_, error| {
            damaged += 1;
            say::went_on(error);
            Ok(())
        },
    )?;
    out.flush()?;
    match damaged {
        0 => Ok(()),
        n => {
            let entries = output::plural(n, "entry", "entries");
            Err(Failure::new(code::DAMAGE, format!("{entries} could not be read and left out"))
                .hint("`memlog verify` lists all damage"))
        }
    }
}

fn tail(view: &View, latest: Option<u64>) -> Range<u64> {
    let from = view.next_seq().saturating_sub(latest.unwrap_or(u64::MAX));
    from.max(view.floor())..view.next_seq()
}

/// The last entry that was printed, to tell a new life of the name from the old one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Last {
    seq: u64,
    at: u64,
    content: u64,
}

impl Last {
    fn of(entry: &Entry<'_>) -> Last {
        let mut hasher = DefaultHasher::new();
        entry.payload().hash(&mut hasher);
        Last { seq: entry.seq(), at: millis(entry.at()), content: hasher.finish() }
    }

    /// Whether the view is of the life that this entry is in, as far as can be seen.
    fn is_in(self, view: &View) -> bool {
        if view.next_seq() <= self.seq {
            return false;
        }
        match view.get(self.seq) {
            Ok(Some(entry)) => entry.is_redacted() || Last::of(&entry) == self,
            // Truncated, or not readable: nothing speaks against it.
            Ok(None) | Err(_) => true,
        }
    }
}

/// What `--follow` has printed, and where it is stuck.
struct Follower<'a> {
    name: &'a str,
    json: bool,
    next: Option<u64>,
    last: Option<Last>,
    stuck: (u64, u32),
}

fn follow(globals: &Globals, name: &str, latest: Option<u64>) -> Result<(), Failure> {
    if !globals.store.exists() {
        return Err(Failure::no_store(&globals.store));
    }
    let options = Options::new().read_only(true).salvage(globals.salvage);
    let mut follower = Follower { name, json: globals.json, next: None, last: None, stuck: (0, 0) };
    let mut failures = 0;
    loop {
        let look = options.open(&globals.store).and_then(|store| store.agent(name)?.view());
        match look {
            Ok(view) => {
                failures = 0;
                follower.print_new(&view, latest)?;
            }
            Err(error) => {
                failures += 1;
                if failures >= PATIENCE || error.kind() == memlog::ErrorKind::InvalidInput {
                    return Err(error.into());
                }
            }
        }
        std::thread::sleep(EVERY);
    }
}

impl Follower<'_> {
    fn print_new(&mut self, view: &View, latest: Option<u64>) -> Result<(), Failure> {
        if self.last.is_some_and(|last| !last.is_in(view)) {
            let place = Place { agent: Some(self.name.to_owned()), ..Place::default() };
            let message = format!("{} was forgotten: from the beginning", escape_line(self.name));
            say::warning("forgotten", &message, &place);
            (self.next, self.last) = (Some(1), None);
        }
        let range = match self.next {
            Some(next) => next.max(view.floor())..view.next_seq(),
            None => tail(view, latest),
        };
        let mut out = output::stdout();
        let (json, name, start) = (self.json, self.name, range.start);
        let Follower { next, last, stuck, .. } = self;
        let mut waiting = false;
        *next = Some(start);
        // An entry that cannot be read may be in the middle of being written: wait for it a while.
        let walked = walk(
            view,
            range,
            |entry| {
                print(&mut out, json, name, entry)?;
                *last = Some(Last::of(entry));
                *next = Some(entry.seq().saturating_add(1));
                Ok(())
            },
            |seq, error| {
                *stuck = if stuck.0 == seq { (seq, stuck.1 + 1) } else { (seq, 1) };
                if stuck.1 < PATIENCE {
                    waiting = true;
                    return Err(Failure::silent());
                }
                say::went_on(error);
                Ok(())
            },
        );
        out.flush()?;
        if waiting { Ok(()) } else { walked }
    }
}

/// An entry for scripts.
#[derive(Serialize)]
struct Row<'a> {
    agent: &'a str,
    seq: u64,
    ts: u64,
    role: &'a str,
    kind: u16,
    weight: u32,
    joined: bool,
    redacted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_base64: Option<String>,
}

fn print(out: &mut impl Write, json: bool, agent: &str, entry: &Entry<'_>) -> Result<(), Failure> {
    if json { print_row(out, agent, entry) } else { print_text(out, entry) }
}

fn print_row(out: &mut impl Write, agent: &str, entry: &Entry<'_>) -> Result<(), Failure> {
    // Raw JSON is passed through: a line break in it would break the line.
    let meta = serde_json::from_slice(entry.meta())
        .ok()
        .filter(|raw: &&RawValue| !raw.get().contains(['\n', '\r']));
    let row = Row {
        agent,
        seq: entry.seq(),
        ts: millis(entry.at()),
        role: &line::role_of(entry),
        kind: entry.kind().get(),
        weight: entry.weight(),
        joined: entry.is_joined(),
        redacted: entry.is_redacted(),
        content: entry.text().ok().filter(|_| !entry.is_redacted()),
        content_base64: entry.text().err().map(|_| output::base64(entry.payload())),
        meta_base64: (meta.is_none() && !entry.meta().is_empty())
            .then(|| output::base64(entry.meta())),
        meta,
    };
    output::json_line(out, &row)
}

fn print_text(out: &mut impl Write, entry: &Entry<'_>) -> Result<(), Failure> {
    let at = output::utc(millis(entry.at()));
    write!(out, "{:>6}  {at}  {}", entry.seq(), escape_line(&line::role_of(entry)))?;
    if entry.weight() > 0 {
        write!(out, "  weight {}", entry.weight())?;
    }
    if entry.is_joined() {
        write!(out, "  joined")?;
    }
    writeln!(out)?;
    if !entry.meta().is_empty() {
        writeln!(out, "        meta {}", output::readable_line(entry.meta()))?;
    }
    if entry.is_redacted() {
        writeln!(out, "        (redacted)")?;
        return Ok(());
    }
    match entry.text() {
        Ok(text) => {
            for line in escape(text).split('\n') {
                writeln!(out, "        {line}")?;
            }
        }
        Err(_) => writeln!(out, "        {}", output::hex_summary(entry.payload()))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(seq_range("2..5"), Ok(SeqRange(2, 5)));
        assert_eq!(seq_range("2..=5"), Ok(SeqRange(2, 6)));
        assert_eq!(seq_range("2.."), Ok(SeqRange(2, u64::MAX)));
        assert_eq!(seq_range("..5"), Ok(SeqRange(1, 5)));
        for wrong in ["", "2", "2..=", "a..b", "0..4", "-1..2", "2...4"] {
            assert!(seq_range(wrong).is_err(), "{wrong}");
        }
    }
}
