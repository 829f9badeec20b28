//! Pacing: appenders that outrun the disk, or compaction, are slowed down to its rate, in small
//! steps.

use std::time::Duration;

use crate::commit::order::Ordered;
use crate::commit::{Engine, MAX_QUEUED};
use crate::error::Result;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::Durability;

/// The longest single sleep of an appender.
const STEP: Duration = Duration::from_millis(2);
/// How long an appender sleeps at a time while it waits for others to write.
const NAP: Duration = Duration::from_micros(250);
/// So many buffered bytes are written at a time.
const CHUNK: u64 = 512 << 10;
/// Debts below this are not worth a sleep.
const SLACK: u64 = 200_000;

/// How fast the disk takes what is synced, and when the next append is due.
pub(crate) struct Pace {
    /// Bytes a second, smoothed.
    rate: AtomicU64,
    /// Of the flush that is under way: its bytes, and when it began on the monotonic clock in
    /// nanoseconds. 0: there is none.
    flushing: AtomicU64,
    began: AtomicU64,
    /// Nanoseconds on the monotonic clock at which paced appends are free again.
    due: AtomicU64,
    debt: Debt,
}

/// Where no segment is ready behind the active one: of `half` a segment, which is left to have one
/// made in, `used` bytes are used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scarce {
    pub(crate) used: u64,
    pub(crate) half: u64,
}

/// What compaction is behind by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    /// Dead bytes to be reclaimed.
    pub(crate) dead: u64,
    /// Beyond these appends are slowed down,
    pub(crate) soft: u64,
    /// and to a quarter of the rate here.
    pub(crate) hard: u64,
    /// Dead bytes reclaimed in a second.
    pub(crate) rate: u64,
    /// The end of the log as of which that holds;
    pub(crate) end: u64,
    /// of a thousand bytes appended behind it, so many are expected to kill others.
    pub(crate) kill: u64,
}

impl Owed {
    /// How far it is between the limits, in percent.
    pub(crate) fn urgency(&self) -> u64 {
        let room = self.hard.saturating_sub(self.soft).max(1);
        (self.dead.saturating_sub(self.soft).saturating_mul(100) / room).min(100)
    }
}

/// What compaction told last of how far it is behind. Read without a lock: what is read while it
/// is told misleads one append at most.
#[derive(Default)]
struct Debt {
    /// From the soft limit to the hard one; 0: nobody is slowed down.
    room: AtomicU64,
    soft: AtomicU64,
    dead: AtomicU64,
    rate: AtomicU64,
    end: AtomicU64,
    kill: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        // A slow guess: the first flush corrects it.
        Pace {
            rate: AtomicU64::new(200 << 20),
            flushing: AtomicU64::new(0),
            began: AtomicU64::new(0),
            due: AtomicU64::new(0),
            debt: Debt::default(),
        }
    }
}

impl Pace {
    /// A flush of `bytes` begins.
    pub(crate) fn begin(&self, bytes: u64, now: Duration) {
        self.began.store(nanos(now), Ordering::Relaxed);
        self.flushing.store(bytes, Ordering::Relaxed);
    }

    /// Learns from a flush of `bytes` that took `time`, and is over.
    pub(crate) fn learn(&self, bytes: u64, time: Duration) {
        self.flushing.store(0, Ordering::Relaxed);
        // Small flushes tell of the latency, not of the rate.
        if bytes < 1 << 20 {
            return;
        }
        let before = self.rate.load(Ordering::Relaxed);
        self.rate.store(before / 4 * 3 + per_second(bytes, nanos(time)) / 4, Ordering::Relaxed);
    }

    /// How many bytes the disk takes in a second, as far as is known: no more than what the flush
    /// under way comes to, however fast those before it were. Of some all was on the disk already.
    fn rate(&self, now: Duration) -> u64 {
        let rate = self.rate.load(Ordering::Relaxed);
        match self.flushing.load(Ordering::Relaxed) {
            0 => rate,
            bytes => {
                let took = nanos(now).saturating_sub(self.began.load(Ordering::Relaxed));
                rate.min(per_second(bytes, took))
            }
        }
    }

    /// Takes what compaction tells; `None`: it is behind by nothing that it could do anything about.
    pub(crate) fn owe(&self, owed: Option<Owed>) {
        let debt = &self.debt;
        let Some(owed) = owed else { return debt.room.store(0, Ordering::Relaxed) };
        debt.soft.store(owed.soft, Ordering::Relaxed);
        debt.dead.store(owed.dead, Ordering::Relaxed);
        debt.rate.store(owed.rate, Ordering::Relaxed);
        debt.end.store(owed.end, Ordering::Relaxed);
        debt.kill.store(owed.kill, Ordering::Relaxed);
        debt.room.store(owed.hard.saturating_sub(owed.soft), Ordering::Relaxed);
    }

    /// How many nanoseconds an append of `len` bytes, with which the log ends at `end`, is to take
    /// for the sake of compaction: a quarter of its rate is left in any case.
    fn debt_cost(&self, len: u64, end: u64) -> u64 {
        let debt = &self.debt;
        let room = debt.room.load(Ordering::Relaxed);
        if room == 0 {
            return 0;
        }
        let since = end.saturating_sub(debt.end.load(Ordering::Relaxed));
        let killed = since.saturating_mul(debt.kill.load(Ordering::Relaxed)) / 1000;
        let dead = debt.dead.load(Ordering::Relaxed).saturating_add(killed);
        match dead.saturating_sub(debt.soft.load(Ordering::Relaxed)) {
            0 => 0,
            over => cost(len, over.min(room / 8 * 7), room, debt.rate.load(Ordering::Relaxed)),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes in a second, if it is so many in so many nanoseconds.
fn per_second(bytes: u64, nanos: u64) -> u64 {
    bytes.saturating_mul(1_000_000) / (nanos / 1000).max(1)
}

/// How many nanoseconds an append of `len` bytes is to take when `over` of `room` bytes between the
/// soft and the hard limit are used: half way it is `rate`, at which they
/// are made free.
fn cost(len: u64, over: u64, room: u64, rate: u64) -> u64 {
    let rate = rate.max(1 << 20);
    let left = room.saturating_sub(over).max(room / 32).max(1);
    // len / (rate * 2 * left / room), in nanoseconds.
    let whole = u128::from(len) * 1_000_000_000 * u128::from(room);
    u64::try_from(whole / (u128::from(rate) * 2 * u128::from(left))).unwrap_or(u64::MAX)
}

impl Engine {
    /// Called after each order, outside of all locks: has buffered bytes written in time, keeps
    /// unsynced ones within their bound, and dead ones in proportion.
    pub(crate) fn pace(&self, len: u64, ordered: Ordered) {
        if ordered.durability == Durability::Buffer {
            let queued = ordered.end.saturating_sub(self.log.written());
            // An error poisons the log, and whoever waits hears of it.
            let _ = if queued > MAX_QUEUED {
                self.catch_up(ordered.end)
            } else {
                self.log.write_chunks(ordered.end, self)
            };
        }
        let owed = self.owed(len, ordered);
        let hard = self.options.max_unsynced;
        let soft = hard / 2;
        let unsynced = self.unsynced();
        self.log.be_brief(owed > 0 || unsynced > soft);
        if unsynced <= soft || ordered.durability == Durability::Sync {
            if owed > 0 {
                self.slow_down(owed);
            }
            return;
        }
        if !self.has_threads() {
            if unsynced > hard {
                let _ = self.log.flush_to(ordered.end, self);
            }
            return;
        }
        self.sync_soon();
        let rate = self.pace.rate(self.io.clock.monotonic());
        self.slow_down(cost(len, unsynced - soft, hard - soft, rate).max(owed));
        // The pacing keeps clear of the hard limit; a disk that stops altogether does not.
        while self.unsynced() > hard && self.log.poisoned().is_none() {
            self.throttle(STEP);
        }
    }

    /// How many nanoseconds an append is to take for the sake of compaction, and of the next segment.
    #[inline]
    fn owed(&self, len: u64, ordered: Ordered) -> u64 {
        let owed = self.pace.debt_cost(len, ordered.end);
        let Scarce { used, half } = ordered.scarce;
        if used == 0 || ordered.durability == Durability::Sync || !self.has_threads() {
            return owed;
        }
        // Many small delays, rather than one until the next segment is made: the half lasts longer
        // than that takes.
        let millis = u64::try_from(self.turnover().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = self.pace.rate(self.io.clock.monotonic());
        let rate = rate.min(half.saturating_mul(1000) / millis);
        owed.max(cost(len, used.min(half), half, rate))
    }

    /// Whether an append would wait now: for what is queued to be written, or for its pace.
    pub(crate) fn is_paced(&self, durability: Durability) -> bool {
        let queued = self.ordered_end.load(Ordering::Relaxed).saturating_sub(self.log.written());
        let unsynced =
            durability != Durability::Sync && self.unsynced() > self.options.max_unsynced / 2;
        let now = nanos(self.io.clock.monotonic());
        let due = self.pace.due.load(Ordering::Relaxed);
        queued > MAX_QUEUED || unsynced || due.saturating_sub(now) > SLACK
    }

    /// What [`pace`](Self::pace) does, for a caller that must not wait: the log task writes, and what
    /// is owed is waited for by those who come next.
    pub(crate) fn pace_later(&self, len: u64, ordered: Ordered) {
        if ordered.durability == Durability::Buffer
            && ordered.end.saturating_sub(self.log.written()) > CHUNK
        {
            self.push_along(ordered.end, Durability::Write);
        }
        let owed = self.owed(len, ordered);
        if owed > 0 {
            self.due_after(owed);
        }
        if self.unsynced() > self.options.max_unsynced / 2 {
            self.sync_soon();
        }
    }

    /// Returns when no more is queued below `end` than may be.
    fn catch_up(&self, end: u64) -> Result<()> {
        while !self.log.try_write_down_to(MAX_QUEUED, end, self)? {
            // Not for the lock: whoever has it may go on to have it, and each piece of his makes room.
            self.throttle(NAP);
        }
        Ok(())
    }

    fn slow_down(&self, cost: u64) {
        let debt = self.due_after(cost);
        if debt > SLACK {
            self.throttle(Duration::from_nanos(debt).min(STEP));
        }
    }

    /// Puts off when the next append is due; gives how long that is from now, in nanoseconds.
    fn due_after(&self, cost: u64) -> u64 {
        let now = nanos(self.io.clock.monotonic());
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
        until - now
    }

    /// Slows the caller down.
    fn throttle(&self, time: Duration) {
        let since = self.io.clock.monotonic();
        self.io.pause(time);
        self.board.add_throttled(self.io.clock.monotonic().saturating_sub(since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_flush_that_drags_on_counts_before_it_is_over() {
        let (pace, ms) = (Pace::default(), Duration::from_millis);
        // Of these all was on the disk already.
        (0..40).for_each(|_| pace.learn(64 * MIB, ms(10)));
        let fast = pace.rate(ms(1000));
        assert!(fast > 5000 * MIB, "{fast}");
        pace.begin(32 * MIB, ms(1000));
        assert_eq!(pace.rate(ms(1001)), fast);
        assert_eq!(pace.rate(ms(1320)), 100 * MIB);
        assert_eq!(pace.rate(ms(1640)), 50 * MIB);
        pace.learn(32 * MIB, ms(640));
        assert!(pace.rate(ms(1641)) > 3000 * MIB);
    }
}
