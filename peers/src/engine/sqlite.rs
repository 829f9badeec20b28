//! SQLite: one table whose integer key is agent and seq, in WAL mode. One writer at a time, so
//! threads share transactions here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::{Connection, OptionalExtension, params};

use super::batcher::{Batcher, Group, Item, Sink};
use super::{Engine, OpenSpec, Visit, number, seq_of};
use crate::Res;

struct Sqlite {
    inner: Arc<Inner>,
    batcher: Batcher<Inner>,
    /// Connections of readers that are not in use.
    readers: Mutex<Vec<Connection>>,
    path: PathBuf,
    cache: usize,
}

struct Inner(Mutex<Connection>);

pub(super) fn open(spec: &OpenSpec) -> Res<Box<dyn Engine>> {
    let path = spec.dir.join("turns.sqlite");
    let writer = connect(&path, spec.cache)?;
    let level = if spec.durable { "FULL" } else { "NORMAL" };
    writer.pragma_update(None, "synchronous", level)?;
    writer.pragma_update(None, "wal_autocheckpoint", 4096)?;
    writer.execute_batch("CREATE TABLE IF NOT EXISTS turns (id INTEGER PRIMARY KEY, turn BLOB)")?;
    let inner = Arc::new(Inner(Mutex::new(writer)));
    let batcher = Batcher::new(Arc::clone(&inner));
    let cache = spec.cache;
    Ok(Box::new(Sqlite { inner, batcher, readers: Mutex::default(), path, cache }))
}

fn connect(path: &Path, cache: usize) -> Res<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "mmap_size", 8i64 << 30)?;
    // Pages come from the map; the cache is for those that are written.
    connection.pragma_update(None, "cache_size", -((cache >> 10) as i64))?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

impl Sink for Inner {
    fn write(&self, group: &Group, _durable: bool) -> Res<()> {
        let mut writer = lock(&self.0);
        let txn = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut insert = txn.prepare_cached("INSERT INTO turns (id, turn) VALUES (?, ?)")?;
            let mut delete = txn.prepare_cached("DELETE FROM turns WHERE id >= ? AND id < ?")?;
            for item in group.items() {
                match item {
                    Item::Append { agent, seq, turn } => {
                        insert.execute(params![id(agent, seq), turn])?;
                    }
                    Item::Truncate { agent, from, before } => {
                        delete.execute(params![id(agent, from), id(agent, before)])?;
                    }
                }
            }
        }
        Ok(txn.commit()?)
    }
}

fn id(agent: u32, seq: u64) -> i64 {
    number(agent, seq).cast_signed()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Sqlite {
    fn read<T>(&self, body: impl FnOnce(&Connection) -> Res<T>) -> Res<T> {
        self.batcher.flush()?;
        let idle = lock(&self.readers).pop();
        let reader = match idle {
            Some(reader) => reader,
            None => connect(&self.path, self.cache)?,
        };
        let outcome = body(&reader);
        lock(&self.readers).push(reader);
        outcome
    }
}

impl Engine for Sqlite {
    fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        self.batcher.append(agent, seq, turn, durable)
    }

    fn load_last(&self, agent: u32, n: u64, visit: Visit<'_>) -> Res<()> {
        self.read(|reader| {
            let sql = "SELECT id, turn FROM turns WHERE id >= ? AND id <= ? \
                       ORDER BY id DESC LIMIT ?";
            let mut select = reader.prepare_cached(sql)?;
            let last = id(agent, u64::from(u32::MAX));
            let mut rows = select.query(params![id(agent, 0), last, n.cast_signed()])?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                visit(seq_of(id.cast_unsigned()), row.get_ref(1)?.as_blob()?);
            }
            Ok(())
        })
    }

    fn get(&self, agent: u32, seq: u64, visit: Visit<'_>) -> Res<bool> {
        self.read(|reader| {
            let mut select = reader.prepare_cached("SELECT turn FROM turns WHERE id = ?")?;
            let found = select.query_row([id(agent, seq)], |row| {
                visit(seq, row.get_ref(0)?.as_blob()?);
                Ok(())
            });
            Ok(found.optional()?.is_some())
        })
    }

    fn truncate(&self, agent: u32, from: u64, before: u64) -> Res<()> {
        self.batcher.truncate(agent, from, before)
    }

    fn sync(&self) -> Res<()> {
        self.batcher.flush()?;
        // With NORMAL, a checkpoint is what syncs.
        let writer = lock(&self.inner.0);
        Ok(writer.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))?)
    }

    fn close(self: Box<Self>) -> Res<()> {
        self.sync()?;
        lock(&self.readers).clear();
        let Sqlite { inner, batcher, .. } = *self;
        drop(batcher);
        match Arc::into_inner(inner) {
            Some(Inner(writer)) => {
                let writer = writer.into_inner().unwrap_or_else(|p| p.into_inner());
                writer.close().map_err(|(_, error)| error.into())
            }
            None => Ok(()),
        }
    }
}
