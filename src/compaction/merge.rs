//! Walking the agents of several segments in the order of their names.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::Fault;
use crate::format::footer::{Block, FooterRef, Position};
use crate::format::record::{Append, Change};
use crate::segment::Segment;

/// What one segment tells of an agent.
#[derive(Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    pub(crate) block: Block<'a>,
}

impl<'a> Told<'a> {
    /// The record of an entry; `None` if it was lost.
    pub(crate) fn entry(&self, seq: u64) -> Result<Option<Append<'a>>> {
        let (segment, block) = (self.segment, &self.block);
        let index = u32::try_from(seq.saturating_sub(block.first_seq())).unwrap_or(u32::MAX);
        let offset = block.offset(index).unwrap_or(0);
        if offset == 0 {
            return Ok(None);
        }
        let offset = u64::from(offset) * crate::format::ALIGN as u64;
        let named = |e: Error| e.with_agent(block.name()).with_seq(seq);
        match segment.record(offset).map_err(named)?.change {
            Change::Append(append) => Ok(Some(append)),
            _ => Err(segment.damage(offset, "the index leads to a record that is no entry")),
        }
    }
}

/// Where one segment's walk stands.
struct Cursor {
    segment: Arc<Segment>,
    at: Position,
    /// Offset of the block of the agent at `at`.
    block: u64,
}

/// The agents of several segments, merged by name.
pub(crate) struct Merge {
    cursors: Vec<Cursor>,
    /// The next name of each cursor that is not at its end.
    heap: BinaryHeap<Reverse<(Box<str>, usize)>>,
}

impl Merge {
    /// Over sealed segments, which are given oldest first.
    pub(crate) fn new(segments: &[Arc<Segment>]) -> Result<Self> {
        let mut merge = Merge { cursors: Vec::new(), heap: BinaryHeap::new() };
        for segment in segments {
            let at = footer(segment)?.first();
            merge.cursors.push(Cursor { segment: Arc::clone(segment), at, block: 0 });
            merge.read(merge.cursors.len() - 1)?;
        }
        Ok(merge)
    }

    /// The next name, and in `places` which segments tell of it, oldest first, with the offset of
    /// the block.
    pub(crate) fn next(&mut self, places: &mut Vec<(usize, u64)>) -> Result<Option<Box<str>>> {
        places.clear();
        let Some(Reverse((name, first))) = self.heap.pop() else { return Ok(None) };
        self.pass(first, places)?;
        while self.heap.peek().is_some_and(|Reverse((other, _))| *other == name) {
            if let Some(Reverse((_, index))) = self.heap.pop() {
                self.pass(index, places)?;
            }
        }
        places.sort_unstable();
        Ok(Some(name))
    }

    /// What a place that [`next`](Self::next) gave tells.
    pub(crate) fn told(&self, (index, at): (usize, u64)) -> Result<Option<Told<'_>>> {
        let Some(Cursor { segment, .. }) = self.cursors.get(index) else { return Ok(None) };
        let block = footer(segment)?.block_at(at).map_err(|fault| segment.footer_damage(fault))?;
        Ok(Some(Told { segment, block }))
    }

    /// What all of these places tell, in their order.
    pub(crate) fn told_by(&self, places: &[(usize, u64)]) -> Result<Vec<Told<'_>>> {
        let told: Result<Vec<_>> = places.iter().map(|place| self.told(*place)).collect();
        Ok(told?.into_iter().flatten().collect())
    }

    /// Notes where a cursor stands, and moves it on.
    fn pass(&mut self, index: usize, places: &mut Vec<(usize, u64)>) -> Result<()> {
        let Some(cursor) = self.cursors.get_mut(index) else { return Ok(()) };
        places.push((index, cursor.block));
        let next = footer(&cursor.segment)?.next(cursor.at);
        cursor.at = next.map_err(|fault| cursor.segment.footer_damage(fault))?;
        self.read(index)
    }

    /// Puts the name that a cursor stands at in line.
    fn read(&mut self, index: usize) -> Result<()> {
        let Some(cursor) = self.cursors.get_mut(index) else { return Ok(()) };
        let entry = footer(&cursor.segment)?.entry(cursor.at);
        if let Some((name, block)) = entry.map_err(|f| cursor.segment.footer_damage(f))? {
            cursor.block = block;
            self.heap.push(Reverse((name.into(), index)));
        }
        Ok(())
    }
}

/// The footer of a sealed segment.
pub(crate) fn footer(segment: &Segment) -> Result<FooterRef<'_>> {
    segment.footer().unwrap_or_else(|| {
        Err(segment.footer_damage(Fault("a segment that is not sealed has no footer")))
    })
}
