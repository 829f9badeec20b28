//! What one writing thread does: batches that a seed gives, and a model of what they leave.
//!
//! A lane owns its agents, so that the order of its batches is the order of what happens to them.
//! Every batch writes its number into the state of the lane's clock: a store says by itself how
//! many batches of the lane it holds.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use memlog::{Batch, Durability, Kind, NewEntry, Retention, Store};

use crate::linux::rng::{Rng, fill};

/// An entry: what it was given, and whether it shows nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub id: u64,
    pub len: usize,
    pub kind: u16,
    pub weight: u32,
    pub joined: bool,
    pub hidden: bool,
}

/// A value: what it was given, and its revision once that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub id: u64,
    pub len: usize,
    pub revision: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub next: u64,
    pub floor: u64,
    pub keep: Option<u64>,
    pub items: BTreeMap<u64, Item>,
    pub state: BTreeMap<String, Value>,
}

impl Life {
    fn new() -> Life {
        Life { next: 1, floor: 1, keep: None, items: BTreeMap::new(), state: BTreeMap::new() }
    }

    /// Raises the floor to what the policy has reached: what it dropped never comes back.
    fn settle(&mut self) {
        let kept = self.keep.map_or(1, |most| self.next.saturating_sub(most));
        self.floor = self.floor.max(kept).min(self.next);
        self.items = self.items.split_off(&self.floor);
    }
}

/// One change of an agent, whose number in the lane is first.
#[derive(Clone, Debug)]
pub enum Change {
    Append(usize, Item),
    Set(usize, String, u64, usize),
    Unset(usize, String),
    Truncate(usize, u64),
    Redact(usize, u64),
    Forget(usize),
}

/// What is done alone, before the batch of the same number.
#[derive(Clone, Debug)]
pub enum Single {
    ForgetPrefix,
    Keep(usize, Option<u64>),
}

/// One step of a lane.
#[derive(Clone, Debug)]
pub struct Step {
    pub number: u64,
    pub single: Option<Single>,
    pub changes: Vec<Change>,
    pub durability: Durability,
    /// Submitted, and waited for later.
    pub submitted: bool,
    /// The agent whose next seq is expected, and that.
    pub expected: Option<(usize, u64)>,
}

/// The agents of a lane. The last two lie under a prefix that is forgotten as a whole.
pub const AGENTS: usize = 6;
/// The state's key that counts steps.
pub const CLOCK: &str = "clock";
const KEYS: &[&str] = &["goal", "plan", "memory/of/a/longer/key", "x"];

/// A lane as of some number of steps.
#[derive(Clone, Debug)]
pub struct Lane {
    pub number: u64,
    pub done: u64,
    pub agents: BTreeMap<usize, Life>,
}

impl Lane {
    pub fn new(number: u64) -> Lane {
        Lane { number, done: 0, agents: BTreeMap::new() }
    }

    pub fn prefix(&self) -> String {
        format!("lane-{}/", self.number)
    }

    pub fn name(&self, agent: usize) -> String {
        let under = if agent + 2 >= AGENTS { "gone/" } else { "" };
        format!("{}{under}{agent}", self.prefix())
    }

    pub fn clock(&self) -> String {
        format!("clock-{}", self.number)
    }

    /// The next step, which depends on the seed, the round and what was done before.
    pub fn step(&self, seed: u64, round: u64) -> Step {
        let number = self.done + 1;
        let mut rng = Rng::of(&[seed, round, self.number, number]);
        let mut draft = self.clone();
        let single = (number > 8 && rng.one_in(60)).then(|| {
            let agent = rng.below(AGENTS as u64) as usize;
            match rng.below(3) {
                0 => Single::ForgetPrefix,
                1 => Single::Keep(agent, None),
                _ => Single::Keep(agent, Some(1 + rng.below(30))),
            }
        });
        if let Some(single) = &single {
            draft.apply_single(single);
        }
        let expected = rng.one_in(4).then(|| {
            let agent = rng.below(AGENTS as u64) as usize;
            (agent, draft.agents.get(&agent).map_or(1, |life| life.next))
        });
        let changes = (0..1 + rng.below(4))
            .map(|_| {
                let change = draft.change(&mut rng);
                draft.apply_change(&change, None);
                change
            })
            .collect();
        let durabilities = [Durability::Sync, Durability::Write, Durability::Buffer];
        let durability = *rng.pick(&durabilities);
        Step { number, single, changes, durability, submitted: rng.one_in(3), expected }
    }

    fn change(&self, rng: &mut Rng) -> Change {
        let agent = rng.below(AGENTS as u64) as usize;
        let (next, floor) = self.agents.get(&agent).map_or((1, 1), |life| (life.next, life.floor));
        let key = (*rng.pick(KEYS)).to_owned();
        match rng.below(40) {
            0..5 => Change::Set(agent, key, rng.next(), size(rng)),
            5..7 => Change::Unset(agent, key),
            7..10 => Change::Truncate(agent, floor + rng.below((next - floor).min(20) + 1)),
            10..13 if next > 1 => Change::Redact(agent, next - 1 - rng.below((next - 1).min(9))),
            13 if rng.one_in(3) => Change::Forget(agent),
            _ => {
                let item = Item {
                    id: rng.next(),
                    len: size(rng),
                    kind: *rng.pick(&[1, 2, 3, 4, 5, 6, 7, 300]),
                    weight: rng.below(1000) as u32,
                    joined: rng.one_in(4),
                    hidden: rng.one_in(30),
                };
                Change::Append(agent, item)
            }
        }
    }

    /// The step took place, in a batch of this lsn if that is known.
    pub fn apply(&mut self, step: &Step, lsn: Option<u64>) {
        if let Some(single) = &step.single {
            self.apply_single(single);
        }
        step.changes.iter().for_each(|change| self.apply_change(change, lsn));
        self.done = step.number;
    }

    pub fn apply_single(&mut self, single: &Single) {
        match single {
            Single::ForgetPrefix => self.agents.retain(|agent, _| agent + 2 < AGENTS),
            Single::Keep(agent, keep) => {
                let life = self.agents.entry(*agent).or_insert_with(Life::new);
                life.settle();
                life.keep = *keep;
                life.settle();
            }
        }
    }

    fn apply_change(&mut self, change: &Change, lsn: Option<u64>) {
        match change {
            Change::Append(agent, item) => {
                let life = self.agents.entry(*agent).or_insert_with(Life::new);
                life.items.insert(life.next, item.clone());
                life.next += 1;
                life.settle();
            }
            Change::Set(agent, key, id, len) => {
                let life = self.agents.entry(*agent).or_insert_with(Life::new);
                let value = Value { id: *id, len: *len, revision: lsn };
                life.state.insert(key.clone(), value);
            }
            Change::Forget(agent) => drop(self.agents.remove(agent)),
            Change::Unset(agent, key) => {
                if let Some(life) = self.agents.get_mut(agent) {
                    life.state.remove(key);
                }
            }
            Change::Truncate(agent, seq) => {
                if let Some(life) = self.agents.get_mut(agent) {
                    life.floor = life.floor.max((*seq).min(life.next));
                    life.settle();
                }
            }
            Change::Redact(agent, seq) => {
                if let Some(item) = self.agents.get_mut(agent).and_then(|l| l.items.get_mut(seq)) {
                    item.hidden = true;
                }
            }
        }
    }

    /// Does what a step does alone.
    pub fn perform_single(&self, store: &Store, single: &Single) -> memlog::Result<()> {
        match single {
            Single::ForgetPrefix => {
                store.forget_prefix(&format!("{}gone/", self.prefix())).map(drop)
            }
            Single::Keep(agent, keep) => {
                let policy = keep.map(|most| Retention::new().max_entries(most));
                store.agent(&self.name(*agent))?.set_retention(policy)
            }
        }
    }

    /// Puts the changes of a step, and its number, into a batch.
    pub fn put(&self, store: &Store, batch: &mut Batch, step: &Step) -> memlog::Result<()> {
        if let Some((agent, next)) = step.expected {
            batch.expect_next(&store.agent(&self.name(agent))?, next);
        }
        for change in &step.changes {
            match change {
                Change::Append(agent, item) => {
                    let payload = fill(item.id, item.len);
                    let mut entry =
                        NewEntry::new(Kind::new(item.kind), &payload).weight(item.weight);
                    if item.joined {
                        entry = entry.joined();
                    }
                    if item.hidden {
                        entry = entry.expires_at(UNIX_EPOCH + Duration::from_secs(1));
                    }
                    batch.append(&store.agent(&self.name(*agent))?, entry);
                }
                Change::Set(agent, key, id, len) => {
                    batch.set(&store.agent(&self.name(*agent))?, key, &fill(*id, *len));
                }
                Change::Unset(agent, key) => {
                    batch.unset(&store.agent(&self.name(*agent))?, key);
                }
                Change::Truncate(agent, seq) => {
                    batch.truncate_before(&store.agent(&self.name(*agent))?, *seq);
                }
                Change::Redact(agent, seq) => {
                    batch.redact(&store.agent(&self.name(*agent))?, *seq);
                }
                Change::Forget(agent) => {
                    batch.forget(&store.agent(&self.name(*agent))?);
                }
            }
        }
        batch.set(&store.agent(&self.clock())?, CLOCK, &step.number.to_le_bytes());
        batch.durability(step.durability);
        Ok(())
    }
}

fn size(rng: &mut Rng) -> usize {
    let most = match rng.below(60) {
        0 => 300 << 10,
        1..4 => 60_000,
        4..30 => 6000,
        _ => 300,
    };
    rng.below(most) as usize
}
