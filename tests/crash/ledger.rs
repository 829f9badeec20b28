//! What was done to the store, what it acknowledged, and what must therefore be there.

use std::collections::{BTreeMap, BTreeSet};

use memlog::{Entry, Store, View};

use crate::bytes::{Backup, Bytes};
use crate::model::{
    self, Done, Item, Life, Model, Op, Seen, Value, agrees, apply, differences, hash,
};

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

#[derive(Clone)]
pub struct Ledger {
    /// The model as of everything that must survive a power failure.
    base: Model,
    /// The batches behind it, in order, each with a number of its own.
    tail: Vec<(u64, Done)>,
    /// How many of them must survive the death of the process.
    written: usize,
    /// The model as of all batches.
    now: Model,
    numbers: u64,
    /// No lsn was given out beyond this.
    pub highest_lsn: u64,
    pub incarnation: u64,
    /// Agents whose policy is in doubt, with what the model takes it for.
    pub doubtful: Vec<(String, Option<u64>)>,
    /// Every entry that ever was, by agent and seq.
    pub ever: Option<BTreeMap<(String, u64), Vec<Item>>>,
    /// The most entries kept by default.
    pub default: Option<u64>,
    /// What is known of the bytes on the disk.
    pub bytes: Bytes,
    /// Periods that have passed.
    pub periods: u64,
    /// Up to which of them the files surely tell, and up to which this process may destroy what has
    /// expired: a clock that is ahead of what an opening finds recorded is yet to be confirmed.
    pub recorded: u64,
    pub confirmed: u64,
    /// Up to when entries have expired.
    time: u64,
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger {
            base: Model::new(),
            tail: Vec::new(),
            written: 0,
            now: Model::new(),
            numbers: 0,
            highest_lsn: 0,
            incarnation: 0,
            doubtful: Vec::new(),
            ever: None,
            default: None,
            bytes: Bytes::default(),
            periods: 0,
            recorded: 0,
            confirmed: 0,
            time: 0,
        }
    }

    pub fn now(&self) -> &Model {
        &self.now
    }

    /// A batch took its place in the order; gives its number.
    pub fn ordered(&mut self, done: Done) -> u64 {
        let before = self.ever.as_ref().map(|_| self.now.clone()).unwrap_or_default();
        apply(&mut self.now, &done);
        if let Some(ever) = &mut self.ever {
            for (name, life) in &self.now {
                let forgets = done.ops.iter().any(|(_, op)| matches!(op, model::Op::Forget));
                let before = before.get(name).filter(|_| !forgets);
                for (seq, item) in life.items.range(before.map_or(1, |life| life.next)..) {
                    let known = ever.entry((name.clone(), *seq)).or_default();
                    if !known.contains(item) {
                        known.push(item.clone());
                    }
                }
            }
        }
        self.numbers += 1;
        self.tail.push((self.numbers, done));
        self.numbers
    }

    /// A batch of these changes.
    pub fn done(&self, ops: Vec<(String, Op)>) -> Done {
        Done { ops, lsn: None, default: self.default }
    }

    /// Time has passed: what expires by then shows nothing any more, whenever it was appended.
    pub fn expire(&mut self, time: u64) {
        self.time = time;
        model::expire(&mut self.base, time);
        for (_, op) in self.tail.iter_mut().flat_map(|(_, done)| &mut done.ops) {
            if let Op::Append(item) = op {
                item.expire(time);
            }
        }
        self.rebuild();
    }

    /// What a backup of that moment shows now.
    pub fn backed_up(&self) -> Option<(std::path::PathBuf, Model)> {
        let Backup { path, mut model, periods } = self.bytes.backup.clone()?;
        // A clock that is more than an hour ahead of what it recorded is not believed.
        if self.periods <= periods + 1 {
            model::expire(&mut model, self.time);
        }
        let new = Op::Default(self.default);
        apply(&mut model, &self.done(vec![(String::new(), new)]));
        Some((path, model))
    }

    /// The batch never took place after all.
    pub fn withdrawn(&mut self, number: u64) {
        if let Some(at) = self.tail.iter().position(|(n, _)| *n == number) {
            self.tail.remove(at);
            self.written = self.written.min(at).max(self.written.saturating_sub(1));
            self.rebuild();
        }
    }

    /// The lsn of a batch became known.
    pub fn learn_lsn(&mut self, number: u64, lsn: u64) {
        let Some(at) = self.tail.iter().position(|(n, _)| *n == number) else { return };
        self.tail[at].1.lsn = Some(lsn);
        if let Some(later) = self.tail[at + 1..].iter().find_map(|(_, done)| done.lsn) {
            assert!(lsn < later, "a batch submitted earlier has the higher lsn");
        }
        self.rebuild();
    }

    /// Everything up to that batch must survive a power failure.
    pub fn durable(&mut self, number: u64) {
        while self.tail.first().is_some_and(|(n, _)| *n <= number) {
            let (_, done) = self.tail.remove(0);
            apply(&mut self.base, &done);
            self.written = self.written.saturating_sub(1);
        }
    }

    /// Everything up to that batch must survive the death of the process.
    pub fn written(&mut self, number: u64) {
        let upto = self.tail.iter().take_while(|(n, _)| *n <= number).count();
        self.written = self.written.max(upto);
    }

    /// Nothing is left of what was only written.
    pub fn power_lost(&mut self) {
        self.written = 0;
    }

    pub fn last_number(&self) -> u64 {
        self.numbers
    }

    fn rebuild(&mut self) {
        self.now = self.base.clone();
        self.tail.iter().for_each(|(_, done)| apply(&mut self.now, done));
    }

    /// Whether an agent may look like that while batches are under way.
    pub fn may_see(&self, name: &str, seen: &Seen) -> bool {
        let mut model = self.base.clone();
        let mut found = model::seen(&model, name).matches(seen);
        for (_, done) in &self.tail {
            apply(&mut model, done);
            found |= model::seen(&model, name).matches(seen);
        }
        found
    }

    /// After a reopening: finds the prefix of batches that is there, or says why there is none.
    pub fn reopened(
        &mut self,
        end: End,
        default: Option<u64>,
        seen: &BTreeMap<String, Seen>,
    ) -> Result<(), String> {
        self.confirmed = self.recorded;
        self.recorded = self.periods;
        let turn = self.done(vec![(String::new(), Op::Default(default))]);
        self.default = default;
        let least = match end {
            End::Clean => self.tail.len(),
            End::Killed => self.written,
            End::PowerLost => 0,
        };
        let mut model = self.base.clone();
        let mut first = None;
        let mut found: Vec<Model> = Vec::new();
        for count in 0..=self.tail.len() {
            if count > 0 {
                apply(&mut model, &self.tail[count - 1].1);
            }
            if count >= least {
                let mut model = model.clone();
                apply(&mut model, &turn);
                first.get_or_insert_with(|| model.clone());
                if agrees(&model, seen) {
                    found.push(model);
                }
            }
        }
        let Some(mut chosen) = found.pop() else {
            let least_model = first.unwrap_or_default();
            apply(&mut model, &turn);
            return Err(format!(
                "no prefix of the batches is what the store holds ({end:?}: {least} to {} of {})\n\
                 against the least:{}\nagainst all:{}",
                self.tail.len(),
                self.tail.len(),
                differences(&least_model, seen),
                differences(&model, seen),
            ));
        };
        let before = std::mem::replace(&mut self.doubtful, doubtful(&chosen, &found));
        let stands = |(name, policy): &(String, Option<u64>)| {
            chosen.get(name).is_some_and(|life| life.policy == *policy)
        };
        self.doubtful.extend(before.into_iter().filter(stands));
        self.doubtful.sort();
        self.doubtful.dedup();
        adopt_revisions(&mut chosen, seen);
        self.now = chosen.clone();
        self.base = chosen;
        self.tail.clear();
        self.written = 0;
        Ok(())
    }
}

/// Agents whose policy differs between models that look alike.
fn doubtful(chosen: &Model, others: &[Model]) -> Vec<(String, Option<u64>)> {
    let differs = |name: &str, life: &Life| {
        others.iter().any(|model| model.get(name).is_some_and(|other| other.policy != life.policy))
    };
    let names = chosen.iter().filter(|(name, life)| differs(name, life));
    names.map(|(name, life)| (name.clone(), life.policy)).collect()
}

fn adopt_revisions(model: &mut Model, seen: &BTreeMap<String, Seen>) {
    for (name, life) in model {
        for (key, value) in &mut life.state {
            if let Some(told) = seen.get(name).and_then(|seen| seen.state.get(key)) {
                value.revision = told.revision;
            }
        }
    }
}

pub fn item(entry: &Entry<'_>) -> Item {
    let at = entry.at().duration_since(std::time::UNIX_EPOCH).unwrap();
    Item {
        at: Some(at.as_millis() as u64),
        kind: entry.kind().get(),
        weight: entry.weight(),
        joined: entry.is_joined(),
        redacted: entry.is_redacted(),
        meta: hash(entry.meta()),
        payload: hash(entry.payload()),
        expires: None,
    }
}

/// All that a view shows.
pub fn look(view: &View) -> memlog::Result<Seen> {
    let (mut items, mut state) = (BTreeMap::new(), BTreeMap::new());
    let mut expected = view.floor();
    for entry in view.iter() {
        let entry = entry?;
        assert_eq!(entry.seq(), expected, "a hole in the timeline");
        expected += 1;
        items.insert(entry.seq(), item(&entry));
    }
    assert_eq!(expected, view.next_seq(), "the timeline ends early");
    for value in view.states("") {
        let value = value?;
        let seen = Value { hash: hash(value.value()), revision: Some(value.revision().0) };
        state.insert(value.key().to_owned(), seen);
    }
    Ok(Seen { floor: view.floor(), next: view.next_seq(), items, state })
}

/// All that a store shows.
pub fn look_at_all(store: &Store) -> memlog::Result<BTreeMap<String, Seen>> {
    let mut seen = BTreeMap::new();
    for agent in store.agents("") {
        let agent = agent?;
        let before = seen.insert(agent.name().to_owned(), look(&agent.view()?)?);
        assert!(before.is_none(), "agents() gives {} twice", agent.name());
    }
    let back: BTreeSet<String> =
        store.agents("").rev().map(|a| a.map(|a| a.name().to_owned())).collect::<Result<_, _>>()?;
    assert!(back.iter().eq(seen.keys()), "agents() differs by direction");
    Ok(seen)
}
