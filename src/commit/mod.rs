//! The way of a batch from the caller to the disk.
//!
//! `prepared` encodes it in the memory of a `scratch`, `order` gives it its place under one short
//! lock (`at_once`, what is appended most), `log` writes and flushes it together with others,
//! `upkeep` keeps segments ready and seals them, `pace` slows appenders down to the disk, and
//! `thread` does in the background what nobody waits for.

mod at_once;
pub(crate) mod clock;
mod close;
mod costs;
mod desk;
pub(crate) mod health;
pub(crate) mod log;
pub(crate) mod order;
mod order_now;
pub(crate) mod pace;
pub(crate) mod prepared;
pub(crate) mod queue;
pub(crate) mod reserve;
mod rest;
pub(crate) mod scratch;
pub(crate) mod seal;
mod sizing;
#[cfg(test)]
pub(crate) use sizing::least_segment;
mod thread;
pub(crate) mod upkeep;
pub(crate) mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::catalog::base::Base;
use crate::catalog::resident::Progress;
use crate::commit::clock::{Recorded, StoreTime};
use crate::commit::close::Closing;
use crate::commit::health::Board;
use crate::commit::log::Log;
use crate::commit::order::{Attempt, Order, Ordered, closed};
use crate::commit::pace::Pace;
use crate::commit::prepared::Prepared;
use crate::commit::reserve::Reserve;
use crate::commit::thread::Work;
use crate::commit::upkeep::Upkeep;
use crate::commit::worker::Workers;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Era;
use crate::format::manifest::PastDefault;
use crate::io::{Io, Lock};
use crate::manifest::ManifestFile;
use crate::options::Options;
use crate::segment::writer::Owner;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::types::{Durability, Maintenance};

/// Bytes that may wait in memory while somebody writes, before appenders wait until there are less.
/// That is 40 ms at 200 MiB/s: a write, or whoever does it, may be held up for so long.
const MAX_QUEUED: u64 = 8 << 20;

/// An open store: everything that its parts share.
pub(crate) struct Engine {
    pub(crate) io: Io,
    pub(crate) dir: PathBuf,
    pub(crate) store: u128,
    pub(crate) incarnation: u64,
    /// The lineage of its lsns.
    pub(crate) history: u64,
    pub(crate) options: Options,
    pub(crate) catalog: Catalog,
    /// Defaults of retention that held before this opening's.
    pub(crate) past_defaults: Vec<PastDefault>,
    /// `None`: the store is open read-only.
    pub(crate) writing: Option<Writing>,
    pub(crate) order: Mutex<Order>,
    pub(crate) log: Log,
    closed: AtomicBool,
    time: StoreTime,
    ordered_end: AtomicU64,
    upkeep: Upkeep,
    work: Work,
    pub(crate) pace: Pace,
    workers: Workers,
    pub(crate) board: Board,
    closing: Closing,
}

/// What only a store open for writing has.
pub(crate) struct Writing {
    pub(crate) manifest: ManifestFile,
    pub(crate) reserve: Reserve,
    pub(crate) lock: Mutex<Option<Box<dyn Lock>>>,
}

/// What an opening found, for the engine to go on with.
pub(crate) struct Opened {
    pub(crate) io: Io,
    pub(crate) dir: PathBuf,
    pub(crate) store: u128,
    pub(crate) incarnation: u64,
    pub(crate) history: u64,
    pub(crate) options: Options,
    pub(crate) catalog: Catalog,
    pub(crate) past_defaults: Vec<PastDefault>,
    pub(crate) writing: Option<Writing>,
    pub(crate) order: Order,
    pub(crate) log: Log,
    pub(crate) time: StoreTime,
}

impl Engine {
    /// Starts the engine, with its tasks unless it is to have none.
    pub(crate) fn start(opened: Opened) -> Arc<Engine> {
        let ordered_end = AtomicU64::new(opened.order.end());
        let mut order = opened.order;
        order.set_era(Era::new(opened.incarnation, opened.history));
        let engine = Arc::new(Engine {
            workers: Workers::new(&opened.io),
            board: Board::default(),
            closing: Closing::default(),
            io: opened.io,
            dir: opened.dir,
            store: opened.store,
            incarnation: opened.incarnation,
            history: opened.history,
            options: opened.options,
            catalog: opened.catalog,
            past_defaults: opened.past_defaults,
            writing: opened.writing,
            order: Mutex::new(order),
            log: opened.log,
            closed: AtomicBool::new(false),
            time: opened.time,
            ordered_end,
            upkeep: Upkeep::default(),
            work: Work::default(),
            pace: Pace::default(),
        });
        if engine.writing.is_some() && engine.has_threads() {
            thread::start(&engine);
            engine.expect_spare();
        }
        engine
    }

    pub(crate) fn has_threads(&self) -> bool {
        self.options.maintenance == Maintenance::Background
    }

    /// The engine's now, in ms since the epoch: the wall clock as far as it is believed, and never
    /// behind the last time on disk.
    pub(crate) fn now(&self) -> u64 {
        self.now_and_wall().0
    }

    /// The same, and what the wall clock says, for what is only told.
    #[inline]
    pub(crate) fn now_and_wall(&self) -> (u64, u64) {
        let wall = self.io.clock.now();
        (self.time.now(wall, || self.io.clock.monotonic()), wall)
    }

    /// The time by which something may be destroyed because it has expired or is of age.
    pub(crate) fn confirmed_now(&self) -> u64 {
        self.time.confirmed(self.io.clock.now(), self.io.clock.monotonic())
    }

    /// What the next manifest is to say of time.
    pub(crate) fn recorded_time(&self) -> Recorded {
        self.time.recorded(self.io.clock.now(), self.io.clock.monotonic())
    }

    pub(crate) fn progress(&self) -> Progress {
        self.log.progress()
    }

    /// What of the log is not on stable storage yet, in bytes.
    pub(crate) fn unsynced(&self) -> u64 {
        self.ordered_end.load(Ordering::Relaxed).saturating_sub(self.log.durable())
    }

    /// What segments are made for.
    pub(crate) fn owner(&self) -> Owner {
        Owner { store: self.store, era: Era::new(self.incarnation, self.history) }
    }

    /// Refuses anything after the store was closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    /// Refuses a write to a store that takes none.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.writing.is_none() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the store is open read-only: open it without `read_only` and `salvage` to change it",
            ));
        }
        Ok(())
    }

    /// Refuses work in a fork, before it waits for what another thread held when the process forked.
    pub(crate) fn check_own(&self) -> Result<()> {
        if self.io.fs.is_own() {
            return Ok(());
        }
        let message = "this process is a fork of the one that opened the store: it changes nothing";
        Err(Error::new(ErrorKind::Io, message))
    }

    /// Gives a batch its place in the log. It is not written yet.
    ///
    /// # Errors
    /// Whatever is wrong with the batch, `Conflict`, `DiskFull`, `Poisoned`, `Closed`, `ReadOnly`,
    /// or what reading footers met. Nothing changed then.
    pub(crate) fn order(&self, batch: &mut Prepared, durability: Durability) -> Result<Ordered> {
        self.check_writable()?;
        if let Some(error) = batch.take_error() {
            return Err(error);
        }
        batch.check_len()?;
        let len = batch.len() as u64;
        self.warm(batch);
        // Held until the batch is ordered: an eviction in between would have it loaded for ever.
        let mut _loaded = None;
        loop {
            match self.try_order(batch, durability)? {
                Attempt::Ordered(ordered) => {
                    self.pace(len, ordered);
                    return Ok(ordered);
                }
                Attempt::NoRoom { active, room } => {
                    self.make_room(active, room, batch.erasing)?;
                }
                Attempt::Unknown => _loaded = Some(self.learn(batch)?),
                Attempt::Held(resident) => resident.await_turn(),
                Attempt::Refused(error, wait) => {
                    // Answered when what it was refused for can be read.
                    if let Some((end, durability)) = wait {
                        // If that cannot be, it is the other batch that is in doubt, and not this one.
                        self.wait(end, durability)
                            .map_err(|cause| self.log.poisoned().unwrap_or(cause))?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Reads, under no lock, the pages of state indices that ordering the batch asks for: what the
    /// values are that its changes overwrite. Under the order lock they are then at hand.
    fn warm(&self, batch: &Prepared) {
        if batch.appends_only && batch.revisions.is_empty() {
            return;
        }
        let mut residents = batch.agents.iter().map(|agent| &agent.resident);
        if !residents.any(|agent| agent.lock().base().is_some_and(|base| !base.states.is_empty())) {
            return;
        }
        let expected = batch.revisions.iter().map(|expected| (expected.agent, &*expected.key));
        for (agent, key) in expected.chain(batch.keys()) {
            let Some(agent) = batch.agents.get(agent) else { continue };
            let base = agent.resident.lock().base().cloned();
            // What cannot be read is told where it counts.
            let _ = base.map(|base| base.state(key).map(drop));
        }
    }

    /// Looks up, under no lock, what ordering the batch must know of its agents.
    fn learn(&self, batch: &Prepared) -> Result<Vec<Arc<Base>>> {
        let mut loaded = Vec::new();
        for resident in batch.agents.iter().map(|agent| &agent.resident) {
            self.catalog.learn(resident)?;
        }
        for expected in &batch.revisions {
            let agent = batch.agents.get(expected.agent).map(|a| &a.resident);
            if let Some(resident) = agent {
                let head = resident.lock().latest().head;
                loaded.extend(self.catalog.learn_base(resident, &head, self.progress())?);
            }
        }
        Ok(loaded)
    }

    /// Takes what was ordered up to `end` to that durability, and returns when it is there.
    pub(crate) fn wait(&self, end: u64, durability: Durability) -> Result<()> {
        self.log.wait(end, durability, self)
    }

    /// Everything ordered so far, on stable storage.
    pub(crate) fn sync(&self) -> Result<()> {
        let end = {
            let order = self.order.lock();
            if order.closed {
                return Err(closed());
            }
            order.end()
        };
        match self.log.poisoned() {
            Some(error) => Err(error),
            None => self.log.wait(end, Durability::Sync, self),
        }
    }

    /// Has the log written up to `end`, so that its bytes can be read.
    ///
    /// # Errors
    /// `Poisoned` if they never will be.
    #[inline]
    pub(crate) fn write_for_reader(&self, end: u64) -> Result<()> {
        if self.log.written() >= end {
            return Ok(());
        }
        let written = self.log.write_to(end, self);
        written.map_err(|error| self.log.poisoned().unwrap_or(error))
    }
}
