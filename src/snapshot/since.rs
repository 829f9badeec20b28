//! Searching a snapshot by time.

use super::Snapshot;
use crate::error::Result;

/// What an entry that cannot be read means to a search by time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The search fails, unless the store is open for salvage.
    Fails,
    /// No policy drops it.
    Stays,
}

impl Snapshot {
    /// The first live seq whose entry has `at >= time`; next if there is none.
    pub(crate) fn find_since(&self, time: u64, unreadable: Unreadable) -> Result<u64> {
        for extent in self.base.extents.iter().filter(|e| e.end() > self.floor) {
            if let Some(from) = extent.group_reaching(time)?
                && let Some(seq) = self.scan_since(from, extent.end(), time, unreadable)?
            {
                return Ok(seq);
            }
        }
        for part in self.version.parts.iter().rev().filter(|p| p.end() > self.floor) {
            if let Some(from) = part.group_reaching(time)
                && let Some(seq) = self.scan_since(from, part.end(), time, unreadable)?
            {
                return Ok(seq);
            }
        }
        Ok(self.next_seq())
    }

    fn scan_since(
        &self,
        from: u64,
        to: u64,
        time: u64,
        unreadable: Unreadable,
    ) -> Result<Option<u64>> {
        for seq in from.max(self.floor)..to.min(self.next_seq()) {
            match self.entry(seq) {
                Ok(entry) if entry.at_ms() >= time => return Ok(Some(seq)),
                Ok(_) => {}
                Err(_) if unreadable == Unreadable::Stays => return Ok(Some(seq)),
                Err(_) if self.lenient => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
