//! How large jobs and runs are, for the store as it is.

use crate::compaction::Compactor;
use crate::compaction::field::LARGEST_JOB;
use crate::compaction::pick::{Policy, SegmentStats};
use crate::options::Options;

/// A job in the background writes at most this part of what lives,
const JOB_SHARE: u64 = 18;
/// and one that was asked for this part,
const THOROUGH_JOB_SHARE: u64 = 8;
/// but either may take so many of the largest log segments,
const LOGS_A_JOB: u64 = 4;
/// in runs of this part of a job, if they are to be merged again.
const SLICES_A_JOB: u64 = 6;
const THOROUGH_SLICES_A_JOB: u64 = 8;
/// A run is not rewritten to gain less than this part of a job.
const LEAST_GAIN: u64 = 64;
/// While entries die young, so much of the log is left alone: this part of what lives, up to so many
/// segments.
const LAG_SHARE: u64 = 6;
const LAG_SEGMENTS: u64 = 6;
/// Runs are cut at this many log segments' size.
const SEGMENTS_A_RUN: u64 = 4;

impl Policy {
    /// The policy for a store with these segments.
    pub(crate) fn of(options: &Options, thorough: bool, segments: &[SegmentStats]) -> Policy {
        let files = |one: &SegmentStats| one.output_bytes();
        let lives: u64 = segments.iter().map(files).sum();
        let logs = segments.iter().filter(|one| one.generation == 0);
        let log = logs.map(|one| one.file_bytes).max().unwrap_or(0);
        let long = max_run(options);
        // What a job writes is on the disk twice until it is done: it is kept in proportion. Yet it
        // always has room for enough tiers, or nothing would ever be merged.
        let (share, least, slices) = if thorough {
            (THOROUGH_JOB_SHARE, long.saturating_mul(2), THOROUGH_SLICES_A_JOB)
        } else {
            (JOB_SHARE, options.segment_bytes.saturating_mul(2), SLICES_A_JOB)
        };
        let least = least.max(log.saturating_mul(LOGS_A_JOB));
        let max_job = (lives / share).max(least).min(LARGEST_JOB);
        let max_slice = max_job / slices;
        Policy {
            target_extent: options.extent_bytes,
            dead_share: options.dead_share,
            max_run: long.max(max_slice),
            max_job,
            max_slice,
            least_gain: max_job / LEAST_GAIN,
            lag: (lives / LAG_SHARE).min(options.segment_bytes.saturating_mul(LAG_SEGMENTS)),
            thorough,
            ..Policy::default()
        }
    }
}

/// The length of a run at most where the store is small, unless one agent alone is longer.
fn max_run(options: &Options) -> u64 {
    options.segment_bytes.saturating_mul(SEGMENTS_A_RUN)
}

impl Compactor {
    pub(super) fn policy(&self, thorough: bool, stats: &[SegmentStats]) -> Policy {
        let policy = Policy::of(&self.engine.options, thorough, stats);
        Policy { erase_before: self.erase_before().filter(|_| !thorough), ..policy }
    }

    /// Log segments that wait to be clustered, and the bytes of their files.
    pub(super) fn waiting_logs(&self) -> (u64, u64) {
        let set = self.engine.catalog.segments();
        let logs = set.sealed.iter().filter(|segment| !segment.run);
        logs.fold((0, 0), |sum, log| (sum.0 + 1, sum.1 + log.disk_len()))
    }

    pub(super) fn max_run(&self) -> u64 {
        max_run(&self.engine.options)
    }
}
