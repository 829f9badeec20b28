//! Finding an agent in the sealed segments.

use std::sync::Arc;

use crate::catalog::base::Base;
use crate::catalog::set::{Candidate, SegmentSet};
use crate::error::Result;
use crate::format::footer::Block;
use crate::format::head::Head;
use crate::segment::Segment;

/// Looks an agent up in sealed segments, newest first.
pub(crate) struct Lookup<'a> {
    pub(crate) set: &'a SegmentSet,
    pub(crate) name: &'a str,
    pub(crate) hash: u64,
}

impl Lookup<'_> {
    /// The agent's head, forgotten prefixes aside.
    pub(crate) fn head(&self) -> Result<Head> {
        for candidate in self.set.candidates(self.name, self.hash) {
            if let Some((_, block)) = self.block(&candidate)? {
                return Ok(block.head());
            }
        }
        Ok(Head::absent())
    }

    /// Everything that sealed segments hold of the life that `head` tells of.
    pub(crate) fn load(&self, head: &Head) -> Result<Base> {
        let mut blocks: Vec<(&Arc<Segment>, Block<'_>)> = Vec::new();
        let (mut lowest, mut floor) = (head.next, head.floor);
        let mut policy_found = head.flags & Head::POLICY == 0;
        let needs_all = head.flags & (Head::STATE | Head::REDACTED) != 0;
        let candidates = self.set.candidates(self.name, self.hash);
        for candidate in &candidates {
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
