//! How large jobs and runs are, for the store as it is.

use crate::compaction::Compactor;
use crate::compaction::pick::{Policy, SegmentStats};

/// A job in the background writes at most this part of what lives,
const JOB_SHARE: u64 = 18;
/// in so many runs, when it merges log segments;
const FIRST_RUNS: u64 = 3;
/// and a run is not rewritten to gain less than this part of a job.
const LEAST_GAIN: u64 = 64;
/// While entries die young, so much of the log is left alone: this part of what lives, up to so many
/// segments.
const LAG_SHARE: u64 = 6;
const LAG_SEGMENTS: u64 = 6;
/// Runs are cut at this many log segments' size.
const SEGMENTS_A_RUN: u64 = 4;

impl Compactor {
    pub(super) fn policy(&self, thorough: bool, stats: &[SegmentStats]) -> Policy {
        let options = &self.engine.options;
        let max_run = self.max_run();
        let live: u64 = stats.iter().map(|one| one.live_bytes).sum();
        // What a job writes is on the disk twice until it is done: it is kept in proportion.
        let most = max_run.saturating_mul(2);
        let least = options.segment_bytes.saturating_mul(2).min(most);
        let max_job = if thorough { most } else { (live / JOB_SHARE).clamp(least, most) };
        Policy {
            target_extent: options.extent_bytes,
            dead_share: options.dead_share,
            max_run,
            max_job,
            max_first_run: max_job / FIRST_RUNS,
            least_gain: max_job / LEAST_GAIN,
            lag: (live / LAG_SHARE).min(options.segment_bytes.saturating_mul(LAG_SEGMENTS)),
            thorough,
            erase_before: self.erase_before().filter(|_| !thorough),
            ..Policy::default()
        }
    }

    /// The length of a run at most, unless one agent alone is longer.
    pub(super) fn max_run(&self) -> u64 {
        self.engine.options.segment_bytes.saturating_mul(SEGMENTS_A_RUN)
    }
}
