//! redb: one table, agent and seq in one integer. One writer at a time, so threads share
//! transactions here.

use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::batcher::{Batcher, Group, Item, Sink};
use super::{Engine, OpenSpec, Visit, number, seq_of};
use crate::Res;

const TURNS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("turns");

struct Redb {
    inner: Arc<Inner>,
    batcher: Batcher<Inner>,
}

struct Inner(Database);

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let path = spec.dir.join("turns.redb");
    let inner = Arc::new(Inner(Database::builder().set_cache_size(spec.cache).create(path)?));
    // A transaction that only makes sure of the table would cost an opening two flushes.
    if inner.0.begin_read()?.open_table(TURNS).is_err() {
        let first = inner.0.begin_write()?;
        first.open_table(TURNS)?;
        first.commit()?;
    }
    Ok(Box::new(Redb { batcher: Batcher::new(Arc::clone(&inner)), inner }))
}

impl Sink for Inner {
    fn write(&self, group: &Group, durable: bool) -> Res<()> {
        let mut txn = self.0.begin_write()?;
        txn.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        {
            let mut table = txn.open_table(TURNS)?;
            for item in group.items() {
                match item {
                    Item::Append { agent, seq, turn } => {
                        table.insert(number(agent, seq), turn)?;
                    }
                    Item::Truncate { agent, from, before } => {
                        for seq in from..before {
                            table.remove(number(agent, seq))?;
                        }
                    }
                }
            }
        }
        Ok(txn.commit()?)
    }
}

impl Engine for Redb {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        self.batcher.append(agent, seq, turn, durable)
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        self.batcher.flush()?;
        let table = self.inner.0.begin_read()?.open_table(TURNS)?;
        let range = table.range(number(agent, 0)..=number(agent, u64::from(u32::MAX)))?;
        for found in range.rev().take(n as usize) {
            let (key, turn) = found?;
            visit(seq_of(key.value()), turn.value());
        }
        Ok(())
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        self.batcher.flush()?;
        let table = self.inner.0.begin_read()?.open_table(TURNS)?;
        let turn = table.get(number(agent, seq))?;
        if let Some(turn) = &turn {
            visit(seq, turn.value());
        }
        Ok(turn.is_some())
    }

    fn truncate(&self, agent: u32, from: u64, before: u64) -> Res<()> {
        self.batcher.truncate(agent, from, before)
    }

    fn sync(&self) -> Res<()> {
        self.batcher.flush()?;
        // A durable commit takes the ones before it along.
        Ok(self.inner.0.begin_write()?.commit()?)
    }

    fn close(self: Box<Self>) -> Res<()> {
        self.sync()
    }
}
