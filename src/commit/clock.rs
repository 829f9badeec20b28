//! The store's time: the wall clock, as far as it is believed.
//!
//! The rule is in docs/format.md, *Time*. What is *recorded* is on disk: the latest time in the
//! manifest and the frames, and one reading of the wall clock that was too far ahead to be believed,
//! the *claim*. From there on the monotonic clock says how far time has come at least, and a reading
//! of the wall clock that is more than [`SLACK`] beyond that is not believed. It is confirmed when
//! the wall clock still says so after [`SPAN`].

use std::time::Duration;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The wall clock is believed if it is at most so far ahead of what is confirmed, in ms.
pub(crate) const SLACK: u64 = 3_600_000;
/// A reading is confirmed if the wall clock agrees with it for so long, in ms.
pub(crate) const SPAN: u64 = 3_600_000;
/// A wall clock that is steered agrees with the monotonic one within this, in ms.
const TOLERANCE: u64 = 60_000;

/// What the files of a store say about its time, in ms since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// The latest time in the manifest and the frames.
    pub(crate) time: u64,
    /// A reading of the wall clock that was not believed yet; 0: there is none.
    pub(crate) claim: u64,
}

/// The time of an open store. It never goes back.
pub(crate) struct StoreTime {
    last: AtomicU64,
    /// The claim, or 0.
    claim: AtomicU64,
    /// Each reading of the wall clock has to be looked at: an unbelievable one is outstanding.
    wary: AtomicBool,
    state: Mutex<State>,
}

/// Times are in ms: of the wall clock, and of the monotonic clock.
struct State {
    /// `time` was confirmed at `at` on the monotonic clock.
    time: u64,
    at: u64,
    /// A reading that was believed: it keeps the confirmed time in step with the wall clock.
    steady: Candidate,
    /// A reading that is not believed yet.
    ahead: Option<Candidate>,
}

/// A reading of the wall clock that no later one has fallen behind.
struct Candidate {
    /// What the wall clock said when it began to be one, perhaps in an earlier process.
    since: u64,
    /// The wall clock said `said` at `at` on the monotonic clock.
    said: u64,
    at: u64,
}

impl Candidate {
    fn new(wall: u64, at: u64) -> Self {
        Candidate { since: wall, said: wall, at }
    }

    /// What the wall clock says at `at`, if it goes on as it did.
    fn expected(&self, at: u64) -> u64 {
        self.said.saturating_add(at.saturating_sub(self.at))
    }

    /// Whether the wall clock has gone back since.
    fn is_left_by(&self, wall: u64, at: u64) -> bool {
        wall.saturating_add(TOLERANCE) < self.expected(at)
    }

    fn is_confirmed(&self, at: u64) -> bool {
        self.expected(at) >= self.since.saturating_add(SPAN)
    }
}

impl StoreTime {
    /// The time of a store with these records, when both clocks say this.
    pub(crate) fn new(recorded: Recorded, wall: u64, monotonic: Duration) -> Self {
        let at = millis(monotonic);
        let Recorded { time, claim } = recorded;
        let mut state = State { time, at, steady: Candidate::new(wall, at), ahead: None };
        if claim != 0 && wall.saturating_add(TOLERANCE) >= claim {
            if wall >= claim.saturating_add(SPAN) {
                // The wall clock has come from there to here: it was right about the claim.
                state.time = time.max(claim);
            } else {
                state.ahead = Some(Candidate { since: claim, ..Candidate::new(wall, at) });
            }
        }
        let store = StoreTime {
            last: AtomicU64::new(state.time),
            claim: AtomicU64::new(0),
            wary: AtomicBool::new(true),
            state: Mutex::new(state),
        };
        store.hear(wall, monotonic);
        store
    }

    /// The store's now, when the wall clock says `wall`; `monotonic` is asked if that matters.
    #[inline]
    pub(crate) fn now(&self, wall: u64, monotonic: impl FnOnce() -> Duration) -> u64 {
        let last = self.last.load(Ordering::Acquire);
        if wall <= last && !self.wary.load(Ordering::Relaxed) {
            // Mostly it is the same millisecond: nothing to be told to other processors.
            return last;
        }
        match self.state.try_lock() {
            Some(mut state) => self.hear_by(&mut state, wall, monotonic()),
            // Another thread is bringing it up to date.
            None => last,
        }
    }

    /// The time by which something may be destroyed because of it: what is confirmed, at most now.
    pub(crate) fn confirmed(&self, wall: u64, monotonic: Duration) -> u64 {
        let mut state = self.state.lock();
        let now = self.hear_by(&mut state, wall, monotonic);
        state.estimate(millis(monotonic)).min(now)
    }

    /// What is to be recorded with the next manifest.
    pub(crate) fn recorded(&self, wall: u64, monotonic: Duration) -> Recorded {
        let time = self.hear(wall, monotonic);
        Recorded { time, claim: self.claim.load(Ordering::Acquire) }
    }

    /// Takes note of a reading of both clocks; gives the store's now.
    fn hear(&self, wall: u64, monotonic: Duration) -> u64 {
        self.hear_by(&mut self.state.lock(), wall, monotonic)
    }

    fn hear_by(&self, state: &mut State, wall: u64, monotonic: Duration) -> u64 {
        let at = millis(monotonic);
        let believed = state.weigh(wall, at);
        let claim = state.ahead.as_ref().map_or(0, |ahead| ahead.since);
        self.claim.store(claim, Ordering::Release);
        self.wary.store(!believed, Ordering::Relaxed);
        let now = if believed { wall } else { state.estimate(at) };
        self.last.fetch_max(now, Ordering::AcqRel).max(now)
    }
}

impl State {
    /// How late it is at least, by what was confirmed and the monotonic clock.
    fn estimate(&self, at: u64) -> u64 {
        self.time.saturating_add(at.saturating_sub(self.at))
    }

    fn is_believable(&self, wall: u64, at: u64) -> bool {
        wall <= self.estimate(at).saturating_add(SLACK)
    }

    fn confirm(&mut self, time: u64, at: u64) {
        if time > self.estimate(at) {
            (self.time, self.at) = (time, at);
        }
    }

    /// Holds a reading against those before it. True if it is believed.
    fn weigh(&mut self, wall: u64, at: u64) -> bool {
        if self.steady.is_left_by(wall, at) {
            self.steady = Candidate::new(wall, at);
        } else if self.steady.is_confirmed(at) {
            self.confirm(self.steady.expected(at), at);
            self.steady = Candidate::new(wall, at);
        }
        if self.is_believable(wall, at) {
            self.ahead = None;
            return true;
        }
        let ahead = self.ahead.take().filter(|ahead| !ahead.is_left_by(wall, at));
        let ahead = ahead.unwrap_or_else(|| Candidate::new(wall, at));
        if ahead.is_confirmed(at) {
            self.confirm(ahead.expected(at), at);
            if self.is_believable(wall, at) {
                return true;
            }
            self.ahead = Some(Candidate::new(wall, at));
        } else {
            self.ahead = Some(ahead);
        }
        false
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    /// What is recorded when a test begins.
    const START: u64 = 1_800_000_000_000;

    /// A store and its two clocks; `at` is the time since the opening.
    struct Sim {
        time: StoreTime,
        at: u64,
    }

    impl Sim {
        fn open(recorded: Recorded, wall: u64) -> Self {
            Sim { time: StoreTime::new(recorded, wall, Duration::ZERO), at: 0 }
        }

        /// The store's now `at` ms after its opening, when the wall clock says `wall`.
        fn now(&mut self, at: u64, wall: u64) -> u64 {
            assert!(at >= self.at);
            self.at = at;
            self.time.now(wall, || Duration::from_millis(at))
        }

        fn confirmed(&self, wall: u64) -> u64 {
            self.time.confirmed(wall, Duration::from_millis(self.at))
        }

        fn recorded(&self, wall: u64) -> Recorded {
            self.time.recorded(wall, Duration::from_millis(self.at))
        }
    }

    fn at_start() -> Recorded {
        Recorded { time: START, claim: 0 }
    }

    #[test]
    fn the_wall_clock_is_the_time() {
        let mut sim = Sim::open(at_start(), START + 10);
        for hour in 0..200 {
            let at = hour * 20 * MINUTE;
            assert_eq!(sim.now(at, START + 10 + at), START + 10 + at);
            assert!(sim.confirmed(START + 10 + at) + 10 >= START + 10 + at);
            assert_eq!(sim.recorded(START + 10 + at).claim, 0);
        }
    }

    #[test]
    fn one_reading_ahead_moves_nothing() {
        let mut sim = Sim::open(at_start(), START);
        for (at, ahead) in [(MINUTE, DAY), (2 * MINUTE, 3000 * DAY), (50 * MINUTE, 61 * MINUTE)] {
            assert_eq!(sim.now(at, START + at + ahead), START + at);
            assert_eq!(sim.confirmed(START + at + ahead), START + at);
            assert_eq!(sim.now(at + 5, START + at + 5), START + at + 5);
        }
        // Nor does it in the next process, which the one before has told what it heard.
        sim.now(51 * MINUTE, START + DAY);
        let recorded = sim.recorded(START + DAY);
        assert_eq!(recorded, Recorded { time: START + 51 * MINUTE, claim: START + DAY });
        let mut next = Sim::open(recorded, START + 2 * HOUR - 10 * MINUTE);
        assert_eq!(next.now(5, START + 2 * HOUR - 9 * MINUTE), START + 2 * HOUR - 9 * MINUTE);
        assert_eq!(next.recorded(START + 2 * HOUR - 9 * MINUTE).claim, 0);
    }

    #[test]
    fn a_clock_that_is_a_little_ahead_is_believed_and_destroys_nothing() {
        let mut sim = Sim::open(at_start(), START);
        sim.now(HOUR, START + HOUR);
        assert_eq!(sim.now(HOUR + 1, START + HOUR + 59 * MINUTE), START + HOUR + 59 * MINUTE);
        assert_eq!(sim.confirmed(START + HOUR + 59 * MINUTE), START + HOUR + 1);
        // It went back: time stands until the wall clock is there.
        assert_eq!(sim.now(HOUR + MINUTE, START + HOUR + MINUTE), START + HOUR + 59 * MINUTE);
        assert_eq!(sim.now(3 * HOUR, START + 3 * HOUR), START + 3 * HOUR);
    }

    #[test]
    fn a_clock_that_stays_ahead_is_believed_after_an_hour() {
        let mut sim = Sim::open(at_start(), START);
        sim.now(MINUTE, START + MINUTE);
        let ahead = |at| START + at + 30 * DAY;
        for at in (2..62).map(|minutes| minutes * MINUTE) {
            assert_eq!(sim.now(at, ahead(at)), START + at);
        }
        assert_eq!(sim.now(63 * MINUTE, ahead(63 * MINUTE)), ahead(63 * MINUTE));
        assert_eq!(sim.confirmed(ahead(63 * MINUTE)), ahead(63 * MINUTE));
        assert_eq!(sim.recorded(ahead(63 * MINUTE)).claim, 0);
    }

    #[test]
    fn a_second_jump_is_not_confirmed_by_the_first() {
        let mut sim = Sim::open(at_start(), START);
        sim.now(0, START + DAY);
        // It agrees with the first one, which it is ahead of.
        assert_eq!(sim.now(HOUR, START + 900 * DAY), START + DAY + HOUR);
        assert_eq!(sim.now(HOUR + 1, START + DAY + HOUR + 1), START + DAY + HOUR + 1);
    }

    #[test]
    fn a_clock_that_goes_back_waits_for_the_time() {
        let mut sim = Sim::open(at_start(), START);
        assert_eq!(sim.now(HOUR, START + HOUR), START + HOUR);
        for at in [HOUR + 1, 2 * HOUR, DAY] {
            assert_eq!(sim.now(at, START - DAY), START + HOUR);
        }
        assert_eq!(sim.now(DAY + HOUR, START + DAY + HOUR), START + DAY + HOUR);
    }

    #[test]
    fn a_month_off_is_believed_after_an_hour_of_use_in_one_process_or_in_several() {
        let wall = START + 30 * DAY;
        let mut sim = Sim::open(at_start(), wall);
        assert_eq!(sim.now(MINUTE, wall + MINUTE), START + MINUTE);
        assert_eq!(sim.now(HOUR, wall + HOUR), wall + HOUR);

        let first = Sim::open(at_start(), wall);
        let recorded = first.recorded(wall);
        assert_eq!(recorded, Recorded { time: START, claim: wall });
        // Half an hour later it is a claim still, and the older one is kept.
        let second = Sim::open(recorded, wall + HOUR / 2);
        let recorded = second.recorded(wall + HOUR / 2);
        assert_eq!(recorded, Recorded { time: START, claim: wall });
        let mut third = Sim::open(recorded, wall + 50 * MINUTE);
        assert_eq!(third.now(9 * MINUTE, wall + 59 * MINUTE), START + 9 * MINUTE);
        assert_eq!(third.now(10 * MINUTE, wall + HOUR), wall + HOUR);
    }

    #[test]
    fn a_store_that_is_opened_now_and_then_follows_by_one_opening() {
        let mut recorded = at_start();
        for day in 1..30 {
            let wall = START + day * DAY;
            let mut sim = Sim::open(recorded, wall);
            let now = sim.now(1000, wall + 1000);
            assert!(now >= wall - DAY || day == 1, "{now}");
            recorded = sim.recorded(wall + 1000);
        }
    }

    #[test]
    fn openings_with_a_wrong_clock_leave_nothing_behind() {
        let wrong = START + 4000 * DAY;
        let mut recorded = at_start();
        for _ in 0..50 {
            recorded = Sim::open(recorded, wrong).recorded(wrong);
        }
        assert_eq!(recorded, Recorded { time: START, claim: wrong });
        let mut sim = Sim::open(recorded, START + MINUTE);
        assert_eq!(sim.now(1, START + MINUTE + 1), START + MINUTE + 1);
        assert_eq!(sim.recorded(START + MINUTE + 1).claim, 0);
    }

    #[test]
    fn times_on_disk_that_are_ahead_hold() {
        let recorded = Recorded { time: START + 40 * MINUTE, claim: 0 };
        let mut sim = Sim::open(recorded, START);
        assert_eq!(sim.now(MINUTE, START + MINUTE), START + 40 * MINUTE);
        assert_eq!(sim.now(2 * HOUR, START + 2 * HOUR), START + 2 * HOUR);
    }
}
