//! How long the footer can get, while its segment fills.

use super::super::{PAGE, align};
use super::block::{
    GROUP, HEADER, MAXIMUM, OFFSET, POLICY, REDACTION, REDACTIONS, STATES, SUMS, TRAITS,
};
use super::pages;
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
    /// What the changes of state take of leaves, without what each page takes.
    keys: Keys,
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

/// An item that is left out of a leaf would have brought its items to this at least.
const ROOM: u64 = (PAGE - pages::HEADER - 6 + 1) as u64;
/// Changes above this are large.
const LARGE: u64 = ROOM / 4;
/// What a leaf takes beyond its items: header, padding of the slots, filler.
const LEAF_COST: u64 = 32;
/// What an inner page takes beyond its items.
const INNER_COST: u64 = 40;

/// The most that an entry of an agent that was added already brings: its position, the padding of a
/// list that it begins, and a group that it begins.
pub(crate) const ENTRY_MOST: u64 = (super::super::ALIGN + MAXIMUM + TRAITS + MAXIMUM + SUMS) as u64;

/// What many keys take of a footer, summed up before it is known whether they go there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) count: u64,
    /// What the items of leaves take together.
    items: u64,
    /// The longest of those that are not large.
    longest: u64,
    /// The large ones: how many, what they take, the longest of them.
    large: u64,
    large_items: u64,
    largest: u64,
}

impl Keys {
    const fn new() -> Self {
        Keys { count: 0, items: 0, longest: 0, large: 0, large_items: 0, largest: 0 }
    }

    /// Adds a set or unset of a key.
    pub(crate) fn add(&mut self, key_len: usize) {
        let item = (pages::SLOT + pages::CHANGE).saturating_add(align(key_len)) as u64;
        self.count = self.count.saturating_add(1);
        self.items = self.items.saturating_add(item);
        if item > LARGE {
            self.large = self.large.saturating_add(1);
            self.large_items = self.large_items.saturating_add(item);
            self.largest = self.largest.max(item);
        } else {
            self.longest = self.longest.max(item);
        }
    }

    /// Adds so many keys whose pages have this length.
    pub(crate) fn add_pages(&mut self, count: u64, len: u64) {
        self.count = self.count.saturating_add(count);
        self.items = self.items.saturating_add(len);
    }

    fn join(&mut self, more: &Keys) {
        self.count = self.count.saturating_add(more.count);
        self.items = self.items.saturating_add(more.items);
        self.longest = self.longest.max(more.longest);
        self.large = self.large.saturating_add(more.large);
        self.large_items = self.large_items.saturating_add(more.large_items);
        self.largest = self.largest.max(more.largest);
    }
}

impl Bound {
    /// The bound of a footer that holds nothing.
    pub(crate) const fn new() -> Self {
        // An empty directory takes a page, and an empty filter another.
        Bound {
            agents: 0,
            entries: 0,
            states: 0,
            keys: Keys::new(),
            names: 0,
            longest: 0,
            exact: 0,
            pages: 2,
        }
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
        self.keys.add(key_len);
    }

    /// So many keys, whose lengths were summed up and compared.
    pub(crate) fn add_states(&mut self, keys: &Keys) {
        self.states = self.states.saturating_add(keys.count);
        self.keys.join(keys);
    }

    /// A redaction.
    pub(crate) fn add_redaction(&mut self) {
        self.add(REDACTION + REDACTIONS);
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
        let padding = with_entries.saturating_mul(half);
        // One for each 32 entries begun: n entries make at most (n + 31) / 32.
        let group = GROUP as u64;
        let begun = with_entries.saturating_mul(group - 1).saturating_add(self.entries) / group;
        [
            self.pages.saturating_mul(page),
            self.exact,
            offsets,
            padding,
            begun.saturating_mul((MAXIMUM + TRAITS + MAXIMUM + SUMS) as u64),
            with_state.saturating_mul(STATES as u64),
            self.state_pages(with_state),
            (prefix::HEADER + TRAILER_LEN) as u64,
            // The footer starts at a multiple of the page, and ends where the file does.
            page - 1,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// The most that the state pages of so many agents take.
    fn state_pages(&self, with_state: u64) -> u64 {
        let Keys { items, longest, large, large_items, largest, .. } = self.keys;
        if items == 0 {
            return 0;
        }
        let most = longest.max(largest);
        // A leaf that was closed lacked room for the item behind it; where that is long, the two leaves
        // have a page of items between them.
        let least = ROOM.saturating_sub(most).max(ROOM / 2);
        let behind_small = items / ROOM.saturating_sub(longest).max(ROOM - LARGE);
        let full = (items / least).min(behind_small.saturating_add(large));
        let leaves = full.saturating_add(with_state).saturating_mul(LEAF_COST);
        // Each inner page but the last of its level has four children at least: there are no more of
        // them than of full leaves, and half as many that lie below another. Above leaves a page has
        // the key of one item of each.
        let ways = full.saturating_add(full.min(with_state)).saturating_mul(longest);
        let ways = ways.saturating_add(large_items).min(items);
        // One level after the other, in which each change is once again.
        let levels = u64::from(full.saturating_add(1).ilog(pages::FAN_OUT as u64));
        let upper = (full / 2).saturating_mul(longest);
        let upper = upper.saturating_add(levels.saturating_mul(large_items));
        let upper = upper.min((full / 2).saturating_mul(most));
        let inner = full.saturating_mul(INNER_COST).saturating_add(ways);
        items.saturating_add(leaves).saturating_add(inner).saturating_add(upper)
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
