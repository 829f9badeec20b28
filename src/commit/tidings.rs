//! Word that something has changed which somebody may want to look at.

use std::time::Duration;

use crate::sync::{Condvar, Mutex};

/// A count of changes, and a place to wait for the next.
#[derive(Default)]
pub(crate) struct Tidings {
    count: Mutex<u64>,
    wake: Condvar,
}

impl Tidings {
    /// Tells whoever waits.
    pub(crate) fn tell(&self) {
        *self.count.lock() += 1;
        self.wake.notify_all();
    }

    /// Waits until there is more than was `seen`, for `at_most` that long; gives what was seen then.
    pub(crate) fn wait(&self, seen: u64, at_most: Option<Duration>) -> u64 {
        let mut count = self.count.lock();
        if *count == seen {
            match at_most {
                Some(time) => {
                    self.wake.wait_for(&mut count, time);
                }
                None => self.wake.wait(&mut count),
            }
        }
        *count
    }
}
