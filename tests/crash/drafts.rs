//! Batches in the making: what is put into the store, and into the ledger.

use memlog::{Batch, Durability, Kind, NewEntry};

use crate::campaign;
use crate::model::{self, Item, Op, hash};
use crate::rng::bytes;
use crate::world::{EPOCH, KEYS, World, time};

/// A batch in the making, for the store and for the ledger.
pub struct Draft {
    pub batch: Batch,
    pub ops: Vec<(String, Op)>,
    pub model: model::Model,
    pub durability: Durability,
}

impl World {
    /// How long something gets.
    fn size(&mut self) -> usize {
        let size = self.full_size() >> self.halved;
        assert!(!campaign::is_to_fail(size), "so large");
        size
    }

    fn full_size(&mut self) -> usize {
        if self.flavor.compacts {
            let most = *self.rng.pick(&[100, 3000, 6000, 6000, 40_000]);
            let most = if self.flavor.wide { most * 9 } else { most };
            return self.rng.below(most) as usize;
        }
        let size = if self.rng.one_in(self.flavor.huge) {
            (200 << 10) + self.rng.below(1100 << 10)
        } else if self.rng.one_in(self.flavor.large) {
            8000 + self.rng.below(60_000)
        } else if self.rng.one_in(3) {
            self.rng.below(5000)
        } else {
            self.rng.below(120)
        };
        size as usize
    }

    pub fn draft(&mut self) -> Draft {
        let store = self.store();
        let batch = store.batch();
        let durability = self.flavor.default;
        Draft { batch, ops: Vec::new(), model: self.ledger.now().clone(), durability }
    }

    pub fn expect(&mut self, draft: &mut Draft, name: &str, wrong: bool) {
        if !wrong && !self.rng.one_in(3) {
            return;
        }
        let agent = self.store().agent(name).unwrap();
        let life = draft.model.get(name);
        let key = *self.rng.pick(KEYS);
        let value = life.and_then(|life| life.state.get(key));
        let revision = match value {
            None => Some(0),
            Some(value) => value.revision,
        };
        match revision {
            Some(revision) if self.rng.one_in(2) => {
                let told = revision + if wrong { 1 + self.rng.below(2) * 8 } else { 0 };
                let at = (told != 0).then_some(memlog::Lsn(told));
                draft.batch.expect_revision(&agent, key, at);
            }
            _ => {
                let next = life.map_or(1, |life| life.next) + u64::from(wrong);
                draft.batch.expect_next(&agent, next);
            }
        }
    }

    /// Adds one change of an agent to a batch.
    pub fn change(&mut self, draft: &mut Draft, name: &str) {
        let agent = self.store().agent(name).unwrap();
        let (next, floor) = draft.model.get(name).map_or((1, 1), |life| (life.next, life.floor));
        let key = *self.rng.pick(KEYS);
        let op = match self.rng.below(40) {
            0..24 => self.append(&mut draft.batch, &agent),
            24..29 => {
                let len = self.size();
                let value = self.fill(len);
                draft.batch.set(&agent, key, &value);
                Op::Set(key.into(), hash(&value))
            }
            29..31 => {
                draft.batch.unset(&agent, key);
                Op::Unset(key.into())
            }
            31..34 => {
                let seq = floor + self.rng.below((next - floor).min(6) + 1);
                draft.batch.truncate_before(&agent, seq);
                Op::Truncate(seq)
            }
            34..38 if next > 1 => {
                let seq = next - 1 - self.rng.below((next - 1).min(9));
                draft.batch.redact(&agent, seq);
                Op::Redact(seq)
            }
            38 => {
                draft.batch.forget(&agent);
                Op::Forget
            }
            _ => self.append(&mut draft.batch, &agent),
        };
        self.note_op(draft, name, op);
    }

    /// Adds an entry of an agent to a batch.
    pub fn change_by_entry(&mut self, draft: &mut Draft, name: &str) {
        let agent = self.store().agent(name).unwrap();
        let op = self.append(&mut draft.batch, &agent);
        self.note_op(draft, name, op);
    }

    fn note_op(&mut self, draft: &mut Draft, name: &str, op: Op) {
        let op = (name.to_owned(), op);
        model::apply(&mut draft.model, &self.ledger.done(vec![op.clone()]));
        draft.ops.push(op);
    }

    /// Bytes that nobody else puts in.
    fn fill(&mut self, len: usize) -> Vec<u8> {
        let id = self.ledger.bytes.fresh(self.rng.next());
        let bytes = bytes(id, len);
        self.ledger.bytes.know(id, &bytes);
        self.note(|| format!("bytes {id:x}, {len} of them"));
        bytes
    }

    fn append(&mut self, batch: &mut Batch, agent: &memlog::Agent) -> Op {
        let len = self.size();
        let payload = self.fill(len);
        let len = self.rng.below(40) as usize;
        let meta = if self.rng.one_in(3) { self.fill(len) } else { Vec::new() };
        let kind = *self.rng.pick(&[1u16, 2, 3, 4, 5, 6, 7, 300, 65535]);
        let weight = self.rng.below(1000) as u32;
        let joined = self.rng.one_in(4);
        let at = (!self.rng.one_in(5)).then(|| EPOCH - 5000 + self.rng.below(20_000));
        let mut entry = NewEntry::new(Kind::new(kind), &payload).meta(&meta).weight(weight);
        if joined {
            entry = entry.joined();
        }
        if let Some(at) = at {
            entry = entry.at(time(at));
        }
        let expires = self.expiry();
        if let Some(expires) = expires {
            entry = entry.expires_at(time(expires));
        }
        batch.append(agent, entry);
        let (meta, payload) = (hash(&meta), hash(&payload));
        let mut item = Item { at, kind, weight, joined, redacted: false, meta, payload, expires };
        item.expire(self.now());
        Op::Append(item)
    }
}
