//! What is looked at each simulated hour, and what happens in the middle of background work.

use memlog::{ErrorKind, Stats};

use crate::bounds;
use crate::flavor::HOUR;
#[cfg(test)]
use crate::model::Span;
use crate::skip::Check;
use crate::world::{DIR, Outcome, World};

impl World {
    /// Bytes that live by the model.
    pub fn live(&mut self) -> u64 {
        if let Some(live) = self.live {
            return live;
        }
        let span = self.span();
        self.ledger.trim(self.recorded);
        let model = self.ledger.now();
        let of = |(name, life): (&String, &crate::model::Life)| {
            let floor = life.floor_at(model.default, span.hi);
            bounds::life_bytes(name, life, floor, span)
        };
        let live = model.agents.iter().map(of).sum();
        self.live = Some(live);
        live
    }

    /// The look of an hour, or of a day where nothing happens.
    pub fn look(&mut self) -> Outcome {
        let now = self.driver.now();
        let quiet = now - self.changed.max(self.calm_since);
        self.next_look = now + if quiet < 6 * HOUR { HOUR } else { bounds::LOOKS };
        self.tally.looks += 1;
        if self.trapped() {
            // What is broken says so at the next call.
            return Ok(());
        }
        self.check_held();
        self.live = None;
        let live = self.live();
        let recent = self.recent.roll(live);
        if !self.full {
            self.check_bounds(recent, quiet);
        }
        self.check_some()?;
        if now >= self.next_scan {
            self.scan();
        }
        Ok(())
    }

    fn check_bounds(&mut self, live: u64, quiet: u64) {
        let stats = self.store().stats();
        let told = |what: &str, is: u64, most: u64| {
            format!("{what}: {is} where {most} are the most; {live} bytes live; {stats:?}")
        };
        let calm = self.driver.now() - self.calm_since >= 2 * HOUR;
        let settled = quiet >= bounds::SETTLES;
        let segment = self.flavor.segment;
        let segments = stats.segments + stats.unsealed_segments;
        self.check_health(calm, settled);
        if Check::Segments.is_on() && calm {
            let most = bounds::SEGMENTS;
            assert!(segments <= most, "{}", told("segments", segments, most));
        }
        if Check::Stats.is_on() {
            self.check_stats(&stats);
        }
        if Check::Manifest.is_on() && calm {
            let is = self.file("MANIFEST").map_or(0, |bytes| bytes.len() as u64);
            let most = bounds::manifest_bytes(&stats, settled);
            assert!(is <= most, "{}", told("manifest", is, most));
        }
        if Check::Resident.is_on() && settled {
            let in_use = self.largest_agents() + bounds::UNSEALED * stats.active_bytes;
            let most = bounds::resident_bytes(self.flavor.resident, in_use);
            assert!(
                stats.resident_bytes <= most,
                "{}",
                told("resident", stats.resident_bytes, most)
            );
        }
        if Check::Disk.is_on() && calm {
            let (is, pinned) = (self.driver.disk.used(), stats.pinned_bytes);
            let most = bounds::disk_bytes(live, pinned, segment, self.largest);
            assert!(is <= most, "{}", told("disk", is, most));
        }
        if Check::Settle.is_on() && settled {
            let logs = self.files().iter().filter(|file| file.ends_with(".log")).count() as u64;
            let most = bounds::SETTLED_LOGS;
            assert!(logs <= most, "{}", told("settle: log segments", logs, most));
            let most = bounds::settled_dead(live, segment);
            assert!(stats.dead_bytes <= most, "{}", told("settle: dead", stats.dead_bytes, most));
        }
    }

    /// Figures that contradict each other, or the disk.
    fn check_stats(&self, stats: &Stats) {
        let used = self.driver.disk.used();
        let listed = stats.segments + stats.unsealed_segments;
        let files =
            self.files().iter().filter(|f| f.ends_with(".log") || f.ends_with(".run")).count();
        // Those of a job under way are not listed yet, and replaced ones go later.
        assert!(files as u64 <= listed + 64, "stats: {files} files, {listed} listed: {stats:?}");
        assert!(stats.disk_bytes <= used * 2 + (1 << 20), "stats: {used} used: {stats:?}");
        assert!(stats.live_bytes <= stats.data_bytes * 2 + (64 << 10), "stats: {stats:?}");
    }

    /// Memory that agents in use may take, whatever the budget is: open views hold theirs.
    fn largest_agents(&self) -> u64 {
        let held = self.held.iter().map(|held| held.view.agent().name());
        let lives = held.filter_map(|name| self.ledger.now().agents.get(name));
        lives.map(|life| 200 * (life.state.len() + life.items.len()) as u64 + 4096).sum()
    }

    pub fn files(&self) -> Vec<String> {
        let files = self.driver.disk.files().into_iter();
        files.filter(|f| f.starts_with(DIR)).map(|f| f.display().to_string()).collect()
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.driver.disk.read_file(format!("{DIR}/{name}"))
    }

    /// Reads some agents.
    pub fn check_some(&mut self) -> Outcome {
        let agents = self.ledger.now().agents.len() as u64;
        for _ in 0..agents.min(4) {
            let at = self.rng.below(agents) as usize;
            let Some(name) = self.ledger.now().agents.keys().nth(at).cloned() else { break };
            if self.ledger.now().agents[&name].state.len() < 5000 || self.rng.one_in(20) {
                self.check_agent(&name)?;
            }
        }
        let absent = format!("absent/{}", self.rng.below(1000));
        self.check_agent(&absent)
    }

    /// Looks for what died in the bytes of all files.
    pub fn scan(&mut self) {
        let (now, span) = (self.driver.now(), self.span());
        let quiet = now - self.changed < 6 * HOUR;
        self.next_scan = now + if quiet { 6 * HOUR } else { 24 * HOUR };
        self.tally.scans += 1;
        self.marks.sweep(self.ledger.now(), span, now);
        let after = self.flavor.erase.map(bounds::erased_after);
        let due = after.and_then(|after| now.checked_sub(after));
        let due =
            due.filter(|due| *due >= self.calm_since + bounds::CONFIRMS && Check::Erase.is_on());
        let due = due.filter(|_| !self.full);
        let left = self.marks.scan(&self.driver.disk, DIR, now, due);
        for one in &left {
            let (file, offset, id) = (&one.file, one.offset, one.id);
            match one.dead_for {
                Some(time) => panic!(
                    "erase: {} numbers are not erased in time, of them {id} has been dead for {} h \
                     at {offset} of {file}; the bound is {:?} h",
                    left.len(),
                    time / HOUR,
                    self.flavor.erase.map(|within| within / HOUR)
                ),
                None if Check::Revive.is_on() => {
                    panic!("revive: {id} is back at {offset} of {file}, and was in no file before")
                }
                None => {}
            }
        }
    }

    /// In the middle of background work: appends, reads, forgets.
    pub fn interrupt(&mut self) {
        self.tally.pauses += 1;
        if self.stopped || self.store.is_none() || !self.rng.one_in(4) {
            return;
        }
        let outcome = match self.rng.below(5) {
            0 | 1 => self.append_some(1),
            2 => self.forget_one(),
            _ => self.check_some(),
        };
        self.stopped = outcome.is_err();
    }

    /// Nothing may have gone wrong in the background without a fault.
    fn check_health(&self, calm: bool, settled: bool) {
        let health = self.store().health();
        if Check::Health.is_on() {
            assert!(!health.poisoned && health.quarantined_bytes == 0, "health: {health:?}");
            // What found no room stands until it is tried again, which may be long in a store at rest.
            let error = health.last_error.as_ref();
            let error = error.filter(|e| e.kind() != ErrorKind::DiskFull || !self.was_full);
            assert!(!calm || error.is_none(), "health: {health:?}");
        }
        if Check::Settle.is_on() && settled {
            let backlog = health.clustering_backlog_bytes;
            assert!(backlog == 0, "settle: {backlog} bytes are yet to be clustered: {health:?}");
        }
    }

    /// Now and then everything is read, and all checksums are verified.
    pub fn check_whole(&mut self) {
        self.check_all();
        let damage = self.store().verify();
        assert!(damage.as_ref().is_ok_and(Vec::is_empty), "verify: {damage:?}");
    }
}

/// What lived lately: the background has an hour to give back what has died since.
#[derive(Default)]
pub struct Recent {
    before: u64,
    /// Bytes appended since.
    pub appended: u64,
}

impl Recent {
    /// The most that lived since the last look; begins anew.
    fn roll(&mut self, live: u64) -> u64 {
        let most = live.max(self.before + self.appended);
        (self.before, self.appended) = (live, 0);
        most
    }
}

#[test]
fn what_lived_in_the_last_hour_counts() {
    let mut recent = Recent { before: 0, appended: 10 };
    assert_eq!(recent.roll(3), 10);
    assert_eq!(recent.roll(1), 3);
    assert_eq!(recent.roll(1), 1);
}

#[test]
fn a_clock_is_believed_when_it_may_be() {
    let (before, opened) = (Span { lo: 5, hi: 5 }, 100 * HOUR);
    let span = |now, wall| bounds::believed(before, now, wall, (opened, 7));
    let (lo, hi) = (opened + 2 * HOUR, opened + 3 * HOUR);
    assert_eq!(span(lo, lo + 9 * HOUR), Span { lo, hi });
    assert_eq!(span(opened, opened), Span { lo: 7, hi: opened });
}
