//! The conversations that the demo writes, cut into batches.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memlog::Kind;

use crate::failure::Failure;
use crate::line::Message;
use crate::lines::Lines;
use crate::refusal::Refusal;
use crate::transcript;

const BUILT_IN: &str = include_str!("../../../examples/data/conversations.jsonl");

/// The state key that counts an agent's batches of more than one entry.
pub(crate) const COUNTER: &str = "tool_batches";

/// Limits of one batch: longer runs of tool results are cut.
const UNIT_ENTRIES: usize = 64;
const UNIT_BYTES: usize = 16 << 20;
/// Names need room for the `run-K/` before them.
const MAX_NAME: usize = 512 - 16;

/// One agent's messages, in order.
pub(crate) struct Conversation {
    name: String,
    pub(crate) messages: Vec<Message>,
    /// The messages of each batch: one, or a tool call and its results.
    pub(crate) units: Vec<Range<usize>>,
}

/// All conversations, and what the agents that repeat them are called.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) conversations: Vec<Conversation>,
    by_name: HashMap<String, usize>,
}

impl Source {
    /// Reads a file, or the built-in set.
    pub(crate) fn load(input: Option<&Path>) -> Result<Source, Failure> {
        let (mut lines, name) = match input {
            Some(path) if path.as_os_str() == "-" => {
                return Err(Failure::usage("--input: the demo reads a file, not standard input"));
            }
            Some(path) => (Lines::open(path)?, path.display().to_string()),
            None => {
                let name = PathBuf::from("(built-in conversations)");
                let lines = Lines::new(name.clone(), Box::new(Cursor::new(BUILT_IN)));
                (lines, "built-in conversations".to_owned())
            }
        };
        let mut source = Source { name, conversations: Vec::new(), by_name: HashMap::new() };
        while let Some(line) = lines.next()? {
            let read = line.and_then(|line| transcript::read(line, None));
            let added =
                read.and_then(|messages| messages.into_iter().try_for_each(|m| source.add(m)));
            if let Err(Refusal { what, column, .. }) = added {
                return Err(Failure::usage(format!("{}:{column}: {what}", lines.place()))
                    .hint("the demo needs well-formed conversations; see `memlog help import`"));
            }
        }
        if source.conversations.is_empty() {
            return Err(Failure::usage(format!("{}: there is no message in it", source.name)));
        }
        for conversation in &mut source.conversations {
            conversation.units = units(&conversation.messages);
        }
        Ok(source)
    }

    fn add(&mut self, mut message: Message) -> Result<(), Refusal> {
        if message.agent.len() > MAX_NAME {
            let what = format!("for the demo, agent has {MAX_NAME} bytes at most");
            return Err(Refusal::new(what, "use a shorter name"));
        }
        if message.redacted {
            let what = "the demo cannot write redacted entries";
            return Err(Refusal::new(what, "leave the line out"));
        }
        let joined = message.joined == Some(true) || message.kind == Kind::TOOL_RESULT;
        message.joined = Some(joined);
        let next = self.conversations.len();
        let at = *self.by_name.entry(message.agent.clone()).or_insert(next);
        if at == next {
            let name = message.agent.clone();
            let (messages, units) = (Vec::new(), Vec::new());
            self.conversations.push(Conversation { name, messages, units });
        }
        if let Some(conversation) = self.conversations.get_mut(at) {
            conversation.messages.push(message);
        }
        Ok(())
    }

    pub(crate) fn messages(&self) -> u64 {
        self.conversations.iter().map(|c| crate::output::len(&c.messages)).sum()
    }

    /// The conversation that the agent of this number repeats, and the agent's name.
    pub(crate) fn agent(&self, index: u32) -> Option<(&Conversation, String)> {
        let index = usize::try_from(index).ok()?;
        let run = index.checked_div(self.conversations.len())? + 1;
        let conversation = self.conversations.get(index.checked_rem(self.conversations.len())?)?;
        Some((conversation, format!("run-{run}/{}", conversation.name)))
    }

    /// The number of the agent of this name.
    pub(crate) fn index(&self, name: &str) -> Option<u32> {
        let (run, name) = name.strip_prefix("run-")?.split_once('/')?;
        let run: usize = run.parse().ok()?;
        let at = self.by_name.get(name)?;
        let index = run.checked_sub(1)?.checked_mul(self.conversations.len())?.checked_add(*at)?;
        u32::try_from(index).ok()
    }
}

/// A message together with the tool results that follow it.
fn units(messages: &[Message]) -> Vec<Range<usize>> {
    let mut units: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, message) in messages.iter().enumerate() {
        let size = message.payload.len() + message.meta.len();
        match units.last_mut() {
            Some(unit)
                if message.kind == Kind::TOOL_RESULT
                    && unit.len() < UNIT_ENTRIES
                    && bytes + size <= UNIT_BYTES =>
            {
                unit.end = at + 1;
                bytes += size;
            }
            _ => {
                units.push(at..at + 1);
                bytes = size;
            }
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_set_is_sound() {
        let source = Source::load(None).unwrap();
        assert!(source.conversations.len() >= 10);
        assert!((120..=250).contains(&source.messages()));
        let tools: usize = source
            .conversations
            .iter()
            .map(|c| c.units.iter().filter(|unit| unit.len() > 1).count())
            .sum();
        assert!(tools > 20, "{tools}");
        for index in [0, 1, 11, 12, 500] {
            let (_, name) = source.agent(index).unwrap();
            assert_eq!(source.index(&name), Some(index));
        }
        assert_eq!(source.index("run-0/x"), None);
        assert_eq!(source.index("after/the-kill"), None);
    }
}
