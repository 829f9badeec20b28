//! Opening the store, and walking over its entries past damage.

use std::ffi::OsStr;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use memlog::{Entry, ErrorKind, Maintenance, Options, Store, View};

use crate::args::Globals;
use crate::failure::Failure;
use crate::line::RESERVED_AGENTS;
use crate::say::{self, Place};

/// What a command is going to do with the store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Look at it, without its lock and without a change to its directory.
    Read,
    /// Change it; it must exist.
    Change,
    /// Change it; it is created if it is not there.
    Create,
}

/// Opens the store that the command line names.
pub(crate) fn open(globals: &Globals, access: Access) -> Result<Store, Failure> {
    open_with(globals, access, Options::new())
}

/// The same without background work: for one change, which a compaction beside it would only make
/// hard to tell of.
pub(crate) fn open_alone(globals: &Globals, access: Access) -> Result<Store, Failure> {
    open_with(globals, access, Options::new().maintenance(Maintenance::Manual))
}

/// The same with options of the caller's.
pub(crate) fn open_with(
    globals: &Globals,
    access: Access,
    options: Options,
) -> Result<Store, Failure> {
    if globals.salvage && access != Access::Read {
        return Err(Failure::usage("--salvage only reads: leave it out to change the store"));
    }
    if access != Access::Create && !globals.store.exists() {
        return Err(Failure::no_store(&globals.store));
    }
    let options = options.create(access == Access::Create).salvage(globals.salvage);
    let options = options.mode(globals.mode).read_only(access == Access::Read);
    let store = options.open(&globals.store)?;
    say_what_was_lost(&store, access);
    Ok(store)
}

fn say_what_was_lost(store: &Store, access: Access) {
    let report = store.recovery_report();
    for damage in &report.damage {
        let place = Place {
            file: Some(damage.file.clone()),
            offset: Some(damage.offset),
            lsn: damage.lsn.map(|lsn| lsn.0),
            agent: damage.agents.first().cloned(),
            ..Place::default()
        };
        say::warning("damage", &format!("damage: {damage}"), &place);
    }
    // A reading cuts nothing: what it leaves out may be on its way.
    if report.possibly_acknowledged && access != Access::Read {
        let message = format!(
            "warning: opening cut {} bytes after the last entry proved to be on stable storage; \
             some of them may have been acknowledged below durability `sync`",
            report.bytes_cut
        );
        say::warning("cut", &message, &Place::default());
    }
}

/// Whether the store has an agent of this name: with entries, empty, or with state only.
pub(crate) fn exists(store: &Store, name: &str) -> Result<bool, Failure> {
    let mut agents = store.agents(name);
    Ok(agents.next().transpose()?.is_some_and(|first| first.name() == name))
}

/// Whether an agent is one that the command keeps for itself, and that was not asked for by name.
pub(crate) fn hides(prefix: &str, name: &str) -> bool {
    name.starts_with(RESERVED_AGENTS) && !prefix.starts_with(RESERVED_AGENTS)
}

/// A name, prefix or key from the command line; memlog's names are UTF-8.
pub(crate) fn utf8<'a>(what: &str, value: &'a OsStr) -> Result<&'a str, Failure> {
    value.to_str().ok_or_else(|| {
        Failure::usage(format!("{what} is not UTF-8: {value:?}"))
            .hint("names, keys and text on the command line are UTF-8")
    })
}

/// A text from the command line, or standard input, byte for byte.
pub(crate) fn text_or_stdin(
    what: &str,
    text: Option<&std::ffi::OsString>,
) -> Result<Vec<u8>, Failure> {
    if let Some(text) = text {
        let Some(text) = text.to_str() else {
            // The text itself is not repeated: it may be a secret.
            return Err(Failure::usage(format!("{what} on the command line is not UTF-8"))
                .hint("give bytes that are not text on standard input"));
        };
        return Ok(text.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let limit = u64::from(u32::MAX);
    std::io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("read", Path::new("(standard input)"), &error))?;
    Ok(bytes)
}

/// Calls `each` for the entries in `range`, and `damaged` for those that cannot be read.
pub(crate) fn walk(
    view: &View,
    range: Range<u64>,
    mut each: impl FnMut(&Entry<'_>) -> Result<(), Failure>,
    mut damaged: impl FnMut(u64, &memlog::Error) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut next = range.start;
    loop {
        let from = next;
        for item in view.range(next..range.end) {
            match item {
                Ok(entry) => {
                    each(&entry)?;
                    next = entry.seq().saturating_add(1);
                }
                Err(error) => match (error.kind(), error.seq()) {
                    (ErrorKind::Damaged, Some(seq)) if seq >= next => {
                        damaged(seq, &error)?;
                        next = seq.saturating_add(1);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        if next == from || next >= range.end {
            return Ok(());
        }
    }
}
