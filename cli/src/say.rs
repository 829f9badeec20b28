//! Standard error: warnings and failures, as text or, with `--json`, as one JSON object a line.
//!
//! A closed or full standard error is ignored: the exit code still says what happened.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::output::escape;

/// Set once, before anything is written.
static JSON: AtomicBool = AtomicBool::new(false);

/// From now on everything is written as JSON, or as text.
pub(crate) fn use_json(yes: bool) {
    JSON.store(yes, Ordering::Relaxed);
}

/// What a message is about, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
    /// In bytes from the beginning of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u64>,
    /// In bytes from the beginning of the line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
}

impl Place {
    /// What an error of the library names.
    pub(crate) fn of(error: &memlog::Error) -> Place {
        let damage = error.damage();
        let agents = damage.into_iter().flat_map(|damage| &damage.agents);
        let file = damage.map(|damage| damage.file.as_path()).or(error.path());
        Place {
            file: file.map(Path::to_owned),
            offset: damage.map(|damage| damage.offset),
            lsn: damage.and_then(|damage| damage.lsn).map(|lsn| lsn.0),
            agent: error.agent().or(agents.map(String::as_str).next()).map(str::to_owned),
            seq: error.seq(),
            ..Place::default()
        }
    }
}

/// One message.
#[derive(Serialize)]
struct Told<'a> {
    level: &'a str,
    kind: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(flatten)]
    place: &'a Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
}

/// Says something that does not end the command.
pub(crate) fn warning(kind: &str, message: &str, place: &Place) {
    tell(&Told { level: "warning", kind, message, hint: None, place, exit_code: None });
}

/// An error of the library that the command goes on after.
pub(crate) fn went_on(error: &memlog::Error) {
    warning("damage", &error.to_string(), &Place::of(error));
}

/// Says why the command ends.
pub(crate) fn failure(kind: &str, message: &str, hint: Option<&str>, place: &Place, exit_code: u8) {
    tell(&Told { level: "error", kind, message, hint, place, exit_code: Some(exit_code) });
}

fn tell(told: &Told<'_>) {
    let text = if JSON.load(Ordering::Relaxed) {
        serde_json::to_string(told).unwrap_or_default()
    } else {
        let hint = told.hint.map(|hint| format!("\n  {}", escape(hint))).unwrap_or_default();
        format!("memlog: {}{hint}", escape(told.message))
    };
    line(text);
}

/// Writes a line at once, so that lines of several processes do not mix. An error of it is ignored.
fn line(mut text: String) {
    text.push('\n');
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
