//! Finding an agent in the sealed segments.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::catalog::base::Base;
use crate::catalog::set::{Candidate, SegmentSet};
use crate::error::Result;
use crate::format::footer::Block;
use crate::format::head::Head;
use crate::segment::{Segment, Step};

/// Looks an agent up in sealed segments, newest first.
pub(crate) struct Lookup<'a> {
    pub(crate) set: &'a SegmentSet,
    pub(crate) name: &'a str,
    pub(crate) hash: u64,
}

impl Lookup<'_> {
    /// The agent's head, forgotten prefixes aside.
    pub(crate) fn head(&self) -> Result<Head> {
        self.head_in(&self.set.candidates(self.name, self.hash))
    }

    /// Everything that sealed segments hold of the life that `head` tells of.
    pub(crate) fn load(&self, head: &Head) -> Result<Base> {
        let candidates = self.set.candidates(self.name, self.hash);
        self.announce(&candidates, &mut Segment::will_need);
        self.load_from(&candidates, head)
    }

    /// The head, and with it everything that sealed segments hold of its life if `lives` accepts it.
    pub(crate) fn head_and_base(
        &self,
        lives: impl FnOnce(&Head) -> bool,
    ) -> Result<(Head, Option<Base>)> {
        let candidates = self.set.candidates(self.name, self.hash);
        self.announce(&candidates, &mut Segment::will_need);
        let head = self.head_in(&candidates)?;
        let base = lives(&head).then(|| self.load_from(&candidates, &head));
        Ok((head, base.transpose()?))
    }

    /// Has the system fetch what a look-up reads of several segments together, step by step. Without
    /// that a look-up waits for the disk up to four times for each segment.
    pub(super) fn announce(
        &self,
        candidates: &[Candidate<'_>],
        tell: &mut dyn FnMut(&Segment, Range<u64>),
    ) {
        if candidates.len() < 2 {
            return;
        }
        let mut left: SmallVec<[&Segment; 8]> = SmallVec::new();
        for step in [Step::Filter, Step::Inner] {
            let asked = candidates.iter().filter(|one| step == Step::Inner || one.asks_filter());
            for one in asked {
                if let Some(range) = one.segment.unread(step, self.name, self.hash) {
                    tell(one.segment, range);
                }
            }
        }
        for one in candidates {
            let may_hold = || one.segment.may_tell_of(self.name, self.hash).unwrap_or(false);
            if !one.asks_filter() || may_hold() {
                left.push(one.segment);
            }
        }
        for step in [Step::Leaf, Step::Block] {
            for segment in &left {
                if let Some(range) = segment.unread(step, self.name, self.hash) {
                    tell(segment, range);
                }
            }
        }
    }

    fn head_in(&self, candidates: &[Candidate<'_>]) -> Result<Head> {
        for candidate in candidates {
            if let Some((_, block)) = self.block(candidate)? {
                return Ok(block.head());
            }
        }
        Ok(Head::absent())
    }

    fn load_from(&self, candidates: &[Candidate<'_>], head: &Head) -> Result<Base> {
        let mut blocks: Vec<(&Arc<Segment>, Block<'_>)> = Vec::new();
        let (mut lowest, mut floor) = (head.next, head.floor);
        let mut policy_found = head.flags & Head::POLICY == 0;
        let needs_all = head.flags & (Head::STATE | Head::REDACTED) != 0;
        for candidate in candidates {
            let segment = candidate.segment;
            let complete = lowest <= floor && !needs_all && policy_found;
            if head.life == 0 || complete {
                break;
            }
            // Nothing of a life is older than its beginning. Segments further down may end later.
            if segment.end_lsn() <= head.life {
                continue;
            }
            let Some((_, block)) = self.block(candidate)? else { continue };
            if block.head().life != head.life {
                break;
            }
            floor = floor.max(block.head().floor);
            if block.count() > 0 {
                lowest = block.first_seq();
            }
            policy_found |= block.policy().is_some();
            blocks.push((segment, block));
        }
        // Not by `head`: segments may have been sealed since it was looked at.
        let end = blocks.first().map_or(head.next, |(_, newest)| newest.head().next);
        let mut base = Base::empty(head.life, self.set.generation);
        base.extents.reserve_exact(blocks.len());
        for (segment, block) in blocks.into_iter().rev() {
            base.add_newer(segment, &block);
        }
        base.keep_below(end);
        Ok(base)
    }

    fn block<'a>(&self, candidate: &Candidate<'a>) -> Result<Option<(u64, Block<'a>)>> {
        let Candidate { segment, ask } = *candidate;
        if segment.hides(self.name) {
            return Ok(None);
        }
        if ask { segment.look_up(self.name, self.hash) } else { segment.find(self.name) }
    }
}
