//! What lies around the segments that compaction looks at: which other segments may tell of a name.

use std::ops::Range;
use std::sync::Arc;

use crate::catalog::runs::Runs;
use crate::catalog::set::{Candidate, Candidates, SegmentSet, age};
use crate::error::{ErrorKind, Result};
use crate::format::footer::{Block, Pages};
use crate::segment::Segment;
use crate::types::Retention;

/// The segments of a set that are newer and older than those looked at.
pub(crate) struct Around {
    set: Arc<SegmentSet>,
    newer: Neighbours,
    older: Neighbours,
    /// Older segments are looked up, where a filter says that they may tell of a name.
    exact: bool,
}

/// The segments of one side.
struct Neighbours {
    lsns: Range<u64>,
    has_logs: bool,
    runs: Runs,
}

/// Which side of the segments looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Newer,
    Older,
}

impl Around {
    /// Around the segments that cover these lsns: around all of a set there is nothing.
    pub(crate) fn of(set: &Arc<SegmentSet>, hull: Range<u64>) -> Self {
        let newer = Neighbours::of(set, hull.end..u64::MAX);
        let older = Neighbours::of(set, 0..hull.start);
        Around { set: Arc::clone(set), newer, older, exact: false }
    }

    /// With `exact`, older segments are said to hold something only if they do. That reads their
    /// directories and the state of agents, where otherwise filters have to do.
    pub(crate) fn exactly(self, exact: bool) -> Self {
        Around { exact, ..self }
    }

    /// The number of the set.
    pub(crate) fn generation(&self) -> u64 {
        self.set.generation
    }

    /// Whether there is any older segment.
    pub(crate) fn has_older(&self) -> bool {
        self.older.has_logs || !self.older.runs.is_empty()
    }

    /// The segments that may tell of a name.
    pub(crate) fn nearby<'n>(&self, name: &'n str, hash: u64) -> Nearby<'n, '_> {
        Nearby { around: self, name, hash }
    }
}

impl Neighbours {
    fn of(set: &SegmentSet, lsns: Range<u64>) -> Self {
        let covers = |segment: &&Arc<Segment>| covers(&lsns, segment);
        let (runs, logs): (Vec<_>, Vec<_>) =
            set.sealed.iter().filter(covers).cloned().partition(|segment| segment.run);
        Neighbours { has_logs: !logs.is_empty(), runs: Runs::new(runs), lsns }
    }
}

fn covers(lsns: &Range<u64>, segment: &Segment) -> bool {
    lsns.start <= segment.lowest_lsn() && segment.end_lsn() <= lsns.end
}

/// The segments around those looked at that may tell of one name.
pub(crate) struct Nearby<'n, 'a> {
    around: &'a Around,
    pub(crate) name: &'n str,
    pub(crate) hash: u64,
}

impl<'a> Nearby<'_, 'a> {
    /// Those of one side, newest first. Takes no more than a look-up of an agent does before it reads
    /// a footer.
    fn on(&self, side: Side) -> Candidates<'a> {
        let around = self.around;
        let of = match side {
            Side::Newer => &around.newer,
            Side::Older => &around.older,
        };
        let mut found = Candidates::new();
        if of.has_logs {
            let logs = around.set.logs_with(self.hash);
            found.extend(logs.filter(|log| covers(&of.lsns, log.segment)));
        }
        found.extend(of.runs.covering(self.name).map(|segment| Candidate { segment, ask: true }));
        found.sort_unstable_by_key(|one| std::cmp::Reverse(age(one.segment)));
        found
    }

    /// What the segments of one side tell of the name, newest first, until `each` has enough. False
    /// if one cannot be read that may tell of it.
    pub(crate) fn blocks(
        &self,
        side: Side,
        each: &mut dyn FnMut(&'a Arc<Segment>, Block<'a>) -> bool,
    ) -> Result<bool> {
        let mut all_read = true;
        for Candidate { segment, ask } in self.on(side) {
            let (name, hash) = (self.name, self.hash);
            let found = if ask { segment.look_up(name, hash) } else { segment.find(name) };
            match readable(segment, found)? {
                Some(Some((_, block))) if !each(segment, block) => break,
                Some(_) => {}
                None => all_read = false,
            }
        }
        Ok(all_read)
    }

    /// Whether an older segment may tell of the name. One that cannot be read may.
    pub(crate) fn older_may_hold(&self) -> Result<bool> {
        for Candidate { segment, .. } in self.on(Side::Older) {
            let mut found = segment.may_tell_of(self.name, self.hash);
            // What a filter takes the name for by chance would keep it for ever.
            if self.around.exact && found.as_ref().is_ok_and(|may| *may) {
                found = segment.find(self.name).map(|block| block.is_some());
            }
            if readable(segment, found)?.unwrap_or(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The keys of a life that older segments change. `None`: they are not looked at.
    pub(crate) fn older_keys(&self, life: u64) -> Result<Option<OlderKeys<'a>>> {
        if !self.around.exact {
            return Ok(None);
        }
        let mut blocks = Vec::new();
        let all_read = self.older_blocks(life, &mut blocks)?;
        let pages = blocks.iter().map(|(_, block)| block.states()).collect();
        Ok(Some(OlderKeys { pages, all_read }))
    }

    /// Finds what all older segments hold of a life, newest first. False if one cannot be read.
    pub(crate) fn older_blocks(
        &self,
        life: u64,
        blocks: &mut Vec<(&'a Arc<Segment>, Block<'a>)>,
    ) -> Result<bool> {
        blocks.clear();
        self.blocks(Side::Older, &mut |segment, block| {
            if block.head().life == life {
                blocks.push((segment, block));
            }
            true
        })
    }

    /// The last change of a life's policy that older segments tell of; `blocks` gets theirs, newest
    /// first, up to that one. `None` if it cannot be told.
    pub(crate) fn older_policy(
        &self,
        life: u64,
        blocks: &mut Vec<(&'a Arc<Segment>, Block<'a>)>,
    ) -> Result<Option<Option<Retention>>> {
        let mut policy = None;
        let all_read = self.blocks(Side::Older, &mut |segment, block| {
            if block.head().life == life {
                blocks.push((segment, block));
                policy = block.policy();
            }
            policy.is_none()
        })?;
        // One that cannot be read may hold a later one.
        Ok(policy.filter(|_| all_read))
    }
}

/// The keys that older segments change.
pub(crate) struct OlderKeys<'a> {
    pages: Vec<Pages<'a>>,
    all_read: bool,
}

impl OlderKeys<'_> {
    /// Whether one of them may change the key. One that cannot be read may.
    pub(crate) fn may_have(&self, key: &str) -> bool {
        !self.all_read || self.pages.iter().any(|pages| pages.find(key, 0) != Ok(None))
    }
}

/// What was read of a segment; `None`: it proved damaged, now or before.
fn readable<T>(segment: &Segment, read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(_) if segment.is_quarantined() => Ok(None),
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            segment.quarantine();
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
