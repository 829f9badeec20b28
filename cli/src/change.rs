//! `memlog truncate` and `redact`: taking entries, or what is in them, away.

use memlog::{Agent, Store};
use serde::Serialize;

use crate::args::{Globals, RedactArgs, TruncateArgs};
use crate::failure::Failure;
use crate::open::{Access, exists, open_alone, utf8};
use crate::output::{self, escape_line, plural};

#[derive(Serialize)]
struct Truncated<'a> {
    agent: &'a str,
    floor: u64,
    next: u64,
    entries: u64,
    removed: u64,
}

pub(crate) fn truncate(globals: &Globals, args: &TruncateArgs) -> Result<(), Failure> {
    let name = utf8("the agent's name", &args.agent)?;
    let store = open_alone(globals, Access::Change)?;
    let agent = there(&store, name)?;
    let before = agent.view()?;
    let seq = match (args.before, args.keep) {
        (Some(seq), _) => seq,
        (None, keep) => before.next_seq().saturating_sub(keep.unwrap_or(u64::MAX)).max(1),
    };
    agent.truncate_before(seq)?;
    let after = agent.view()?;
    let (floor, next) = (after.floor(), after.next_seq());
    let row = Truncated {
        agent: name,
        floor,
        next,
        entries: next.saturating_sub(floor),
        removed: floor.saturating_sub(before.floor()),
    };
    drop((before, after));
    store.close()?;
    if globals.json {
        return output::json_answer(&row);
    }
    output::text_answer(&format!(
        "{}: {} unreadable now, {} left, from seq {}\n",
        escape_line(name),
        plural(row.removed, "entry is", "entries are"),
        plural(row.entries, "entry", "entries"),
        row.floor,
    ))
}

#[derive(Serialize)]
struct Redacted<'a> {
    agent: &'a str,
    seqs: &'a [u64],
}

pub(crate) fn redact(globals: &Globals, args: &RedactArgs) -> Result<(), Failure> {
    let name = utf8("the agent's name", &args.agent)?;
    let store = open_alone(globals, Access::Change)?;
    let agent = there(&store, name)?;
    let mut batch = store.batch();
    for seq in &args.seqs {
        batch.redact(&agent, *seq);
    }
    batch.commit()?;
    store.close()?;
    if globals.json {
        return output::json_answer(&Redacted { agent: name, seqs: &args.seqs });
    }
    output::text_answer(&format!(
        "{}: payload and meta of {} are unreadable now\n",
        escape_line(name),
        plural(output::len(&args.seqs), "entry", "entries"),
    ))
}

/// The agent, which has to be there.
pub(crate) fn there(store: &Store, name: &str) -> Result<Agent, Failure> {
    let agent = store.agent(name)?;
    if exists(store, name)? { Ok(agent) } else { Err(Failure::no_agent(name)) }
}
