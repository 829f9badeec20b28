//! Why a command failed: a message, what to do about it, and the exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use memlog::ErrorKind;

use crate::say::{self, Place};

/// The exit codes, as `--help` and docs/cli.md document them.
pub(crate) mod code {
    /// Any other failure.
    pub(crate) const OTHER: u8 = 1;
    /// Wrong arguments or input; clap uses the same.
    pub(crate) const USAGE: u8 = 2;
    /// Bytes on the medium are not what was written.
    pub(crate) const DAMAGE: u8 = 3;
    /// An expectation did not hold.
    pub(crate) const CONFLICT: u8 = 4;
    /// Another process has the store open.
    pub(crate) const IN_USE: u8 = 5;
    /// The directory is not a store.
    pub(crate) const NOT_A_STORE: u8 = 6;
    /// The store has no such agent, key or entry.
    pub(crate) const ABSENT: u8 = 7;
    /// The disk of the store, or of the output, is full.
    pub(crate) const DISK_FULL: u8 = 8;
    /// Any other error of the operating system.
    pub(crate) const IO: u8 = 9;
    /// The store is of another version of the format.
    pub(crate) const VERSION: u8 = 10;
    /// A write to the disk failed: whether the change is there is known after reopening.
    pub(crate) const IN_DOUBT: u8 = 11;

    /// The name of a code: `kind` in JSON.
    pub(crate) fn name(code: u8) -> &'static str {
        match code {
            0 => "done",
            USAGE => "usage",
            DAMAGE => "damage",
            CONFLICT => "conflict",
            IN_USE => "in_use",
            NOT_A_STORE => "not_a_store",
            ABSENT => "absent",
            DISK_FULL => "disk_full",
            IO => "io",
            VERSION => "version",
            IN_DOUBT => "in_doubt",
            _ => "other",
        }
    }
}

/// Why a command ends early. An empty message prints nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
    place: Box<Place>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hint: None, place: Box::default() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(code::USAGE, message)
    }

    pub(crate) fn other(message: impl Into<String>) -> Self {
        Failure::new(code::OTHER, message)
    }

    /// The store has no such agent.
    pub(crate) fn no_agent(name: &str) -> Self {
        let place = Place { agent: Some(name.to_owned()), ..Place::default() };
        Failure::new(code::ABSENT, format!("there is no agent {name:?}"))
            .at(place)
            .hint("`memlog agents` lists the agents of the store")
    }

    /// Ends with code 0 when the reader of the output has stopped reading.
    pub(crate) fn silent() -> Self {
        Failure::new(0, "")
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names what it is about.
    pub(crate) fn at(mut self, place: Place) -> Self {
        *self.place = place;
        self
    }

    /// An operating system's error while `doing` something to `path`.
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let place = Place { file: Some(path.to_owned()), ..Place::default() };
        Failure::new(code_of(error), format!("cannot {doing} {}: {error}", path.display()))
            .at(place)
    }

    /// The store in `dir` cannot be found.
    pub(crate) fn no_store(dir: &Path) -> Self {
        let place = Place { file: Some(dir.to_owned()), ..Place::default() };
        Failure::new(code::NOT_A_STORE, format!("there is no store at {}", dir.display()))
            .at(place)
            .hint(
                "name the directory with --store or MEMLOG_STORE; import, append and state set \
                 create it",
            )
    }

    /// The same failure, its message after `context`.
    pub(crate) fn within(mut self, context: &str) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Prints the failure on stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            let (kind, hint) = (code::name(self.code), self.hint.as_deref());
            say::failure(kind, &self.message, hint, &self.place, self.code);
        }
        ExitCode::from(self.code)
    }
}

/// The exit code for an error of the operating system.
fn code_of(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => code::DISK_FULL,
        _ => code::IO,
    }
}

impl From<memlog::Error> for Failure {
    fn from(error: memlog::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::InvalidInput
            | ErrorKind::TooLarge
            | ErrorKind::OutOfRange
            | ErrorKind::ReadOnly => code::USAGE,
            ErrorKind::Damaged | ErrorKind::StaleManifest => code::DAMAGE,
            ErrorKind::Conflict => code::CONFLICT,
            ErrorKind::InUse => code::IN_USE,
            ErrorKind::NotAStore => code::NOT_A_STORE,
            ErrorKind::DiskFull => code::DISK_FULL,
            ErrorKind::Io => code::IO,
            ErrorKind::Version => code::VERSION,
            ErrorKind::Indeterminate | ErrorKind::Poisoned => code::IN_DOUBT,
            _ => code::OTHER,
        };
        let (message, place) = (error.to_string(), Box::new(Place::of(&error)));
        Failure { code, message, hint: what_to_do(error.kind()), place }
    }
}

fn what_to_do(kind: ErrorKind) -> Option<String> {
    let text = match kind {
        ErrorKind::Conflict => "nothing changed: read it again, decide again, and retry",
        ErrorKind::Damaged => {
            "`memlog verify` lists all damage, --salvage reads what is whole, and `memlog repair \
             FROM TO` copies what is whole into a new store"
        }
        ErrorKind::StaleManifest => {
            "the manifest is older than the files beside it: put the newer one back, or copy the \
             store with `memlog repair FROM TO`"
        }
        ErrorKind::InUse => {
            "stop the process that has it open; what only reads (show, agents, export, state get, \
             usage, stats, verify) works beside it"
        }
        ErrorKind::NotAStore => "name the directory of a store with --store or MEMLOG_STORE",
        ErrorKind::Version => "use the version of memlog that wrote this store",
        ErrorKind::DiskFull => "nothing of this change was made: free some space and try again",
        ErrorKind::Indeterminate | ErrorKind::Poisoned => {
            "a write to the disk failed: check the disk, then look with `memlog show` whether the \
             last change is there before repeating it"
        }
        ErrorKind::ReadOnly => "leave out --salvage to change the store",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Errors of standard output. A reader that stops reading is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::silent();
        }
        Failure::new(code_of(&error), format!("cannot write the output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_have_codes_of_their_own() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::io("write", Path::new("f"), &full).code, code::DISK_FULL);
        assert_eq!(Failure::from(full).code, code::DISK_FULL);
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Failure::io("read", Path::new("f"), &denied).code, code::IO);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code, 0);
    }
}
