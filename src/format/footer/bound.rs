//! How long the footer can get, while its segment fills.

use super::super::{PAGE, align};
use super::block::{CHANGE, GROUP, HEADER, INDEX, MAXIMUM, OFFSET, POLICY, REDACTION};
use super::{TRAILER_LEN, bounds, directory, filter, prefix};

/// An upper bound of the length of a footer, kept in constant time for each change.
///
/// Whoever counts at least everything that the footer will hold may count more: a name twice, a
/// key that is overwritten. The bound then is higher, not wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    agents: u64,
    entries: u64,
    states: u64,
    /// What the names take of the leaves of the directory.
    names: u64,
    /// The most that one name takes of a page.
    longest: u64,
    /// What can be told of blocks and prefixes exactly.
    exact: u64,
    /// Of the directory and the filter. They grow with agents only, which come less often than
    /// entries, and take a few divisions.
    pages: u64,
}

impl Bound {
    /// The bound of a footer that holds nothing.
    pub(crate) const fn new() -> Self {
        // An empty directory takes a page, and an empty filter another.
        Bound { agents: 0, entries: 0, states: 0, names: 0, longest: 0, exact: 0, pages: 2 }
    }

    /// An agent that the segment has not held before.
    pub(crate) fn add_agent(&mut self, name_len: usize) {
        let cost = directory::cost(name_len.min(super::MAX_NAME)) as u64;
        self.agents = self.agents.saturating_add(1);
        self.names = self.names.saturating_add(cost);
        self.longest = self.longest.max(cost);
        self.add(HEADER.saturating_add(align(name_len)));
        self.pages = self.directory_pages().saturating_add(filter::pages(self.agents));
    }

    /// An entry, a lost one included.
    pub(crate) fn add_entry(&mut self) {
        self.add_entries(1);
    }

    /// So many entries.
    pub(crate) fn add_entries(&mut self, count: usize) {
        self.entries = self.entries.saturating_add(count as u64);
    }

    /// A set or unset of a key.
    pub(crate) fn add_state(&mut self, key_len: usize) {
        self.states = self.states.saturating_add(1);
        self.add((INDEX + CHANGE).saturating_add(align(key_len)));
    }

    /// A redaction.
    pub(crate) fn add_redaction(&mut self) {
        self.add(REDACTION);
    }

    /// A change of an agent's policy.
    pub(crate) fn add_policy(&mut self) {
        self.add(POLICY);
    }

    /// A forgotten prefix.
    pub(crate) fn add_prefix(&mut self, len: usize) {
        self.add(prefix::cost(len));
    }

    /// The range of names that a run covers.
    pub(crate) fn add_bounds(&mut self, from_len: usize, to_len: usize) {
        self.add(bounds::cost(from_len, to_len));
    }

    fn add(&mut self, bytes: usize) {
        self.exact = self.exact.saturating_add(bytes as u64);
    }

    /// The most that the footer can take, up to the end of the file: a footer whose data end that
    /// far before it, or farther, fits.
    pub(crate) fn bytes(&self) -> u64 {
        let page = PAGE as u64;
        // Of agents that have entries, and of agents that have state, there are at most these.
        let with_entries = self.agents.min(self.entries);
        let with_state = self.agents.min(self.states);
        let half = (super::super::ALIGN - OFFSET) as u64;
        let offsets = self.entries.saturating_mul(OFFSET as u64);
        let padding = with_entries.saturating_add(with_state).saturating_mul(half);
        // One for each 32 entries begun: n entries make at most (n + 31) / 32.
        let group = GROUP as u64;
        let begun = with_entries.saturating_mul(group - 1).saturating_add(self.entries) / group;
        [
            self.pages.saturating_mul(page),
            self.exact,
            offsets,
            padding,
            begun.saturating_mul(MAXIMUM as u64),
            (prefix::HEADER + TRAILER_LEN) as u64,
            // The footer starts at a multiple of the page, and ends where the file does.
            page - 1,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    fn directory_pages(&self) -> u64 {
        let room = directory::ROOM as u64;
        // A page is closed only when the next name does not fit: less than that name is free.
        let mut level = self.names / (room + 1 - self.longest.clamp(1, room)) + 1;
        let fan_out = (room / self.longest.max(1)).max(2);
        let mut pages = level;
        while level > 1 {
            level = level.div_ceil(fan_out);
            pages = pages.saturating_add(level);
        }
        pages
    }
}
