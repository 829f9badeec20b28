//! Simulated time.

use std::time::Duration;

/// The wall clock's first milliseconds since the epoch.
const EPOCH: u64 = 1_700_000_000_000;

/// Both clocks of a simulated disk.
#[derive(Clone, Default)]
pub(super) struct Time {
    monotonic: Duration,
    /// The part of it that has passed by looking at the clock.
    looked: Duration,
    /// Milliseconds that the wall clock is ahead.
    pub(super) wall_offset: i64,
}

impl Time {
    pub(super) fn advance(&mut self, time: Duration) {
        self.monotonic = self.monotonic.saturating_add(time);
    }

    /// Each look takes a microsecond, so that waiting for a moment ends.
    pub(super) fn monotonic(&mut self) -> Duration {
        let look = Duration::from_micros(1);
        self.looked = self.looked.saturating_add(look);
        self.advance(look);
        self.monotonic
    }

    /// The time, without a look at the clock.
    pub(super) fn elapsed(&self) -> Duration {
        self.monotonic
    }

    /// The time that has passed by other things than looks.
    pub(super) fn passed(&self) -> Duration {
        self.monotonic.saturating_sub(self.looked)
    }

    pub(super) fn now(&self) -> u64 {
        let passed = u64::try_from(self.monotonic.as_millis()).unwrap_or(u64::MAX);
        EPOCH.saturating_add(passed).saturating_add_signed(self.wall_offset)
    }
}
