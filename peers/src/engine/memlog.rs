//! memlog, with its defaults.

use std::sync::OnceLock;

use memlog::{Agent, CompactOutcome, Durability, Kind, NewEntry, Options, Store};

use super::{Engine, OpenSpec, Visit};
use crate::Res;

struct Memlog {
    store: Store,
    /// Handles, as a runtime holds those of the agents that it serves.
    agents: Vec<OnceLock<Agent>>,
}

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let store = Options::new().open(&spec.dir)?;
    let agents = (0..spec.agents).map(|_| OnceLock::new()).collect();
    Ok(Box::new(Memlog { store, agents }))
}

impl Memlog {
    fn agent(&self, agent: u32) -> Res<&Agent> {
        let place = &self.agents[agent as usize];
        if let Some(handle) = place.get() {
            return Ok(handle);
        }
        let handle = self.store.agent(&format!("tenant-{}/thread-{agent:08}", agent % 100))?;
        Ok(place.get_or_init(|| handle))
    }
}

impl Engine for Memlog {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        let agent = self.agent(agent)?;
        let durability = if durable { Durability::Sync } else { Durability::Buffer };
        let entry = NewEntry::new(Kind::USER, turn);
        let receipt = self.store.batch().append(agent, entry).durability(durability).commit()?;
        match receipt.seqs(agent).start == seq {
            true => Ok(()),
            false => Err(format!("seq {seq} was expected").into()),
        }
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        for entry in self.agent(agent)?.view()?.latest(n as usize) {
            let entry = entry?;
            visit(entry.seq(), entry.payload());
        }
        Ok(())
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        let view = self.agent(agent)?.view()?;
        let entry = view.get(seq)?;
        if let Some(entry) = &entry {
            visit(seq, entry.payload());
        }
        Ok(entry.is_some())
    }

    fn truncate(&self, agent: u32, _from: u64, before: u64) -> Res<()> {
        let agent = self.agent(agent)?;
        let mut batch = self.store.batch();
        batch.truncate_before(agent, before).durability(Durability::Buffer).commit()?;
        Ok(())
    }

    fn sync(&self) -> Res<()> {
        Ok(self.store.sync()?)
    }

    fn settle(&self) -> Res<()> {
        while matches!(self.store.compact()?, CompactOutcome::More) {}
        Ok(())
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.store.close()?)
    }
}
