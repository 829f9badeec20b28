//! What to compact next: a pure function of what is known of the sealed segments.
//!
//! The rules, and what they cost, are in `docs/compaction.md`. All sizes that decide anything are
//! bytes of files, dead content aside: one measure for what a job may write, and for when it is
//! worth beginning.

use std::ops::Range;

use crate::compaction::field::{Admits, End, Field, LARGEST_JOB, Ratio, Sums, Window, is_share};
pub(crate) use crate::compaction::policy::Policy;
pub(crate) use crate::compaction::stats::SegmentStats;

/// Generations are counted up to here. Each stands for at least `least_fan_in` tiers of the one
/// below, so that 8 of them are beyond 16 TB; tiers of the last one are merged with each other.
const LAST_GENERATION: u64 = 8;
/// A job of less than this leaves the generation as it is: what is small may be merged again.
const WHOLE_TIER: u64 = 64 << 20;
/// A thorough pick merges extents of up to so many times the target.
const THOROUGH_EXTENT: u64 = 16;
/// A thorough pick rewrites from this dead share on, in percent.
const THOROUGH_SHARE: u64 = 5;

/// While at least so much of the store is dead, in percent, log segments wait for deaths, and runs
/// are not clustered.
const DYING: u64 = 12;

/// Why a job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Something died in the inputs that must be gone by now.
    Erase,
    /// Enough of the inputs is dead.
    Reclaim,
    /// The inputs are many tiers of the same names.
    Cluster,
    /// The inputs are many small runs of neighbouring names.
    Gather,
    /// The inputs overlap too many runs to be merged with them before they are cut as those are.
    Align,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Ids, oldest first.
    pub inputs: Vec<u64>,
    pub reason: Reason,
    /// The most that it writes.
    pub output_bytes: u64,
    /// The generation of the outputs.
    pub generation: u64,
    /// The length at which an output is cut, chosen so that all are about equally long.
    pub run_bytes: u64,
    /// An output of at least this length is also cut where a run begins or ends that is no input.
    pub cut_from: u64,
}

/// Whether these inputs may be merged: no other segment that shares a name with them may lie
/// within the lsns that they span, or the age of what it holds could not be told any more.
pub(crate) fn is_valid(inputs: &[&SegmentStats], all: &[SegmentStats]) -> bool {
    let Some(lo) = inputs.iter().map(|input| input.lsns.start).min() else { return false };
    let Some(hi) = inputs.iter().map(|input| input.lsns.end).max() else { return false };
    all.iter().all(|other| {
        inputs.iter().any(|input| input.id == other.id)
            || other.lsns.end <= lo
            || other.lsns.start >= hi
            || !inputs.iter().any(|input| share_names(input, other))
    })
}

pub(super) fn share_names(one: &SegmentStats, other: &SegmentStats) -> bool {
    let below = |name: &str, to: &Option<Box<str>>| to.as_deref().is_none_or(|to| name < to);
    below(&one.from, &other.to) && below(&other.from, &one.to)
}

/// The next job, if anything is worth one. Repeated, with its outcome, it ends with none.
pub(crate) fn pick(segments: &[SegmentStats], policy: &Policy) -> Option<Pick> {
    let field = Picker::new(segments, policy);
    let share =
        if field.is_full { policy.dead_share.min(policy.full_share) } else { policy.dead_share };
    // What is dead as a whole costs nothing and makes room for the rest.
    let job = field.all_dead().or_else(|| field.erase());
    let job = if policy.thorough {
        // A copy that merges reclaims as well, so what is left to reclaim comes later. Log segments
        // are folded in the order of their age: one that is left between two tiers covers all names,
        // and no job could merge across it.
        job.or_else(|| field.fold_logs())
            .or_else(|| field.reclaim(share))
            .or_else(|| field.cluster_all())
            .or_else(|| field.align(0))
            .or_else(|| field.cluster())
            .or_else(|| field.gather())
            .or_else(|| field.reclaim(THOROUGH_SHARE.min(share)))
    } else {
        let job = job.or_else(|| field.reclaim(share));
        job.or_else(|| field.thin()).or_else(|| field.cluster()).or_else(|| field.gather())
    };
    debug_assert!(job.as_ref().is_none_or(|job| {
        let inputs = segments.iter().filter(|segment| job.inputs.contains(&segment.id));
        is_valid(&inputs.collect::<Vec<_>>(), segments)
    }));
    job
}

/// What picking works on.
struct Picker<'a> {
    field: Field<'a>,
    policy: &'a Policy,
    /// More of the store is dead than the policy allows.
    is_full: bool,
    /// So much of it is dead that what is copied is to give back room: runs are not clustered, and
    /// the newest log segments wait.
    is_dying: bool,
    /// Log segments that begin at or above this lsn are left alone.
    young_from: u64,
}

/// What a window is worth that begins at a place, with why it can grow no further.
type Worth<'r> = &'r dyn Fn(usize, &Sums, Option<End>) -> Option<Ratio>;

/// Which windows a rule looks for.
struct Rule<'r> {
    reason: Reason,
    /// The limit of jobs on `least_fan_in` tiers or fewer.
    few: u64,
    /// Whether the oldest window that is worth anything will do, rather than the best.
    oldest: bool,
    /// Whether a segment may go with the oldest one.
    admits: &'r dyn Fn(&SegmentStats, &SegmentStats) -> bool,
    worth: Worth<'r>,
}

/// The lowest lsn of the newest log segments that have so many bytes together.
fn young_from(field: &Field<'_>, bytes: u64) -> u64 {
    let (mut from, mut sum) = (u64::MAX, 0);
    for place in field.places.iter().rev().filter(|place| place.segment.generation == 0) {
        sum += place.segment.file_bytes;
        if sum > bytes {
            break;
        }
        from = place.segment.lsns.start;
    }
    from
}

impl<'a> Picker<'a> {
    fn new(segments: &'a [SegmentStats], policy: &'a Policy) -> Self {
        let field = Field::new(segments, policy);
        let is_full = is_share(field.dead, field.whole, policy.store_dead_share);
        let is_dying = is_share(field.dead, field.whole, DYING);
        let lags = !policy.thorough && is_dying;
        let young_from = if lags { young_from(&field, policy.lag) } else { u64::MAX };
        Self { field, policy, is_full, is_dying, young_from }
    }

    /// The job on a window.
    fn job(&self, window: &Window, reason: Reason) -> Pick {
        let policy = self.policy;
        let sums = &window.sums;
        let mut generation = sums.generation.max(1);
        if reason == Reason::Cluster && sums.output >= WHOLE_TIER {
            // Runs that were log segments are of the logs' own level.
            let next = if sums.logs > 0 { sums.generation.max(1) } else { sums.generation + 1 };
            generation = if policy.thorough { LAST_GENERATION } else { next.min(LAST_GENERATION) };
        }
        let is_last = policy.thorough && self.is_alone(window);
        let most = if is_last { policy.max_run } else { policy.max_slice };
        let runs = sums.output.div_ceil(most.max(1)).max(1);
        let (run_bytes, cut_from) = match reason {
            Reason::Align => (sums.output.div_ceil(runs), 0),
            // In one run, or the same would be gathered again.
            Reason::Gather => (LARGEST_JOB, LARGEST_JOB),
            _ => (sums.output.div_ceil(runs), most / 4),
        };
        Pick {
            inputs: self.field.members(window).map(|segment| segment.id).collect(),
            reason,
            output_bytes: sums.output,
            generation,
            run_bytes,
            cut_from,
        }
    }

    /// Whether nothing else shares names with a window that it could be merged with.
    fn is_alone(&self, window: &Window) -> bool {
        let mut meeting = self.field.meeting(0..self.field.places.len(), &window.names);
        meeting.all(|index| {
            window.members.binary_search(&index).is_ok()
                || self.field.segment(index).is_some_and(|segment| segment.quarantined)
        })
    }

    /// The best of the windows that a rule finds worth anything. Of the windows of a seed the
    /// longest counts: what is merged now is not merged later.
    fn best(&self, rule: &Rule<'_>) -> Option<Pick> {
        let mut best: Option<(Ratio, usize, usize)> = None;
        for seed in self.field.seeds() {
            let Some(oldest) = self.field.segment(seed) else { continue };
            let admits = |other: &SegmentStats| (rule.admits)(oldest, other);
            if !admits(oldest) {
                continue;
            }
            let Some(found) = self.longest(seed, rule, &admits) else { continue };
            if best.is_none_or(|(ratio, ..)| found.0.compare(ratio).is_gt()) {
                best = Some((found.0, seed, found.1));
            }
            if rule.oldest {
                break;
            }
        }
        let (_, seed, steps) = best?;
        let oldest = self.field.segment(seed)?;
        let mut window = self.field.single(seed)?;
        for _ in 0..steps {
            let admits = |other: &SegmentStats| (rule.admits)(oldest, other);
            self.field.grow(&mut window, rule.few, &admits).ok()?;
        }
        Some(self.job(&window, rule.reason))
    }

    /// The longest window of a seed that is worth anything: what it is worth, and how often it grew.
    fn longest(&self, seed: usize, rule: &Rule<'_>, admits: Admits<'_>) -> Option<(Ratio, usize)> {
        let mut window = self.field.single(seed)?;
        let mut longest = None;
        for steps in 0.. {
            let before = window.sums.clone();
            let end = self.field.grow(&mut window, rule.few, admits).err();
            if let Some(ratio) = (rule.worth)(seed, &before, end) {
                longest = Some((ratio, steps));
            }
            if end.is_some() {
                break;
            }
        }
        longest
    }

    /// Segments without anything live.
    fn all_dead(&self) -> Option<Pick> {
        self.best(&Rule {
            reason: Reason::Reclaim,
            few: 0,
            oldest: false,
            admits: &|_, other| other.has_dead() && other.live_bytes == 0,
            worth: &|_, sums, _| self.gains(sums).then(|| sums.yields()),
        })
    }

    /// Whether what a job gives back is worth the files that it makes and takes away.
    fn gains(&self, sums: &Sums) -> bool {
        sums.generation == 0 || self.policy.thorough || sums.dead >= self.policy.least_gain
    }

    /// Segments with deaths that are due.
    fn erase(&self) -> Option<Pick> {
        let before = self.policy.erase_before?;
        self.best(&Rule {
            reason: Reason::Erase,
            few: 0,
            oldest: false,
            admits: &|_, other| other.died_by(before),
            worth: &|_, sums, _| Some(sums.yields()),
        })
    }

    /// Segments of which so many percent are dead.
    fn reclaim(&self, percent: u64) -> Option<Pick> {
        let policy = self.policy;
        self.best(&Rule {
            reason: Reason::Reclaim,
            few: 0,
            oldest: false,
            admits: &|seed, other| {
                other.has_dead() && other.generation == seed.generation && !self.is_young(other)
            },
            worth: &|_, sums, end| {
                // Log segments with small extents are merged soon anyway: one copy does both.
                let waits = sums.generation == 0
                    && !policy.thorough
                    && !self.is_full
                    && sums.tiers < policy.log_fan_in
                    && !(sums.tiers > 1 && self.is_full_job(sums, end))
                    && sums.is_below(policy.target_extent);
                (!waits && self.gains(sums) && sums.is_dead_by(percent)).then(|| sums.yields())
            },
        })
    }

    /// Tiers of one generation, as many as its fan-in. Where extents are long already, it is not for
    /// their sake, but so that files grow with the store: the fan-in is wider then.
    fn cluster(&self) -> Option<Pick> {
        let policy = self.policy;
        let limit = if self.is_dying && !policy.idle { 1 } else { u64::MAX };
        let rule = |generation: u64| {
            let is_log = generation == 0;
            move |seed: usize, sums: &Sums, end: Option<End>| {
                // A great tier is not copied to take in little ones.
                let is_even = sums.is_even() || (policy.idle && is_log);
                if sums.tiers < policy.least_fan_in.max(2) || !is_even {
                    return None;
                }
                let fan_in = if is_log { policy.log_fan_in } else { policy.run_fan_in };
                let is_worth = if sums.is_below(policy.target_extent) {
                    sums.tiers >= fan_in || self.is_full_job(sums, end)
                } else {
                    let wide = policy.wide_fan_in;
                    sums.tiers >= wide
                        || (end == Some(End::Large) && self.field.depth(seed, wide) >= wide)
                };
                is_worth.then(|| sums.thins())
            }
        };
        let (logs, runs) = (rule(0), rule(1));
        let few = policy.max_job.saturating_add(policy.max_job / 2);
        let of_logs = self.best(&Rule {
            reason: Reason::Cluster,
            few,
            oldest: true,
            admits: &|seed, other| self.is_among_logs(seed, other) && !self.is_young(other),
            worth: &logs,
        });
        of_logs.or_else(|| {
            self.best(&Rule {
                reason: Reason::Cluster,
                few,
                oldest: false,
                admits: &|seed, other| {
                    other.generation > 0
                        && other.generation < limit
                        && other.generation == seed.generation
                },
                worth: &runs,
            })
        })
    }

    /// Whatever lies in more tiers than a look-up is to ask, where it costs least. It comes before log
    /// segments are merged: those are what appenders wait for when compaction is behind.
    fn thin(&self) -> Option<Pick> {
        let tiers = self.field.tiers_of_runs();
        if tiers.iter().all(|tiers| *tiers <= self.policy.max_tiers) {
            return None;
        }
        let crowded: Vec<usize> = tiers
            .iter()
            .scan(0, |sum, tiers| {
                let before = *sum;
                *sum += usize::from(*tiers > self.policy.max_tiers);
                Some(before)
            })
            .collect();
        let is_crowded = |names: &Range<usize>| {
            let below = |bound: usize| crowded.get(bound).copied().unwrap_or(0);
            below(names.end) > below(names.start)
        };
        let at = |seed: usize| self.field.places.get(seed).map(|place| &place.names);
        let found = self.best(&Rule {
            reason: Reason::Cluster,
            few: self.policy.max_job.saturating_mul(2),
            oldest: false,
            admits: &|_, other| other.generation > 0,
            worth: &|seed, sums, _| {
                (sums.tiers > 1 && at(seed).is_some_and(is_crowded)).then(|| sums.thins())
            },
        });
        found.or_else(|| self.align(LARGEST_JOB / 8))
    }

    /// Log segments first, where not all of the store fits into one job: what they become is cut so
    /// that it can be merged with all that there is over the same names at once.
    fn fold_logs(&self) -> Option<Pick> {
        let free = self.field.seeds().filter_map(|index| self.field.segment(index));
        let output: u64 = free.map(SegmentStats::output_bytes).sum();
        if output <= self.policy.max_job {
            return None;
        }
        self.best(&Rule {
            reason: Reason::Cluster,
            few: 0,
            oldest: true,
            admits: &|seed, other| self.is_among_logs(seed, other),
            worth: &|_, sums, _| self.saves_extents(sums),
        })
    }

    /// Whatever saves an extent.
    fn cluster_all(&self) -> Option<Pick> {
        self.best(&Rule {
            reason: Reason::Cluster,
            few: 0,
            oldest: false,
            admits: &|_, _| true,
            worth: &|_, sums, _| self.saves_extents(sums),
        })
    }

    fn saves_extents(&self, sums: &Sums) -> Option<Ratio> {
        (sums.tiers > 1 && self.is_small(sums)).then(|| sums.saves())
    }

    /// Whether a segment may go with a log segment. An erasure makes a run of one, and what lies on
    /// either side of that is not to wait for ever.
    fn is_among_logs(&self, seed: &SegmentStats, other: &SegmentStats) -> bool {
        let was_log = other.generation == 1 && other.output_bytes() <= self.policy.max_slice;
        seed.generation == 0 && (other.generation == 0 || was_log)
    }

    fn is_young(&self, segment: &SegmentStats) -> bool {
        segment.generation == 0 && segment.lsns.start >= self.young_from
    }

    /// Whether there is no use in waiting for more tiers: a job has no room for them.
    fn is_full_job(&self, sums: &Sums, end: Option<End>) -> bool {
        end == Some(End::Large) || is_share(sums.input(), self.policy.max_job, 75)
    }

    /// Whether extents are so small that a thorough job merges them.
    fn is_small(&self, sums: &Sums) -> bool {
        sums.is_below(self.policy.target_extent.saturating_mul(THOROUGH_EXTENT))
    }

    /// The smallest segment that crosses bounds of one that it cannot be merged with otherwise.
    fn align(&self, most: u64) -> Option<Pick> {
        let mut best: Option<(u64, usize)> = None;
        for seed in self.field.seeds() {
            let Some(mut window) = self.field.single(seed) else { continue };
            let names = window.names.clone();
            let end = self.field.segment(seed).map_or(0, |segment| segment.lsns.end);
            let Some(next) = self.field.next(end, &names) else { continue };
            let Err(End::Large) = self.field.grow(&mut window, 0, &|_| true) else { continue };
            let Some(other) = self.field.single(next) else { continue };
            let both = self.field.window(&[seed, next]);
            if !both.is_some_and(|both| self.is_small(&both.sums)) {
                continue;
            }
            for (index, one, other) in
                [(seed, &window, &other.names), (next, &other, &window.names)]
            {
                let output = one.sums.output;
                if crosses(&one.names, other)
                    && (most == 0 || output <= most)
                    && best.is_none_or(|(least, _)| output < least)
                {
                    best = Some((output, index));
                }
            }
        }
        let window = self.field.single(best?.1)?;
        Some(self.job(&window, Reason::Align))
    }

    /// Runs of one job that follow each other in name and are small, while there are too many files.
    fn gather(&self) -> Option<Pick> {
        let policy = self.policy;
        if self.field.places.len() <= policy.max_segments {
            return None;
        }
        let mut best: Option<(Ratio, Window)> = None;
        for seed in self.field.seeds() {
            let Some(first) = self.field.segment(seed).filter(|one| one.generation > 0) else {
                continue;
            };
            let admits = |other: &SegmentStats| other.generation > 0 && other.lsns == first.lsns;
            let Some(mut window) = self.field.single(seed) else { continue };
            for next in seed + 1.. {
                let Some(other) = self.field.segment(next).filter(|other| admits(other)) else {
                    break;
                };
                let output = window.sums.output.saturating_add(other.output_bytes());
                if output > policy.max_run
                    || self.field.grow_by(&mut window, next, 0, &admits).is_err()
                {
                    break;
                }
            }
            let spared = (window.members.len() as u64).saturating_sub(1);
            let ratio = Ratio::of(spared, window.sums.output);
            if spared > 0 && best.as_ref().is_none_or(|(least, _)| ratio.compare(*least).is_gt()) {
                best = Some((ratio, window));
            }
        }
        best.map(|(_, window)| self.job(&window, Reason::Gather))
    }
}

/// Whether one range has a bound of the other inside.
fn crosses(one: &Range<usize>, other: &Range<usize>) -> bool {
    let inside = |bound: usize| one.start < bound && bound < one.end;
    inside(other.start) || inside(other.end)
}

#[cfg(test)]
#[path = "pick_tests.rs"]
mod tests;
