//! The sealed segments as picking sees them: in the order of their age, with their names as
//! numbers, and the windows of neighbours that one job may merge.
//!
//! A *tier* is what one job wrote: runs that cover the same lsns and no name twice. A log segment is
//! a tier of its own.

use std::cmp::Ordering;
use std::ops::Range;

use crate::compaction::policy::Policy;
use crate::compaction::stats::SegmentStats;

/// The most inputs of a job. It bounds the cursors of a merge, and the time that picking takes.
pub(super) const MAX_INPUTS: usize = 256;
/// The most that a job writes, one large input aside: a run holds at most 32 GiB by the unit offsets
/// of the format, all of an agent lies in one run, and a plan reckons with up to a fifth more.
pub(super) const LARGEST_JOB: u64 = 24 << 30;

/// A segment, with its names as numbers.
pub(super) struct Place<'a> {
    pub(super) segment: &'a SegmentStats,
    /// Where its names begin and end, among all the names at which some segment begins or ends.
    pub(super) names: Range<usize>,
    /// The highest lsn that this one or one before it covers.
    reach: u64,
    /// The first place behind this one that begins at another lsn.
    next_start: usize,
}

/// What a tier within a window takes.
struct Tier {
    start: u64,
    output: u64,
    agents: u64,
}

/// Segments that may be merged.
pub(super) struct Window {
    /// Indices of places, in order.
    pub(super) members: Vec<usize>,
    pub(super) names: Range<usize>,
    lsns: Range<u64>,
    tiers: Vec<Tier>,
    pub(super) sums: Sums,
}

/// What a window holds.
#[derive(Clone, Default)]
pub(super) struct Sums {
    pub(super) output: u64,
    pub(super) live: u64,
    pub(super) dead: u64,
    pub(super) agents: u64,
    /// As many extents may an agent have.
    pub(super) tiers: usize,
    /// The output and the agents of the greatest tier.
    pub(super) most_output: u64,
    pub(super) most_agents: u64,
    pub(super) generation: u64,
    pub(super) logs: usize,
}

impl Sums {
    pub(super) fn is_dead_by(&self, percent: u64) -> bool {
        is_share(self.dead, self.dead.saturating_add(self.live), percent)
    }

    /// Whether the typical extent is shorter than that.
    pub(super) fn is_below(&self, extent: u64) -> bool {
        self.live < self.agents.saturating_mul(extent)
    }

    /// Whether no tier is more than half of the output.
    pub(super) fn is_even(&self) -> bool {
        self.most_output <= self.output / 2
    }

    /// What a job reads, in the measure in which its limit is told.
    pub(super) fn input(&self) -> u64 {
        self.output.saturating_add(self.dead)
    }

    /// Dead bytes for each one written.
    pub(super) fn yields(&self) -> Ratio {
        Ratio(self.dead, self.output)
    }

    /// Extents saved for each byte written.
    pub(super) fn saves(&self) -> Ratio {
        Ratio(self.agents.saturating_sub(self.most_agents), self.output)
    }

    /// Tiers saved for each byte written.
    pub(super) fn thins(&self) -> Ratio {
        Ratio(self.tiers.saturating_sub(1) as u64, self.output)
    }
}

/// Whether `part` has at least so many percent of `whole`.
pub(super) fn is_share(part: u64, whole: u64, percent: u64) -> bool {
    part > 0 && part.saturating_mul(100) >= whole.saturating_mul(percent)
}

/// A fraction that is only compared.
#[derive(Clone, Copy)]
pub(super) struct Ratio(u64, u64);

impl Ratio {
    pub(super) fn of(part: u64, whole: u64) -> Self {
        Self(part, whole)
    }

    pub(super) fn compare(self, other: Self) -> Ordering {
        let left = u128::from(self.0) * u128::from(other.1.max(1));
        let right = u128::from(other.0) * u128::from(self.1.max(1));
        left.cmp(&right)
    }
}

impl Window {
    fn add(&mut self, index: usize, place: &Place<'_>) {
        let segment = place.segment;
        let at = self.members.partition_point(|member| *member < index);
        self.members.insert(at, index);
        self.names = hull(&self.names, &place.names);
        self.lsns = hull(&self.lsns, &segment.lsns);
        let start = segment.lsns.start;
        let at = self.tiers.partition_point(|tier| tier.start < start);
        if self.tiers.get(at).is_none_or(|tier| tier.start != start) {
            self.tiers.insert(at, Tier { start, output: 0, agents: 0 });
        }
        let sums = &mut self.sums;
        if let Some(tier) = self.tiers.get_mut(at) {
            tier.output += segment.output_bytes();
            tier.agents += segment.agents;
            sums.most_output = sums.most_output.max(tier.output);
            sums.most_agents = sums.most_agents.max(tier.agents);
        }
        sums.tiers = self.tiers.len();
        sums.output += segment.output_bytes();
        sums.live += segment.live_bytes;
        sums.dead += if segment.has_dead() { segment.dead_bytes } else { 0 };
        sums.agents += segment.agents;
        sums.generation = sums.generation.max(segment.generation);
        sums.logs += usize::from(segment.generation == 0);
    }
}

/// Why a window cannot grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing newer shares names with it.
    Newest,
    /// The job would be too large.
    Large,
    /// Something that it would need is not admitted, or quarantined.
    Blocked,
}

/// Which segments a window may have beside its oldest.
pub(super) type Admits<'w> = &'w dyn Fn(&SegmentStats) -> bool;

/// All segments, in the order of their age.
pub(super) struct Field<'a> {
    pub(super) places: Vec<Place<'a>>,
    pub(super) policy: &'a Policy,
    /// Bytes of content that are dead, and of all.
    pub(super) dead: u64,
    pub(super) whole: u64,
    /// How many names begin or end some segment.
    bounds: usize,
}

impl<'a> Field<'a> {
    pub(super) fn new(segments: &'a [SegmentStats], policy: &'a Policy) -> Self {
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
                Place { segment, names: rank(&segment.from)..to, reach: 0, next_start: 0 }
            })
            .collect();
        places.sort_unstable_by_key(|place| (place.segment.lsns.start, place.names.start));
        let mut reach = 0;
        for place in &mut places {
            reach = reach.max(place.segment.lsns.end);
            place.reach = reach;
        }
        let (mut next_start, mut start) = (places.len(), None);
        for (index, place) in places.iter_mut().enumerate().rev() {
            if start.is_some_and(|start| start != place.segment.lsns.start) {
                next_start = index + 1;
            }
            start = Some(place.segment.lsns.start);
            place.next_start = next_start;
        }
        let dead = segments.iter().filter(|one| one.has_dead()).map(|one| one.dead_bytes).sum();
        let whole = segments.iter().map(|one| one.dead_bytes.saturating_add(one.live_bytes)).sum();
        Self { places, policy, dead, whole, bounds: bounds.len() }
    }
    pub(super) fn segment(&self, index: usize) -> Option<&'a SegmentStats> {
        self.places.get(index).map(|place| place.segment)
    }

    pub(super) fn members<'w>(
        &'w self,
        window: &'w Window,
    ) -> impl Iterator<Item = &'a SegmentStats> + 'w {
        window.members.iter().filter_map(|index| self.segment(*index))
    }

    /// The places that a job may take, oldest first.
    pub(super) fn seeds(&self) -> impl Iterator<Item = usize> + '_ {
        let free = |place: &Place<'_>| !place.segment.quarantined;
        self.places.iter().enumerate().filter(move |(_, place)| free(place)).map(|(index, _)| index)
    }

    pub(super) fn single(&self, index: usize) -> Option<Window> {
        let place = self.places.get(index)?;
        let mut window = Window {
            members: Vec::new(),
            names: place.names.clone(),
            lsns: place.segment.lsns.clone(),
            tiers: Vec::new(),
            sums: Sums::default(),
        };
        window.add(index, place);
        Some(window)
    }

    /// A window of these places, which need not be neighbours.
    pub(super) fn window(&self, indices: &[usize]) -> Option<Window> {
        let (first, rest) = indices.split_first()?;
        let mut window = self.single(*first)?;
        for index in rest {
            window.add(*index, self.places.get(*index)?);
        }
        Some(window)
    }

    /// The place that follows in age behind `end`, among those that share these names.
    pub(super) fn next(&self, end: u64, names: &Range<usize>) -> Option<usize> {
        let first = self.places.partition_point(|place| place.segment.lsns.start < end);
        self.meeting(first..self.places.len(), names).next()
    }

    /// The places of a range that share these names, in order. Places that begin at one lsn share
    /// no name with each other, so each such row is searched in halves.
    pub(super) fn meeting<'f>(
        &'f self,
        range: Range<usize>,
        names: &Range<usize>,
    ) -> impl Iterator<Item = usize> + use<'f, 'a> {
        let names = names.clone();
        let (mut at, mut row_end) = (range.start, range.start);
        std::iter::from_fn(move || {
            while at < range.end {
                if at >= row_end {
                    row_end = self.places.get(at)?.next_start.min(range.end);
                    let row = self.places.get(at..row_end)?;
                    at += row.partition_point(|place| place.names.end <= names.start);
                }
                match self.places.get(at).filter(|_| at < row_end) {
                    Some(place) if place.names.start < names.end => {
                        at += 1;
                        return Some(at - 1);
                    }
                    _ => at = row_end,
                }
            }
            None
        })
    }

    /// Adds the next place in age, and all that has to go with it. `few` is the limit of a job on
    /// the fewest tiers that are worth one, the policy's limit that on more.
    pub(super) fn grow(
        &self,
        window: &mut Window,
        few: u64,
        admits: Admits<'_>,
    ) -> Result<(), End> {
        let next = self.next(window.lsns.end, &window.names).ok_or(End::Newest)?;
        self.grow_by(window, next, few, admits)
    }

    /// Adds a place, and all that has to go with it.
    pub(super) fn grow_by(
        &self,
        window: &mut Window,
        index: usize,
        few: u64,
        admits: Admits<'_>,
    ) -> Result<(), End> {
        let (mut names, mut lsns) = (window.names.clone(), window.lsns.clone());
        let mut added: Vec<usize> = Vec::new();
        let (mut output, mut starts) = (window.sums.output, window.sums.tiers);
        let mut missing = vec![index];
        // What goes along may reach further, so that more has to.
        while !missing.is_empty() {
            for index in &missing {
                let place = self.places.get(*index).ok_or(End::Blocked)?;
                if place.segment.quarantined || !admits(place.segment) {
                    return Err(End::Blocked);
                }
                output += place.segment.output_bytes();
                starts += 1;
                let is_few = starts <= self.policy.least_fan_in;
                let limit = if is_few { few.max(self.policy.max_job) } else { self.policy.max_job };
                let at = added.partition_point(|added| added < index);
                added.insert(at, *index);
                let inputs = window.members.len() + added.len();
                if output > limit.min(LARGEST_JOB) || inputs > MAX_INPUTS {
                    return Err(End::Large);
                }
                names = hull(&names, &place.names);
                lsns = hull(&lsns, &place.segment.lsns);
            }
            missing = self.missing(window, &added, &names, &lsns);
        }
        for index in added {
            window.add(index, self.places.get(index).ok_or(End::Blocked)?);
        }
        Ok(())
    }

    /// The places that share these names and lie within these lsns, and are neither members nor
    /// added; at most as many as a job has.
    fn missing(
        &self,
        window: &Window,
        added: &[usize],
        names: &Range<usize>,
        lsns: &Range<u64>,
    ) -> Vec<usize> {
        let end = self.places.partition_point(|place| place.segment.lsns.start < lsns.end);
        let start = self.places.partition_point(|place| place.reach <= lsns.start);
        let lies_within = |index: &usize| {
            self.segment(*index).is_some_and(|segment| segment.lsns.end > lsns.start)
                && window.members.binary_search(index).is_err()
                && added.binary_search(index).is_err()
        };
        self.meeting(start..end, names).filter(lies_within).take(MAX_INPUTS).collect()
    }

    /// How many tiers of a generation follow each other from this place on, over its names.
    pub(super) fn depth(&self, index: usize, most: usize) -> usize {
        let Some(Place { segment, names, .. }) = self.places.get(index) else { return 0 };
        let (mut depth, mut end) = (1, segment.lsns.end);
        while depth < most
            && let Some(next) = self.next(end, names).and_then(|next| self.segment(next))
            && next.generation == segment.generation
            && !next.quarantined
        {
            depth += 1;
            end = next.lsns.end;
        }
        depth
    }

    /// How many tiers of runs lie over each name: between each bound and the next one.
    pub(super) fn tiers_of_runs(&self) -> Vec<usize> {
        let mut steps = vec![0isize; self.bounds + 1];
        for place in self.places.iter().filter(|place| place.segment.generation > 0) {
            steps.get_mut(place.names.start).into_iter().for_each(|step| *step += 1);
            steps.get_mut(place.names.end).into_iter().for_each(|step| *step -= 1);
        }
        let sum = |tiers: &mut isize, step: isize| {
            *tiers += step;
            Some(tiers.unsigned_abs())
        };
        steps.into_iter().scan(0, sum).collect()
    }
}

fn hull<T: Copy + Ord>(one: &Range<T>, other: &Range<T>) -> Range<T> {
    one.start.min(other.start)..one.end.max(other.end)
}

/// How far clustering is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Log segments that wait to be clustered, and the bytes of their files.
    pub log_segments: u64,
    pub log_bytes: u64,
    /// The most tiers of runs that lie over one name.
    pub tiers: u64,
    /// Sealed segments in all: as many files, maps and filters or directories to be asked.
    pub segments: u64,
}

/// How far clustering is behind in these segments.
#[cfg_attr(not(test), expect(dead_code, reason = "the health of a store tells it"))]
pub(crate) fn backlog(segments: &[SegmentStats]) -> Backlog {
    let policy = Policy::default();
    let logs = || segments.iter().filter(|segment| segment.generation == 0);
    let tiers = Field::new(segments, &policy).tiers_of_runs().into_iter().max().unwrap_or(0);
    Backlog {
        log_segments: logs().count() as u64,
        log_bytes: logs().map(|segment| segment.file_bytes).sum(),
        tiers: tiers as u64,
        segments: segments.len() as u64,
    }
}
