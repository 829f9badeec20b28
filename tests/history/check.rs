//! Whether what many clients were answered fits some order of their calls, one behind the other, in
//! which no call comes before one that had ended when it began, and each answer is right.
//!
//! In general that is hard to decide. Here it is not: batches bear their lsns, so that for each agent
//! the order of its batches is known, and what a view shows tells between which two of them it was
//! made. What is left is one graph: of each agent its batches in their order, each view between two of
//! them, and whatever ended before something else began. There is such an order exactly if no way in
//! the graph leads back to where it began. A batch over several agents is one place in the graph:
//! who saw half of it goes round in a circle.
//!
//! A view that fits several moments (an agent that was forgotten more than once looks alike each time)
//! is put between the first and the last of them, which is all that can be said.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Agent, of};
use super::record::{Call, Change, Draft, What};

/// Checks a history; the error says what is wrong.
pub(crate) fn check(calls: &[Call]) -> Result<(), String> {
    let mut checker = Checker { calls, agents: BTreeMap::new(), edges: Vec::new() };
    checker.clients()?;
    checker.replay()?;
    for (index, call) in calls.iter().enumerate() {
        match &call.what {
            What::Read { agent, seen } => {
                checker.agent(*agent);
                let fits = |agent: &Agent, at| agent.shows(at, seen);
                checker.place(index, *agent, fits)?;
            }
            What::Refused { .. } => checker.refused(index)?,
            What::Wrote { .. } | What::ForgotPrefix { .. } => {}
        }
    }
    checker.order()
}

struct Checker<'a> {
    calls: &'a [Call],
    agents: BTreeMap<usize, Agent>,
    /// What comes before what, by the agents' histories.
    edges: Vec<(usize, usize)>,
}

impl Checker<'_> {
    fn agent(&mut self, agent: usize) -> &mut Agent {
        self.agents.entry(agent).or_insert_with(Agent::new)
    }

    fn wrong<T>(&self, index: usize, what: &str) -> Result<T, String> {
        Err(format!("{what}: {:?}", self.calls[index]))
    }

    /// A client makes one call at a time.
    fn clients(&self) -> Result<(), String> {
        let mut ends: BTreeMap<usize, u64> = BTreeMap::new();
        let mut order: Vec<usize> = (0..self.calls.len()).collect();
        order.sort_by_key(|index| self.calls[*index].begun);
        for index in order {
            let call = &self.calls[index];
            if call.ended < call.begun
                || ends.get(&call.client).is_some_and(|end| *end > call.begun)
            {
                return self.wrong(index, "a client makes two calls at a time");
            }
            ends.insert(call.client, call.ended);
        }
        Ok(())
    }

    /// Goes through all batches in the order of their lsns: each expectation holds, each got the seqs
    /// that were next.
    fn replay(&mut self) -> Result<(), String> {
        let lsn = |call: &Call| match call.what {
            What::Wrote { lsn, .. } | What::ForgotPrefix { lsn, .. } => Some(lsn),
            _ => None,
        };
        let writes = self.calls.iter().enumerate();
        let mut writes: Vec<_> = writes.filter_map(|(i, call)| Some((lsn(call)?, i))).collect();
        writes.sort_unstable();
        if let Some(pair) = writes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return self.wrong(pair[1].1, "an lsn was given twice");
        }
        for (lsn, index) in writes {
            match &self.calls[index].what {
                What::Wrote { batch, seqs, .. } => self.wrote(index, lsn, batch, seqs)?,
                What::ForgotPrefix { agents, .. } => {
                    agents.iter().for_each(|agent| {
                        self.agent(*agent).apply(index, lsn, [Change::Forget].iter());
                    });
                }
                _ => {}
            }
        }
        for agent in self.agents.values() {
            let by = agent.moments.iter().filter_map(|moment| moment.by);
            let by: Vec<usize> = by.collect();
            self.edges.extend(by.windows(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    fn wrote(
        &mut self,
        index: usize,
        lsn: u64,
        batch: &Draft,
        seqs: &[(usize, std::ops::Range<u64>)],
    ) -> Result<(), String> {
        for agent in agents_of(batch) {
            let model = self.agent(agent);
            let at = model.moments.len() - 1;
            if !of(&batch.expects, agent).all(|expect| model.holds(at, expect)) {
                return self.wrong(index, "committed, though an expectation did not hold");
            }
            if !model.in_range(at, of(&batch.changes, agent)) {
                return self.wrong(index, "committed, though a seq was out of range");
            }
            let mine = model.apply(index, lsn, of(&batch.changes, agent));
            let mut given = seqs.iter().filter(|(a, _)| *a == agent);
            if !mine.is_empty() && given.next().is_none_or(|(_, got)| *got != mine) {
                return self.wrong(index, &format!("agent {agent} was to get seqs {mine:?}"));
            }
        }
        Ok(())
    }

    /// Puts a call that changes nothing between the batches that its answer tells of.
    fn place(
        &mut self,
        index: usize,
        agent: usize,
        fits: impl Fn(&Agent, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        let call = &self.calls[index];
        let Some(model) = self.agents.get(&agent) else { return Ok(()) };
        let ended = |at: usize| model.moments[at].by.map_or(0, |by| self.calls[by].ended);
        let begun = |at: usize| model.moments[at].by.map_or(0, |by| self.calls[by].begun);
        let last = model.moments.len() - 1;
        // From the last batch that had surely been committed to the last that had been begun.
        let from = (0..=last).rev().find(|at| ended(*at) < call.begun).unwrap_or(0);
        let to = (from..=last).rev().find(|at| begun(*at) <= call.ended).unwrap_or(from);
        let fitting: Vec<usize> = (from..=to).filter(|at| fits(model, *at).is_ok()).collect();
        let (Some(first), Some(until)) = (fitting.first(), fitting.last()) else {
            let elsewhere = (0..=last).find(|at| fits(model, *at).is_ok());
            let why = match elsewhere {
                Some(at) if at < from => "seen what was no more".to_owned(),
                Some(_) => "seen what was not yet".to_owned(),
                None => fits(model, from).err().unwrap_or_default(),
            };
            return self.wrong(index, &format!("no moment of agent {agent} fits ({why})"));
        };
        self.edges.extend(model.moments[*first].by.map(|by| (by, index)));
        let behind = model.moments.get(until + 1).and_then(|moment| moment.by);
        self.edges.extend(behind.map(|by| (index, by)));
        Ok(())
    }

    /// One of the agents gave reason to refuse the batch; which, is only known if it is one.
    fn refused(&mut self, index: usize) -> Result<(), String> {
        let What::Refused { batch, why } = &self.calls[index].what else { return Ok(()) };
        let agents = agents_of(batch);
        let fits = |agent: usize| {
            move |model: &Agent, at: usize| match model.refuses(at, agent, batch, *why) {
                true => Ok(()),
                false => Err("nothing to refuse it for".to_owned()),
            }
        };
        for agent in &agents {
            self.agent(*agent);
        }
        if let [agent] = Vec::from_iter(&agents)[..] {
            return self.place(index, *agent, fits(*agent));
        }
        let edges = self.edges.len();
        let outcomes: Vec<_> =
            agents.iter().map(|agent| self.place(index, *agent, fits(*agent))).collect();
        if outcomes.iter().all(Result::is_err) {
            return outcomes.into_iter().next().unwrap_or(Ok(()));
        }
        if outcomes.iter().filter(|outcome| outcome.is_ok()).count() > 1 {
            self.edges.truncate(edges);
        }
        Ok(())
    }

    /// Whether some order has all of it. Beside the calls the graph has a place for each end of a call,
    /// in the order of time: whatever began later comes behind it.
    fn order(&self) -> Result<(), String> {
        let n = self.calls.len();
        let mut ends: Vec<usize> = (0..n).collect();
        ends.sort_by_key(|index| self.calls[*index].ended);
        let mut behind: Vec<Vec<usize>> = vec![Vec::new(); 2 * n];
        for (place, index) in ends.iter().enumerate() {
            behind[*index].push(n + place);
            if place + 1 < n {
                behind[n + place].push(n + place + 1);
            }
        }
        for (index, call) in self.calls.iter().enumerate() {
            let ended = ends.partition_point(|end| self.calls[*end].ended < call.begun);
            if ended > 0 {
                behind[n + ended - 1].push(index);
            }
        }
        for (first, then) in self.edges.iter().filter(|(first, then)| first != then) {
            behind[*first].push(*then);
        }
        let mut before = vec![0usize; 2 * n];
        behind.iter().flatten().for_each(|place| before[*place] += 1);
        let mut free: Vec<usize> = (0..2 * n).filter(|place| before[*place] == 0).collect();
        let mut ordered = 0;
        while let Some(place) = free.pop() {
            ordered += 1;
            for next in &behind[place] {
                before[*next] -= 1;
                if before[*next] == 0 {
                    free.push(*next);
                }
            }
        }
        if ordered == 2 * n { Ok(()) } else { Err(self.circle(&behind, &before)) }
    }

    /// The calls of a circle among what is left.
    fn circle(&self, behind: &[Vec<usize>], before: &[usize]) -> String {
        let left = |place: &usize| before[*place] > 0;
        // Each place that is left is behind another one that is: to go backwards ends in a circle.
        let mut back = vec![None; behind.len()];
        for place in (0..behind.len()).filter(left) {
            behind[place].iter().filter(|next| left(next)).for_each(|n| back[*n] = Some(place));
        }
        let mut at = (0..behind.len()).find(left).unwrap_or(0);
        let mut way = Vec::new();
        while !way.contains(&at) {
            way.push(at);
            at = back[at].unwrap_or(at);
        }
        let start = way.iter().position(|place| *place == at).unwrap_or(0);
        let calls = way[start..].iter().rev().filter_map(|place| self.calls.get(*place));
        let lines: Vec<String> = calls.map(|call| format!("  {call:?}")).collect();
        format!(
            "each of these comes before the next, and the last before the first:\n{}",
            lines.join("\n")
        )
    }
}

/// The agents that a batch changes or expects something of.
fn agents_of(batch: &Draft) -> BTreeSet<usize> {
    let expected = batch.expects.iter().map(|(agent, _)| *agent);
    expected.chain(batch.changes.iter().map(|(agent, _)| *agent)).collect()
}
