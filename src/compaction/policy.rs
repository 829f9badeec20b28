//! What picking aims at: how large jobs and runs are, for the store as it is.

use crate::compaction::field::LARGEST_JOB;
use crate::compaction::stats::SegmentStats;
use crate::compaction::{Compactor, How};
use crate::options::Options;

/// A job in the background writes at most this part of what lives,
const JOB_SHARE: u64 = 18;
/// and one that was asked for this part,
const THOROUGH_JOB_SHARE: u64 = 8;
/// but either may take so many of the largest log segments,
const LOGS_A_JOB: u64 = 4;
/// in runs of this part of a job, if they are to be merged again.
const SLICES_A_JOB: u64 = 6;
const THOROUGH_SLICES_A_JOB: u64 = 12;
/// A run that is to be merged again may have so much in any case: beside it, its footer is small.
const LEAST_SLICE: u64 = 256 << 10;
/// So many segments are left as they are, and one more for each so many bytes that live.
const LEAST_SEGMENTS: usize = 256;
const BYTES_A_SEGMENT: u64 = LARGEST_JOB / SLICES_A_JOB;
/// A run is not rewritten to gain less than this part of a job.
const LEAST_GAIN: u64 = 64;
/// While entries die young, so much of the log is left alone: this part of what lives, up to so many
/// segments.
const LAG_SHARE: u64 = 6;
const LAG_SEGMENTS: u64 = 6;
/// Runs are cut at this many log segments' size.
const SEGMENTS_A_RUN: u64 = 4;

/// What picking aims at.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Extents are merged while the mean one is below this.
    pub target_extent: u64,
    /// A segment is rewritten once so much of it is dead, in percent.
    pub dead_share: u64,
    /// Once so much of the store is dead, in percent,
    pub store_dead_share: u64,
    /// segments are rewritten of which so much is, the worst first.
    pub full_share: u64,
    /// How many log segments with small extents are merged at least,
    pub log_fan_in: usize,
    /// how many tiers of runs with small extents,
    pub run_fan_in: usize,
    /// and how many of either whose extents are not small.
    pub wide_fan_in: usize,
    /// A job that is full is done with so many tiers already; so many may exceed `max_job` by half.
    pub least_fan_in: usize,
    /// Tiers of runs are merged whatever they hold while more than this lie over one name.
    pub max_tiers: usize,
    /// Neighbours in name that one job wrote are merged while there are more segments than this.
    pub max_segments: usize,
    /// The longest run, unless one agent alone is longer.
    pub max_run: u64,
    /// The longest run that is to be merged again: cut finer, more tiers of the same names fit into
    /// the job that merges them.
    pub max_slice: u64,
    /// The most that a job writes, unless one input alone is more.
    pub max_job: u64,
    /// So many bytes of the newest log segments are left alone while much dies: much of them is
    /// dead before it was copied once.
    pub lag: u64,
    /// What a run must have that is dead to be rewritten for it.
    pub least_gain: u64,
    /// An explicit compaction: merge whatever gains anything, reclaim from a low share on.
    pub thorough: bool,
    /// Nothing is appended: log segments do not wait for more of them, nor for deaths.
    pub idle: bool,
    /// Segments with deaths at or before this moment (ms since the epoch) come first.
    pub erase_before: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            target_extent: 64 << 10,
            dead_share: 50,
            store_dead_share: 20,
            full_share: 30,
            log_fan_in: 12,
            run_fan_in: 8,
            wide_fan_in: 32,
            least_fan_in: 4,
            max_tiers: 32,
            max_segments: 4096,
            max_run: 256 << 20,
            max_slice: 64 << 20,
            max_job: 512 << 20,
            lag: 0,
            least_gain: 0,
            thorough: false,
            idle: false,
            erase_before: None,
        }
    }
}

impl Policy {
    /// The policy for a store to which nothing has been appended for long: what is left is clustered
    /// without waiting for more.
    pub(crate) fn while_idle(self) -> Self {
        let (log_fan_in, run_fan_in, wide_fan_in, least_fan_in) = (2, 4, 8, 2);
        Self { log_fan_in, run_fan_in, wide_fan_in, least_fan_in, lag: 0, idle: true, ..self }
    }

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
        let least = least.max(log.saturating_mul(LOGS_A_JOB)).max(LEAST_SLICE * slices);
        let max_job = (lives / share).max(least).min(LARGEST_JOB);
        let max_slice = max_job / slices;
        Policy {
            target_extent: options.extent_bytes,
            dead_share: options.dead_share,
            max_run: long.max(max_job / SLICES_A_JOB),
            max_job,
            max_slice,
            max_segments: LEAST_SEGMENTS + usize::try_from(lives / BYTES_A_SEGMENT).unwrap_or(0),
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
    pub(super) fn policy(&self, how: How, stats: &[SegmentStats]) -> Policy {
        let thorough = how == How::Thorough;
        let policy = Policy::of(&self.engine.options, thorough, stats);
        let policy = if how == How::Idle { policy.while_idle() } else { policy };
        Policy { erase_before: self.erase_before().filter(|_| !thorough), ..policy }
    }

    /// Log segments that wait to be clustered, and the bytes of their files.
    pub(super) fn waiting_logs(&self) -> (u64, u64) {
        let set = self.engine.catalog.segments();
        let logs = set.sealed.iter().filter(|segment| !segment.run);
        logs.fold((0, 0), |sum, log| (sum.0 + 1, sum.1 + log.disk_len()))
    }

    /// The length of a run at most that is not to be merged again, unless one agent alone is longer.
    pub(super) fn max_run(&self, stats: &[SegmentStats]) -> u64 {
        Policy::of(&self.engine.options, true, stats).max_run
    }
}
