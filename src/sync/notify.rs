//! A change counter with a condition variable.

use std::time::Duration;

use super::{Condvar, Mutex};

/// Counts changes, and lets threads wait for the next one.
///
/// A thread that waits for a condition reads [`seen`](Self::seen), looks at the condition, and then
/// waits for a change after what it has seen: a change in between ends the wait at once.
#[derive(Default)]
pub(crate) struct Notify {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Notify {
    /// Counts a change and ends all waits.
    pub(crate) fn notify(&self) {
        *self.count.lock() += 1;
        self.changed.notify_all();
    }

    /// The number of changes so far.
    pub(crate) fn seen(&self) -> u64 {
        *self.count.lock()
    }

    /// Blocks the thread until there were more changes than `seen`, or for `at_most`. May return
    /// early. The store waits through `Tasks::wait`, which a simulation replaces.
    pub(crate) fn block(&self, seen: u64, at_most: Option<Duration>) {
        let mut count = self.count.lock();
        if *count == seen {
            match at_most {
                Some(time) => {
                    self.changed.wait_for(&mut count, time);
                }
                None => self.changed.wait(&mut count),
            }
        }
    }
}
