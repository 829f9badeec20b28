//! Group commit for engines that have one writer, or none of their own: threads that append at the
//! same time share one transaction. Whoever finds no transaction under way leads the next.
//!
//! Buffered appends are held back until there are enough for a transaction, as memlog holds back
//! what is to be buffered; every read writes them first.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::Res;

/// What an engine does with a group.
pub trait Sink: Send + Sync + 'static {
    /// Writes the group as one transaction, on stable storage if `durable`.
    fn write(&self, group: &Group, durable: bool) -> Res<()>;
}

/// Changes to be written together.
#[derive(Default)]
pub struct Group {
    changes: Vec<Change>,
    bytes: Vec<u8>,
}

/// One of them.
#[derive(Clone, Copy)]
pub enum Change {
    /// A turn, and where in the group's bytes it ends.
    Append {
        agent: u32,
        seq: u64,
        end: usize,
    },
    Truncate {
        agent: u32,
        from: u64,
        before: u64,
    },
}

/// One of them with its bytes.
pub enum Item<'a> {
    Append { agent: u32, seq: u64, turn: &'a [u8] },
    Truncate { agent: u32, from: u64, before: u64 },
}

impl Group {
    /// In the order in which they came.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let mut at = 0;
        self.changes.iter().map(move |change| match *change {
            Change::Append { agent, seq, end } => {
                let turn = &self.bytes[at..end];
                at = end;
                Item::Append { agent, seq, turn }
            }
            Change::Truncate { agent, from, before } => Item::Truncate { agent, from, before },
        })
    }

    fn clear(&mut self) {
        self.changes.clear();
        self.bytes.clear();
    }
}

/// A buffered group is written once it has so many changes or bytes.
const CHANGES: usize = 256;
const BYTES: usize = 1 << 20;

/// Groups in front of an engine.
pub struct Batcher<S> {
    sink: Arc<S>,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    pending: Group,
    /// Whether somebody in the pending group waits for stable storage.
    durable: bool,
    spare: Group,
    leading: bool,
    /// The number of the pending group, and how many are written.
    number: u64,
    written: u64,
    failed: Option<String>,
}

impl<S: Sink> Batcher<S> {
    pub fn new(sink: Arc<S>) -> Self {
        Batcher { sink, state: Mutex::default(), done: Condvar::new() }
    }

    pub fn append(&self, agent: u32, seq: u64, turn: &[u8], durable: bool) -> Res<()> {
        let mut state = self.lock();
        state.pending.bytes.extend_from_slice(turn);
        let end = state.pending.bytes.len();
        state.pending.changes.push(Change::Append { agent, seq, end });
        self.settle(state, durable)
    }

    pub fn truncate(&self, agent: u32, from: u64, before: u64) -> Res<()> {
        let mut state = self.lock();
        state.pending.changes.push(Change::Truncate { agent, from, before });
        self.settle(state, false)
    }

    /// Writes what is held back; needed before a read.
    pub fn flush(&self) -> Res<()> {
        let state = self.lock();
        let number = state.number;
        match (state.pending.changes.is_empty(), state.leading) {
            (true, false) => Ok(()),
            (true, true) => self.wait(state, number),
            (false, _) => self.wait(state, number + 1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>, durable: bool) -> Res<()> {
        state.durable |= durable;
        let full = state.pending.changes.len() >= CHANGES || state.pending.bytes.len() >= BYTES;
        if !durable && !full {
            return Ok(());
        }
        let number = state.number + 1;
        self.wait(state, number)
    }

    /// Until so many groups are written; leads if nobody does.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, number: u64) -> Res<()> {
        while state.written < number {
            if let Some(failed) = &state.failed {
                return Err(failed.clone().into());
            }
            if state.leading {
                state = self.done.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                continue;
            }
            state.leading = true;
            let spare = std::mem::take(&mut state.spare);
            let mut group = std::mem::replace(&mut state.pending, spare);
            let durable = std::mem::take(&mut state.durable);
            state.number += 1;
            drop(state);
            let outcome = self.sink.write(&group, durable);
            group.clear();
            state = self.lock();
            state.spare = group;
            state.leading = false;
            match outcome {
                Ok(()) => state.written += 1,
                Err(error) => state.failed = Some(error.to_string()),
            }
            self.done.notify_all();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log {
        turns: Mutex<Vec<(u32, u64, Vec<u8>)>>,
        groups: Mutex<Vec<bool>>,
    }

    impl Sink for Log {
        fn write(&self, group: &Group, durable: bool) -> Res<()> {
            self.groups.lock().unwrap().push(durable);
            std::thread::sleep(std::time::Duration::from_micros(200));
            for item in group.items() {
                if let Item::Append { agent, seq, turn } = item {
                    self.turns.lock().unwrap().push((agent, seq, turn.to_vec()));
                }
            }
            Ok(())
        }
    }

    #[test]
    fn what_was_acknowledged_is_written_and_groups_are_shared() {
        let log = Arc::new(Log::default());
        let batcher = Batcher::new(Arc::clone(&log));
        std::thread::scope(|scope| {
            for agent in 0..8u32 {
                let (batcher, log) = (&batcher, &log);
                scope.spawn(move || {
                    for seq in 1..=50u64 {
                        let turn = format!("{agent} {seq}").into_bytes();
                        batcher.append(agent, seq, &turn, true).unwrap();
                        assert!(log.turns.lock().unwrap().contains(&(agent, seq, turn)));
                    }
                });
            }
        });
        assert_eq!(log.turns.lock().unwrap().len(), 400);
        assert!(log.groups.lock().unwrap().len() < 300, "groups are not shared");
    }

    #[test]
    fn what_is_buffered_is_written_before_a_read() {
        let log = Arc::new(Log::default());
        let batcher = Batcher::new(Arc::clone(&log));
        for seq in 1..=CHANGES as u64 + 3 {
            batcher.append(1, seq, b"turn", false).unwrap();
        }
        assert_eq!(log.turns.lock().unwrap().len(), CHANGES);
        batcher.flush().unwrap();
        assert_eq!(log.turns.lock().unwrap().len(), CHANGES + 3);
        assert_eq!(*log.groups.lock().unwrap(), [false, false]);
    }
}
