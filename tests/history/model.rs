//! One agent at each moment of its history: what its batches, in the order of their lsns, make of it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::record::{Change, Draft, Expect, Refusal, Seen};

/// An agent behind one of its batches.
#[derive(Clone, Default)]
pub(crate) struct Moment {
    /// The batch, as an index into the calls; `None`: before the first.
    pub(crate) by: Option<usize>,
    pub(crate) floor: u64,
    pub(crate) next: u64,
    /// Which of the agent's lives it is.
    life: usize,
    redacted: Rc<BTreeSet<u64>>,
    state: Rc<BTreeMap<&'static str, (u64, u64)>>,
}

/// All moments of an agent, oldest first.
pub(crate) struct Agent {
    pub(crate) moments: Vec<Moment>,
    /// The numbers of the entries of each life.
    lives: Vec<Vec<u64>>,
}

impl Agent {
    pub(crate) fn new() -> Self {
        let first = Moment { floor: 1, next: 1, ..Moment::default() };
        Agent { moments: vec![first], lives: vec![Vec::new()] }
    }

    pub(crate) fn last(&self) -> &Moment {
        self.moments.last().unwrap()
    }

    /// Adds what a batch makes of it; gives the seqs that it appended.
    pub(crate) fn apply<'a>(
        &mut self,
        by: usize,
        lsn: u64,
        changes: impl Iterator<Item = &'a Change>,
    ) -> std::ops::Range<u64> {
        let mut now = self.last().clone();
        now.by = Some(by);
        let mut seqs = now.next..now.next;
        for change in changes {
            match *change {
                Change::Append(number) => {
                    self.lives[now.life].push(number);
                    now.next += 1;
                }
                Change::Set(key, number) => {
                    Rc::make_mut(&mut now.state).insert(key, (lsn, number));
                }
                Change::Unset(key) => drop(Rc::make_mut(&mut now.state).remove(key)),
                Change::Truncate(seq) => now.floor = now.floor.max(seq),
                Change::Redact(seq) => drop(Rc::make_mut(&mut now.redacted).insert(seq)),
                Change::Forget => {
                    self.lives.push(Vec::new());
                    let life = self.lives.len() - 1;
                    now = Moment { by: now.by, floor: 1, next: 1, life, ..Moment::default() };
                    seqs.start = 1;
                }
            }
        }
        seqs.end = now.next;
        self.moments.push(now);
        seqs
    }

    /// Whether a view of that moment shows this; if not, what is wrong.
    pub(crate) fn shows(&self, at: usize, seen: &Seen) -> Result<(), String> {
        let moment = &self.moments[at];
        if (seen.floor, seen.next) != (moment.floor, moment.next) {
            return Err(format!("seqs {}..{}", moment.floor, moment.next));
        }
        let state: Vec<_> = moment.state.iter().map(|(key, (rev, n))| (*key, *rev, *n)).collect();
        if state != seen.state {
            return Err(format!("state {state:?}"));
        }
        for (seq, number) in &seen.entries {
            let is = self.entry(moment, *seq);
            if is != Some(*number) {
                return Err(format!("as seq {seq} {is:?}"));
            }
        }
        Ok(())
    }

    fn entry(&self, moment: &Moment, seq: u64) -> Option<Option<u64>> {
        if !(moment.floor..moment.next).contains(&seq) {
            return None;
        }
        let number = self.lives[moment.life].get(usize::try_from(seq - 1).ok()?)?;
        Some((!moment.redacted.contains(&seq)).then_some(*number))
    }

    /// Whether what is expected holds at that moment.
    pub(crate) fn holds(&self, at: usize, expect: &Expect) -> bool {
        let moment = &self.moments[at];
        match *expect {
            Expect::Next(seq) => moment.next == seq,
            Expect::Revision(key, revision) => {
                moment.state.get(key).map_or(0, |found| found.0) == revision
            }
        }
    }

    /// Whether each seq that the changes name is there at that moment.
    pub(crate) fn in_range<'a>(
        &self,
        at: usize,
        changes: impl Iterator<Item = &'a Change>,
    ) -> bool {
        let mut next = self.moments[at].next;
        changes.into_iter().all(|change| match *change {
            Change::Append(_) => {
                next += 1;
                true
            }
            Change::Forget => {
                next = 1;
                true
            }
            Change::Truncate(seq) => (1..=next).contains(&seq),
            Change::Redact(seq) => (1..next).contains(&seq),
            Change::Set(..) | Change::Unset(_) => true,
        })
    }

    /// Whether a batch may be refused for this agent's sake at that moment.
    pub(crate) fn refuses(&self, at: usize, agent: usize, batch: &Draft, why: Refusal) -> bool {
        match why {
            Refusal::Conflict => of(&batch.expects, agent).any(|e| !self.holds(at, e)),
            Refusal::OutOfRange => !self.in_range(at, of(&batch.changes, agent)),
        }
    }
}

/// What of a list is about one agent.
pub(crate) fn of<T>(list: &[(usize, T)], agent: usize) -> impl Iterator<Item = &T> {
    list.iter().filter(move |(a, _)| *a == agent).map(|(_, one)| one)
}
