//! How much an agent has stored.

use super::Snapshot;
use crate::catalog::part::GROUP;
use crate::error::Result;
use crate::retention::Timeline;
use crate::types::Usage;

impl Snapshot {
    /// What the agent has stored. It is told from sums: read are the entries around the floor, a
    /// group of them at most, and those that were redacted.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut usage =
            Usage { entries: self.next_seq().saturating_sub(self.floor), ..Usage::default() };
        let mut all = 0u64;
        for piece in Timeline::pieces(self) {
            all = all.saturating_add(piece.bytes);
            let live = if piece.first >= self.floor {
                piece.bytes
            } else if piece.end > self.floor {
                let group = (self.floor - piece.first) / GROUP as u64;
                let next = piece.first.saturating_add((group + 1) * GROUP as u64);
                let mut live = piece.bytes.saturating_sub(self.bytes_before(&piece, group + 1)?);
                for seq in self.floor..next.min(piece.end).min(self.next_seq()) {
                    live = live.saturating_add(self.entry(seq)?.stored_len());
                }
                live
            } else {
                0
            };
            usage.live_bytes = usage.live_bytes.saturating_add(live);
        }
        for seq in self.redacted_seqs() {
            let entry = self.entry(seq)?;
            usage.live_bytes = usage.live_bytes.saturating_sub(entry.stored_len());
        }
        usage.dead_bytes = all.saturating_sub(usage.live_bytes);
        Ok(usage)
    }
}
