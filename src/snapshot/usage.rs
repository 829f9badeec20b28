//! How much an agent has stored.

use super::Snapshot;
use crate::error::Result;
use crate::types::Usage;

impl Snapshot {
    /// What the agent has stored.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut usage =
            Usage { entries: self.next_seq().saturating_sub(self.floor), ..Usage::default() };
        let mut all = 0u64;
        for (first, end, bytes) in self.stretches() {
            all = all.saturating_add(bytes);
            if first >= self.floor {
                usage.live_bytes = usage.live_bytes.saturating_add(bytes);
            } else if end > self.floor {
                for seq in self.floor..end.min(self.next_seq()) {
                    let len = self.entry(seq)?.stored_len();
                    usage.live_bytes = usage.live_bytes.saturating_add(len);
                }
            }
        }
        for seq in self.redacted_seqs() {
            let entry = self.entry(seq)?;
            usage.live_bytes = usage.live_bytes.saturating_sub(entry.stored_len());
        }
        usage.dead_bytes = all.saturating_sub(usage.live_bytes);
        Ok(usage)
    }
}
