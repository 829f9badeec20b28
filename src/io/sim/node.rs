//! A simulated file beside its bytes: names, handles, holes, and how calls on it fail.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use super::SimFault;
use super::chance::Chance;
use super::content::Content;

/// What is allocated at once.
pub(super) const BLOCK: u64 = 4096;

/// Which calls are to fail, and how.
#[derive(Clone, Copy)]
pub(super) struct Fault {
    pub(super) call: u64,
    pub(super) fault: SimFault,
    pub(super) sticky: bool,
}

impl Fault {
    pub(super) fn hits(&self, call: u64) -> bool {
        self.call == call || (self.sticky && call > self.call)
    }
}

impl SimFault {
    /// Only writes meet it, and they seem to succeed.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, SimFault::Writeback | SimFault::LostWrite | SimFault::Misdirected)
    }
}

/// A file, by whatever names or none.
pub(super) struct Node {
    pub(super) content: Content,
    /// The name it had last, for the trace.
    pub(super) name: PathBuf,
    /// How many names it has.
    pub(super) links: u64,
    pub(super) open: u64,
    /// Blocks that were punched, or never allocated, and not written since.
    pub(super) holes: BTreeSet<u64>,
    /// Counts the times that its pages were given up: each open file reports each once.
    pub(super) failed_syncs: u64,
    /// Nobody has heard of the last of them: whoever opens the file next does.
    pub(super) unheard: bool,
}

/// An open file: which one, and since which of its failed syncs.
pub(super) struct Handle {
    pub(super) run: u64,
    pub(super) file: u64,
    pub(super) write: bool,
    /// Used under the lock of the disk only.
    pub(super) seen: AtomicU64,
}

impl Node {
    /// A new file with one name.
    pub(super) fn new(content: Content, name: PathBuf) -> Node {
        let holes = BTreeSet::new();
        Node { content, name, links: 1, open: 0, holes, failed_syncs: 0, unheard: false }
    }

    /// The same file with other content, which nobody has open.
    pub(super) fn alone(&self, content: Content) -> Node {
        let is_hole = |block: &&u64| content.is_hole(**block * BLOCK, BLOCK);
        let end = content.len().div_ceil(BLOCK);
        let holes = self.holes.range(..end).filter(is_hole).copied().collect();
        Node { links: self.links, holes, ..Node::new(content, self.name.clone()) }
    }

    pub(super) fn is_used(&self) -> bool {
        self.links > 0 || self.open > 0 || self.content.is_mapped()
    }

    pub(super) fn allocated(&self) -> u64 {
        (self.content.len().div_ceil(BLOCK) - self.holes.len() as u64) * BLOCK
    }

    /// The last failure that a file opened now has nothing to say of.
    pub(super) fn heard(&self) -> u64 {
        self.failed_syncs - u64::from(self.unheard)
    }

    pub(super) fn fail_sync(&mut self, chance: &mut Chance) {
        self.content.fail_sync(chance);
        self.failed_syncs += 1;
    }

    /// Clean pages go from memory; with nobody there to hear of it, a failure too.
    pub(super) fn evict(&mut self) {
        self.unheard &= self.open > 0 || self.content.is_mapped();
        self.content.evict();
    }
}

pub(super) fn error(fault: SimFault) -> io::Error {
    match fault {
        SimFault::NoSpace => ErrorKind::StorageFull.into(),
        SimFault::ShortWrite => ErrorKind::WriteZero.into(),
        SimFault::Eio | SimFault::Writeback | SimFault::LostWrite | SimFault::Misdirected => {
            io::Error::from_raw_os_error(5)
        }
    }
}
