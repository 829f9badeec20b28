//! Verifying a footer whole: every structure, whatever was verified before, and all of them against
//! each other.

use super::{Segment, in_memory};
use crate::error::Result;
use crate::format::Fault;
use crate::format::footer::{self, Block, NEVER, Sums, Trailer};
use crate::format::touched::Touched;

impl Segment {
    /// Verifies every structure of the footer but the trailer, whatever was verified before.
    /// `go_on` is asked between two pieces of work, and may end it with an error.
    pub(crate) fn check_footer_with(&self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut stopped = Ok(());
        let checked = self.check_parts(&mut || {
            if stopped.is_ok() {
                stopped = go_on();
            }
            stopped.is_ok()
        });
        stopped?;
        checked.map_err(|fault| self.footer_damage(fault))
    }

    /// Verifies every structure of the footer but the trailer, whatever was verified before.
    pub(crate) fn check_footer(&self) -> std::result::Result<(), Fault> {
        self.check_parts(&mut || true)
    }

    fn check_parts(&self, go_on: &mut dyn FnMut() -> bool) -> std::result::Result<(), Fault> {
        const STOPPED: Fault = Fault("the footer was not read to its end");
        let Some(Ok(footer)) = self.footer() else {
            return Err(Fault("the footer cannot be read"));
        };
        let touched = Touched::new(in_memory(footer.trailer().footer_len()), footer::GRANULE);
        let footer = footer.with_touched(&touched);
        footer.check_directory()?;
        footer.check_filter()?;
        let mut told = Told { soonest: NEVER, oldest: NEVER, ..Told::default() };
        let bounds = footer.bounds()?;
        let mut position = footer.first();
        while let Some((name, block)) = footer.entry(position)? {
            let block = footer.block_at(block)?;
            if block.name() != name {
                return Err(Fault("the directory leads to the block of another agent"));
            }
            if bounds.is_some_and(|bounds| !footer::contain(bounds, name)) {
                return Err(Fault("an agent lies outside the names that the run covers"));
            }
            if block.at() != told.end.unwrap_or(footer.trailer().blocks_at) {
                return Err(Fault("a block does not begin where the one before it ends"));
            }
            told.add(&block)?;
            block.states().check(go_on)?;
            if !go_on() {
                return Err(STOPPED);
            }
            position = footer.next(position)?;
        }
        footer.prefixes()?.try_for_each(|line| line.map(drop))?;
        told.compare(footer.trailer())
    }
}

/// What the blocks of a footer tell together.
#[derive(Default)]
struct Told {
    agents: u64,
    entries: u64,
    bytes: u64,
    state_bytes: u64,
    weight: u64,
    soonest: u64,
    oldest: u64,
    flags: u16,
    /// Where the last block ends, with its state pages.
    end: Option<u64>,
}

impl Told {
    fn add(&mut self, block: &Block<'_>) -> std::result::Result<(), Fault> {
        let mut last = Sums::default();
        for group in 0..=block.groups() {
            let sums = block.sums_before(group)?;
            if sums.bytes < last.bytes || sums.weight < last.weight {
                return Err(Fault("the sums of a block fall"));
            }
            last = sums;
        }
        self.agents += 1;
        let (pages_at, facts) = block.pages_at();
        self.end = Some(pages_at.saturating_add(facts.len));
        self.entries = self.entries.saturating_add(u64::from(block.count()));
        self.bytes = self.bytes.saturating_add(block.bytes());
        self.state_bytes = self.state_bytes.saturating_add(block.states().state_bytes());
        self.weight = self.weight.wrapping_add(block.weight());
        self.soonest = self.soonest.min(block.soonest());
        self.oldest = self.oldest.min(block.group(0).map_or(NEVER, |group| group.max_at));
        self.flags |= block.flags();
        Ok(())
    }

    fn compare(&self, trailer: &Trailer) -> std::result::Result<(), Fault> {
        if self.agents != trailer.agents {
            return Err(Fault("the directory and the trailer count different agents"));
        }
        if self.state_bytes != trailer.state_bytes {
            return Err(Fault("the blocks and the trailer count different bytes of state"));
        }
        if self.end.unwrap_or(trailer.blocks_at) != trailer.prefixes_at {
            return Err(Fault("the blocks do not end where their section does"));
        }
        let dates = (self.soonest, self.oldest, self.flags);
        let sums = (self.entries, self.bytes, self.weight);
        if sums != (trailer.entries, trailer.bytes, trailer.weight)
            || dates != (trailer.soonest, trailer.oldest, trailer.flags)
        {
            return Err(Fault("the blocks and the trailer have different sums"));
        }
        Ok(())
    }
}
