//! raft-engine: a group for each agent, an entry for each turn. It has a group commit of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

// A generated message with a number and bytes, so that none need be generated here.
use protobuf::descriptor::UninterpretedOption as Turn;
use raft_engine::{Command, Config, Engine as Raft, LogBatch, MessageExt, ReadableSize};

use super::{Engine, OpenSpec, Visit};
use crate::Res;

struct Entries;

impl MessageExt for Entries {
    type Entry = Turn;

    fn index(entry: &Turn) -> u64 {
        entry.get_positive_int_value()
    }
}

struct Store {
    raft: Arc<Raft>,
    stop: Arc<AtomicBool>,
    purger: Option<JoinHandle<()>>,
}

/// Group of what only carries a sync.
const MARK: u64 = u64::MAX - 1;
/// Log files begin to be purged from here on.
const PURGE_FROM: u64 = 256 << 20;

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let config = Config {
        dir: spec.dir.to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize::mb(64),
        purge_threshold: ReadableSize(PURGE_FROM),
        // Files filled ahead make a durable append one write and one flush.
        prefill_for_recycle: spec.durable,
        prefill_limit: spec.durable.then_some(ReadableSize(PURGE_FROM)),
        ..Config::default()
    };
    let raft = Arc::new(Raft::open(config)?);
    let stop = Arc::new(AtomicBool::new(false));
    // The user has to call for purging; TiKV does so every 10 s, and for longer runs.
    let purger = {
        let (raft, stop) = (Arc::clone(&raft), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_secs(1));
                let _ = raft.purge_expired_files();
            }
        })
    };
    Ok(Box::new(Store { raft, stop, purger: Some(purger) }))
}

fn group(agent: u32) -> u64 {
    u64::from(agent) + 1
}

impl Store {
    fn visit(&self, agent: u32, from: u64, before: u64, visit: Visit<'_>) -> Res<()> {
        let mut entries = Vec::with_capacity((before - from) as usize);
        self.raft.fetch_entries_to::<Entries>(group(agent), from, before, None, &mut entries)?;
        for entry in &entries {
            visit(entry.get_positive_int_value(), entry.get_string_value());
        }
        Ok(())
    }
}

impl Engine for Store {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        let mut entry = Turn::default();
        entry.set_positive_int_value(seq);
        entry.set_string_value(turn.to_vec());
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Entries>(group(agent), &[entry])?;
        self.raft.write(&mut batch, durable)?;
        Ok(())
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        let first = self.raft.first_index(group(agent));
        let (Some(first), Some(last)) = (first, self.raft.last_index(group(agent))) else {
            return Ok(());
        };
        self.visit(agent, first.max((last + 1).saturating_sub(n)), last + 1, visit)
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        let entry = self.raft.get_entry::<Entries>(group(agent), seq)?;
        if let Some(entry) = &entry {
            visit(seq, entry.get_string_value());
        }
        Ok(entry.is_some())
    }

    fn truncate(&self, agent: u32, _from: u64, before: u64) -> Res<()> {
        let mut batch = LogBatch::with_capacity(1);
        batch.add_command(group(agent), Command::Compact { index: before });
        self.raft.write(&mut batch, false)?;
        Ok(())
    }

    fn sync(&self) -> Res<()> {
        // `Raft::sync` writes an empty batch, and those return before anything is synced.
        let mut batch = LogBatch::with_capacity(1);
        batch.put(MARK, b"synced".to_vec(), vec![1])?;
        self.raft.write(&mut batch, true)?;
        Ok(())
    }

    fn settle(&self) -> Res<()> {
        self.raft.purge_expired_files()?;
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Res<()> {
        self.sync()?;
        self.stop.store(true, Ordering::Relaxed);
        if let Some(purger) = self.purger.take() {
            purger.thread().unpark();
            let _ = purger.join();
        }
        Ok(())
    }
}
