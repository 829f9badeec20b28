//! Looking an agent up in a sealed segment with few reads: of a run, the names that it covers and
//! the first name of each page of its directory are kept in memory, once somebody has asked.

use std::ops::Range;

use super::Segment;
use crate::error::Result;
use crate::format::Fault;
use crate::format::footer::{Block, FooterRef};

/// What is kept in memory of a run's footer.
pub(crate) struct RunIndex {
    pub(crate) from: Box<str>,
    /// The name behind the last one covered; `None`: all are.
    pub(crate) to: Option<Box<str>>,
    /// The first name of each leaf of the directory.
    fences: Vec<Box<str>>,
}

impl RunIndex {
    fn read(footer: &FooterRef<'_>) -> std::result::Result<Self, Fault> {
        let (from, to) = footer.bounds()?.unwrap_or_default();
        Ok(RunIndex { from: from.into(), to: to.map(Into::into), fences: footer.fences()? })
    }

    fn covers(&self, name: &str) -> bool {
        *self.from <= *name && self.to.as_ref().is_none_or(|to| name < &**to)
    }
}

impl Segment {
    /// What is kept of a run's footer; `None` for a log segment, which covers all names.
    pub(crate) fn run_index(&self) -> Result<Option<&RunIndex>> {
        let Some(footer) = self.footer.get().filter(|_| self.run) else { return Ok(None) };
        if let Some(index) = footer.index.get() {
            return Ok(Some(index));
        }
        let Some(parts) = self.footer() else { return Ok(None) };
        let index = RunIndex::read(&parts?).map_err(|fault| self.footer_damage(fault))?;
        Ok(Some(footer.index.get_or_init(|| index)))
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
        let Some(footer) = self.footer() else { return Ok(None) };
        let footer = footer?;
        let found = match self.run_index()? {
            Some(index) if !index.covers(name) => return Ok(None),
            // Of the runs of one age only one covers the name: to ask its filter first would be a
            // read more for those that are there.
            Some(index) => footer.find_behind(&index.fences, name, &|range: Range<u64>| {
                self.will_need(range);
            }),
            None => match footer.may_contain(hash) {
                Ok(false) => return Ok(None),
                Ok(true) => footer.find(name),
                Err(fault) => Err(fault),
            },
        };
        found.map_err(|fault| self.footer_damage(fault).with_agent(name))
    }
}
