//! Pacing: appenders that outrun the disk are slowed down to its rate, in small steps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::commit::order::Ordered;
use crate::commit::{CHUNK, Engine, MAX_QUEUED};
use crate::types::Durability;

/// The longest single sleep of an appender.
const STEP: Duration = Duration::from_millis(2);
/// Debts below this are not worth a sleep.
const SLACK: u64 = 200_000;

/// How fast the disk takes what is synced, and when the next append is due.
pub(crate) struct Pace {
    /// Bytes a second, smoothed.
    rate: AtomicU64,
    /// Nanoseconds on the monotonic clock at which paced appends are free again.
    due: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        // A slow guess: the first flush corrects it.
        Pace { rate: AtomicU64::new(200 << 20), due: AtomicU64::new(0) }
    }
}

impl Pace {
    /// Learns from a flush of `bytes` that took `time`.
    pub(crate) fn learn(&self, bytes: u64, time: Duration) {
        // Small flushes tell of the latency, not of the rate.
        if bytes < 1 << 20 {
            return;
        }
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let now = bytes.saturating_mul(1_000_000_000 / 1000) / (nanos / 1000).max(1);
        let before = self.rate.load(Ordering::Relaxed);
        self.rate.store(before / 4 * 3 + now / 4, Ordering::Relaxed);
    }

    /// How many nanoseconds an append of `len` bytes is to take when `over` of `room` bytes between
    /// the soft and the hard limit are used: half way it is the disk's own rate.
    fn cost(&self, len: u64, over: u64, room: u64) -> u64 {
        let rate = self.rate.load(Ordering::Relaxed).max(1 << 20);
        let left = room.saturating_sub(over).max(room / 32).max(1);
        // len / (rate * 2 * left / room), in nanoseconds.
        let whole = u128::from(len) * 1_000_000_000 * u128::from(room);
        u64::try_from(whole / (u128::from(rate) * 2 * u128::from(left))).unwrap_or(u64::MAX)
    }
}

impl Engine {
    /// Called after each order, outside of all locks: has buffered bytes written in time, and
    /// keeps unsynced ones within their bound.
    pub(crate) fn pace(&self, len: u64, ordered: Ordered) {
        if ordered.durability == Durability::Buffer {
            let queued = ordered.end.saturating_sub(self.log.written());
            if queued > MAX_QUEUED || (queued > CHUNK && !self.has_threads()) {
                // An error poisons the log, and whoever waits hears of it.
                let _ = self.log.write_to(ordered.end, self);
            } else if queued > CHUNK {
                self.work.write_now();
            }
        }
        let hard = self.options.max_unsynced;
        let soft = hard / 2;
        let unsynced = self.unsynced();
        if unsynced <= soft || ordered.durability == Durability::Sync {
            return;
        }
        if !self.has_threads() {
            if unsynced > hard {
                let _ = self.log.flush_to(ordered.end, self);
            }
            return;
        }
        self.work.sync_now();
        self.slow_down(self.pace.cost(len, unsynced - soft, hard - soft));
        // The pacing keeps clear of the hard limit; a disk that stops altogether does not.
        while self.unsynced() > hard && self.log.poisoned().is_none() {
            self.io.clock.sleep(STEP);
        }
    }

    fn slow_down(&self, cost: u64) {
        let now = u64::try_from(self.io.clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
        let mut due = self.pace.due.load(Ordering::Relaxed);
        let until = loop {
            let until = due.max(now).saturating_add(cost);
            match self.pace.due.compare_exchange_weak(
                due,
                until,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break until,
                Err(seen) => due = seen,
            }
        };
        let debt = until - now;
        if debt > SLACK {
            self.io.clock.sleep(Duration::from_nanos(debt).min(STEP));
        }
    }
}
