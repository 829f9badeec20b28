//! SurrealKV, with a runtime of two threads. It has a group commit of its own.

use std::sync::Arc;

use surrealkv::{
    CompactRangeOptions, Durability, LSMIterator, Mode, Options, ReadOptions, Tree, TreeBuilder,
};
use tokio::runtime::Runtime;

use super::batcher::{Batcher, Group, Item, Sink};
use super::{Engine, OpenSpec, Visit, key, seq_of_key};
use crate::Res;

struct Surreal {
    inner: Arc<Inner>,
    buffered: Batcher<Inner>,
}

struct Inner {
    runtime: Runtime,
    tree: Tree,
}

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let options = Options::new()
        .with_path(spec.dir.clone())
        .without_compression()
        .with_block_size(16 << 10)
        .with_block_cache_capacity(spec.cache as u64)
        // Only keys count in it: about 64 MiB of turns.
        .with_max_memtable_size(8 << 20)
        .with_wal_preallocation(spec.durable);
    let tree = {
        let _inside = runtime.enter();
        TreeBuilder::with_options(options).build()?
    };
    let inner = Arc::new(Inner { runtime, tree });
    Ok(Box::new(Surreal { buffered: Batcher::new(Arc::clone(&inner)), inner }))
}

impl Sink for Inner {
    fn write(&self, group: &Group, _durable: bool) -> Res<()> {
        let mut txn = self.tree.begin_with_mode(Mode::WriteOnly)?;
        for item in group.items() {
            match item {
                Item::Append { agent, seq, turn } => txn.set(&key(agent, seq), turn)?,
                Item::Truncate { agent, from, before } => {
                    for seq in from..before {
                        txn.delete(&key(agent, seq))?;
                    }
                }
            }
        }
        Ok(self.runtime.block_on(txn.commit())?)
    }
}

impl Engine for Surreal {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        if !durable {
            return self.buffered.append(agent, seq, turn, false);
        }
        let mut txn = self.inner.tree.begin_with_mode(Mode::WriteOnly)?;
        txn.set_durability(Durability::Immediate);
        txn.set(&key(agent, seq), turn)?;
        Ok(self.inner.runtime.block_on(txn.commit())?)
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        self.buffered.flush()?;
        let txn = self.inner.tree.begin_with_mode(Mode::ReadOnly)?;
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(Some(key(agent, 0).to_vec()));
        options.set_iterate_upper_bound(Some(key(agent, u64::from(u32::MAX)).to_vec()));
        let mut found = txn.range_with_options(&options)?;
        let mut more = found.seek_last()?;
        for _ in 0..n {
            if !more {
                break;
            }
            visit(seq_of_key(found.key().user_key())?, &found.value_ref()?);
            more = found.prev()?;
        }
        Ok(())
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        self.buffered.flush()?;
        let txn = self.inner.tree.begin_with_mode(Mode::ReadOnly)?;
        let turn = txn.get(&key(agent, seq))?;
        if let Some(turn) = &turn {
            visit(seq, turn);
        }
        Ok(turn.is_some())
    }

    fn truncate(&self, agent: u32, from: u64, before: u64) -> Res<()> {
        self.buffered.truncate(agent, from, before)
    }

    fn sync(&self) -> Res<()> {
        self.buffered.flush()?;
        Ok(self.inner.tree.flush_wal(true)?)
    }

    fn settle(&self) -> Res<()> {
        self.buffered.flush()?;
        Ok(self.inner.tree.compact_range(None, None, &CompactRangeOptions::default())?)
    }

    fn close(self: Box<Self>) -> Res<()> {
        self.buffered.flush()?;
        Ok(self.inner.runtime.block_on(self.inner.tree.close())?)
    }
}
