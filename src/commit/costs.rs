//! What a batch adds to the footer of its segment, and to the table of agents in memory.

use crate::commit::prepared::{Prepared, Records};
use crate::format::footer::Bound;
use crate::format::record::Change;

/// About what an entry takes of the table of agents in memory, in bytes.
pub(super) const TABLE_ENTRY: usize = 6;

/// About what an agent takes of the table in memory.
pub(super) fn table_bytes(name: &str) -> usize {
    700 + 2 * name.len()
}

/// Counts what the batch adds to the footer; gives about what it adds to the table in memory.
pub(super) fn count_changes(batch: &Prepared, bound: &mut Bound) -> usize {
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

/// What the footer of a segment with nothing but this batch may take.
pub(super) fn fresh_bound(batch: &Prepared) -> u64 {
    let mut bound = Bound::new();
    batch.agents.iter().for_each(|agent| bound.add_agent(agent.resident.name.len()));
    count_changes(batch, &mut bound);
    bound.bytes()
}
