//! The model: what the store must show, changed by the same batches as the store.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use memlog::View;
use xxhash_rust::xxh3::xxh3_64;

/// An entry as it was appended. Payloads are kept by their hash.
#[derive(Clone, Debug)]
pub struct Item {
    /// Milliseconds since the epoch.
    pub at: u64,
    pub kind: u16,
    pub len: u32,
    pub hash: u64,
    /// The number of its mark; 0 if the payload is too short for one.
    pub id: u64,
    pub expires: Option<u64>,
    pub redacted: bool,
}

/// A value of a state.
#[derive(Clone, Debug)]
pub struct Value {
    pub len: u32,
    pub hash: u64,
    pub id: u64,
    /// The lsn of the batch that set it, if the model knows it.
    pub revision: Option<u64>,
}

/// A retention policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub entries: Option<u64>,
    pub bytes: Option<u64>,
    /// Milliseconds.
    pub age: Option<u64>,
}

/// The time that the store may go by, in milliseconds since the epoch: the earliest and the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub lo: u64,
    pub hi: u64,
}

/// One life of an agent: its entries from the floor on, its state, its own policy.
#[derive(Clone, Debug)]
pub struct Life {
    pub floor: u64,
    pub items: VecDeque<Item>,
    pub state: BTreeMap<String, Value>,
    pub policy: Option<Policy>,
}

#[derive(Clone, Debug)]
pub enum Op {
    Append(Item),
    Set(String, Value),
    Unset(String),
    Truncate(u64),
    Redact(u64),
    Forget,
    ForgetPrefix,
    Policy(Option<Policy>),
}

/// A batch: changes of agents in order (for `ForgetPrefix` the name is the prefix), and its lsn.
#[derive(Clone, Debug)]
pub struct Done {
    pub ops: Vec<(String, Op)>,
    pub lsn: Option<u64>,
}

/// All agents that exist, and the policy of those without one of their own.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub agents: BTreeMap<String, Life>,
    pub default: Policy,
}

/// What a view shows of an entry.
#[derive(Clone, Debug)]
pub struct SeenItem {
    pub at: u64,
    pub kind: u16,
    pub redacted: bool,
    pub hash: u64,
    pub len: usize,
}

/// What a view shows of an agent.
#[derive(Clone, Debug)]
pub struct Seen {
    pub floor: u64,
    pub next: u64,
    pub items: Vec<SeenItem>,
    /// Key, hash of the value, revision.
    pub state: Vec<(String, u64, u64)>,
}

pub fn hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

impl Item {
    fn is_hidden(&self, time: u64) -> bool {
        self.redacted || self.expires.is_some_and(|expires| expires <= time)
    }

    /// Whether its bytes may still be shown by a store whose time is within the span.
    pub fn is_live(&self, span: Span) -> bool {
        !self.is_hidden(span.lo)
    }

    fn matches(&self, seen: &SeenItem, span: Span) -> bool {
        if (self.at, self.kind) != (seen.at, seen.kind) {
            return false;
        }
        if seen.redacted {
            return seen.len == 0 && self.is_hidden(span.hi);
        }
        !self.is_hidden(span.lo) && (self.hash, self.len as usize) == (seen.hash, seen.len)
    }
}

impl Life {
    fn new() -> Life {
        Life { floor: 1, items: VecDeque::new(), state: BTreeMap::new(), policy: None }
    }

    pub fn next(&self) -> u64 {
        self.floor + self.items.len() as u64
    }

    /// The floor under a policy at a time, at the least: what is hidden may take no bytes any more.
    pub fn floor_at(&self, default: Policy, time: u64) -> u64 {
        let may_be_hollow = |item: &Item| item.redacted || item.expires.is_some();
        self.floor_by(default, time, &|item| if may_be_hollow(item) { 0 } else { item.len.into() })
    }

    /// The same at the most: what is hidden may take its bytes yet.
    pub fn floor_up_to(&self, default: Policy, time: u64) -> u64 {
        self.floor_by(default, time, &|item| item.len.into())
    }

    fn floor_by(&self, default: Policy, time: u64, len: &dyn Fn(&Item) -> u64) -> u64 {
        let policy = self.policy.unwrap_or(default);
        let mut floor = self.floor;
        if let Some(most) = policy.entries {
            floor = floor.max(self.next().saturating_sub(most));
        }
        if let Some(age) = policy.age {
            let young = |item: &Item| item.at >= time.saturating_sub(age);
            let first = self.items.iter().position(young).unwrap_or(self.items.len());
            floor = floor.max(self.floor + first as u64);
        }
        if let Some(most) = policy.bytes {
            floor = floor.max(self.floor_by_bytes(most, len));
        }
        floor.min(self.next())
    }

    fn floor_by_bytes(&self, most: u64, len: &dyn Fn(&Item) -> u64) -> u64 {
        let mut left = most;
        for (index, item) in self.items.iter().enumerate().rev() {
            if len(item) > left {
                return self.floor + index as u64 + 1;
            }
            left -= len(item);
        }
        self.floor
    }

    fn raise(&mut self, floor: u64) {
        let floor = floor.clamp(self.floor, self.next());
        self.items.drain(..(floor - self.floor) as usize);
        self.floor = floor;
    }

    pub fn item_mut(&mut self, seq: u64) -> Option<&mut Item> {
        self.items.get_mut(seq.checked_sub(self.floor)? as usize)
    }

    fn change(&mut self, op: &Op, lsn: Option<u64>) {
        match op {
            Op::Append(item) => self.items.push_back(item.clone()),
            Op::Set(key, value) => {
                let value = Value { revision: lsn, ..value.clone() };
                self.state.insert(key.clone(), value);
            }
            Op::Unset(key) => drop(self.state.remove(key)),
            Op::Truncate(seq) => self.raise(*seq),
            Op::Redact(seq) => {
                if let Some(item) = self.item_mut(*seq) {
                    item.redacted = true;
                }
            }
            Op::Policy(policy) => self.policy = *policy,
            Op::Forget | Op::ForgetPrefix => {}
        }
    }

    /// Says how a view differs from this life, if it does.
    fn differs(&self, seen: &Seen, default: Policy, span: Span) -> Option<String> {
        let (lo, hi) = (self.floor_at(default, span.lo), self.floor_up_to(default, span.hi));
        if seen.next != self.next() || seen.floor < lo || seen.floor > hi {
            return Some(format!(
                "model {lo}..{} (floor up to {hi}), store {}..{}; policy {:?}, default {default:?}",
                self.next(),
                seen.floor,
                seen.next,
                self.policy
            ));
        }
        let items = self.items.iter().skip((seen.floor - self.floor) as usize);
        for (index, (item, told)) in items.zip(&seen.items).enumerate() {
            if !item.matches(told, span) {
                let seq = seen.floor + index as u64;
                return Some(format!("seq {seq} at {span:?}: model {item:?}, store {told:?}"));
            }
        }
        let keys = self.state.iter().zip(&seen.state);
        for ((key, value), (told, hash, revision)) in keys {
            let revised = value.revision.is_none_or(|known| known == *revision);
            if key != told || value.hash != *hash || !revised {
                return Some(format!(
                    "state {key:?} {value:?}: store {told:?}, {hash}, {revision}"
                ));
            }
        }
        let (ours, theirs) = (self.state.len(), seen.state.len());
        (ours != theirs).then(|| format!("model has {ours} keys, store {theirs}"))
    }
}

impl Model {
    pub fn apply(&mut self, done: &Done) {
        for (name, op) in &done.ops {
            match op {
                Op::Forget => drop(self.agents.remove(name)),
                Op::ForgetPrefix => {
                    for gone in self.under(name) {
                        self.agents.remove(&gone);
                    }
                }
                Op::Append(_) | Op::Set(..) | Op::Policy(_) => {
                    let life = self.agents.entry(name.clone()).or_insert_with(Life::new);
                    life.change(op, done.lsn);
                }
                Op::Unset(_) | Op::Truncate(_) | Op::Redact(_) => {
                    if let Some(life) = self.agents.get_mut(name) {
                        life.change(op, done.lsn);
                    }
                }
            }
        }
    }

    /// The names that begin with a prefix.
    pub fn under(&self, prefix: &str) -> Vec<String> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let names = self.agents.range::<str, _>(from).map(|(name, _)| name);
        names.take_while(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Lets go of what policies have dropped for good by a time that is on the disk.
    pub fn trim(&mut self, time: u64) {
        let default = self.default;
        for life in self.agents.values_mut() {
            life.raise(life.floor_at(default, time));
        }
    }

    /// Says how what a view shows differs from the model, if it does.
    pub fn differs(&self, name: &str, seen: &Seen, span: Span) -> Option<String> {
        match self.agents.get(name) {
            Some(life) => life.differs(seen, self.default, span),
            None => Life::new().differs(seen, Policy::default(), span),
        }
    }
}

/// All that a view shows.
pub fn look(view: &View) -> memlog::Result<Seen> {
    let mut items = Vec::new();
    for entry in view.iter() {
        let entry = entry?;
        assert_eq!(entry.seq(), view.floor() + items.len() as u64, "a hole in the timeline");
        let at = entry.at().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        items.push(SeenItem {
            at,
            kind: entry.kind().get(),
            redacted: entry.is_redacted(),
            hash: hash(entry.payload()),
            len: entry.payload().len(),
        });
    }
    let expected = view.next_seq() - view.floor();
    assert_eq!(items.len() as u64, expected, "the timeline ends early");
    let mut state = Vec::new();
    for value in view.states("") {
        let value = value?;
        state.push((value.key().to_owned(), hash(value.value()), value.revision().0));
    }
    Ok(Seen { floor: view.floor(), next: view.next_seq(), items, state })
}

/// What a view without entries and state shows.
pub fn is_absent(seen: &Seen) -> bool {
    (seen.floor, seen.next, seen.state.len()) == (1, 1, 0)
}
