//! The proofs: what was acknowledged is there, and nothing is half there.

use std::time::{Duration, Instant};

use memlog::{Agent, Entry, Store, View};
use serde::Serialize;

use super::acks::Acks;
use super::source::{COUNTER, Conversation, Source};
use crate::failure::Failure;
use crate::line::Message;

/// How many entries a context holds.
const CONTEXT: usize = 50;

/// What was found after reopening.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Checked {
    pub(crate) agents: u64,
    /// Entries in the store, all of them equal to their source.
    pub(crate) entries: u64,
    /// Entries that were acknowledged, all of them in the store.
    pub(crate) acknowledged: u64,
    /// Batches of several entries, all of them whole.
    pub(crate) batches: u64,
}

/// A promise that was not kept.
pub(crate) fn failed(what: String) -> Failure {
    Failure::other(what).hint("this should never happen: please report it; --keep keeps the store")
}

/// All agents of the store, with their numbers.
pub(crate) fn agents(store: &Store, source: &Source) -> Result<Vec<(u32, Agent)>, Failure> {
    let mut agents = Vec::new();
    for agent in store.agents("") {
        let agent = agent?;
        let index = source
            .index(agent.name())
            .ok_or_else(|| failed(format!("agent {:?} was never written", agent.name())))?;
        agents.push((index, agent));
    }
    Ok(agents)
}

/// Loads the context of every agent, and gives the time that each took.
pub(crate) fn load(agents: &[(u32, Agent)]) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::with_capacity(agents.len());
    for (_, agent) in agents {
        let begun = Instant::now();
        let view = agent.view()?;
        let mut bytes = 0;
        for entry in view.latest(CONTEXT) {
            bytes += entry?.payload().len();
        }
        times.push(begun.elapsed());
        std::hint::black_box(bytes);
    }
    Ok(times)
}

/// Compares every timeline with its conversation and with what was acknowledged.
pub(crate) fn timelines(
    agents: &[(u32, Agent)],
    source: &Source,
    acks: &Acks,
) -> Result<Checked, Failure> {
    let mut checked = Checked { acknowledged: acks.entries, ..Checked::default() };
    let mut acknowledged = acks.last.clone();
    for (index, agent) in agents {
        let name = agent.name();
        let (conversation, _) = source
            .agent(*index)
            .ok_or_else(|| failed(format!("agent {name:?} was never written")))?;
        let view = agent.view()?;
        let entries = timeline(&view, conversation).map_err(|failure| failure.within(name))?;
        let batches =
            whole_batches(&view, conversation, entries).map_err(|failure| failure.within(name))?;
        let last = acknowledged.remove(index).unwrap_or(0);
        if entries < u64::from(last) {
            return Err(failed(format!(
                "{name}: entry {last} was acknowledged, but the timeline ends with {entries}"
            )));
        }
        checked.agents += 1;
        checked.entries += entries;
        checked.batches += batches;
    }
    if let Some((index, last)) = acknowledged.into_iter().next() {
        let name = source.agent(index).map(|(_, name)| name).unwrap_or_default();
        return Err(failed(format!("{name}: entry {last} was acknowledged, the agent is gone")));
    }
    Ok(checked)
}

/// Every entry is what the conversation has at its place.
fn timeline(view: &View, conversation: &Conversation) -> Result<u64, Failure> {
    if view.floor() != 1 {
        return Err(failed(format!("the floor is {}, not 1", view.floor())));
    }
    let mut messages = conversation.messages.iter();
    let mut seen = 0;
    for entry in view.iter() {
        let entry = entry?;
        seen += 1;
        if entry.seq() != seen {
            return Err(failed(format!("entry {seen} has the seq {}", entry.seq())));
        }
        let message = messages
            .next()
            .ok_or_else(|| failed(format!("entry {seen} is beyond the end of the conversation")))?;
        if !same(&entry, message) {
            return Err(failed(format!("entry {seen} is not what was written")));
        }
    }
    if view.next_seq() != seen + 1 {
        return Err(failed(format!("{seen} entries, but the next seq is {}", view.next_seq())));
    }
    Ok(seen)
}

fn same(entry: &Entry<'_>, message: &Message) -> bool {
    entry.payload() == message.payload
        && entry.meta() == message.meta
        && entry.kind() == message.kind
        && entry.weight() == message.weight
        && Some(entry.is_joined()) == message.joined
        && !entry.is_redacted()
        && message.at.is_none_or(|at| at == entry.at())
}

/// The timeline ends where a batch ends, and the state says what the batches set.
fn whole_batches(view: &View, conversation: &Conversation, entries: u64) -> Result<u64, Failure> {
    let (mut end, mut batches) = (0, 0);
    for unit in &conversation.units {
        let size = u64::try_from(unit.len()).unwrap_or(u64::MAX);
        if end + size > entries {
            break;
        }
        end += size;
        batches += u64::from(size > 1);
    }
    if end != entries {
        return Err(failed(format!("the batch after entry {end} is only half there")));
    }
    let state = view.state(COUNTER)?;
    let counted = state.map_or_else(
        || "0".to_owned(),
        |state| String::from_utf8_lossy(state.value()).into_owned(),
    );
    if counted != batches.to_string() {
        return Err(failed(format!(
            "the state counts {counted} batches, the timeline has {batches}"
        )));
    }
    Ok(batches)
}
