//! The simulated machine: a disk, its clock, and the background work of the store that runs on it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use memlog::sim::SimDisk;
use memlog::{CompactOutcome, Error, Maintenance, Options, Store};

/// The wall clock of a simulated disk when nothing has happened, milliseconds since the epoch.
pub const EPOCH: u64 = 1_700_000_000_000;

/// A clone is the same machine.
#[derive(Clone)]
pub struct Driver {
    pub disk: SimDisk,
    /// Time that has passed, without what calls of the store take.
    passed: Rc<Cell<Duration>>,
    /// Milliseconds by which the wall clock is ahead, or behind.
    offset: Rc<Cell<i64>>,
}

impl Driver {
    pub fn new(seed: u64) -> Driver {
        Driver { disk: SimDisk::new(seed), passed: Rc::default(), offset: Rc::default() }
    }

    pub fn open(&self, options: &Options, dir: &str) -> Result<Store, Error> {
        options.clone().maintenance(Maintenance::Manual).open_on(&self.disk, dir)
    }

    /// The true time, milliseconds since the epoch.
    pub fn now(&self) -> u64 {
        EPOCH + self.passed.get().as_millis() as u64
    }

    /// The monotonic clock of the simulation.
    pub fn clock(&self) -> Duration {
        self.passed.get()
    }

    /// Milliseconds by which the wall clock is ahead, or behind.
    pub fn offset(&self) -> i64 {
        self.offset.get()
    }

    /// Lets time pass without the store.
    pub fn pass(&self, time: Duration) {
        self.disk.advance(time);
        self.passed.set(self.passed.get() + time);
    }

    /// Sets the wall clock ahead, or behind, of the true time.
    pub fn set_offset(&self, milliseconds: i64) {
        self.offset.set(milliseconds);
        self.disk.set_wall_offset(milliseconds);
    }

    /// Lets the store work in the background for that long. `pause` is called in the middle of it.
    pub fn run_for(
        &self,
        store: &Store,
        time: Duration,
        pause: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        self.pass(time);
        store.sync()?;
        if time < Duration::from_secs(1800) {
            return Ok(());
        }
        while store.compact()? == CompactOutcome::More {
            pause();
        }
        Ok(())
    }
}
