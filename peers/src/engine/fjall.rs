//! fjall: one keyspace. It syncs below the lock of its journal, so threads share batches here.

use std::sync::Arc;

use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::batcher::{Batcher, Group, Item, Sink};
use super::{Engine, OpenSpec, Visit, key, seq_of_key};
use crate::Res;

struct Fjall {
    inner: Arc<Inner>,
    batcher: Batcher<Inner>,
}

struct Inner {
    db: Database,
    turns: Keyspace,
}

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let db = Database::builder(&spec.dir)
        .cache_size(spec.cache as u64)
        .journal_compression(CompressionType::None)
        .manual_journal_persist(true)
        .worker_threads(2)
        .open()?;
    let turns = db.keyspace("turns", || {
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .data_block_size_policy(BlockSizePolicy::all(16 << 10))
            .manual_journal_persist(true)
            .max_memtable_size(64 << 20)
    })?;
    let inner = Arc::new(Inner { db, turns });
    Ok(Box::new(Fjall { batcher: Batcher::new(Arc::clone(&inner)), inner }))
}

impl Sink for Inner {
    fn write(&self, group: &Group, durable: bool) -> Res<()> {
        let mode = if durable { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.db.batch().durability(Some(mode));
        for item in group.items() {
            match item {
                Item::Append { agent, seq, turn } => {
                    batch.insert(&self.turns, key(agent, seq), turn)
                }
                Item::Truncate { agent, from, before } => {
                    (from..before).for_each(|seq| batch.remove(&self.turns, key(agent, seq)));
                }
            }
        }
        Ok(batch.commit()?)
    }
}

impl Engine for Fjall {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        self.batcher.append(agent, seq, turn, durable)
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        self.batcher.flush()?;
        let range = self.inner.turns.range(key(agent, 0)..=key(agent, u64::from(u32::MAX)));
        for found in range.rev().take(n as usize) {
            let (key, turn) = found.into_inner()?;
            visit(seq_of_key(&key)?, &turn);
        }
        Ok(())
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        self.batcher.flush()?;
        let turn = self.inner.turns.get(key(agent, seq))?;
        if let Some(turn) = &turn {
            visit(seq, turn);
        }
        Ok(turn.is_some())
    }

    fn truncate(&self, agent: u32, from: u64, before: u64) -> Res<()> {
        self.batcher.truncate(agent, from, before)
    }

    fn sync(&self) -> Res<()> {
        self.batcher.flush()?;
        Ok(self.inner.db.persist(PersistMode::SyncAll)?)
    }

    fn settle(&self) -> Res<()> {
        self.batcher.flush()?;
        self.inner.turns.rotate_memtable_and_wait()?;
        Ok(self.inner.turns.major_compact()?)
    }

    fn close(self: Box<Self>) -> Res<()> {
        self.sync()
    }
}
