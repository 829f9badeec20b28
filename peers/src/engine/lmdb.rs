//! LMDB through heed: one database, key = agent and seq. One writer at a time, so threads share
//! transactions here.

use std::sync::Arc;

use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::batcher::{Batcher, Group, Item, Sink};
use super::{Engine, OpenSpec, Visit, number, seq_of};
use crate::Res;

type Turns = Database<'static, U64<heed::byteorder::BigEndian>, Bytes>;

/// More than any run needs; a map takes addresses only.
const MAP: usize = 64 << 30;

struct Lmdb {
    inner: Arc<Inner>,
    batcher: Batcher<Inner>,
}

struct Inner {
    env: Env<WithoutTls>,
    turns: Turns,
}

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP).max_readers(1024);
    // SAFETY: the file is this process's alone. Without durable appends nothing is promised before
    // the final sync.
    let env = unsafe {
        if !spec.durable {
            options.flags(EnvFlags::NO_SYNC);
        }
        options.open(&spec.dir)?
    };
    let known = env
        .open_databases_and_commit(env.read_txn()?, |opener, txn| {
            opener.open_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
        })?
        .unwrap_commit();
    let turns = match known {
        Some(turns) => turns,
        None => env
            .create_databases_and_commit(env.write_txn()?, |opener, txn| {
                opener.create_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
            })?
            .unwrap_commit(),
    };
    let inner = Arc::new(Inner { env, turns });
    Ok(Box::new(Lmdb { batcher: Batcher::new(Arc::clone(&inner)), inner }))
}

impl Sink for Inner {
    fn write(&self, group: &Group, _durable: bool) -> Res<()> {
        let mut txn = self.env.write_txn()?;
        for item in group.items() {
            match item {
                Item::Append { agent, seq, turn } => {
                    self.turns.put(&mut txn, &number(agent, seq), turn)?;
                }
                Item::Truncate { agent, from, before } => {
                    let range = number(agent, from)..number(agent, before);
                    self.turns.delete_range(&mut txn, &range)?;
                }
            }
        }
        Ok(txn.commit()?)
    }
}

impl Engine for Lmdb {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        self.batcher.append(agent, seq, turn, durable)
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        self.batcher.flush()?;
        let txn = self.inner.env.read_txn()?;
        let range = number(agent, 0)..=number(agent, u64::from(u32::MAX));
        for found in self.inner.turns.rev_range(&txn, &range)?.take(n as usize) {
            let (key, turn) = found?;
            visit(seq_of(key), turn);
        }
        Ok(())
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        self.batcher.flush()?;
        let txn = self.inner.env.read_txn()?;
        let turn = self.inner.turns.get(&txn, &number(agent, seq))?;
        if let Some(turn) = turn {
            visit(seq, turn);
        }
        Ok(turn.is_some())
    }

    fn truncate(&self, agent: u32, from: u64, before: u64) -> Res<()> {
        self.batcher.truncate(agent, from, before)
    }

    fn sync(&self) -> Res<()> {
        self.batcher.flush()?;
        Ok(self.inner.env.force_sync()?)
    }

    fn close(self: Box<Self>) -> Res<()> {
        self.sync()?;
        let Lmdb { inner, batcher } = *self;
        drop(batcher);
        if let Some(inner) = Arc::into_inner(inner) {
            inner.env.prepare_for_closing().wait();
        }
        Ok(())
    }
}
