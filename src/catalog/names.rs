//! The names of all agents in order: the directories of sealed segments and the agents of unsealed
//! ones, merged.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::catalog::forgotten::Over;
use crate::catalog::resident::{Progress, Resident};
use crate::catalog::roll::Sorted;
use crate::catalog::set::SegmentSet;
use crate::error::Result;
use crate::format::Fault;
use crate::format::footer::{FooterRef, Position};
use crate::segment::Segment;

/// The direction of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Backward,
}

/// The names under a prefix, from both ends.
///
/// A step moves only the sources that hold its name: a segment reads the next entry of its directory,
/// and the newest segment the agent's block. Names under a forgotten prefix are not walked: a segment
/// that is older than the forgetting seeks past the prefix.
pub(crate) struct Names {
    prefix: String,
    /// The segments that may hold such names, newest first.
    segments: Vec<Arc<Segment>>,
    /// The agents of unsealed segments.
    agents: Vec<Sorted>,
    /// Where the walk stands from either end, once it was begun there.
    front: Option<Walk>,
    back: Option<Walk>,
}

/// A walk in one direction.
struct Walk {
    way: Way,
    /// What each source has next, the nearest at the top; one that has nothing more is not in it.
    next: BinaryHeap<Next>,
    /// The last name given.
    last: Option<Box<str>>,
}

/// What a source has next.
struct Next {
    name: Box<str>,
    way: Way,
    /// The number of the source: segments newest first, then the lists of agents.
    source: usize,
    at: At,
}

/// The place of a name in its source.
#[derive(Clone, Copy)]
enum At {
    /// In the directory of a segment, with the offset of the block.
    Segment(Position, u64),
    /// In a list of agents.
    List(usize),
}

impl Names {
    /// The names in `set` that begin with `prefix`, and those of `agents`, whatever footers know of
    /// these.
    pub(crate) fn new(set: &SegmentSet, prefix: &str, agents: Vec<Sorted>) -> Self {
        let segments = set.under(prefix).into_iter().cloned().collect();
        Names { prefix: prefix.to_owned(), segments, agents, front: None, back: None }
    }

    /// The next name in a direction whose agent exists.
    pub(crate) fn step(
        &mut self,
        way: Way,
        catalog: &Catalog,
        progress: Progress,
    ) -> Result<Option<Box<str>>> {
        let begun = match way {
            Way::Forward => self.front.take(),
            Way::Backward => self.back.take(),
        };
        let mut walk = match begun {
            Some(walk) => walk,
            None => self.begin(way)?,
        };
        let other = match way {
            Way::Forward => self.back.as_ref(),
            Way::Backward => self.front.as_ref(),
        };
        let limit = other.and_then(|walk| walk.last.as_deref());
        let found = self.walk(&mut walk, limit, catalog, progress);
        match way {
            Way::Forward => self.front = Some(walk),
            Way::Backward => self.back = Some(walk),
        }
        found
    }

    /// Puts every source at its first name in a direction.
    fn begin(&self, way: Way) -> Result<Walk> {
        let mut next = BinaryHeap::new();
        for (source, segment) in self.segments.iter().enumerate() {
            let Some(footer) = segment.footer() else { continue };
            let first = self.first(&footer?, way).map_err(|fault| segment.footer_damage(fault))?;
            next.extend(first.map(|(name, at)| Next { name, way, source, at }));
        }
        for (number, list) in self.agents.iter().enumerate() {
            let from = list.partition_point(|agent| *agent.name < *self.prefix);
            let under = list.get(from..).unwrap_or_default();
            let behind = from + under.partition_point(|agent| agent.name.starts_with(&self.prefix));
            let at = if way == Way::Forward { Some(from) } else { behind.checked_sub(1) };
            let source = self.segments.len() + number;
            next.extend(at.and_then(|at| self.listed(source, way, at)));
        }
        Ok(Walk { way, next, last: None })
    }

    fn first(
        &self,
        footer: &FooterRef<'_>,
        way: Way,
    ) -> std::result::Result<Option<(Box<str>, At)>, Fault> {
        if way == Way::Forward {
            return self.entry(footer, Some(footer.seek(&self.prefix)?));
        }
        let mut behind = footer.seek(&format!("{}{}", self.prefix, char::MAX))?;
        // Names may even go on behind the last character there is.
        while footer.entry(behind)?.is_some_and(|(name, _)| name.starts_with(&self.prefix)) {
            behind = footer.next(behind)?;
        }
        self.entry(footer, footer.previous(behind)?)
    }

    /// The name at a position, unless that is the end or beyond the prefix.
    fn entry(
        &self,
        footer: &FooterRef<'_>,
        at: Option<Position>,
    ) -> std::result::Result<Option<(Box<str>, At)>, Fault> {
        let Some(at) = at else { return Ok(None) };
        let entry = footer.entry(at)?.filter(|(name, _)| name.starts_with(&self.prefix));
        Ok(entry.map(|(name, block)| (name.into(), At::Segment(at, block))))
    }

    /// What a list of agents has at a place, unless that is its end or beyond the prefix.
    fn listed(&self, source: usize, way: Way, at: usize) -> Option<Next> {
        let agent = self.agents.get(source.checked_sub(self.segments.len())?)?.get(at)?;
        let name = Some(&agent.name).filter(|name| name.starts_with(&self.prefix))?;
        Some(Next { name: (&**name).into(), way, source, at: At::List(at) })
    }

    fn walk(
        &self,
        walk: &mut Walk,
        limit: Option<&str>,
        catalog: &Catalog,
        progress: Progress,
    ) -> Result<Option<Box<str>>> {
        while let Some(first) = walk.next.pop() {
            let met = match walk.way {
                Way::Forward => limit.is_some_and(|limit| *first.name >= *limit),
                Way::Backward => limit.is_some_and(|limit| *first.name <= *limit),
            };
            if met {
                // The walk from the other end has visited all names that are left.
                walk.next.clear();
                break;
            }
            let mut alike = vec![first];
            let is_alike =
                |next: &Next, of: &[Next]| of.first().is_some_and(|o| o.name == next.name);
            while walk.next.peek().is_some_and(|next| is_alike(next, &alike)) {
                alike.extend(walk.next.pop());
            }
            let over = alike.first().map(|next| catalog.forgotten_over(&next.name, progress));
            let over = over.unwrap_or_default();
            let exists = self.exists(&alike, &over, catalog, progress)?;
            for next in &alike {
                walk.next.extend(self.advance(next, &over)?);
            }
            let Some(Next { name, .. }) = alike.into_iter().next() else { break };
            walk.last = Some(name.clone());
            if exists {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Whether the agent exists whose name these sources have next.
    fn exists(
        &self,
        alike: &[Next],
        over: &[Over],
        catalog: &Catalog,
        progress: Progress,
    ) -> Result<bool> {
        if let Some(agent) = alike.iter().find_map(|next| self.agent(next)) {
            return Ok(catalog.exists(agent, progress));
        }
        // The newest segment comes first. A segment that hides the name does not count.
        for Next { name, source, at, .. } in alike {
            let Some(segment) = self.segments.get(*source).filter(|s| !s.hides(name)) else {
                continue;
            };
            let (At::Segment(_, block), Some(footer)) = (*at, segment.footer()) else { continue };
            if is_older(segment, over).is_some() {
                return Ok(false);
            }
            let damage = |fault| segment.footer_damage(fault).with_agent(name);
            let life = footer?.block_at(block).map_err(damage)?.head().life;
            return Ok(life != 0 && over.iter().all(|over| over.lsn <= life));
        }
        Ok(false)
    }

    /// The agent that a list has there.
    fn agent(&self, next: &Next) -> Option<&Arc<Resident>> {
        let At::List(at) = next.at else { return None };
        self.agents.get(next.source.checked_sub(self.segments.len())?)?.get(at)
    }

    /// What the source has after a name that lies under these forgotten prefixes.
    fn advance(&self, next: &Next, over: &[Over]) -> Result<Option<Next>> {
        let Next { name, way, source, at } = next;
        let (At::Segment(at, _), Some(segment)) = (*at, self.segments.get(*source)) else {
            let At::List(at) = *at else { return Ok(None) };
            let at = if *way == Way::Forward { Some(at + 1) } else { at.checked_sub(1) };
            return Ok(at.and_then(|at| self.listed(*source, *way, at)));
        };
        let Some(footer) = segment.footer() else { return Ok(None) };
        let footer = footer?;
        let moved = match is_older(segment, over) {
            Some(len) => behind(&footer, name.get(..len).unwrap_or(name), *way),
            None if *way == Way::Forward => footer.next(at).map(Some),
            None => footer.previous(at),
        };
        let found = moved.and_then(|at| self.entry(&footer, at));
        let found = found.map_err(|fault| segment.footer_damage(fault))?;
        let wanted = if *way == Way::Forward { Ordering::Greater } else { Ordering::Less };
        if found.as_ref().is_some_and(|(found, _)| found.cmp(name) != wanted) {
            let fault = Fault("the names of a directory are out of order");
            return Err(segment.footer_damage(fault));
        }
        Ok(found.map(|(name, at)| Next { name, way: *way, source: *source, at }))
    }
}

/// The length of the shortest of these prefixes that was forgotten after the segment ended. All lives
/// that the segment knows under that prefix are then dead.
fn is_older(segment: &Segment, over: &[Over]) -> Option<usize> {
    over.iter().filter(|over| segment.end_lsn() <= over.lsn).map(|over| over.len).min()
}

/// The position next to all names under a prefix that ends in '/'.
fn behind(
    footer: &FooterRef<'_>,
    prefix: &str,
    way: Way,
) -> std::result::Result<Option<Position>, Fault> {
    if way == Way::Backward {
        return footer.previous(footer.seek(prefix)?);
    }
    // '0' is the next character.
    let stem = prefix.strip_suffix('/').unwrap_or(prefix);
    footer.seek(&format!("{stem}0")).map(Some)
}

impl Ord for Next {
    /// The nearest is the greatest: of the same name the newest source.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_name = self.name.cmp(&other.name);
        let by_name = if self.way == Way::Forward { by_name.reverse() } else { by_name };
        by_name.then(other.source.cmp(&self.source))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Next {}
