//! What to compact next: a pure function of what is known of the sealed segments.
//!
//! The rules, and what they cost, are in `docs/architecture.md`, under *Compaction policy*.

use std::cmp::Ordering;
use std::ops::Range;

/// The generation at which clustering stops. It bounds how often a byte is copied to be clustered.
const LAST_GENERATION: u64 = 2;
/// A job of less than this leaves the generation as it is: what is small may be merged again.
const WHOLE_TIER: u64 = 64 << 20;
/// The most inputs of a job. It bounds the maps in use, and the time that picking takes.
const MAX_INPUTS: usize = 128;
/// A thorough pick merges extents of up to so many times the target.
const THOROUGH_EXTENT: u64 = 16;
/// A thorough pick rewrites from this dead share on, in percent.
const THOROUGH_SHARE: u64 = 5;

/// While at least so much of the store is dead, in percent, log segments wait for deaths, and runs
/// are not clustered.
const DYING: u64 = 12;

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
    fn output_bytes(&self) -> u64 {
        self.file_bytes.saturating_sub(self.dead_bytes).max(self.live_bytes)
    }

    /// Whether a job may remove something. A run was made without dead bytes, so only a death
    /// since then counts: what looks dead otherwise would be copied for ever.
    fn has_dead(&self) -> bool {
        self.dead_bytes > 0 && (self.generation == 0 || self.dead_since.is_some())
    }

    /// Whether something died in it at or before that moment.
    fn died_by(&self, time: u64) -> bool {
        self.dead_since.is_some_and(|since| since <= time)
    }
}

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
    /// How many log segments are merged at least.
    pub log_fan_in: usize,
    /// How many tiers of runs are merged at least.
    pub run_fan_in: usize,
    /// The longest run, unless one agent alone is longer.
    pub max_run: u64,
    /// The longest run of the first generation: cut finer, more tiers of the same names fit into
    /// the job that merges them.
    pub max_first_run: u64,
    /// The most that a job writes, unless one input alone is more.
    pub max_job: u64,
    /// So many bytes of the newest log segments are left alone while much dies: much of them is
    /// dead before it was copied once.
    pub lag: u64,
    /// What a run must have that is dead to be rewritten for it.
    pub least_gain: u64,
    /// An explicit compaction: merge whatever gains anything, reclaim from a low share on.
    pub thorough: bool,
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
            max_run: 256 << 20,
            max_first_run: 64 << 20,
            max_job: 512 << 20,
            lag: 0,
            least_gain: 0,
            thorough: false,
            erase_before: None,
        }
    }
}

/// Why a job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Something died in the inputs that must be gone by now.
    Erase,
    /// Enough of the inputs is dead.
    Reclaim,
    /// The extents of the inputs are small.
    Cluster,
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

fn share_names(one: &SegmentStats, other: &SegmentStats) -> bool {
    let below = |name: &str, to: &Option<Box<str>>| to.as_deref().is_none_or(|to| name < to);
    below(&one.from, &other.to) && below(&other.from, &one.to)
}

/// The next job, if anything is worth one. Repeated, with its outcome, it ends with none.
pub(crate) fn pick(segments: &[SegmentStats], policy: &Policy) -> Option<Pick> {
    let field = Field::new(segments, policy);
    let share =
        if field.is_full { policy.dead_share.min(policy.full_share) } else { policy.dead_share };
    // What is dead as a whole costs nothing and makes room for the rest.
    let job = field.all_dead().or_else(|| field.erase()).or_else(|| field.reclaim(share));
    if !policy.thorough {
        return job.or_else(|| field.cluster());
    }
    // A copy that merges reclaims as well, so what is left to reclaim comes last.
    job.or_else(|| field.cluster_all())
        .or_else(|| field.align())
        .or_else(|| field.reclaim(THOROUGH_SHARE.min(share)))
}

/// A segment, with its names as numbers.
struct Place<'a> {
    segment: &'a SegmentStats,
    /// Where its names begin and end, among all the names at which some segment begins or ends.
    names: Range<usize>,
    /// The highest lsn that this one or one before it covers.
    reach: u64,
}

/// The lowest lsn of the newest log segments that have so many bytes together.
fn young_from(places: &[Place<'_>], bytes: u64) -> u64 {
    let (mut from, mut sum) = (u64::MAX, 0);
    for place in places.iter().rev().filter(|place| place.segment.generation == 0) {
        sum += place.segment.file_bytes;
        if sum > bytes {
            break;
        }
        from = place.segment.lsns.start;
    }
    from
}

/// Segments that may be merged.
#[derive(Clone)]
struct Window {
    /// Indices of places, in order.
    members: Vec<usize>,
    names: Range<usize>,
    lsns: Range<u64>,
}

/// What a window holds.
#[derive(Default)]
struct Sums {
    output: u64,
    live: u64,
    dead: u64,
    agents: u64,
    /// Different intervals of lsns: as many extents may an agent have.
    tiers: usize,
    /// The output and the agents of the greatest tier.
    most_output: u64,
    most_agents: u64,
    generation: u64,
}

impl Sums {
    fn is_dead_by(&self, percent: u64) -> bool {
        is_share(self.dead, self.dead.saturating_add(self.live), percent)
    }

    /// Whether the typical extent is shorter than that.
    fn is_below(&self, extent: u64) -> bool {
        self.live < self.agents.saturating_mul(extent)
    }

    /// Dead bytes for each one written.
    fn yields(&self) -> Ratio {
        Ratio(self.dead, self.output)
    }

    /// Extents saved for each byte written.
    fn saves(&self) -> Ratio {
        Ratio(self.agents.saturating_sub(self.most_agents), self.output)
    }
}

/// Whether `part` has at least so many percent of `whole`.
fn is_share(part: u64, whole: u64, percent: u64) -> bool {
    part > 0 && part.saturating_mul(100) >= whole.saturating_mul(percent)
}

/// A fraction that is only compared.
#[derive(Clone, Copy)]
struct Ratio(u64, u64);

impl Ratio {
    fn compare(self, other: Self) -> Ordering {
        let left = u128::from(self.0) * u128::from(other.1.max(1));
        let right = u128::from(other.0) * u128::from(self.1.max(1));
        left.cmp(&right)
    }
}

/// What became of an attempt to merge.
enum Closed {
    Fits(Window),
    TooLarge,
    Blocked,
}

/// All segments, in the order of their age.
struct Field<'a> {
    places: Vec<Place<'a>>,
    policy: &'a Policy,
    /// More of the store is dead than the policy allows.
    is_full: bool,
    /// So much of it is dead that what is copied is to give back room: runs are not clustered, and
    /// the newest log segments wait.
    is_dying: bool,
    /// Log segments that begin at or above this lsn are left alone.
    young_from: u64,
}

impl<'a> Field<'a> {
    fn new(segments: &'a [SegmentStats], policy: &'a Policy) -> Self {
        let mut bounds: Vec<&str> = segments
            .iter()
            .flat_map(|segment| [Some(&*segment.from), segment.to.as_deref()])
            .flatten()
            .collect();
        bounds.sort_unstable();
        bounds.dedup();
        let rank = |name: &str| bounds.partition_point(|bound| *bound < name);
        let mut places: Vec<Place<'a>> = segments
            .iter()
            .map(|segment| {
                let to = segment.to.as_deref().map_or(bounds.len(), rank);
                Place { segment, names: rank(&segment.from)..to, reach: 0 }
            })
            .collect();
        places.sort_unstable_by_key(|place| (place.segment.lsns.start, place.names.start));
        let mut reach = 0;
        for place in &mut places {
            reach = reach.max(place.segment.lsns.end);
            place.reach = reach;
        }
        let dead = segments.iter().filter(|one| one.has_dead()).map(|one| one.dead_bytes).sum();
        let whole = segments.iter().map(|one| one.dead_bytes.saturating_add(one.live_bytes)).sum();
        let is_full = is_share(dead, whole, policy.store_dead_share);
        let is_dying = is_share(dead, whole, DYING);
        let lags = !policy.thorough && is_dying;
        let young_from = if lags { young_from(&places, policy.lag) } else { u64::MAX };
        Self { places, policy, is_full, is_dying, young_from }
    }

    fn segment(&self, index: usize) -> Option<&'a SegmentStats> {
        self.places.get(index).map(|place| place.segment)
    }

    fn members<'w>(&'w self, window: &'w Window) -> impl Iterator<Item = &'a SegmentStats> + 'w {
        window.members.iter().filter_map(|index| self.segment(*index))
    }

    fn seeds(&self) -> impl Iterator<Item = usize> + '_ {
        let free = |place: &Place<'_>| !place.segment.quarantined;
        self.places.iter().enumerate().filter(move |(_, place)| free(place)).map(|(index, _)| index)
    }

    fn single(&self, index: usize) -> Option<Window> {
        let place = self.places.get(index)?;
        let members = vec![index];
        Some(Window { members, names: place.names.clone(), lsns: place.segment.lsns.clone() })
    }

    fn sums(&self, window: &Window) -> Sums {
        let mut sums = Sums::default();
        let (mut tier, mut output, mut agents) = (None, 0, 0);
        for segment in self.members(window) {
            // Members of one tier follow each other, as they begin at the same lsn.
            if tier != Some(segment.lsns.start) {
                tier = Some(segment.lsns.start);
                sums.tiers += 1;
                (output, agents) = (0, 0);
            }
            output += segment.output_bytes();
            agents += segment.agents;
            sums.most_output = sums.most_output.max(output);
            sums.most_agents = sums.most_agents.max(agents);
            sums.output += segment.output_bytes();
            sums.live += segment.live_bytes;
            sums.dead += if segment.has_dead() { segment.dead_bytes } else { 0 };
            sums.agents += segment.agents;
            sums.generation = sums.generation.max(segment.generation);
        }
        sums
    }

    /// The place that follows a window in age, among those that share names with it.
    fn next(&self, window: &Window) -> Option<usize> {
        let first = self.places.partition_point(|place| place.segment.lsns.start < window.lsns.end);
        let rest = self.places.get(first..)?;
        let found = rest.iter().position(|place| meet(&place.names, &window.names))?;
        Some(first + found)
    }

    /// A window with one more member, and all that has to go with it.
    fn with(
        &self,
        window: &Window,
        index: usize,
        admits: &dyn Fn(&SegmentStats) -> bool,
    ) -> Closed {
        let mut window = window.clone();
        let mut output: u64 = self.members(&window).map(SegmentStats::output_bytes).sum();
        let mut added = Some(index);
        while let Some(index) = added {
            let Some(place) = self.places.get(index) else { return Closed::Blocked };
            if place.segment.quarantined || !admits(place.segment) {
                return Closed::Blocked;
            }
            output += place.segment.output_bytes();
            if output > self.policy.max_job || window.members.len() >= MAX_INPUTS {
                return Closed::TooLarge;
            }
            let at = window.members.partition_point(|member| *member < index);
            window.members.insert(at, index);
            let (names, lsns) = (&place.names, &place.segment.lsns);
            window.names = window.names.start.min(names.start)..window.names.end.max(names.end);
            window.lsns = window.lsns.start.min(lsns.start)..window.lsns.end.max(lsns.end);
            added = self.missing(&window);
        }
        Closed::Fits(window)
    }

    /// A place that shares names with a window and lies within its lsns, but is no member.
    fn missing(&self, window: &Window) -> Option<usize> {
        let end = self.places.partition_point(|place| place.segment.lsns.start < window.lsns.end);
        let start = self.places.partition_point(|place| place.reach <= window.lsns.start);
        let near = self.places.get(start..end)?;
        let outside = near.iter().enumerate().find(|(offset, place)| {
            place.segment.lsns.end > window.lsns.start
                && meet(&place.names, &window.names)
                && window.members.binary_search(&(start + offset)).is_err()
        });
        outside.map(|(offset, _)| start + offset)
    }

    /// Windows that begin with a seed as their oldest member and grow towards the newest.
    fn windows<'w>(
        &'w self,
        seed: usize,
        admits: &'w dyn Fn(&SegmentStats) -> bool,
    ) -> impl Iterator<Item = Window> + 'w {
        let first = self.single(seed).filter(|window| self.members(window).all(admits));
        std::iter::successors(first, move |window| {
            match self.with(window, self.next(window)?, admits) {
                Closed::Fits(window) => Some(window),
                Closed::TooLarge | Closed::Blocked => None,
            }
        })
    }

    /// The job on a window.
    fn job(&self, window: &Window, reason: Reason) -> Pick {
        let sums = self.sums(window);
        let mut generation = sums.generation.max(1);
        if reason == Reason::Cluster && sums.output >= WHOLE_TIER {
            generation = if self.policy.thorough {
                LAST_GENERATION
            } else {
                sums.generation.saturating_add(1).min(LAST_GENERATION)
            };
        }
        let is_first = generation == 1 && !self.policy.thorough;
        let most = if is_first { self.policy.max_first_run } else { self.policy.max_run };
        let runs = sums.output.div_ceil(most.max(1)).max(1);
        Pick {
            inputs: self.members(window).map(|segment| segment.id).collect(),
            reason,
            output_bytes: sums.output,
            generation,
            run_bytes: sums.output.div_ceil(runs),
            cut_from: if reason == Reason::Align { 0 } else { WHOLE_TIER.min(most / 4) },
        }
    }

    /// The best of the windows that are worth anything, by a ratio.
    fn best(
        &self,
        reason: Reason,
        admits: &dyn Fn(&SegmentStats, &SegmentStats) -> bool,
        worth: &dyn Fn(&Sums) -> Option<Ratio>,
    ) -> Option<Pick> {
        let mut best: Option<(Ratio, Window)> = None;
        for seed in self.seeds() {
            let Some(oldest) = self.segment(seed) else { continue };
            let admits = |other: &SegmentStats| admits(oldest, other);
            let worthy = |window: Window| Some((worth(&self.sums(&window))?, window));
            // Of the windows of a seed the longest counts: what is merged now is not merged later.
            let longest = self.windows(seed, &admits).filter_map(worthy).last();
            let Some(found) = longest else { continue };
            if best.as_ref().is_none_or(|(ratio, _)| found.0.compare(*ratio).is_gt()) {
                best = Some(found);
            }
        }
        best.map(|(_, window)| self.job(&window, reason))
    }

    /// Segments without anything live.
    fn all_dead(&self) -> Option<Pick> {
        let admits = |_: &_, other: &SegmentStats| other.has_dead() && other.live_bytes == 0;
        self.best(Reason::Reclaim, &admits, &|sums| self.gains(sums).then(|| sums.yields()))
    }

    /// Whether what a job gives back is worth the files that it makes and takes away.
    fn gains(&self, sums: &Sums) -> bool {
        sums.generation == 0 || self.policy.thorough || sums.dead >= self.policy.least_gain
    }

    /// Segments with deaths that are due.
    fn erase(&self) -> Option<Pick> {
        let before = self.policy.erase_before?;
        let admits = |_: &_, other: &SegmentStats| other.died_by(before);
        self.best(Reason::Erase, &admits, &|sums| Some(sums.yields()))
    }

    /// Segments of which so many percent are dead.
    fn reclaim(&self, percent: u64) -> Option<Pick> {
        let policy = self.policy;
        let admits = |seed: &SegmentStats, other: &SegmentStats| {
            other.has_dead() && other.generation == seed.generation && !self.is_young(other)
        };
        let worth = |sums: &Sums| {
            // Log segments with small extents are merged soon anyway: one copy does both.
            let waits = sums.generation == 0
                && !policy.thorough
                && !self.is_full
                && sums.tiers < policy.log_fan_in
                && !self.is_full_job(sums)
                && sums.is_below(policy.target_extent);
            (!waits && self.gains(sums) && sums.is_dead_by(percent)).then(|| sums.yields())
        };
        self.best(Reason::Reclaim, &admits, &worth)
    }

    /// Segments whose extents are small.
    fn cluster(&self) -> Option<Pick> {
        let policy = self.policy;
        let admits = |seed: &SegmentStats, other: &SegmentStats| {
            other.generation == seed.generation
                && other.generation < if self.is_dying { 1 } else { LAST_GENERATION }
                && !self.is_young(other)
        };
        let worth = |sums: &Sums| {
            let fan_in = if sums.generation == 0 { policy.log_fan_in } else { policy.run_fan_in };
            // A great tier is not copied to take in little ones.
            let is_even = sums.most_output <= sums.output / 2;
            let is_worth = (sums.tiers >= fan_in.max(2) || self.is_full_job(sums)) && is_even;
            (is_worth && sums.is_below(policy.target_extent)).then(|| sums.saves())
        };
        self.best(Reason::Cluster, &admits, &worth)
    }

    /// Whatever saves an extent.
    fn cluster_all(&self) -> Option<Pick> {
        let worth = |sums: &Sums| (sums.tiers > 1 && self.is_small(sums)).then(|| sums.saves());
        self.best(Reason::Cluster, &|_, _| true, &worth)
    }

    fn is_young(&self, segment: &SegmentStats) -> bool {
        segment.generation == 0 && segment.lsns.start >= self.young_from
    }

    /// Whether there is no use in waiting for more tiers: a job would not have room for them.
    fn is_full_job(&self, sums: &Sums) -> bool {
        let bytes = if sums.generation == 0 { sums.live + sums.dead } else { sums.output };
        sums.tiers > 1 && is_share(bytes, self.policy.max_job, 75)
    }

    /// Whether extents are so small that a thorough job merges them.
    fn is_small(&self, sums: &Sums) -> bool {
        sums.is_below(self.policy.target_extent.saturating_mul(THOROUGH_EXTENT))
    }

    /// The smallest segment that crosses bounds of one that it cannot be merged with otherwise.
    fn align(&self) -> Option<Pick> {
        let mut best: Option<(u64, Window)> = None;
        for seed in self.seeds() {
            let Some(window) = self.single(seed) else { continue };
            let Some(next) = self.next(&window) else { continue };
            let Closed::TooLarge = self.with(&window, next, &|_| true) else { continue };
            let Some(other) = self.single(next) else { continue };
            let both = Window { members: vec![seed, next], ..window.clone() };
            if !self.is_small(&self.sums(&both)) {
                continue;
            }
            for (one, other) in [(&window, &other), (&other, &window)] {
                let output = self.members(one).map(SegmentStats::output_bytes).sum();
                if crosses(&one.names, &other.names)
                    && best.as_ref().is_none_or(|(least, _)| output < *least)
                {
                    best = Some((output, one.clone()));
                }
            }
        }
        best.map(|(_, window)| self.job(&window, Reason::Align))
    }
}

fn meet(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Whether one range has a bound of the other inside.
fn crosses(one: &Range<usize>, other: &Range<usize>) -> bool {
    let inside = |bound: usize| one.start < bound && bound < one.end;
    inside(other.start) || inside(other.end)
}

#[cfg(test)]
#[path = "pick_tests.rs"]
mod tests;
