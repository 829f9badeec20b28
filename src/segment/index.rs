//! Looking an agent up in a sealed segment with few reads: the names that a run covers, and the first
//! name of each page of a directory, are kept in memory once they were asked for.

use std::ops::Range;

use super::Segment;
use crate::error::Result;
use crate::format::Fault;
use crate::format::footer::{Block, FooterRef};
use crate::sync::OnceLock;

/// What is kept in memory of a footer, once it was asked for.
#[derive(Default)]
pub(super) struct Index {
    run: OnceLock<RunIndex>,
    /// The first name of each leaf of the directory: about one name in a hundred.
    fences: OnceLock<Vec<Box<str>>>,
}

/// The structures of a footer that a look-up reads, one leading to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Filter,
    Inner,
    Leaf,
    Block,
}

/// The names that a run covers.
pub(crate) struct RunIndex {
    pub(crate) from: Box<str>,
    /// The name behind the last one covered; `None`: all are.
    pub(crate) to: Option<Box<str>>,
}

impl RunIndex {
    fn read(footer: &FooterRef<'_>) -> std::result::Result<Self, Fault> {
        let (from, to) = footer.bounds()?.unwrap_or_default();
        Ok(RunIndex { from: from.into(), to: to.map(Into::into) })
    }

    pub(crate) fn covers(&self, name: &str) -> bool {
        *self.from <= *name && self.to.as_ref().is_none_or(|to| name < &**to)
    }
}

impl Segment {
    /// The names that a run covers; `None` for a log segment, which covers all names.
    pub(crate) fn run_index(&self) -> Result<Option<&RunIndex>> {
        let Some(footer) = self.footer.get().filter(|_| self.run) else { return Ok(None) };
        if let Some(index) = footer.index.run.get() {
            return Ok(Some(index));
        }
        let Some(parts) = self.footer() else { return Ok(None) };
        let index = RunIndex::read(&parts?).map_err(|fault| self.footer_damage(fault))?;
        Ok(Some(footer.index.run.get_or_init(|| index)))
    }

    /// Tells the system that the names which a run covers are about to be read, if they were not yet.
    pub(crate) fn announce_run_index(&self) {
        if let Some(footer) = self.footer.get().filter(|footer| footer.index.run.get().is_none()) {
            let start = footer.trailer.prefixes_at;
            self.will_need(start..start.saturating_add(footer.trailer.prefixes_len));
        }
    }

    /// Tells the system that all names of the segment are about to be read.
    pub(crate) fn announce_directory(&self) {
        if let Some(footer) = self.footer.get() {
            self.will_need(footer.trailer.footer_at..footer.trailer.filter_at);
        }
    }

    /// The first name of each leaf of the directory. `None` if they cannot be read: a look-up then
    /// goes from page to page, and meets what is damaged only if it is on its way.
    fn fences(&self, footer: &FooterRef<'_>) -> Option<&[Box<str>]> {
        let index = &self.footer.get()?.index;
        if let Some(fences) = index.fences.get() {
            return Some(fences);
        }
        let fences = footer.fences().ok()?;
        Some(index.fences.get_or_init(|| fences))
    }

    /// Whether the segment may tell of the agent of this name. `false` is certain.
    pub(crate) fn may_tell_of(&self, name: &str, hash: u64) -> Result<bool> {
        if self.run_index()?.is_some_and(|index| !index.covers(name)) {
            return Ok(false);
        }
        let Some(footer) = self.footer() else { return Ok(false) };
        footer?.may_contain(hash).map_err(|fault| self.footer_damage(fault).with_agent(name))
    }

    /// What the segment tells of the agent of this name, and where in the file.
    pub(crate) fn look_up(&self, name: &str, hash: u64) -> Result<Option<(u64, Block<'_>)>> {
        match self.run_index()? {
            Some(index) if !index.covers(name) => Ok(None),
            Some(_) => self.find_in_run(name, hash),
            None if self.may_tell_of(name, hash)? => self.find(name),
            None => Ok(None),
        }
    }

    /// Of the runs of one age only one covers the name: to read its filter first would be one read more
    /// for the agents that are there. For an agent that is not there, the page of the filter is read
    /// afterwards, and consulted first from then on: it covers about twenty times as many names as a page
    /// of the directory.
    fn find_in_run(&self, name: &str, hash: u64) -> Result<Option<(u64, Block<'_>)>> {
        let Some(footer) = self.footer() else { return Ok(None) };
        let footer = footer?;
        if footer.has_read(footer.filter_page(hash).start) && footer.may_contain(hash) == Ok(false)
        {
            return Ok(None);
        }
        let found = self.find(name)?;
        if found.is_none() {
            // If the page is damaged, the directory goes on to answer.
            let _ = footer.may_contain(hash);
        }
        Ok(found)
    }

    /// Where that lies in the file which is read next on the way to the agent of this name, unless it
    /// was read before: what leads to the right page of the directory (`Inner`), that page (`Leaf`),
    /// or the block. What cannot be read is not announced.
    pub(crate) fn unread(&self, step: Step, name: &str, hash: u64) -> Option<Range<u64>> {
        // A footer that was built beside the file is in memory.
        if !self.has_own_footer() {
            return None;
        }
        let footer = self.footer()?.ok()?;
        let fences = self.footer.get()?.index.fences.get();
        let range = match step {
            Step::Filter => footer.filter_page(hash),
            Step::Inner => Some(footer.inner_pages()).filter(|pages| !pages.is_empty())?,
            Step::Leaf => footer.leaf_behind(self.fences(&footer)?, name).ok()?,
            Step::Block => footer.locate(self.fences(&footer)?, name).ok()??,
        };
        let has_read = match step {
            Step::Inner => fences.is_some(),
            _ => footer.has_read(range.start),
        };
        (!has_read).then_some(range)
    }

    /// What the segment tells of the agent of this name, and where in the file, without asking the
    /// filter: reads one page of the directory and the block.
    pub(crate) fn find(&self, name: &str) -> Result<Option<(u64, Block<'_>)>> {
        let Some(footer) = self.footer() else { return Ok(None) };
        let footer = footer?;
        let near = |range: Range<u64>| self.will_need(range);
        let found = match self.fences(&footer) {
            Some(fences) => footer.find_behind(fences, name, &near),
            None => footer.find(name),
        };
        found.map_err(|fault| self.footer_damage(fault).with_agent(name))
    }
}
