//! What a salvage finds out about a damaged store, besides what can be read of it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use crate::error::Damage;
use crate::format::manifest::{Holes, Listed, Role};
use crate::recovery::RecoveryReport;

/// Rows of a list that are kept. A wiped disk must not take memory in proportion to itself.
pub(crate) const ROWS: usize = 10_000;

/// What was found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) report: RecoveryReport,
    /// Lsns of the log of which it cannot be told whom they hit, coalesced.
    pub(crate) unknown: Vec<Range<u64>>,
    /// Agents, and prefixes, of which something that took away is lost.
    pub(crate) erasures: BTreeSet<String>,
    /// Something is lost, of any agent: what took away among it.
    pub(crate) any_agent: bool,
    /// The segment at hand has an index: damage to its frames is damage, and loses nothing that the
    /// index does not lead to.
    pub(crate) indexed: bool,
    /// Agents of which a change of state is lost, once for each: the key is lost too.
    pub(crate) keys: Vec<String>,
    /// Rows that were left out.
    pub(crate) omitted: u64,
    /// What a repair before had lost.
    pub(crate) holes: Option<Holes>,
}

impl Findings {
    /// Notes damage.
    pub(crate) fn add(&mut self, damage: Damage) {
        if self.report.damage.len() < ROWS {
            self.report.damage.push(damage);
        } else {
            self.omitted += 1;
        }
    }

    /// Notes damage whose agents are not known.
    pub(crate) fn damage(&mut self, path: &Path, offset: u64, reason: &str) {
        self.add(Damage::new(path, offset, reason));
    }

    /// Notes lsns that may hold changes of any agent.
    pub(crate) fn lose(&mut self, lsns: Range<u64>) {
        if self.indexed {
            return;
        }
        self.any_agent = true;
        let rows = self.unknown.len();
        match self.unknown.last_mut() {
            Some(last) if last.end >= lsns.start && last.start <= lsns.start => {
                last.end = last.end.max(lsns.end);
            }
            _ if rows < ROWS => self.unknown.push(lsns),
            _ => self.omitted += 1,
        }
    }

    /// Notes that a file has nothing from the offset `from` on.
    pub(crate) fn lose_file(&mut self, line: &Listed, from: u64) {
        let end = if line.role == Role::Sealed { line.data_end } else { line.capacity };
        if from >= end {
            return;
        }
        if line.run {
            self.lose_any();
        } else {
            self.lose(line.base.saturating_add(from)..line.base.saturating_add(end));
        }
    }

    /// Notes that something of any agent may be lost.
    pub(crate) fn lose_any(&mut self) {
        self.any_agent |= !self.indexed;
    }

    /// Notes a change of state whose key is lost too.
    pub(crate) fn lose_key(&mut self, agent: &str) {
        if self.indexed {
            return;
        }
        if self.keys.len() < ROWS {
            self.keys.push(agent.to_owned());
        } else {
            self.omitted += 1;
        }
    }

    /// Notes that something is lost which took away from an agent, or from a prefix.
    pub(crate) fn lose_erasure(&mut self, of: &str) {
        if self.indexed {
            return;
        }
        if self.erasures.len() < ROWS {
            self.erasures.insert(of.to_owned());
        } else {
            self.omitted += 1;
        }
    }
}
