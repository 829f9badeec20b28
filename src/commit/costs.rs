//! What a batch adds to the footer of its segment, and to the table of agents in memory.

use crate::commit::order::{Order, RESERVE};
use crate::commit::prepared::{Prepared, Records};
use crate::format::footer::{Bound, ENTRY_MOST};
use crate::format::record::Change;
use crate::segment::writer::FIRST_FRAME;

/// A segment is sealed when its table of agents takes about this much memory.
const TABLE_LIMIT: usize = 32 << 20;

/// About what an entry takes of the table of agents in memory, in bytes.
pub(super) const TABLE_ENTRY: usize = 6;

/// About what an agent takes of the table in memory.
pub(super) fn table_bytes(name: &str) -> usize {
    700 + 2 * name.len()
}

/// Counts what the batch adds to the footer; gives about what it adds to the table in memory.
fn count_changes(batch: &Prepared, bound: &mut Bound) -> usize {
    let mut table = 0;
    if batch.appends_only {
        let entries = usize::try_from(batch.records).unwrap_or(usize::MAX);
        bound.add_entries(entries);
        return entries.saturating_mul(TABLE_ENTRY);
    }
    for (_, record) in Records::of(&batch.body) {
        table += match record.change {
            Change::Append(_) => {
                bound.add_entry();
                TABLE_ENTRY
            }
            Change::Set { key, .. } | Change::Kept { key, .. } | Change::Unset { key } => {
                bound.add_state(key.len());
                96 + key.len()
            }
            Change::Redact { .. } => {
                bound.add_redaction();
                16
            }
            Change::Policy(_) => {
                bound.add_policy();
                64
            }
            Change::ForgetPrefix { prefix } | Change::KeptPrefix { prefix, .. } => {
                bound.add_prefix(prefix.len());
                64 + prefix.len()
            }
            Change::Truncate { .. } | Change::Forget => 0,
        };
    }
    table
}

impl Order {
    /// What is left behind a frame of `len` bytes and a footer within `bound`; `None`: they do not fit.
    pub(super) fn room_behind(&self, len: u64, bound: &Bound, erasing: bool) -> Option<u64> {
        let reserve = if erasing { 0 } else { RESERVE };
        self.active.segment.capacity.checked_sub(self.tail + len + bound.bytes() + reserve)
    }

    fn is_table_full(&self, more: usize) -> bool {
        self.table_bytes + more > TABLE_LIMIT && self.tail > FIRST_FRAME + 4096
    }

    /// Whether there is room for a frame of `len` bytes, with which the footer is within `bound` and the
    /// table of agents takes `table` bytes more.
    fn has_room(&self, len: u64, bound: &Bound, table: usize, erasing: bool) -> bool {
        !self.is_table_full(table) && self.room_behind(len, bound, erasing).is_some()
    }

    /// Counts a batch that comes next, if there is room for it. `new_names` has the lengths of the
    /// names that the active segment does not know yet, and `table` what these take of the table.
    pub(super) fn take_room(
        &mut self,
        batch: &Prepared,
        new_names: &[usize],
        table: usize,
    ) -> bool {
        let len = batch.len() as u64;
        if batch.appends_only && new_names.is_empty() {
            let entries = usize::try_from(batch.records).unwrap_or(usize::MAX);
            let table = table.saturating_add(entries.saturating_mul(TABLE_ENTRY));
            let fits = self.has_room_for_entries(len, entries, table, None);
            if fits {
                self.bound.add_entries(entries);
                self.table_bytes += table;
            }
            return fits;
        }
        let mut bound = self.bound;
        new_names.iter().for_each(|name| bound.add_agent(*name));
        let table = table.saturating_add(count_changes(batch, &mut bound));
        let fits = self.has_room(len, &bound, table, batch.erasing);
        if fits {
            self.bound = bound;
            self.table_bytes += table;
        }
        fits
    }

    /// Whether there is room for so many entries that come next, by what was left when that was last
    /// reckoned.
    /// `more` tells what goes to the footer besides them.
    pub(super) fn has_room_for_entries(
        &mut self,
        len: u64,
        entries: usize,
        table: usize,
        more: Option<&dyn Fn(&mut Bound)>,
    ) -> bool {
        if self.is_table_full(table) {
            return false;
        }
        let most = len.saturating_add((entries as u64).saturating_mul(ENTRY_MOST));
        let reckoned = self.left_at == self.tail && more.is_none();
        self.left_at = self.tail + len;
        let with_entries = |order: &Order| {
            let mut bound = order.bound;
            bound.add_entries(entries);
            bound
        };
        if let Some(left) = self.left.checked_sub(most).filter(|_| reckoned) {
            debug_assert!(self.room_behind(len, &with_entries(self), false) >= Some(left));
            self.left = left;
            return true;
        }
        let mut bound = with_entries(self);
        if let Some(more) = more {
            more(&mut bound);
        }
        let left = self.room_behind(len, &bound, false);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// What the footer of a segment with nothing but this batch may take.
pub(super) fn fresh_bound(batch: &Prepared) -> u64 {
    let mut bound = Bound::new();
    batch.agents.iter().for_each(|agent| bound.add_agent(agent.resident.name.len()));
    count_changes(batch, &mut bound);
    bound.bytes()
}
