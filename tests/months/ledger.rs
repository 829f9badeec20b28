//! What was done to the store, what it acknowledged, and what must therefore be there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use memlog::Store;

use crate::marks;
use crate::model::{self, Done, Model, Op, Policy, Seen, Span, is_absent};

/// How the last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The store was closed, and said that all went well.
    Clean,
    /// The process died, the system lived on.
    Killed,
    /// The power failed, or a device did.
    PowerLost,
}

#[derive(Default)]
pub struct Ledger {
    /// The model as of everything that must survive a power failure.
    base: Model,
    /// The batches after it, in order, each with a number of its own.
    tail: VecDeque<(u64, Done)>,
    /// How many of them must survive the death of the process.
    written: usize,
    /// The model as of all batches.
    now: Model,
    numbers: u64,
    /// Agents whose own policy is in doubt after a crash, with what the model takes it for.
    pub doubtful: BTreeMap<String, Option<Policy>>,
    pub highest_lsn: u64,
    pub incarnation: u64,
}

impl Ledger {
    pub fn new(default: Policy) -> Ledger {
        let model = Model { default, ..Model::default() };
        Ledger { base: model.clone(), now: model, ..Ledger::default() }
    }

    pub fn now(&self) -> &Model {
        &self.now
    }

    /// A batch took its place in the order. Gives its number.
    pub fn ordered(&mut self, done: Done) -> u64 {
        self.now.apply(&done);
        self.numbers += 1;
        self.tail.push_back((self.numbers, done));
        self.numbers
    }

    /// Everything up to that batch must survive a power failure.
    pub fn durable(&mut self, number: u64) {
        while self.tail.front().is_some_and(|(n, _)| *n <= number) {
            let Some((_, done)) = self.tail.pop_front() else { return };
            self.base.apply(&done);
            self.written = self.written.saturating_sub(1);
        }
    }

    /// Everything up to that batch must survive the death of the process.
    pub fn written(&mut self, number: u64) {
        let upto = self.tail.iter().take_while(|(n, _)| *n <= number).count();
        self.written = self.written.max(upto);
    }

    pub fn all_durable(&mut self) {
        self.durable(self.numbers);
    }

    /// Time has passed: what policies have dropped for good is forgotten.
    pub fn trim(&mut self, time: u64) {
        self.base.trim(time);
        self.now.trim(time);
    }

    /// The names of agents that batches after `base` touch.
    fn touched(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (_, done) in &self.tail {
            for (name, op) in &done.ops {
                if matches!(op, Op::ForgetPrefix) {
                    names.extend(self.base.under(name));
                } else {
                    names.insert(name.clone());
                }
            }
        }
        names
    }

    /// After an opening: finds the prefix of batches that is there, the longest if several look
    /// alike. Gives the numbers of marks whose batches are not.
    pub fn reopened(
        &mut self,
        end: End,
        store: &Store,
        span: impl Fn() -> Span,
    ) -> Result<BTreeSet<u64>, String> {
        let least = match end {
            End::Clean => self.tail.len(),
            End::Killed => self.written,
            End::PowerLost => 0,
        };
        let names = self.touched();
        let mut seen = BTreeMap::new();
        for name in &names {
            seen.insert(name, (look_at(store, name)?, is_listed(store, name)?));
        }
        let span = span();
        let mut model = Model { default: self.base.default, ..Model::default() };
        for name in &names {
            let life = self.base.agents.get(name);
            model.agents.extend(life.map(|life| (name.clone(), life.clone())));
        }
        let mut found: Vec<(usize, Model)> = Vec::new();
        let mut told = Vec::new();
        for count in 0..=self.tail.len() {
            if count > 0 {
                model.apply(&self.tail[count - 1].1);
            }
            if count < least {
                continue;
            }
            let differs = |(name, (seen, is_listed)): (&&String, &(Seen, bool))| {
                // One that has nothing but a policy looks like one that never was.
                let known = model.agents.contains_key(*name);
                let why = model.differs(name, seen, span);
                let why = why.or((known != *is_listed).then(|| format!("listed: {is_listed}")))?;
                Some(format!("with {count} of {}: {name}: {why}", self.tail.len()))
            };
            match seen.iter().find_map(differs) {
                None => found.push((count, model.clone())),
                Some(why) if told.len() < 4 || count == self.tail.len() => told.push(why),
                Some(_) => {}
            }
        }
        let Some((count, chosen)) = found.pop() else {
            let told = told.join("\n  ");
            return Err(format!("no prefix of the batches is there ({end:?}, {least}):\n  {told}"));
        };
        self.doubt(&chosen, &found);
        Ok(self.settle(count))
    }

    /// Takes the first `count` batches of the tail for all there are.
    fn settle(&mut self, count: usize) -> BTreeSet<u64> {
        let lost: Vec<_> = self.tail.drain(count..).collect();
        for (_, done) in self.tail.drain(..) {
            self.base.apply(&done);
        }
        self.written = 0;
        if !lost.is_empty() {
            self.now = self.base.clone();
        }
        lost.iter().flat_map(|(_, done)| marks::ids(&done.ops)).collect()
    }

    /// Notes the agents whose policy differs between models that look alike.
    fn doubt(&mut self, chosen: &Model, others: &[(usize, Model)]) {
        let policy = |model: &Model, name: &str| model.agents.get(name).map(|life| life.policy);
        for (name, life) in &chosen.agents {
            let differs = |(_, other): &(usize, Model)| policy(other, name) != Some(life.policy);
            if others.iter().any(differs) {
                self.doubtful.insert(name.clone(), life.policy);
            }
        }
        self.doubtful.retain(|name, _| {
            chosen.agents.contains_key(name) || self.base.agents.contains_key(name)
        });
    }
}

fn is_listed(store: &Store, name: &str) -> Result<bool, String> {
    for agent in store.agents(name) {
        if agent.map_err(|e| format!("agents({name}): {e:?}"))?.name() == name {
            return Ok(true);
        }
    }
    Ok(false)
}

pub fn look_at(store: &Store, name: &str) -> Result<Seen, String> {
    let view = store.agent(name).and_then(|agent| agent.view());
    let view = view.map_err(|e| format!("view of {name}: {e:?}"))?;
    model::look(&view).map_err(|e| format!("reading {name}: {e:?}"))
}

/// Holds all that a store shows against a model.
pub fn compare(store: &Store, model: &Model, span: impl Fn() -> Span) -> Result<(), String> {
    let mut names = Vec::new();
    for agent in store.agents("") {
        names.push(agent.map_err(|e| format!("agents(): {e:?}"))?.name().to_owned());
    }
    let told: BTreeSet<&String> = names.iter().collect();
    if told.len() != names.len() || !names.iter().is_sorted() {
        return Err("agents() gives a name twice, or out of order".to_owned());
    }
    if let Some(name) = model.agents.keys().find(|name| !told.contains(name)) {
        return Err(format!("{name} is not listed"));
    }
    for name in &names {
        if !model.agents.contains_key(name) {
            let seen = look_at(store, name)?;
            let what = if is_absent(&seen) { "but shows nothing" } else { "and has entries" };
            return Err(format!("{name} is listed, {what}, and is dead: {seen:?}"));
        }
    }
    for name in &names {
        let before = span();
        let seen = look_at(store, name)?;
        let within = Span { lo: before.lo, hi: span().hi };
        if let Some(why) = model.differs(name, &seen, within) {
            return Err(format!("{name}: {why}"));
        }
    }
    Ok(())
}
