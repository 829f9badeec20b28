//! The garbage scan: finds what of each sealed segment is dead, from all footers at once, laid under
//! what is resident. Records are read only of redacted entries, of agents with entries that have
//! expired or will, and with a time to erase within the oldest one of each agent under an age.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;

use crate::catalog::set::SegmentSet;
use crate::commit::Engine;
use crate::compaction::around::Around;
use crate::compaction::fate::{Knowledge, Living, content};
use crate::compaction::job::names;
use crate::compaction::merge::{Merge, Told};
use crate::compaction::plan::is_behind;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::Forgotten;
use crate::segment::Segment;

/// Agents between two calls of the progress callback.
const AGENTS_A_TURN: u64 = 32;

/// What a scan found in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Bytes of dead content, roughly.
    pub(crate) dead: u64,
    /// Something in it is dead, however little, or stands for something that is gone.
    pub(crate) dirty: bool,
    /// The lowest expiry of the entries that still have their bytes, in ms since the epoch; MAX:
    /// none has an expiry.
    pub(crate) next_expiry: u64,
}

/// What a scan found.
pub(crate) struct Scan {
    pub(crate) segments: Vec<(Arc<Segment>, Found)>,
    /// The shortest age under which entries die, in ms, and when one does next.
    pub(crate) least_age: Option<u64>,
    pub(crate) next_death: Option<u64>,
    /// Forgotten prefixes that no agent of a sealed segment is held against any more.
    pub(crate) settled: Vec<Forgotten>,
}

/// Scans the sealed segments and books what is dead on them; `date`, in ms since the epoch, is that
/// of what is found dead and was not booked. A segment whose footer proves damaged is quarantined,
/// and the scan begins again without it.
///
/// # Errors
/// What reading footers met other than damage, or what `go_on` answered.
pub(crate) fn scan(
    engine: &Arc<Engine>,
    date: u64,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Scan> {
    loop {
        let set = engine.catalog.segments();
        match scan_set(engine, &set, go_on) {
            Ok(scan) => {
                for (segment, found) in &scan.segments {
                    segment.set_dead(found.dead, date);
                    segment.set_next_expiry(found.next_expiry);
                }
                return Ok(scan);
            }
            // Each turn quarantines one more segment, so that this ends.
            Err(error) => match blamed(&set, &error) {
                Some(segment) if !segment.is_quarantined() => segment.quarantine(),
                _ => return Err(error),
            },
        }
    }
}

/// The segment of a set whose file an error calls damaged.
pub(crate) fn blamed<'s>(set: &'s SegmentSet, error: &Error) -> Option<&'s Arc<Segment>> {
    let damage = error.damage().filter(|_| error.kind() == ErrorKind::Damaged)?;
    set.sealed.iter().find(|segment| segment.path() == damage.file)
}

fn scan_set(
    engine: &Arc<Engine>,
    set: &Arc<SegmentSet>,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Scan> {
    let sound = set.sealed.iter().filter(|segment| !segment.is_quarantined());
    let segments: Vec<Arc<Segment>> = sound.cloned().collect();
    let around = Around::of(set, 0..u64::MAX);
    let knowledge = Knowledge { engine, around: &around };
    let found: Result<Vec<Found>> = segments.iter().map(|segment| begin(segment)).collect();
    let mut found = found?;
    let mut merge = Merge::new(&segments)?;
    let mut lines = Lines::new(engine, set);
    let mut bounds = Bounds::of(&segments)?;
    let (mut least_age, mut next_death) = (engine.options.retention.max_age, None);
    let exact = engine.options.erase_within.is_some();
    // What expires is destroyed by the confirmed time: until then it is not dead.
    let time = engine.confirmed_now();
    let (mut places, mut agents) = (Vec::new(), 0u64);
    while let Some(name) = merge.next(&mut places)? {
        let told = merge.told_by(&places)?;
        let living = knowledge.living(&name, &told, &mut |_| go_on())?;
        for (index, ((of, _), told)) in places.iter().zip(&told).enumerate() {
            let Some(found) = found.get_mut(*of) else { continue };
            let head = told.block.head();
            lines.hold(&name, head.life);
            look(found, index, told, &living, time)?;
        }
        if living.head.is_some() {
            bounds.live(&name);
        }
        let age = living.policy.flatten().and_then(|policy| policy.max_age);
        least_age = age.into_iter().chain(least_age).min();
        next_death = living.next_death(&told, exact)?.into_iter().chain(next_death).min();
        agents += 1;
        if agents.is_multiple_of(AGENTS_A_TURN) {
            go_on()?;
        }
    }
    lines.mark(&segments, &mut found)?;
    let settled = lines.settled();
    bounds.mark(&mut found);
    let segments = segments.into_iter().zip(found).collect();
    Ok(Scan { segments, least_age, next_death, settled })
}

/// Looks at what one segment holds of one agent.
fn look(
    found: &mut Found,
    index: usize,
    told: &Told<'_>,
    living: &Living<'_>,
    time: u64,
) -> Result<()> {
    let dead = content(&told.block).saturating_sub(living.content_of(index, &told.block));
    found.dead = found.dead.saturating_add(dead);
    found.dirty |= living.leaves_out_of(index, told);
    match living.hollow_of(index, told, Some(time)) {
        Ok(hollow) => {
            found.dead = found.dead.saturating_add(hollow.bytes);
            found.dirty |= hollow.bytes > 0;
            found.next_expiry = found.next_expiry.min(hollow.next_expiry.unwrap_or(u64::MAX));
        }
        // The job that copies the record reports it; the scan of the others goes on.
        Err(error) if error.kind() == ErrorKind::Damaged => found.dirty = true,
        Err(error) => return Err(error),
    }
    Ok(())
}

/// What was dead when the segment was sealed, which its footer has no blocks for.
fn begin(segment: &Segment) -> Result<Found> {
    let next_expiry = u64::MAX;
    let Some(trailer) = segment.trailer() else {
        return Ok(Found { dead: 0, dirty: false, next_expiry });
    };
    let dead = trailer.facts.hidden;
    // A prefix that was forgotten in the segment is a name, and may have killed lives there.
    let forgets = match segment.footer() {
        Some(footer) if !segment.run => {
            let lines = footer?.prefixes().map_err(|fault| segment.footer_damage(fault))?;
            lines.count() > 0
        }
        _ => false,
    };
    Ok(Found { dead, dirty: dead > 0 || forgets, next_expiry })
}

/// The bounds of runs, and whether each is that of an agent that lives: its name, or what is
/// [behind](is_behind) it.
struct Bounds {
    alive: BTreeMap<Box<str>, bool>,
    /// The bounds of each segment.
    of: Vec<[Option<Box<str>>; 2]>,
}

impl Bounds {
    fn of(segments: &[Arc<Segment>]) -> Result<Self> {
        let mut bounds = Bounds { alive: BTreeMap::new(), of: Vec::new() };
        for segment in segments {
            let (from, to) = names(segment)?;
            let both = [Some(from).filter(|from| !from.is_empty()), to];
            bounds.alive.extend(both.iter().flatten().map(|name| (name.clone(), false)));
            bounds.of.push(both);
        }
        Ok(bounds)
    }

    fn live(&mut self, name: &str) {
        let from = (Included(name), Unbounded);
        // Nothing lies between the two.
        for (bound, alive) in self.alive.range_mut::<str, _>(from).take(2) {
            *alive |= **bound == *name || is_behind(bound, name);
        }
    }

    /// A run that ends at the name of an agent that is gone holds that name.
    fn mark(&self, found: &mut [Found]) {
        for (found, bounds) in found.iter_mut().zip(&self.of) {
            found.dirty |= bounds.iter().flatten().any(|name| self.alive.get(name) != Some(&true));
        }
    }
}

/// Forgotten prefixes, and whether a sealed segment still holds a life that one of them ended.
struct Lines<'e> {
    engine: &'e Engine,
    lines: Vec<Forgotten>,
    held: Vec<bool>,
    /// What is forgotten from here on may concern segments that the scan does not see.
    below: u64,
}

impl<'e> Lines<'e> {
    fn new(engine: &'e Engine, set: &SegmentSet) -> Self {
        let unsealed = engine.order.lock().oldest_unsealed();
        let hidden = set.sealed.iter().filter(|segment| segment.is_quarantined());
        let below = hidden.map(|segment| segment.lowest_lsn()).fold(unsealed, u64::min);
        let mut lines = engine.catalog.forgotten(engine.log.durable());
        lines.sort_unstable_by(|one, other| one.prefix.cmp(&other.prefix));
        let held = vec![false; lines.len()];
        Lines { engine, lines, held, below }
    }

    /// A sealed segment holds this life of the agent.
    fn hold(&mut self, name: &str, life: u64) {
        if life == 0 || self.engine.catalog.forgotten_since(name, life).is_none() {
            return;
        }
        for (end, _) in name.match_indices('/') {
            let prefix = name.get(..=end).unwrap_or_default();
            let found = self.lines.binary_search_by(|line| line.prefix.as_str().cmp(prefix));
            if let Ok(index) = found
                && self.lines.get(index).is_some_and(|line| line.lsn > life)
                && let Some(held) = self.held.get_mut(index)
            {
                *held = true;
            }
        }
    }

    /// A run that keeps a prefix that nothing is held against any more holds that name.
    fn mark(&self, segments: &[Arc<Segment>], found: &mut [Found]) -> Result<()> {
        for (segment, found) in segments.iter().zip(found).filter(|(segment, _)| segment.run) {
            let Some(footer) = segment.footer() else { continue };
            let damage = |fault| segment.footer_damage(fault);
            for line in footer?.prefixes().map_err(damage)? {
                let (_, prefix) = line.map_err(damage)?;
                found.dirty |= !self.holds(prefix);
            }
        }
        Ok(())
    }

    /// Whether something is held against a prefix, or may be.
    fn holds(&self, prefix: &str) -> bool {
        let found = self.lines.binary_search_by(|line| line.prefix.as_str().cmp(prefix));
        let line = found.ok().and_then(|at| self.lines.get(at).zip(self.held.get(at)));
        line.is_some_and(|(line, held)| *held || line.lsn >= self.below)
    }

    /// The lines that nothing is held against any more.
    fn settled(self) -> Vec<Forgotten> {
        let below = self.below;
        let lines = self.lines.into_iter().zip(self.held);
        lines.filter(|(line, held)| !held && line.lsn < below).map(|(line, _)| line).collect()
    }
}
