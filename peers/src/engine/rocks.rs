//! RocksDB: one column family, key = agent and seq. It has a group commit of its own.

use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WaitForCompactOptions,
    WriteBatch, WriteOptions,
};

use super::batcher::{Batcher, Group, Item, Sink};
use super::{Engine, OpenSpec, Visit, key, seq_of_key};
use crate::Res;

struct Rocks {
    db: Arc<Inner>,
    buffered: Batcher<Inner>,
    synced: WriteOptions,
}

struct Inner(DB);

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(spec.cache));
    table.set_bloom_filter(10.0, false);
    table.set_block_size(16 << 10);
    table.set_cache_index_and_filter_blocks(false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(64 << 20);
    options.set_max_write_buffer_number(4);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    let db = Arc::new(Inner(DB::open(&options, &spec.dir)?));
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    Ok(Box::new(Rocks { buffered: Batcher::new(Arc::clone(&db)), db, synced }))
}

impl Sink for Inner {
    fn write(&self, group: &Group, _durable: bool) -> Res<()> {
        let mut batch = WriteBatch::default();
        for item in group.items() {
            match item {
                Item::Append { agent, seq, turn } => batch.put(key(agent, seq), turn),
                // Few keys go at a time, and range tombstones are dear to later reads.
                Item::Truncate { agent, from, before } if before - from <= 64 => {
                    (from..before).for_each(|seq| batch.delete(key(agent, seq)));
                }
                Item::Truncate { agent, from, before } => {
                    batch.delete_range(key(agent, from), key(agent, before));
                }
            }
        }
        Ok(self.0.write(batch)?)
    }
}

impl Engine for Rocks {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        if durable {
            return Ok(self.db.0.put_opt(key(agent, seq), turn, &self.synced)?);
        }
        self.buffered.append(agent, seq, turn, false)
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        self.buffered.flush()?;
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(key(agent, 0));
        let mut found = self.db.0.raw_iterator_opt(options);
        found.seek_for_prev(key(agent, u64::from(u32::MAX)));
        for _ in 0..n {
            let Some((key, turn)) = found.item() else { break };
            visit(seq_of_key(key)?, turn);
            found.prev();
        }
        Ok(found.status()?)
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        self.buffered.flush()?;
        let turn = self.db.0.get_pinned(key(agent, seq))?;
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
        Ok(self.db.0.flush_wal(true)?)
    }

    fn settle(&self) -> Res<()> {
        self.buffered.flush()?;
        self.db.0.flush()?;
        self.db.0.compact_range::<&[u8], &[u8]>(None, None);
        Ok(self.db.0.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn close(self: Box<Self>) -> Res<()> {
        self.sync()?;
        self.db.0.cancel_all_background_work(true);
        Ok(())
    }
}
