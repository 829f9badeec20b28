//! The engines that are compared, each behind the same few calls.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Res;

mod batcher;
mod fjall;
mod jsonl;
mod lmdb;
mod memlog;
mod raft;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocks;
mod sqlite;
mod surreal;

/// Receives the seq and the bytes of a turn.
pub type Visit<'a> = &'a mut dyn FnMut(u64, &[u8]);

/// A store of turns. Seqs of an agent are dense and begin with 1; the caller knows the next one,
/// and no two threads append to one agent at a time.
pub trait Engine: Send + Sync {
    /// Appends a turn. With `durable` it is on stable storage when the call returns. Without, it
    /// may be in memory only, but is seen by every load.
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()>;

    /// Visits the latest `n` turns of an agent, in any order.
    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()>;

    /// Visits one turn; whether it is there.
    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool>;

    /// Drops the turns of an agent from `from`, its lowest, up to but without `before`. No more
    /// durable than a buffered append.
    fn truncate(&self, agent: u32, from: u64, before: u64) -> Res<()>;

    /// Everything appended so far is on stable storage when the call returns.
    fn sync(&self) -> Res<()>;

    /// Does whatever the engine offers to be best prepared for reads.
    fn settle(&self) -> Res<()> {
        Ok(())
    }

    /// Closes cleanly.
    fn close(self: Box<Self>) -> Res<()>;
}

/// How an engine is opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenSpec {
    pub dir: PathBuf,
    pub agents: u32,
    /// Memory for the engine's own cache, where it has one.
    pub cache: usize,
    /// Whether durable appends will come: some engines are then prepared otherwise.
    pub durable: bool,
}

/// Which engine.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    Memlog,
    Rocksdb,
    Fjall,
    Redb,
    Lmdb,
    Sqlite,
    RaftEngine,
    Surrealkv,
    Jsonl,
}

impl Name {
    /// All, in the order of tables.
    pub const ALL: [Name; 9] = [
        Name::Memlog,
        Name::Rocksdb,
        Name::Fjall,
        Name::Redb,
        Name::Lmdb,
        Name::Sqlite,
        Name::RaftEngine,
        Name::Surrealkv,
        Name::Jsonl,
    ];

    /// As tables have it.
    pub fn text(self) -> &'static str {
        match self {
            Name::Memlog => "memlog",
            Name::Rocksdb => "RocksDB",
            Name::Fjall => "fjall",
            Name::Redb => "redb",
            Name::Lmdb => "LMDB",
            Name::Sqlite => "SQLite",
            Name::RaftEngine => "raft-engine",
            Name::Surrealkv => "SurrealKV",
            Name::Jsonl => "JSONL files",
        }
    }

    /// The crate behind it, as the lock file has it.
    pub fn package(self) -> Option<&'static str> {
        match self {
            Name::Memlog => Some("memlog"),
            Name::Rocksdb => Some("librocksdb-sys"),
            Name::Fjall => Some("fjall"),
            Name::Redb => Some("redb"),
            Name::Lmdb => Some("lmdb-master-sys"),
            Name::Sqlite => Some("libsqlite3-sys"),
            Name::RaftEngine => Some("raft-engine"),
            Name::Surrealkv => Some("surrealkv"),
            Name::Jsonl => None,
        }
    }

    pub fn open(self, spec: &OpenSpec) -> Res<Box<dyn Engine>> {
        std::fs::create_dir_all(&spec.dir)?;
        match self {
            Name::Memlog => memlog::open(spec),
            #[cfg(feature = "rocksdb")]
            Name::Rocksdb => rocks::open(spec),
            #[cfg(not(feature = "rocksdb"))]
            Name::Rocksdb => Err("built without the feature rocksdb".into()),
            Name::Fjall => fjall::open(spec),
            Name::Redb => redb::open(spec),
            Name::Lmdb => lmdb::open(spec),
            Name::Sqlite => sqlite::open(spec),
            Name::RaftEngine => raft::open(spec),
            Name::Surrealkv => surreal::open(spec),
            Name::Jsonl => jsonl::open(spec),
        }
    }
}

/// Agent and seq in one number, ordered by agent.
fn number(agent: u32, seq: u64) -> u64 {
    u64::from(agent) << 32 | (seq & 0xffff_ffff)
}

/// The seq in such a number.
fn seq_of(number: u64) -> u64 {
    number & 0xffff_ffff
}

/// The same as a key that is ordered as bytes.
fn key(agent: u32, seq: u64) -> [u8; 8] {
    number(agent, seq).to_be_bytes()
}

/// The seq in such a key.
fn seq_of_key(key: &[u8]) -> Res<u64> {
    Ok(seq_of(u64::from_be_bytes(key.try_into()?)))
}

/// The directory's entries are on stable storage when the call returns.
fn sync_dir(dir: &Path) -> Res<()> {
    Ok(std::fs::File::open(dir)?.sync_all()?)
}
