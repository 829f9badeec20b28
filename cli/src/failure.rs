//! Why a command failed: a message, what to do about it, and the exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use memlog::ErrorKind;

use crate::output::escape;

/// The exit codes, as `--help` documents them.
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
}

/// Why a command ends early. An empty message prints nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hint: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(code::USAGE, message)
    }

    pub(crate) fn other(message: impl Into<String>) -> Self {
        Failure::new(code::OTHER, message)
    }

    /// Ends with `code` when everything has been said already.
    pub(crate) fn silent(code: u8) -> Self {
        Failure::new(code, "")
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An operating system's error while `doing` something to `path`.
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Failure::other(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// The store in `dir` cannot be found.
    pub(crate) fn no_store(dir: &Path) -> Self {
        Failure::new(code::NOT_A_STORE, format!("there is no store at {}", dir.display())).hint(
            "name the directory with --store or MEMLOG_STORE; import, append and state set \
             create it",
        )
    }

    /// The same failure, its message behind `context`.
    pub(crate) fn within(mut self, context: &str) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Prints the failure on stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("memlog: {}", escape(&self.message));
            if let Some(hint) = &self.hint {
                eprintln!("  {}", escape(hint));
            }
        }
        ExitCode::from(self.code)
    }
}

impl From<memlog::Error> for Failure {
    fn from(error: memlog::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::InvalidInput | ErrorKind::TooLarge | ErrorKind::OutOfRange => code::USAGE,
            ErrorKind::Damaged | ErrorKind::StaleManifest => code::DAMAGE,
            ErrorKind::Conflict => code::CONFLICT,
            ErrorKind::InUse => code::IN_USE,
            ErrorKind::NotAStore => code::NOT_A_STORE,
            _ => code::OTHER,
        };
        Failure { code, message: error.to_string(), hint: what_to_do(error.kind()) }
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
            "stop the process that has it open, or read beside it with --salvage or `show \
             --follow`"
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

/// Errors of standard output: whoever reads it may stop reading, which is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::silent(0);
        }
        Failure::other(format!("cannot write the output: {error}"))
    }
}
