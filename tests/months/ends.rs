//! How processes end and begin: clean closes, kills, power failures, faults, openings.

use memlog::{Error, ErrorKind, Store};

use crate::bounds;
use crate::ledger::End;
use crate::rng::Rng;
use crate::world::{DIR, Outcome, World};

impl World {
    /// Opens the store and holds what it shows against the ledger.
    pub fn open(&mut self, end: End) -> Result<(), Error> {
        let opened = self.driver.open(&self.flavor.options, DIR);
        self.note(|| format!("open after {end:?}: {:?}", opened.as_ref().err()));
        let store = opened?;
        self.tally.openings += 1;
        self.store = Some(store.clone());
        self.trap = None;
        self.was_full = false;
        self.calm_since = self.driver.now();
        // Until the clock is confirmed the store may go by what was on the disk.
        (self.opened, self.recorded_then) = (self.calm_since, self.recorded);
        self.span.lo = self.recorded;
        self.accept(&store, end);
        Ok(())
    }

    fn accept(&mut self, store: &Store, end: End) {
        let report = store.recovery_report();
        assert!(report.damage.is_empty(), "recovery reports damage: {report:?}");
        let span = self.spans();
        match self.ledger.reopened(end, store, span) {
            Ok(lost) => self.marks.lose_all(lost.into_iter()),
            Err(why) => panic!("{why}\nreport: {report:?}"),
        }
        assert!(store.incarnation() > self.ledger.incarnation, "the incarnation is an old one");
        self.ledger.incarnation = store.incarnation();
        let next = store.stats().next_lsn.0;
        assert!(next >= self.ledger.highest_lsn, "lsn {next} was given out before");
        self.ledger.highest_lsn = next;
        if self.rng.one_in(4) {
            self.check_whole();
        } else {
            self.check_all();
        }
    }

    /// Where the model cannot know which policy survived, sets it anew; where it does not know what
    /// the policy keeps either, the agent is forgotten.
    pub fn clear_doubts(&mut self) -> Outcome {
        for (name, policy) in self.ledger.doubtful.clone() {
            if !self.set_policy(&name, policy)? {
                let mut draft = self.draft();
                self.forget(&mut draft, &name);
                self.commit(draft)?;
            }
        }
        self.ledger.doubtful.clear();
        Ok(())
    }

    /// Lets go of the store as a process does that dies. What is held must still read the same.
    fn abandon(&mut self) {
        self.driver.tasks.kill();
        self.check_held();
        self.held.clear();
        self.see_lsn();
        self.store = None;
        self.stopped = false;
    }

    fn see_lsn(&mut self) {
        if let Some(store) = &self.store {
            self.ledger.highest_lsn = self.ledger.highest_lsn.max(store.stats().next_lsn.0);
        }
    }

    pub fn close_and_reopen(&mut self) -> Outcome {
        self.close()?;
        if self.rng.one_in(3) {
            let time = std::time::Duration::from_secs(self.rng.below(40_000));
            self.driver.disk.advance(time);
        }
        match self.open(End::Clean) {
            Ok(()) => self.clear_doubts(),
            Err(error) => self.failed("opening after a close", &error),
        }
    }

    pub fn close(&mut self) -> Outcome {
        self.check_held();
        self.held.clear();
        let outcome = self.timed("close", bounds::CLOSE, |world| world.store().close());
        self.note(|| format!("close -> {outcome:?}"));
        self.see_lsn();
        if let Err(error) = outcome {
            return self.failed("close", &error).and(Err(crate::world::Stop));
        }
        self.ledger.all_durable();
        self.store = None;
        Ok(())
    }

    /// The process dies, or the machine, now.
    pub fn kill(&mut self) -> Outcome {
        self.tally.crashes += 1;
        self.die(false);
        Ok(())
    }

    /// What was ordered to go wrong has gone wrong: the store is opened anew.
    pub fn recover(&mut self) {
        // A full disk refuses openings too (an issue of its own).
        self.driver.disk.set_capacity(16 << 30);
        self.full = false;
        self.tally.crashes += 1;
        self.die(true);
    }

    fn die(&mut self, failed: bool) {
        self.span();
        // How much of the time was on the disk is not known: the clock is right again.
        self.driver.set_offset(0);
        let killed = self.rng.one_in(3);
        let seed = self.rng.next();
        self.note(|| format!("dies: killed={killed} failed={failed}"));
        if self.rng.one_in(2) {
            self.driver.disk.evict();
        }
        if killed {
            self.driver.disk.restart();
        } else {
            self.driver.disk.power_cycle(seed);
        }
        self.abandon();
        // A failed sync loses what the process was told is written.
        let end = if killed && !failed { End::Killed } else { End::PowerLost };
        self.reopen(end);
    }

    /// Opens after a crash, with crashes inside of the recovery, each at a call by chance.
    fn reopen(&mut self, mut end: End) {
        loop {
            while self.rng.one_in(4) {
                let call = self.driver.disk.calls() + self.rng.below(40);
                self.driver.disk.crash_at(call);
                let opened = self.driver.open(&self.flavor.options, DIR);
                if let Err(error) = &opened {
                    let kinds = [ErrorKind::Io, ErrorKind::Indeterminate];
                    assert!(kinds.contains(&error.kind()), "a recovery cut short says {error:?}");
                }
                self.driver.tasks.kill();
                self.see_incarnation(opened.ok());
                self.driver.disk.power_cycle(self.rng.next());
                end = End::PowerLost;
            }
            let mut owes = self.driver.disk.owes_an_error();
            while let Err(error) = self.open(end) {
                let told = owes && error.kind() == ErrorKind::Io;
                assert!(told, "opening after a crash is refused: {error:?}");
                owes = self.driver.disk.owes_an_error();
            }
            if self.clear_doubts().is_ok() {
                return;
            }
        }
    }

    fn see_incarnation(&mut self, store: Option<Store>) {
        if let Some(store) = store {
            let is_new = store.incarnation() > self.ledger.incarnation;
            assert!(is_new, "the incarnation is an old one");
            self.ledger.highest_lsn = self.ledger.highest_lsn.max(store.stats().next_lsn.0);
        }
    }

    /// After a phase: there is room, the clock is right, nothing is to go wrong any more.
    pub fn calm(&mut self) -> Outcome {
        // The store may have seen the clock as it is now.
        self.span();
        if self.full || self.driver.offset != 0 {
            // A clock that was behind stood still for the store; it is looked at anew.
            self.driver.disk.set_capacity(16 << 30);
            self.full = false;
            self.driver.set_offset(0);
            self.calm_since = self.driver.now();
        }
        if self.trap.is_some() {
            if self.trapped() {
                return Err(crate::world::Stop);
            }
            self.driver.disk.clear_faults();
            self.trap = None;
        }
        Ok(())
    }

    /// Dice of their own for a step.
    pub fn dice(&mut self, seed: u64, step: u64) {
        self.step = step;
        self.rng = Rng::of(&[seed, step, 7]);
    }
}
