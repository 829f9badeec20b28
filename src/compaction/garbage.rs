//! When to scan for garbage.
//!
//! Every death has a date. A death that is booked when it happens needs no scan. One that is not,
//! and one that no change causes (an expiry, an age, a policy under which later appends push entries
//! out), makes a scan due, by bytes appended or by time. So nothing that is dead stays unknown for
//! longer than a stated time, whether the store is appended to or rests.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::compaction::scan::{self, Scan};
use crate::compaction::{Busy, Compactor, How};
use crate::error::Result;
use crate::format::manifest::Forgotten;
use crate::sync::atomic::Ordering;
use crate::types::Retention;

/// A scan takes at most one part in so many of the time, unless there is a date to erase by.
const DUTY: u32 = 16;
/// Ages are looked at so often within the shortest of them.
const LOOKS_AN_AGE: u64 = 16;
/// What must be gone within a time is looked for so often within it.
const LOOKS_A_DEADLINE: u64 = 4;

/// The shortest time between two looks at what died, in an idle store.
const LOOK: Duration = Duration::from_secs(1);
/// The shortest sleep before something that must be gone is looked at again.
const NAP: Duration = Duration::from_millis(100);
/// A scan is worth its cost once one part in so many of the store was appended,
const APPENDED_SHARE: u64 = 8;
/// and one part in so many of what its footers take.
const FOOTER_SHARE: u64 = 2;
/// Bytes appended that make a scan worth its cost at least.
const LEAST_APPENDED: u64 = 1 << 20;
/// More forgotten prefixes than this make everything that is dead due for erasure: their lines then
/// leave the manifest.
const MAX_LINES: usize = 1024;

/// What the last scan covered.
#[derive(Clone, Copy, Debug, Default)]
struct Scanned {
    /// When it began, in ms since the epoch.
    at: u64,
    /// The end of the log then.
    end: u64,
    /// Deaths that had not been booked, and segments that had been sealed.
    unbooked: u64,
    seals: u64,
    /// When it ended, on the monotonic clock, and how long it took.
    ended: Duration,
    took: Duration,
    /// The shortest age under which entries die, in ms, and when one does next.
    least_age: Option<u64>,
    next_death: Option<u64>,
    /// A job was installed since: lines of forgotten prefixes may be of no use any more.
    installed: bool,
}

/// Since when nothing was appended.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// Where the log's last records ended, and since when, on the monotonic clock.
    end: u64,
    since: Duration,
    /// When that was looked at last.
    looked: Duration,
    /// What is left was looked at since: the store has settled.
    settled: bool,
}

impl Quiet {
    /// Whether nothing was appended for the interval of scans.
    pub(super) fn has_settled(&self) -> bool {
        self.settled
    }
}

/// The schedule of scans.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    last: Scanned,
}

/// The store as it is now, as far as it bears on the schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The time that waits go by: the store's time, but it never stands still.
    pub(super) now: u64,
    /// The time by which what has expired is destroyed. It stands still where the wall clock was set
    /// back.
    pub(super) time: u64,
    pub(super) monotonic: Duration,
    /// The end of the log.
    pub(super) end: u64,
    pub(super) unbooked: u64,
    pub(super) first_unbooked: Option<u64>,
    pub(super) seals: u64,
    /// Entries die under policies as others are appended.
    pub(super) policies: bool,
    /// The lowest expiry of all entries in sealed segments; MAX: there is none.
    pub(super) next_expiry: u64,
    /// Lives are held against forgotten prefixes.
    pub(super) lines: bool,
    /// Bytes appended that make a scan worth its cost.
    pub(super) each: u64,
    /// The shortest time between two scans that no appends cause, in ms.
    pub(super) interval: u64,
    /// The time within which the dead are to be erased, in ms.
    pub(super) erase_within: Option<u64>,
}

impl Schedule {
    /// The store was opened: what was not booked before is due after a rest, so that processes
    /// that open a store for a moment do not scan it.
    pub(super) fn opened(&mut self, facts: &Facts) {
        let rest = Duration::from_millis(facts.interval) / DUTY;
        let known = Facts { unbooked: 0, ..*facts };
        self.scanned(&known, rest, None, None);
        self.last.ended = facts.monotonic;
    }

    /// A scan that began with these facts is done.
    pub(super) fn scanned(
        &mut self,
        facts: &Facts,
        took: Duration,
        least_age: Option<u64>,
        next_death: Option<u64>,
    ) {
        self.last = Scanned {
            at: facts.now,
            end: facts.end,
            unbooked: facts.unbooked,
            seals: facts.seals,
            ended: facts.monotonic.saturating_add(took),
            took,
            least_age,
            next_death,
            installed: false,
        };
    }

    /// A job was installed.
    pub(super) fn installed(&mut self) {
        self.last.installed = true;
    }

    /// Whether an explicit call needs a scan: something may be dead and is not booked. Gives the date
    /// of the first death that it may find.
    pub(super) fn due_now(&self, facts: &Facts) -> Option<u64> {
        let last = &self.last;
        let date = first_death(facts, last);
        // Segments that were sealed since hold what no footer told of before.
        let sealed = (facts.seals != last.seals && facts.policies).then_some(last.at);
        let date = date.or(sealed)?;
        Some(date.min(facts.now))
    }

    /// Whether a scan is due in the background, and the date of the first death that it may find.
    pub(super) fn due(&self, facts: &Facts) -> Option<u64> {
        let last = &self.last;
        let date = first_death(facts, last)?;
        let due = date.min(facts.now);
        let appended = facts.end.saturating_sub(last.end) >= facts.each;
        let dies_by_appends = facts.policies || facts.unbooked != last.unbooked;
        if appended && dies_by_appends {
            return Some(due);
        }
        (facts.now >= date.saturating_add(wait(facts)) && rested(facts, last)).then_some(due)
    }

    /// Whether the next append may push entries out that no scan is due for yet.
    pub(super) fn waits_for_appends(&self, facts: &Facts) -> bool {
        facts.policies && facts.end == self.last.end
    }

    /// How long until a scan is due, if nothing else happens.
    pub(super) fn pause(&self, facts: &Facts) -> Option<Duration> {
        let last = &self.last;
        let until = |date: u64, now: u64| date.saturating_add(wait(facts)).saturating_sub(now);
        let expiry = (facts.next_expiry != u64::MAX).then_some(facts.next_expiry.max(last.at));
        let by_time = [expiry, next_aged(facts, last)].into_iter().flatten().min();
        let times = [
            first_death(facts, last).map(|date| until(date, facts.now)),
            by_time.map(|date| until(date, facts.time)),
        ];
        let time = times.into_iter().flatten().min()?;
        let rest = last.ended.saturating_add(rest(facts, last)).saturating_sub(facts.monotonic);
        Some(Duration::from_millis(time).max(rest))
    }
}

/// The date of the first death that may have happened since the last scan and was not booked.
fn first_death(facts: &Facts, last: &Scanned) -> Option<u64> {
    let unbooked =
        (facts.unbooked != last.unbooked).then(|| facts.first_unbooked.unwrap_or(last.at));
    // Only what is sealed is found; appends push out entries of sealed segments too.
    let pushed = (facts.policies && facts.end != last.end).then_some(last.at);
    let expired = (facts.next_expiry <= facts.time).then_some(facts.next_expiry.max(last.at));
    let aged = next_aged(facts, last).filter(|date| facts.time >= *date);
    let lines = (facts.lines && last.installed).then_some(last.at);
    [unbooked, pushed, expired, aged, lines].into_iter().flatten().min()
}

/// When an entry dies of its age next, and a scan for it is worth while.
fn next_aged(facts: &Facts, last: &Scanned) -> Option<u64> {
    let (age, next) = (last.least_age?, last.next_death?);
    let look = if facts.erase_within.is_some() { 0 } else { age / LOOKS_AN_AGE };
    Some(next.max(last.at.saturating_add(look)))
}

fn rested(facts: &Facts, last: &Scanned) -> bool {
    facts.monotonic >= last.ended.saturating_add(rest(facts, last))
}

/// How long a possible death may stay unknown, in ms.
fn wait(facts: &Facts) -> u64 {
    let deadline = facts.erase_within.map_or(u64::MAX, |within| within / LOOKS_A_DEADLINE);
    facts.interval.min(deadline)
}

fn rest(facts: &Facts, last: &Scanned) -> Duration {
    if facts.erase_within.is_some() { Duration::ZERO } else { last.took.saturating_mul(DUTY) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Compactor {
    pub(super) fn facts(&self) -> Facts {
        let engine = &self.engine;
        let set = engine.catalog.segments();
        let sound = set.sealed.iter().filter(|segment| !segment.is_quarantined());
        let deaths = &engine.catalog.deaths;
        let seals = engine.order.lock().oldest_unsealed();
        Facts {
            now: self.schedule_now(),
            time: engine.confirmed_now(),
            monotonic: engine.io.clock.monotonic(),
            end: engine.ordered_end(),
            unbooked: deaths.unbooked(),
            first_unbooked: deaths.first_unbooked(),
            seals,
            policies: self.has_policies(),
            next_expiry: sound.map(|segment| segment.next_expiry()).min().unwrap_or(u64::MAX),
            lines: engine.catalog.forgotten_prefixes() > 0,
            each: self.scan_each(),
            interval: millis(engine.options.scan_interval),
            erase_within: engine.options.erase_within.map(millis),
        }
    }

    /// The store's time, or what it would be if the wall clock had not been set back since the store
    /// was opened.
    fn schedule_now(&self) -> u64 {
        let (time, since) = self.began;
        let passed = self.engine.io.clock.monotonic().saturating_sub(since);
        self.engine.now().max(time.saturating_add(millis(passed)))
    }

    /// How a job is picked in the background: a store that nothing was appended to for the interval
    /// of scans is idle.
    pub(super) fn how(&self, quiet: &mut Quiet) -> How {
        let (end, now) = (self.engine.content_end(), self.engine.io.clock.monotonic());
        if quiet.end != end {
            // The log task may not have noted yet what was appended just now.
            let moved = Some(self.engine.quiet_since()).filter(|moved| *moved >= quiet.looked);
            (quiet.end, quiet.since) = (end, moved.unwrap_or(now));
        }
        quiet.looked = now;
        quiet.settled = now.saturating_sub(quiet.since) >= self.engine.options.scan_interval;
        if quiet.settled { How::Idle } else { How::Busy }
    }

    /// How long until the store is idle, and is to settle.
    fn settles_in(&self, quiet: &Quiet, now: Duration) -> Option<Duration> {
        let engine = &self.engine;
        let more = engine.catalog.segments().sealed.len() > 1
            || engine.has_too_much_ahead()
            || engine.catalog.is_over_budget();
        let waits = !quiet.settled && more;
        let due = quiet.since.saturating_add(self.engine.options.scan_interval);
        waits.then(|| due.saturating_sub(now))
    }

    fn has_policies(&self) -> bool {
        let engine = &self.engine;
        if engine.options.retention != Retention::new() || !engine.past_defaults.is_empty() {
            return true;
        }
        let unsealed = {
            let order = engine.order.lock();
            let sealing = order.sealing.iter().map(|job| &job.file);
            sealing.chain([&order.active]).any(|file| file.segment.has_policies())
        };
        unsealed || engine.catalog.segments().sealed.iter().any(|segment| segment.has_policies())
    }

    /// Bytes appended that make a scan worth its cost.
    pub(super) fn scan_each(&self) -> u64 {
        let (live, dead) = self.content();
        let set = self.engine.catalog.segments();
        let footers = set.sealed.iter().filter_map(|segment| segment.trailer());
        let footers = footers.map(|trailer| trailer.footer_len()).fold(0, u64::saturating_add);
        (live.saturating_add(dead) / APPENDED_SHARE).max(footers / FOOTER_SHARE).max(LEAST_APPENDED)
    }

    /// Scans for garbage, if that is due.
    pub(super) fn scan_if_due(
        &self,
        busy: &mut Busy,
        now: bool,
        manners: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let facts = self.facts();
        let due = if now { busy.schedule.due_now(&facts) } else { busy.schedule.due(&facts) };
        match due {
            Some(date) => self.scan(busy, &facts, date, &mut || manners(0)).map(drop),
            None => Ok(()),
        }
    }

    /// Scans for garbage now.
    pub(super) fn scan(
        &self,
        busy: &mut Busy,
        facts: &Facts,
        date: u64,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Scan> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        let deaths = &self.engine.catalog.deaths;
        let (unbooked, all) = (deaths.begin_scan(), deaths.all());
        let (_, booked) = self.content();
        let scan = scan::scan(&self.engine, date, go_on).inspect_err(|_| {
            // What it was to find is still unknown.
            deaths.abandon_scan(unbooked);
        })?;
        if deaths.all() != all {
            // What was booked meanwhile the scan may not have seen, and has replaced.
            deaths.lose_bookings(facts.now);
        }
        let took = self.engine.io.clock.monotonic().saturating_sub(facts.monotonic);
        busy.schedule.scanned(facts, took, scan.least_age, scan.next_death);
        busy.debt.scanned(facts.end, booked, self.content().1);
        self.drop_lines(&scan.settled)?;
        Ok(scan)
    }

    /// Takes forgotten prefixes off the manifest that nothing is held against any more.
    pub(super) fn drop_lines(&self, over: &[Forgotten]) -> Result<()> {
        if over.is_empty() {
            return Ok(());
        }
        self.engine.catalog.drop_forgotten(over);
        let over: BTreeMap<&str, u64> =
            over.iter().map(|line| (line.prefix.as_str(), line.lsn)).collect();
        // Prefixes that were forgotten again since stay.
        let is_over =
            |line: &Forgotten| over.get(line.prefix.as_str()).is_some_and(|lsn| *lsn >= line.lsn);
        self.engine.replace_relieving(|m| m.forgotten.retain(|line| !is_over(line)))
    }

    /// What died by then is to be erased now. Half of the time is for the work itself.
    pub(super) fn erase_before(&self) -> Option<u64> {
        let now = self.schedule_now();
        if self.engine.catalog.forgotten_prefixes() > MAX_LINES {
            return Some(now);
        }
        let within = u64::try_from(self.engine.options.erase_within?.as_millis());
        Some(now.saturating_sub(within.unwrap_or(u64::MAX) / 2))
    }

    /// Has the active segment sealed if something in it died that must be gone soon: only what is
    /// sealed can be left out of a run.
    pub(super) fn seal_if_due(&self) -> Result<()> {
        let Some(before) = self.erase_before() else { return Ok(()) };
        let due = self.active_death().is_some_and(|date| date <= before);
        if due { self.seal_if_there_is_room().map(drop) } else { Ok(()) }
    }

    /// The date of the first death in the active segment, as far as one may have happened.
    fn active_death(&self) -> Option<u64> {
        let policies = self.has_policies();
        let order = self.engine.order.lock();
        let segment = &order.active.segment;
        let (dead, since) = segment.dead();
        let died = (dead > 0).then_some(since);
        let expiry = Some(segment.next_expiry()).filter(|date| *date != u64::MAX);
        let pushed = Some(order.begun).filter(|begun| *begun != 0 && policies);
        [died, expiry, pushed].into_iter().flatten().min()
    }

    /// How long compaction may sleep if nothing happens.
    pub(super) fn pause(&self, busy: &Busy) -> Option<Duration> {
        // First, so that an append behind the facts is not missed.
        let deaths = &self.engine.catalog.deaths;
        deaths.rest(true);
        let facts = self.facts();
        deaths.rest(busy.schedule.waits_for_appends(&facts));
        let scan = busy.schedule.pause(&facts);
        let until = |date: u64| Duration::from_millis(date.saturating_sub(facts.now));
        let look = self.engine.catalog.deaths.first();
        let look = look.map(|first| until(first).saturating_add(LOOK));
        let erase = facts.erase_within.and_then(|within| {
            let set = self.engine.catalog.segments();
            let sound = set.sealed.iter().filter(|segment| !segment.is_quarantined());
            let dates = sound.map(|segment| segment.dead().1).filter(|since| *since != 0);
            let date = dates.chain(self.active_death()).min()?;
            Some(until(date.saturating_add(within / 2)).max(NAP))
        });
        let settle = self.settles_in(&busy.quiet, facts.monotonic);
        [scan, look, erase, settle].into_iter().flatten().min()
    }

    /// Begins a look at what died, at most one in a second: deaths from here on wake compaction.
    pub(super) fn look_at_deaths(&self) {
        let deaths = &self.engine.catalog.deaths;
        let look = u64::try_from(LOOK.as_millis()).unwrap_or(u64::MAX);
        if deaths.first().is_some_and(|first| first.saturating_add(look) <= self.schedule_now()) {
            deaths.look();
        }
    }
}

#[cfg(test)]
#[path = "garbage_tests.rs"]
mod tests;
