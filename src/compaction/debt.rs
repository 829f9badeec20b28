//! How far compaction is behind. Dead bytes beyond what a store may carry slow appenders down to the
//! rate at which they are reclaimed, in small steps, so that the disk in use stays in proportion to
//! what lives.
//!
//! Log segments that wait to be clustered slow appenders down in the same way: each is a file, a map
//! and a filter that look-ups ask, so that filling must not outrun clustering without a bound.
//!
//! To couple writers to the merge is the idea of bLSM (Sears, Ramakrishnan: *bLSM: A General Purpose
//! Log Structured Merge Tree*, SIGMOD 2012). Only deaths that come with appends count: whoever
//! forgets half of a store, or opens one with much that is dead, slows nobody down.

use std::time::Duration;

use crate::commit::pace::Owed;

/// Appends are slowed down from so many dead bytes on, in percent of those that live,
const SOFT: u64 = 13;
/// and to a quarter of what is reclaimed at so many.
const HARD: u64 = 36;
/// Appends are slowed down from so many log segments on that wait to be clustered,
const LOGS_SOFT: u64 = 128;
/// and to a quarter of the rate of compaction at so many.
const LOGS_HARD: u64 = 512;
/// A store of less than this many log segments may carry as much as one of so many.
const LEAST_SEGMENTS: u64 = 4;
/// The rate is that of about so long a time,
const WINDOW: Duration = Duration::from_secs(2);
/// and nothing is known of it before so long.
const LEARNT: Duration = Duration::from_millis(100);
/// The rate is taken for this part of the one allowed at least: small jobs tell too little of it.
const SLOWEST: u64 = 4;
/// Of what is reclaimed, one byte in so many goes to dead bytes that were forgiven.
const FORGIVEN_SHARE: u64 = 4;

/// What is known of the work behind and ahead.
#[derive(Debug, Default)]
pub(super) struct Debt {
    /// Dead bytes reclaimed lately, bytes written for it, and in what time.
    reclaimed: u64,
    written: u64,
    time: Duration,
    /// The end of the log at the last garbage scan.
    scanned_to: u64,
    /// Of a thousand bytes appended between two scans, so many killed others without a notice.
    unheard: u64,
    /// The end of the log when it was last asked, and the dead bytes by then, reclaimed ones included.
    seen: Option<(u64, u64)>,
    reclaimed_ever: u64,
    /// Appended bytes that may still turn out to have killed as many.
    credit: u64,
    /// Dead bytes that no appends have brought.
    forgiven: u64,
}

/// The store as it is now.
pub(super) struct State {
    /// Bytes of content in sealed segments that live, and that are dead as far as it is booked.
    pub(super) live: u64,
    pub(super) dead: u64,
    /// Dead bytes that the job under way has left behind.
    pub(super) dropped: u64,
    /// Log segments that wait to be clustered, and the bytes of their files.
    pub(super) logs: u64,
    pub(super) log_bytes: u64,
    /// The end of the log.
    pub(super) end: u64,
    /// Bytes that are appended between two scans.
    pub(super) scan_each: u64,
    pub(super) segment_bytes: u64,
    /// The rate of compaction, for want of a measured one.
    pub(super) rate: u64,
}

impl Debt {
    /// A scan found so many bytes dead of which `booked` were known, when the log ended at `end`.
    pub(super) fn scanned(&mut self, end: u64, booked: u64, found: u64) {
        let appended = end.saturating_sub(self.scanned_to);
        if self.scanned_to > 0 && appended > 0 {
            let new = found.saturating_sub(booked).saturating_mul(1000) / appended;
            self.unheard = u64::midpoint(self.unheard, new.min(1000));
        }
        self.scanned_to = end;
    }

    /// A job that reclaimed and wrote so much is done; since the last one it took so long.
    pub(super) fn reclaimed(&mut self, bytes: u64, written: u64, took: Duration) {
        self.reclaimed_ever += bytes;
        self.forgiven = self.forgiven.saturating_sub(bytes / FORGIVEN_SHARE);
        self.reclaimed += bytes;
        self.written += written;
        self.time += took;
        while self.time > WINDOW {
            self.reclaimed /= 2;
            self.written /= 2;
            self.time /= 2;
        }
    }

    /// What appenders are to be told.
    pub(super) fn owed(&mut self, state: &State) -> Owed {
        let since = state.end.saturating_sub(self.scanned_to);
        let unheard = since.saturating_mul(self.unheard) / 1000;
        let dead = state.dead.saturating_add(unheard);
        self.forgive(state, dead);
        let live = state.live.saturating_sub(unheard);
        let base = live.max(state.segment_bytes.saturating_mul(LEAST_SEGMENTS));
        Owed {
            dead: dead.saturating_sub(state.dropped).saturating_sub(self.forgiven),
            soft: base / 100 * SOFT,
            hard: base / 100 * HARD,
            rate: self.rate(state),
            end: state.end,
            kill: self.unheard,
        }
    }

    /// What appenders are to be told of log segments that wait to be clustered.
    pub(super) fn owed_for_logs(&self, state: &State) -> Owed {
        let each = state.log_bytes / state.logs.max(1);
        Owed {
            dead: state.log_bytes,
            soft: each.saturating_mul(LOGS_SOFT),
            hard: each.saturating_mul(LOGS_HARD),
            rate: self.rate(state),
            end: state.end,
            // Each byte appended is one more that waits.
            kill: 1000,
        }
    }

    /// Bytes a second that compaction was seen to come to, as far as anything is known of it.
    fn rate(&self, state: &State) -> u64 {
        if self.time < LEARNT {
            state.rate
        } else {
            let millis = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX).max(1);
            // Jobs that cluster reclaim little, and say nothing of what others will.
            let bytes = self.reclaimed.max(self.written / 2);
            (bytes.saturating_mul(1000) / millis).max(state.rate / SLOWEST)
        }
    }

    /// Forgives deaths that outnumber the bytes appended. Some of those are heard of late: appended
    /// bytes are held ready for them, as many as come between two scans or so.
    fn forgive(&mut self, state: &State, dead: u64) {
        let died = dead.saturating_add(self.reclaimed_ever);
        let (end_before, died_before) = self.seen.unwrap_or((state.end, 0));
        self.seen = Some((state.end, died.max(died_before)));
        let most = state.scan_each.saturating_mul(2);
        self.credit = (self.credit + state.end.saturating_sub(end_before)).min(most);
        let new = died.saturating_sub(died_before);
        let excess = new.saturating_sub(self.credit);
        self.credit = self.credit.saturating_sub(new);
        self.forgiven = self.forgiven.saturating_add(excess).min(dead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn state(end: u64, live: u64, dead: u64) -> State {
        State {
            live: live * MIB,
            dead: dead * MIB,
            dropped: 0,
            logs: 0,
            log_bytes: 0,
            end: end * MIB,
            scan_each: 100 * MIB,
            segment_bytes: 16 * MIB,
            rate: 7 * MIB,
        }
    }

    #[test]
    fn deaths_that_come_with_appends_are_owed() {
        let mut debt = Debt::default();
        assert_eq!(debt.owed(&state(1000, 1000, 0)).urgency(), 0);
        assert_eq!(debt.owed(&state(1100, 1000, 100)).urgency(), 0);
        let owed = debt.owed(&state(1300, 1000, 300));
        assert_eq!(owed.dead, 300 * MIB);
        assert_eq!(owed.urgency(), 73);
        assert_eq!(owed.rate, 7 * MIB);
        // What the job under way has left behind counts no more.
        let owed = debt.owed(&State { dropped: 300 * MIB, ..state(1300, 1000, 300) });
        assert_eq!(owed.urgency(), 0);
    }

    #[test]
    fn what_was_dead_at_the_beginning_or_dies_at_a_stroke_is_forgiven() {
        let mut debt = Debt::default();
        assert_eq!(debt.owed(&state(1000, 500, 500)).dead, 0);
        assert_eq!(debt.owed(&state(1001, 200, 801)).dead, MIB);
        // What dies with appends is owed as ever.
        assert_eq!(debt.owed(&state(1051, 200, 851)).dead, 51 * MIB);
        // What is reclaimed goes to both, first of all to what appenders wait for.
        debt.reclaimed(100 * MIB, 0, Duration::from_secs(1));
        assert_eq!(debt.owed(&state(1051, 200, 751)).dead, 0);
        debt.reclaimed(100 * MIB, 0, Duration::from_secs(1));
        assert_eq!(debt.owed(&state(1101, 200, 701)).dead, 0);
    }

    #[test]
    fn deaths_that_only_a_scan_finds_are_expected() {
        let mut debt = Debt::default();
        debt.scanned(1000 * MIB, 0, 0);
        debt.owed(&state(1000, 1000, 0));
        // Heard of late, but no more than was appended.
        debt.owed(&state(1100, 1100, 0));
        debt.scanned(1100 * MIB, 0, 100 * MIB);
        assert_eq!(debt.owed(&state(1100, 1000, 100)).dead, 100 * MIB);
        // Half of what is appended is expected to kill now.
        assert_eq!(debt.owed(&state(1200, 1100, 100)).dead, 150 * MIB);
    }

    #[test]
    fn the_rate_is_learnt_from_jobs() {
        let mut debt = Debt::default();
        debt.reclaimed(300 * MIB, 100 * MIB, Duration::from_secs(1));
        assert_eq!(debt.owed(&state(1, 1, 0)).rate, 300 * MIB);
        debt.reclaimed(100 * MIB, 1100 * MIB, Duration::from_secs(1));
        assert_eq!(debt.owed(&state(1, 1, 0)).rate, 300 * MIB);
    }

    #[test]
    fn a_small_store_may_carry_some_segments() {
        let owed = Debt::default().owed(&state(1000, 1, 0));
        assert_eq!(owed.soft, 4 * 16 * MIB / 100 * SOFT);
    }

    #[test]
    fn log_segments_that_wait_slow_appenders_down() {
        let debt = Debt::default();
        let waiting = |logs: u64| State { logs, log_bytes: logs * MIB, ..state(1000, 1000, 0) };
        assert_eq!(debt.owed_for_logs(&waiting(0)).urgency(), 0);
        assert_eq!(debt.owed_for_logs(&waiting(LOGS_SOFT)).urgency(), 0);
        assert_eq!(debt.owed_for_logs(&waiting(u64::midpoint(LOGS_SOFT, LOGS_HARD))).urgency(), 50);
        assert_eq!(debt.owed_for_logs(&waiting(LOGS_HARD + 9)).urgency(), 100);
    }
}
