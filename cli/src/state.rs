//! `memlog state`: the keyed state of an agent.

use std::ffi::OsStr;
use std::io::Write;

use memlog::{Agent, Lsn, StateValue, Store};
use serde::Serialize;

use crate::args::{Globals, StateCommand};
use crate::failure::{Failure, code};
use crate::open::{Access, open, text_or_stdin, utf8};
use crate::output::{self, escape_line};
use crate::say::Place;

/// The revision that a key is expected at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected(Option<Lsn>);

/// Reads a revision, or `absent`, which 0 stands for too.
pub(crate) fn revision(text: &str) -> Result<Expected, String> {
    if text == "absent" {
        return Ok(Expected(None));
    }
    let number: u64 =
        text.parse().map_err(|_| "a revision is a whole number, or `absent`".to_owned())?;
    Ok(Expected((number > 0).then_some(Lsn(number))))
}

/// A key and its value for scripts.
#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> Row<'a> {
    fn of(state: &'a StateValue) -> Self {
        let text = std::str::from_utf8(state.value());
        Row {
            key: state.key(),
            revision: state.revision().0,
            value: text.ok(),
            value_base64: text.err().map(|_| output::base64(state.value())),
        }
    }
}

pub(crate) fn run(globals: &Globals, command: &StateCommand) -> Result<(), Failure> {
    match command {
        StateCommand::Get { agent, key } => get(globals, agent, key),
        StateCommand::List { agent, prefix } => list(globals, agent, prefix),
        StateCommand::Set { agent, key, value, expect_revision } => {
            let (name, key) = names(agent, key)?;
            let value = text_or_stdin("VALUE", value.as_ref())?;
            let store = open(globals, Access::Create)?;
            let agent = store.agent(name)?;
            change(globals, &store, &agent, key, Some(&value), *expect_revision)
        }
        StateCommand::Unset { agent, key, expect_revision } => {
            let (name, key) = names(agent, key)?;
            let store = open(globals, Access::Change)?;
            let agent = store.agent(name)?;
            change(globals, &store, &agent, key, None, *expect_revision)
        }
    }
}

fn names<'a>(agent: &'a OsStr, key: &'a OsStr) -> Result<(&'a str, &'a str), Failure> {
    Ok((utf8("the agent's name", agent)?, utf8("the key", key)?))
}

fn get(globals: &Globals, agent: &OsStr, key: &OsStr) -> Result<(), Failure> {
    let (name, key) = names(agent, key)?;
    let store = open(globals, Access::Read)?;
    let view = store.agent(name)?.view()?;
    let Some(state) = view.state(key)? else {
        let place = Place { agent: Some(name.to_owned()), ..Place::default() };
        return Err(Failure::new(code::ABSENT, format!("{name:?} has no key {key:?}"))
            .at(place)
            .hint("`memlog state list AGENT` lists its keys"));
    };
    if globals.json {
        return output::json_answer(&Row::of(&state));
    }
    let mut out = output::stdout();
    if output::to_terminal() {
        writeln!(out, "{}", readable(state.value()))?;
    } else {
        out.write_all(state.value())?;
    }
    out.flush()?;
    Ok(())
}

fn readable(value: &[u8]) -> String {
    std::str::from_utf8(value).map_or_else(|_| output::hex_summary(value), output::escape)
}

fn list(globals: &Globals, agent: &OsStr, prefix: &OsStr) -> Result<(), Failure> {
    let (name, prefix) = (utf8("the agent's name", agent)?, utf8("the prefix", prefix)?);
    let store = open(globals, Access::Read)?;
    let view = store.agent(name)?.view()?;
    let mut out = output::stdout();
    for state in view.states(prefix) {
        let state = state?;
        if globals.json {
            output::json_line(&mut out, &Row::of(&state))?;
        } else {
            let value = output::readable_line(state.value());
            writeln!(out, "{}  @{}  {value}", escape_line(state.key()), state.revision().0)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Sets or removes a key.
fn change(
    globals: &Globals,
    store: &Store,
    agent: &Agent,
    key: &str,
    value: Option<&Vec<u8>>,
    expected: Option<Expected>,
) -> Result<(), Failure> {
    let mut batch = store.batch();
    if let Some(Expected(at)) = expected {
        batch.expect_revision(agent, key, at);
    }
    match value {
        Some(value) => batch.set(agent, key, value),
        None => batch.unset(agent, key),
    };
    let revision =
        if value.is_some() { batch.commit()?.lsn().0 } else { batch.commit().map(|_| 0)? };
    if globals.json {
        return output::json_answer(&serde_json::json!({ "revision": revision }));
    }
    if value.is_none() {
        return Ok(());
    }
    output::text_answer(&format!("{revision}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions() {
        assert_eq!(revision("absent"), Ok(Expected(None)));
        assert_eq!(revision("0"), Ok(Expected(None)));
        assert_eq!(revision("4096"), Ok(Expected(Some(Lsn(4096)))));
        assert!(revision("none").is_err());
    }
}
