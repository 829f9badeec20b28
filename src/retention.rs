//! Retention at read: how far a policy raises the floor of a timeline.

use crate::error::Result;
use crate::types::Retention;

/// What a policy must know of a timeline.
pub(crate) trait Timeline {
    /// The lowest live seq before the policy.
    fn floor(&self) -> u64;
    /// The seq behind the last entry.
    fn next(&self) -> u64;
    /// The moment at which the policy is applied, in ms since the epoch.
    fn time(&self) -> u64;
    /// The first live seq whose entry has `at >= time`; next if there is none.
    fn first_since(&self, time: u64) -> Result<u64>;
    /// Stretches of the timeline, newest first: first seq, seq behind the last, bytes of payload
    /// and meta.
    fn pieces(&self) -> Vec<(u64, u64, u64)>;
    /// Bytes of payload and meta of one entry.
    fn entry_bytes(&self, seq: u64) -> Result<u64>;
}

/// The floor of a timeline under a policy; never below its own.
pub(crate) fn floor_under(policy: &Retention, timeline: &impl Timeline) -> Result<u64> {
    let next = timeline.next();
    let mut floor = timeline.floor();
    if let Some(most) = policy.max_entries {
        floor = floor.max(next.saturating_sub(most));
    }
    if let Some(age) = policy.max_age {
        // The longest prefix of which every entry has expired ends at the first one that has not.
        floor = floor.max(timeline.first_since(timeline.time().saturating_sub(age))?);
    }
    if let Some(most) = policy.max_bytes {
        floor = floor.max(floor_by_bytes(most, timeline)?);
    }
    Ok(floor.min(next))
}

/// The lowest floor above which at most `most` bytes of payload and meta lie.
fn floor_by_bytes(most: u64, timeline: &impl Timeline) -> Result<u64> {
    let lowest = timeline.floor();
    let mut left = most;
    for (first, end, bytes) in timeline.pieces() {
        if bytes <= left && first >= lowest {
            left -= bytes;
            continue;
        }
        for seq in (first.max(lowest)..end.min(timeline.next())).rev() {
            let bytes = timeline.entry_bytes(seq)?;
            if bytes > left {
                return Ok(seq + 1);
            }
            left -= bytes;
        }
        if first <= lowest {
            break;
        }
    }
    Ok(lowest)
}
