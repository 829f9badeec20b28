//! What picking knows of a sealed segment.

use std::ops::Range;

/// What is known of one sealed segment.
#[derive(Clone, Debug)]
pub(crate) struct SegmentStats {
    pub id: u64,
    /// 0: a log segment.
    pub generation: u64,
    /// The lsns that it covers.
    pub lsns: Range<u64>,
    /// The first name that it covers. A log segment covers all names.
    pub from: Box<str>,
    /// The name behind the last one that it covers.
    pub to: Option<Box<str>>,
    /// Data and footer on disk.
    pub file_bytes: u64,
    /// What a job would copy.
    pub live_bytes: u64,
    /// What a job would drop.
    pub dead_bytes: u64,
    /// How many agents it holds.
    pub agents: u64,
    /// The oldest death in it, in ms since the epoch; none known if there is none.
    pub dead_since: Option<u64>,
    /// A job on it failed: it is left alone.
    pub quarantined: bool,
}

impl SegmentStats {
    /// The most that its content takes in an output.
    pub(super) fn output_bytes(&self) -> u64 {
        self.file_bytes.saturating_sub(self.dead_bytes).max(self.live_bytes)
    }

    /// Whether a job may remove something. A run was made without dead bytes, so only a death
    /// since then counts: what looks dead otherwise would be copied for ever.
    pub(super) fn has_dead(&self) -> bool {
        self.dead_bytes > 0 && (self.generation == 0 || self.dead_since.is_some())
    }

    /// Whether something died in it at or before that moment.
    pub(super) fn died_by(&self, time: u64) -> bool {
        self.dead_since.is_some_and(|since| since <= time)
    }
}
