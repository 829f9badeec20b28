//! The simulated machine: a disk, its clock, and the background work of the store that runs on it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use memlog::sim::{SimDisk, SimTasks};
use memlog::{Error, Options, Store};

use crate::world::World;

/// The wall clock of a simulated disk when nothing has happened, milliseconds since the epoch.
pub const EPOCH: u64 = 1_700_000_000_000;

thread_local! {
    /// The world whose store is at work in the background, for what happens in the middle of it.
    static LENT: RefCell<World> = RefCell::new(World::new(0));
    static IS_LENT: Cell<bool> = const { Cell::new(false) };
}

/// A clone is the same machine.
#[derive(Clone)]
pub struct Driver {
    pub disk: SimDisk,
    pub tasks: SimTasks,
    /// Milliseconds by which the wall clock is ahead, or behind.
    pub offset: i64,
}

impl Driver {
    pub fn new(seed: u64) -> Driver {
        let disk = SimDisk::new(seed);
        let tasks = SimTasks::new(&disk, seed ^ 0x7461_736b);
        tasks.on_pause(|task| {
            if IS_LENT.get() && task == "memlog-compact" {
                LENT.with_borrow_mut(World::interrupt);
            }
        });
        Driver { disk, tasks, offset: 0 }
    }

    pub fn open(&self, options: &Options, dir: &str) -> Result<Store, Error> {
        options.open_stepped(&self.disk, &self.tasks, dir)
    }

    /// The monotonic clock of the simulation.
    pub fn clock(&self) -> Duration {
        self.tasks.now()
    }

    /// The true time, milliseconds since the epoch.
    pub fn now(&self) -> u64 {
        EPOCH + self.clock().as_millis() as u64
    }

    /// Sets the wall clock ahead, or behind, of the true time.
    pub fn set_offset(&mut self, milliseconds: i64) {
        self.offset = milliseconds;
        self.disk.set_wall_offset(milliseconds);
    }
}

impl World {
    /// Lets the store work in the background for that long. The world is where `interrupt` finds it
    /// meanwhile.
    pub fn run_for(&mut self, time: Duration) {
        let tasks = self.driver.tasks.clone();
        LENT.with_borrow_mut(|lent| std::mem::swap(self, lent));
        IS_LENT.set(true);
        tasks.run_for(time);
        IS_LENT.set(false);
        LENT.with_borrow_mut(|lent| std::mem::swap(self, lent));
    }
}

/// A case that failed in the middle of background work left its world there.
pub fn begin_anew() {
    IS_LENT.set(false);
    LENT.set(World::new(0));
}
