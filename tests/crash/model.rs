//! What the store should hold: a model in memory, changed by the same batches.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

/// An entry as a reader sees it; bytes by their hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `None`: the engine's now, which the model does not know.
    pub at: Option<u64>,
    pub kind: u16,
    pub weight: u32,
    pub joined: bool,
    pub redacted: bool,
    pub meta: u64,
    pub payload: u64,
    /// From when on it shows nothing; a reader is not told.
    pub expires: Option<u64>,
}

/// A value of a state: hash of the bytes, and revision if the model knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub hash: u64,
    pub revision: Option<u64>,
}

/// A life of an agent.
#[derive(Clone, Debug)]
pub struct Life {
    pub next: u64,
    pub floor: u64,
    pub items: BTreeMap<u64, Item>,
    pub state: BTreeMap<String, Value>,
    /// The most entries kept, by its own policy,
    pub policy: Option<u64>,
    /// or else by the store's.
    pub default: Option<u64>,
}

/// What a view shows of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub floor: u64,
    pub next: u64,
    pub items: BTreeMap<u64, Item>,
    pub state: BTreeMap<String, Value>,
}

/// The agents that exist.
pub type Model = BTreeMap<String, Life>;

#[derive(Clone, Debug)]
pub enum Op {
    Append(Item),
    Set(String, u64),
    Unset(String),
    Truncate(u64),
    Redact(u64),
    Forget,
    Policy(Option<u64>),
    ForgetPrefix,
    /// The store's default of retention was another from here on.
    Default(Option<u64>),
}

/// A batch: changes of agents in order (for `ForgetPrefix` the name is the prefix), and its lsn.
#[derive(Clone, Debug)]
pub struct Done {
    pub ops: Vec<(String, Op)>,
    pub lsn: Option<u64>,
    /// The most entries kept by default.
    pub default: Option<u64>,
}

pub fn hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

impl Life {
    pub fn new(default: Option<u64>) -> Life {
        let (items, state) = Default::default();
        Life { next: 1, floor: 1, items, state, policy: None, default }
    }

    pub fn view_floor(&self) -> u64 {
        let kept = self.policy.or(self.default).map_or(1, |most| self.next.saturating_sub(most));
        self.floor.max(kept).min(self.next)
    }

    /// What the old default has dropped stays dropped.
    fn set_default(&mut self, most: Option<u64>) {
        if self.policy.is_none() {
            self.floor = self.view_floor();
            self.items = self.items.split_off(&self.floor);
        }
        self.default = most;
    }

    pub fn seen(&self) -> Seen {
        let floor = self.view_floor();
        Seen {
            floor,
            next: self.next,
            items: self.items.range(floor..).map(|(seq, item)| (*seq, item.clone())).collect(),
            state: self.state.clone(),
        }
    }
}

/// What a view shows of an agent that need not exist.
pub fn seen(model: &Model, name: &str) -> Seen {
    model.get(name).map_or_else(|| Life::new(None).seen(), Life::seen)
}

pub fn apply(model: &mut Model, done: &Done) {
    let new = || Life::new(done.default);
    for (name, op) in &done.ops {
        match op {
            Op::Append(item) => {
                let life = model.entry(name.clone()).or_insert_with(new);
                life.items.insert(life.next, item.clone());
                life.next += 1;
            }
            Op::Set(key, hash) => {
                let life = model.entry(name.clone()).or_insert_with(new);
                life.state.insert(key.clone(), Value { hash: *hash, revision: done.lsn });
            }
            Op::Policy(policy) => {
                model.entry(name.clone()).or_insert_with(new).policy = *policy;
            }
            Op::Default(most) => model.values_mut().for_each(|life| life.set_default(*most)),
            Op::Forget => drop(model.remove(name)),
            Op::ForgetPrefix => model.retain(|agent, _| !agent.starts_with(name.as_str())),
            Op::Unset(_) | Op::Truncate(_) | Op::Redact(_) => {
                if let Some(life) = model.get_mut(name) {
                    change(life, op);
                }
            }
        }
    }
}

fn change(life: &mut Life, op: &Op) {
    match op {
        Op::Unset(key) => drop(life.state.remove(key)),
        Op::Truncate(seq) => {
            life.floor = life.floor.max((*seq).min(life.next));
            life.items = life.items.split_off(&life.floor);
        }
        Op::Redact(seq) => {
            if let Some(item) = life.items.get_mut(seq) {
                item.hide();
            }
        }
        _ => {}
    }
}

/// What expires by then shows nothing any more.
pub fn expire(model: &mut Model, time: u64) {
    model.values_mut().flat_map(|life| life.items.values_mut()).for_each(|item| item.expire(time));
}

impl Item {
    fn hide(&mut self) {
        self.redacted = true;
        self.meta = hash(&[]);
        self.payload = hash(&[]);
    }

    pub fn expire(&mut self, time: u64) {
        if self.expires.is_some_and(|expires| expires <= time) {
            self.hide();
        }
    }

    /// Whether this is what a reader may have seen, where the model knows it.
    fn matches(&self, seen: &Item) -> bool {
        let told = Item { at: self.at.or(seen.at), expires: None, ..self.clone() };
        told == *seen
    }
}

impl Seen {
    /// Whether this is what a reader may have seen, where the model knows it.
    pub fn matches(&self, seen: &Seen) -> bool {
        let items = || {
            let pairs = self.items.iter().zip(&seen.items);
            pairs.into_iter().all(|((a, x), (b, y))| a == b && x.matches(y))
        };
        let states = || {
            let pairs = self.state.iter().zip(&seen.state);
            pairs.into_iter().all(|((a, x), (b, y))| {
                a == b && x.hash == y.hash && (x.revision.is_none() || x.revision == y.revision)
            })
        };
        (self.floor, self.next) == (seen.floor, seen.next)
            && (self.items.len(), self.state.len()) == (seen.items.len(), seen.state.len())
            && items()
            && states()
    }
}

/// Whether a model says what was seen of the whole store.
pub fn agrees(model: &Model, seen: &BTreeMap<String, Seen>) -> bool {
    model.len() == seen.len()
        && model.iter().zip(seen).all(|((a, x), (b, y))| a == b && x.seen().matches(y))
}

/// Where a model and what was seen differ, in words.
pub fn differences(model: &Model, seen: &BTreeMap<String, Seen>) -> String {
    let mut out = String::new();
    let names: std::collections::BTreeSet<&String> = model.keys().chain(seen.keys()).collect();
    for name in names {
        let (x, y) = (model.get(name).map(Life::seen), seen.get(name));
        match (x, y) {
            (Some(x), Some(y)) if x.matches(y) => {}
            (Some(x), Some(y)) => {
                out += &format!(
                    "\n  {name}: model {}..{}, store {}..{}",
                    x.floor, x.next, y.floor, y.next
                );
                for (seq, item) in &x.items {
                    if y.items.get(seq).is_none_or(|seen| !item.matches(seen)) {
                        out += &format!("\n    seq {seq}: {item:?} but {:?}", y.items.get(seq));
                    }
                }
                if x.state != y.state {
                    out += &format!("\n    state: {:?} but {:?}", x.state, y.state);
                }
            }
            (x, y) => {
                let exists = |is: bool| if is { "there" } else { "absent" };
                out += &format!(
                    "\n  {name}: model {}, store {}",
                    exists(x.is_some()),
                    exists(y.is_some())
                );
            }
        }
    }
    out
}
