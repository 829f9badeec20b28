//! One history: a store on a simulated disk, the ledger of what was done, and the views held.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memlog::sim::SimDisk;
use memlog::{Commit, Durability, Error, ErrorKind, Receipt, Retention, Store, View};

use crate::drafts::Draft;
use crate::flavor::{Flavor, Trap};
use crate::ledger::{End, Ledger, look_at_all};
use crate::model::{Done, Op, Seen};
use crate::rng::Rng;

pub const DIR: &str = "/data/store";
pub const NAMES: &[&str] = &["t/a/1", "t/a/2", "t/a", "t/b", "t/", "solo", "u/x", "u/y/z"];
/// Agents of histories that compact: few, so that each has entries in several segments.
const FEW: &[&str] = &["t/a/1", "t/a/1", "t/a", "t/b", "solo", "u/x"];
const PREFIXES: &[&str] = &["t/", "t/a/", "u/", "none/", "u/y/"];
pub const KEYS: &[&str] = &["goal", "k", "plan/1", "plan/2"];
pub const EPOCH: u64 = 1_700_000_000_000;

pub struct Pending {
    commit: Commit,
    number: u64,
    durability: Durability,
    seqs: Vec<(String, u64, u64)>,
}

/// A view that is kept, and what it showed when it was opened.
pub struct Held {
    pub view: View,
    pub seen: Seen,
}

pub struct World {
    pub disk: SimDisk,
    pub ledger: Ledger,
    pub store: Option<Store>,
    pub flavor: Flavor,
    pub rng: Rng,
    pub pending: Vec<Pending>,
    pub held: Vec<Held>,
    /// Errors are to be expected: a fault or a crash has been ordered.
    pub trouble: bool,
    pub trap: Trap,
    /// A write or sync of the log has failed.
    pub poisoned: bool,
    /// There is almost no room on the disk.
    pub is_full: bool,
    /// How often the sizes of all that is put in are halved.
    pub halved: u32,
    /// The power does not fail while the history goes on.
    pub stays: bool,
    /// How the store is opened from the next time on.
    pub next_flavor: Option<Flavor>,
    pub trail: Vec<String>,
    pub verbose: bool,
}

impl World {
    pub fn new(disk: SimDisk, ledger: Ledger, flavor: Flavor, rng: Rng) -> World {
        World {
            disk,
            ledger,
            store: None,
            flavor,
            rng,
            pending: Vec::new(),
            held: Vec::new(),
            trouble: false,
            trap: Trap::None,
            poisoned: false,
            is_full: false,
            halved: 0,
            stays: false,
            next_flavor: None,
            trail: Vec::new(),
            verbose: std::env::var_os("MEMLOG_TRAIL").is_some(),
        }
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if self.verbose {
            let line = format!("[call {}] {}", self.disk.calls(), what());
            eprintln!("{line}");
            self.trail.push(line);
        }
    }

    pub fn store(&self) -> Store {
        self.store.clone().unwrap()
    }

    /// Opens the store and holds what it shows against the ledger.
    pub fn open(&mut self, end: End) -> Result<(), Error> {
        self.flavor = self.next_flavor.take().unwrap_or_else(|| self.flavor.clone());
        let opened = self.flavor.options.open_on(&self.disk, DIR);
        let keep = self.flavor.keep;
        self.note(|| format!("open after {end:?}, keeping {keep:?}: {:?}", opened.as_ref().err()));
        let store = opened?;
        self.store = Some(store.clone());
        self.poisoned = false;
        self.accept(&store, end);
        Ok(())
    }

    fn accept(&mut self, store: &Store, end: End) {
        let report = store.recovery_report();
        assert!(report.damage.is_empty(), "recovery reports damage: {report:?}");
        let seen = look_at_all(store).unwrap_or_else(|e| panic!("reading after open: {e}"));
        if let Err(why) = self.ledger.reopened(end, self.flavor.keep, &seen) {
            panic!("{why}\nreport: {report:?}");
        }
        assert!(store.incarnation() > self.ledger.incarnation, "the incarnation is an old one");
        self.ledger.incarnation = store.incarnation();
        let next = store.stats().next_lsn.0;
        assert!(next >= self.ledger.highest_lsn, "lsn {next} was given out before");
        self.ledger.highest_lsn = next;
        if !self.trapped() {
            match store.verify() {
                Ok(damage) => assert!(damage.is_empty(), "verify after open: {damage:?}"),
                // Verifying looks too, and may have met the trap itself.
                Err(error) => assert!(self.trapped(), "verify after open: {error}"),
            }
        }
        self.check_bytes();
        for name in NAMES {
            if !self.ledger.now().contains_key(*name) {
                let view = store.agent(name).unwrap().view().unwrap();
                assert_eq!((view.floor(), view.next_seq()), (1, 1), "{name} is not absent");
            }
        }
    }

    /// Where the model cannot know which policy survived, sets it anew. Until that is durable it is
    /// in doubt on: after another crash the store may have neither.
    pub fn clear_doubts(&mut self) -> Result<(), Error> {
        let doubtful = self.ledger.doubtful.clone();
        for (name, policy) in &doubtful {
            self.set_policy(name, *policy)?;
        }
        if !doubtful.is_empty() {
            self.sync()?;
            self.ledger.doubtful.clear();
        }
        Ok(())
    }

    /// Lets go of the store as a process does that dies. What is held must still read the same.
    pub fn abandon(&mut self) {
        self.check_held();
        self.held.clear();
        self.pending.clear();
        self.store = None;
        self.note(|| "abandoned".into());
    }

    /// One step; an error is one that trouble explains.
    pub fn step(&mut self) -> Result<(), Error> {
        self.disk.advance(Duration::from_millis(self.rng.below(50)));
        let dice = if self.flavor.compacts { self.rng.below(150) } else { self.rng.below(100) };
        let outcome = match dice {
            0..58 => self.commit_some(false),
            58..68 => self.commit_some(true),
            68..73 => self.wait_one(),
            73..77 => self.sync(),
            77..80 => self.barrier(),
            80..82 => self.forget_prefix(),
            82..84 => self.set_some_policy(),
            84..87 => self.hold(),
            87..93 => self.check_one(),
            93..95 => self.check_agents(),
            95..97 => self.check_errors(),
            97 => self.close_and_reopen(),
            98.. if dice < 100 && self.stays => self.kill(End::Killed),
            98 => self.kill(End::Killed),
            100.. => self.tend(dice - 100),
            _ => self.kill(End::PowerLost),
        };
        self.see_lsn();
        match outcome {
            Err(e) if !self.trouble => panic!("without any fault: {e:?}"),
            outcome => outcome,
        }
    }

    fn see_lsn(&mut self) {
        if let Some(store) = &self.store {
            self.ledger.highest_lsn = self.ledger.highest_lsn.max(store.stats().next_lsn.0);
        }
    }

    pub fn name(&mut self) -> String {
        match self.rng.below(8) {
            _ if self.flavor.compacts => (*self.rng.pick(FEW)).to_owned(),
            0 => format!("u/many/{}", self.rng.below(30)),
            1..5 => NAMES[self.rng.below(3) as usize].to_owned(),
            _ => (*self.rng.pick(NAMES)).to_owned(),
        }
    }

    /// A batch of anything.
    pub fn commit_some(&mut self, submit: bool) -> Result<(), Error> {
        let mut draft = self.draft();
        let agents = if self.rng.one_in(4) { 2 + self.rng.below(3) } else { 1 };
        let names: Vec<String> = (0..agents).map(|_| self.name()).collect();
        let conflict = self.rng.one_in(25);
        self.expect(&mut draft, &names[0], conflict);
        for name in &names {
            for _ in 0..=self.rng.below(3) {
                self.change(&mut draft, name);
            }
        }
        if self.rng.one_in(2) {
            draft.durability =
                *self.rng.pick(&[Durability::Sync, Durability::Write, Durability::Buffer]);
            draft.batch.durability(draft.durability);
        }
        if conflict {
            let error = draft.batch.commit().expect_err("a wrong expectation was met");
            let expected = error.kind() == ErrorKind::Conflict;
            assert!(expected || self.trouble, "a wrong expectation: {error:?}");
            return if expected { Ok(()) } else { self.failed(error, None) };
        }
        if draft.ops.iter().any(|(_, op)| matches!(op, Op::Forget)) {
            draft.durability = Durability::Sync;
        }
        if submit { self.submit(draft) } else { self.commit(draft) }
    }

    /// A batch of one entry.
    pub fn commit_one(&mut self, durability: Durability) -> Result<(), Error> {
        let mut draft = self.draft();
        let name = self.name();
        self.change_by_entry(&mut draft, &name);
        draft.durability = durability;
        draft.batch.durability(durability);
        self.commit(draft)
    }

    fn commit(&mut self, mut draft: Draft) -> Result<(), Error> {
        let seqs = self.expected_seqs(&draft);
        let done = self.ledger.done(std::mem::take(&mut draft.ops));
        let summary = self.verbose.then(|| describe(&done));
        let before = self.store().stats().next_lsn.0;
        let outcome = draft.batch.commit();
        self.note(|| format!("commit {:?} {} -> {outcome:?}", draft.durability, summary.unwrap()));
        let receipt = match outcome {
            Ok(receipt) => receipt,
            Err(error) => return self.failed(error, Some(done)),
        };
        assert!(receipt.lsn().0 >= before, "the lsn is one of earlier ones");
        let number = self.ledger.ordered(done);
        self.acknowledged(number, draft.durability, &receipt, &seqs);
        Ok(())
    }

    /// A batch failed. If it is in doubt it may be there after all.
    fn failed(&mut self, error: Error, done: Option<Done>) -> Result<(), Error> {
        assert!(self.trouble, "without any fault: {error:?}");
        let allowed =
            [ErrorKind::Indeterminate, ErrorKind::Poisoned, ErrorKind::DiskFull, ErrorKind::Io];
        assert!(allowed.contains(&error.kind()), "a batch failed with {error:?}");
        if self.poisoned {
            assert_eq!(error.kind(), ErrorKind::Poisoned, "after a failed write: {error:?}");
        }
        if error.kind() == ErrorKind::Indeterminate {
            self.poisoned = true;
            if let Some(done) = done {
                self.ledger.ordered(done);
            }
        }
        Err(error)
    }

    fn expected_seqs(&self, draft: &Draft) -> Vec<(String, u64, u64)> {
        let mut starts: Vec<(String, u64)> = Vec::new();
        for (name, op) in &draft.ops {
            let now = self.ledger.now().get(name).map_or(1, |life| life.next);
            if !starts.iter().any(|(n, _)| n == name) {
                starts.push((name.clone(), now));
            }
            if matches!(op, Op::Forget) {
                starts.iter_mut().filter(|(n, _)| n == name).for_each(|(_, next)| *next = 1);
            }
        }
        let end = |name: &str| draft.model.get(name).map_or(1, |life| life.next);
        starts.into_iter().map(|(name, from)| (name.clone(), from, end(&name))).collect()
    }

    fn acknowledged(
        &mut self,
        number: u64,
        durability: Durability,
        receipt: &Receipt,
        seqs: &[(String, u64, u64)],
    ) {
        let store = self.store();
        for (name, from, to) in seqs {
            let told = receipt.seqs(&store.agent(name).unwrap());
            assert!(
                told == (*from..*to) || (told.is_empty() && from == to),
                "{name}: {told:?} {from}..{to}"
            );
        }
        self.ledger.learn_lsn(number, receipt.lsn().0);
        match durability {
            Durability::Sync => self.ledger.durable(number),
            Durability::Write => self.ledger.written(number),
            _ => {}
        }
    }

    fn submit(&mut self, mut draft: Draft) -> Result<(), Error> {
        let seqs = self.expected_seqs(&draft);
        let done = self.ledger.done(std::mem::take(&mut draft.ops));
        self.note(|| format!("submit {:?} {}", draft.durability, describe(&done)));
        let before = self.store().stats().next_lsn;
        let commit = draft.batch.submit();
        if self.store().stats().next_lsn == before {
            // It was refused at once.
            let error = commit.wait().expect_err("a batch without an lsn");
            return self.failed(error, None);
        }
        let number = self.ledger.ordered(done);
        self.pending.push(Pending { commit, number, durability: draft.durability, seqs });
        if self.pending.len() > 4 { self.wait_one() } else { Ok(()) }
    }

    /// Waits for a submitted batch, not always the first.
    fn wait_one(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.pending.len() as u64) as usize;
        let Pending { commit, number, durability, seqs } = self.pending.remove(index);
        let outcome = if self.rng.one_in(2) { commit.wait() } else { poll(commit) };
        self.note(|| format!("wait -> {outcome:?}"));
        match outcome {
            Ok(receipt) => {
                self.acknowledged(number, durability, &receipt, &seqs);
                Ok(())
            }
            Err(error) => {
                assert!(self.trouble, "without any fault: {error:?}");
                if error.kind() == ErrorKind::Indeterminate {
                    self.poisoned = true;
                } else {
                    self.ledger.withdrawn(number);
                }
                Err(error)
            }
        }
    }

    pub fn wait_all(&mut self) -> Result<(), Error> {
        while !self.pending.is_empty() {
            self.wait_one()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        let outcome = self.store().sync();
        self.note(|| format!("sync -> {outcome:?}"));
        match outcome {
            Ok(()) => self.ledger.durable(self.ledger.last_number()),
            Err(error) => {
                assert!(self.trouble, "without any fault: {error:?}");
                self.poisoned = true;
                return Err(error);
            }
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), Error> {
        let durability = *self.rng.pick(&[Durability::Sync, Durability::Write]);
        let outcome = self.store().batch().durability(durability).commit();
        self.note(|| format!("barrier {durability:?} -> {outcome:?}"));
        let last = self.ledger.last_number();
        match outcome {
            Ok(_) if durability == Durability::Sync => self.ledger.durable(last),
            Ok(_) => self.ledger.written(last),
            Err(error) => return self.failed(error, None),
        }
        Ok(())
    }

    fn forget_prefix(&mut self) -> Result<(), Error> {
        let prefix = *self.rng.pick(PREFIXES);
        let outcome = self.store().forget_prefix(prefix);
        self.note(|| format!("forget_prefix {prefix} -> {outcome:?}"));
        let mut done = self.ledger.done(vec![(prefix.to_owned(), Op::ForgetPrefix)]);
        match outcome {
            Ok(lsn) => {
                done.lsn = Some(lsn.0);
                let number = self.ledger.ordered(done);
                self.ledger.durable(number);
                Ok(())
            }
            Err(error) => self.failed(error, Some(done)),
        }
    }

    fn set_some_policy(&mut self) -> Result<(), Error> {
        let name = self.name();
        let policy = (!self.rng.one_in(3)).then(|| self.rng.below(12));
        self.set_policy(&name, policy)
    }

    fn set_policy(&mut self, name: &str, policy: Option<u64>) -> Result<(), Error> {
        let policy = policy.or(self.flavor.turns.then_some(1 << 40));
        // The floor that it fixes is the one that everybody sees.
        self.wait_all()?;
        let agent = self.store().agent(name).unwrap();
        let floor = self.ledger.now().get(name).map_or(1, |life| life.view_floor());
        let outcome = agent.set_retention(policy.map(|most| Retention::new().max_entries(most)));
        self.note(|| format!("policy {name} {policy:?} -> {outcome:?}"));
        let op = |op| (name.to_owned(), op);
        let done = self.ledger.done(vec![op(Op::Truncate(floor)), op(Op::Policy(policy))]);
        match outcome {
            Ok(()) => {
                let number = self.ledger.ordered(done);
                match self.flavor.default {
                    Durability::Sync => self.ledger.durable(number),
                    Durability::Write => self.ledger.written(number),
                    _ => {}
                }
                Ok(())
            }
            Err(error) => self.failed(error, Some(done)),
        }
    }

    /// Closes the store for good.
    pub fn finish(&mut self) {
        self.wait_all().unwrap();
        self.store().close().unwrap();
        self.ledger.durable(self.ledger.last_number());
        self.abandon();
    }

    pub fn close_and_reopen(&mut self) -> Result<(), Error> {
        self.wait_all()?;
        self.check_held();
        self.held.clear();
        let outcome = self.store().close();
        self.note(|| format!("close -> {outcome:?}"));
        if let Err(error) = outcome {
            assert!(self.trouble, "close: {error:?}");
            self.store = None;
            return Err(error);
        }
        self.ledger.durable(self.ledger.last_number());
        self.store = None;
        self.open(End::Clean)?;
        self.clear_doubts()
    }

    /// The process dies, or the machine.
    fn kill(&mut self, end: End) -> Result<(), Error> {
        let seed = self.rng.next();
        self.check_held();
        self.pending.clear();
        if end == End::Killed {
            self.disk.restart();
        } else {
            self.disk.power_cycle(seed);
            self.ledger.power_lost();
        }
        self.abandon();
        self.arm();
        self.open(end)?;
        self.clear_doubts()
    }

    /// Sets the trap, which the end of a process takes away.
    pub fn arm(&mut self) {
        match self.trap {
            Trap::None => {}
            Trap::Crash { call } => self.disk.crash_at(call),
            Trap::Fault { call, .. } if self.disk.calls() > call => {}
            Trap::Fault { call, fault, sticky } => self.disk.fail_at(call, fault, sticky),
            Trap::Look { read, .. } if self.disk.reads() > read => {}
            Trap::Look { read, sticky } => self.disk.fail_read_at(read, sticky),
        }
    }

    /// Whether the trap has been stepped into.
    pub fn trapped(&self) -> bool {
        match self.trap {
            Trap::None => false,
            Trap::Crash { call } | Trap::Fault { call, .. } => self.disk.calls() > call,
            Trap::Look { read, .. } => self.disk.reads() > read,
        }
    }
}

fn describe(done: &Done) -> String {
    let parts: Vec<String> = done
        .ops
        .iter()
        .map(|(name, op)| match op {
            Op::Append(item) => format!("{name} append joined={}", item.joined),
            op => format!("{name} {op:?}"),
        })
        .collect();
    parts.join(", ")
}

pub fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn poll(mut commit: Commit) -> Result<Receipt, Error> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(&mut commit).poll(&mut context) {
        std::task::Poll::Ready(outcome) => outcome,
        std::task::Poll::Pending => panic!("a poll without threads left the commit pending"),
    }
}
