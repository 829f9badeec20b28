//! One history: a store on a simulated machine, the ledger of what was done, the views held.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use memlog::sim::SimFault;
use memlog::{Batch, Durability, Error, ErrorKind, Kind, NewEntry, Store, View};

use crate::bounds;
use crate::checks::Recent;
use crate::driver::Driver;
use crate::flavor::{Flavor, retention};
use crate::ledger::{Ledger, compare, look_at};
use crate::marks::{Marks, payload};
use crate::model::{self, Done, Item, Op, Policy, Seen, Span, Value};
use crate::rng::Rng;
use crate::skip::Check;

pub const DIR: &str = "/data/store";

/// The store has to be opened anew.
#[derive(Debug)]
pub struct Stop;
pub type Outcome = Result<(), Stop>;

/// A view that is kept, and what it showed when it was opened.
pub struct Held {
    pub view: View,
    pub seen: Seen,
    /// The true time at which it is let go.
    pub until: u64,
}

/// A batch in the making, for the store and for the ledger.
pub struct Draft {
    pub batch: Batch,
    pub ops: Vec<(String, Op)>,
    pub durability: Durability,
    pub bytes: u64,
}

/// What went on, for figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub batches: u64,
    pub crashes: u64,
    pub faults: u64,
    pub openings: u64,
    pub refused: u64,
    pub pauses: u64,
    pub scans: u64,
    pub looks: u64,
}

pub struct World {
    pub driver: Driver,
    pub flavor: Flavor,
    pub ledger: Ledger,
    pub store: Option<Store>,
    pub marks: Marks,
    pub rng: Rng,
    pub held: Vec<Held>,
    /// A crash or a fault has been ordered for this call, or for one that looks.
    pub trap: Option<u64>,
    /// There is little room on the disk.
    pub full: bool,
    /// There was little room since the store was opened.
    pub was_full: bool,
    pub span: Span,
    /// When the store was opened, and the time that was on the disk by then, at least; and by now.
    pub opened: u64,
    pub recorded_then: u64,
    pub recorded: u64,
    /// Since when nothing has disturbed the store: it was opened, a disk was full, a clock jumped.
    pub calm_since: u64,
    /// The last change, true time.
    pub changed: u64,
    pub next_look: u64,
    pub next_scan: u64,
    pub live: Option<u64>,
    pub recent: Recent,
    /// The longest batch of late: it may have a segment of its own.
    pub largest: u64,
    pub tally: Tally,
    pub step: u64,
    /// What happened in the middle of background work met a crash or a fault.
    pub stopped: bool,
    verbose: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::of(&[seed, 1]);
        let flavor = Flavor::of(&mut rng);
        let driver = Driver::new(seed);
        let now = driver.now();
        World {
            ledger: Ledger::new(flavor.default),
            store: None,
            marks: Marks::default(),
            rng,
            held: Vec::new(),
            trap: None,
            full: false,
            was_full: false,
            span: Span { lo: now, hi: now },
            opened: now,
            recorded_then: now,
            recorded: now,
            calm_since: now,
            changed: now,
            next_look: now,
            next_scan: now,
            live: None,
            recent: Recent::default(),
            largest: 0,
            tally: Tally::default(),
            step: 0,
            stopped: false,
            verbose: std::env::var_os("MEMLOG_TRAIL").is_some(),
            driver,
            flavor,
        }
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            let hours = (self.driver.now() - crate::driver::EPOCH) as f64 / 3.6e6;
            let call = self.driver.disk.calls();
            eprintln!("[step {} hour {hours:.4} call {call}] {}", self.step, what());
        }
    }

    pub fn store(&self) -> Store {
        self.store.clone().expect("the store is open")
    }

    /// Whether the crash or fault that was ordered has come.
    pub fn trapped(&self) -> bool {
        self.trap.is_some_and(|call| self.driver.disk.calls() > call)
    }

    /// The time that the store goes by, as far as that is known.
    pub fn span(&mut self) -> Span {
        let now = self.driver.now();
        let wall = now.saturating_add_signed(self.driver.offset);
        self.span = bounds::believed(self.span, now, wall, (self.opened, self.recorded_then));
        self.span
    }

    /// The same, without noting it.
    pub fn spans(&self) -> impl Fn() -> Span + use<> {
        let (driver, before) = (self.driver.clone(), self.span);
        let opened = (self.opened, self.recorded_then);
        move || {
            let now = driver.now();
            bounds::believed(before, now, now.saturating_add_signed(driver.offset), opened)
        }
    }

    pub fn draft(&mut self) -> Draft {
        let durability = if self.rng.one_in(3) {
            *self.rng.pick(&[Durability::Sync, Durability::Write, Durability::Buffer])
        } else {
            self.flavor.durability
        };
        Draft { batch: self.store().batch(), ops: Vec::new(), durability, bytes: 0 }
    }

    pub fn append(&mut self, draft: &mut Draft, name: &str, len: usize, expires: Option<u64>) {
        let (at, id) = (self.driver.now(), self.marks.take(len));
        let bytes = payload(id, len);
        let kind = 1 + self.rng.below(7) as u16;
        let agent = self.store().agent(name).unwrap();
        let time = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let mut entry = NewEntry::new(Kind::new(kind), &bytes).at(time(at));
        if let Some(expires) = expires {
            entry = entry.expires_at(time(expires));
        }
        draft.batch.append(&agent, entry);
        let (len, hash) = (len as u32, model::hash(&bytes));
        let item = Item { at, kind, len, hash, id, expires, redacted: false };
        draft.bytes += u64::from(len) + 100;
        draft.ops.push((name.to_owned(), Op::Append(item)));
    }

    pub fn set(&mut self, draft: &mut Draft, name: &str, key: &str, len: usize) {
        let id = self.marks.take(len);
        let bytes = payload(id, len);
        draft.batch.set(&self.store().agent(name).unwrap(), key, &bytes);
        let value = Value { len: len as u32, hash: model::hash(&bytes), id, revision: None };
        draft.bytes += len as u64 + 100;
        draft.ops.push((name.to_owned(), Op::Set(key.to_owned(), value)));
    }

    pub fn unset(&mut self, draft: &mut Draft, name: &str, key: &str) {
        draft.batch.unset(&self.store().agent(name).unwrap(), key);
        draft.ops.push((name.to_owned(), Op::Unset(key.to_owned())));
    }

    pub fn truncate(&mut self, draft: &mut Draft, name: &str, seq: u64) {
        draft.batch.truncate_before(&self.store().agent(name).unwrap(), seq);
        draft.ops.push((name.to_owned(), Op::Truncate(seq)));
    }

    pub fn redact(&mut self, draft: &mut Draft, name: &str, seq: u64) {
        draft.batch.redact(&self.store().agent(name).unwrap(), seq);
        draft.ops.push((name.to_owned(), Op::Redact(seq)));
    }

    pub fn forget(&mut self, draft: &mut Draft, name: &str) {
        draft.batch.forget(&self.store().agent(name).unwrap());
        draft.durability = Durability::Sync;
        draft.ops.push((name.to_owned(), Op::Forget));
    }

    pub fn commit(&mut self, mut draft: Draft) -> Outcome {
        let (durability, bytes) = (draft.durability, draft.bytes);
        let done = Done { ops: std::mem::take(&mut draft.ops), lsn: None };
        self.largest = self.largest.max(bytes);
        self.recent.appended += bytes;
        let outcome = self.timed("a commit", bounds::call(bytes, self.flavor.rate), |_| {
            draft.batch.durability(durability).commit()
        });
        let lsn = outcome.as_ref().ok().map(|receipt| receipt.lsn().0);
        self.committed(done, durability, outcome.map(|_| lsn))
    }

    /// A batch was answered. If it is in doubt it may be there after all.
    fn committed(
        &mut self,
        mut done: Done,
        durability: Durability,
        outcome: Result<Option<u64>, Error>,
    ) -> Outcome {
        self.note(|| format!("{durability:?} {} -> {outcome:?}", describe(&done)));
        self.tally.batches += 1;
        let error = match outcome {
            Ok(lsn) => {
                done.lsn = lsn;
                let number = self.ordered(done);
                match durability {
                    Durability::Sync => {
                        self.recorded = self.recorded.max(self.span().lo);
                        self.ledger.durable(number);
                    }
                    Durability::Write => self.ledger.written(number),
                    _ => {}
                }
                return Ok(());
            }
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::Indeterminate if self.trapped() => drop(self.ordered(done)),
            ErrorKind::DiskFull if self.full || self.trapped() => {
                self.tally.refused += 1;
                self.marks.lose_all(crate::marks::ids(&done.ops).into_iter());
                return Ok(());
            }
            ErrorKind::Poisoned | ErrorKind::Io if self.trapped() => {
                self.marks.lose_all(crate::marks::ids(&done.ops).into_iter());
            }
            _ => panic!("a batch failed with {error:?}, and nothing went wrong"),
        }
        Err(Stop)
    }

    fn ordered(&mut self, done: Done) -> u64 {
        self.live = None;
        self.changed = self.driver.now();
        self.ledger.ordered(done)
    }

    /// What an error of a call that is no batch means.
    pub fn failed(&mut self, what: &str, error: &Error) -> Outcome {
        let kind = error.kind();
        self.note(|| format!("{what} -> {error:?}"));
        if kind == ErrorKind::DiskFull && self.full {
            self.tally.refused += 1;
            return Ok(());
        }
        assert!(self.trapped(), "{what} failed with {error:?}, and nothing went wrong");
        let kinds =
            [ErrorKind::Indeterminate, ErrorKind::Poisoned, ErrorKind::DiskFull, ErrorKind::Io];
        assert!(kinds.contains(&kind), "{what} failed with {error:?}");
        Err(Stop)
    }

    pub fn forget_prefix(&mut self, prefix: &str) -> Outcome {
        let limit = bounds::call(0, self.flavor.rate);
        let outcome =
            self.timed("forget_prefix", limit, |world| world.store().forget_prefix(prefix));
        let done = Done { ops: vec![(prefix.to_owned(), Op::ForgetPrefix)], lsn: None };
        self.committed(done, Durability::Sync, outcome.map(|lsn| Some(lsn.0)))
    }

    /// Gives an agent a policy. What is dropped by then by the policy before stays so. False if the
    /// model does not know what that is: then nothing is done.
    pub fn set_policy(&mut self, name: &str, policy: Option<Policy>) -> Result<bool, Stop> {
        self.sync()?;
        // Whether an entry that is just now too old counts is not for the model to know.
        let (near, span) = (2000, self.span());
        if let Some(life) = self.ledger.now().agents.get(name) {
            let default = self.ledger.now().default;
            let (early, late) = (
                life.floor_at(default, span.lo.saturating_sub(near)),
                life.floor_up_to(default, span.hi + near),
            );
            if early != late {
                return Ok(false);
            }
            let done = vec![(name.to_owned(), Op::Truncate(early))];
            return self.change_policy(name, policy, done).map(|()| true);
        }
        self.change_policy(name, policy, Vec::new()).map(|()| true)
    }

    fn change_policy(
        &mut self,
        name: &str,
        policy: Option<Policy>,
        mut ops: Vec<(String, Op)>,
    ) -> Outcome {
        let outcome = self.store().agent(name).unwrap().set_retention(policy.map(retention));
        ops.push((name.to_owned(), Op::Policy(policy)));
        let done = Done { ops, lsn: None };
        self.committed(done, self.flavor.durability, outcome.map(|()| None))?;
        self.sync()
    }

    pub fn sync(&mut self) -> Outcome {
        let limit = bounds::call(0, self.flavor.rate);
        match self.timed("sync", limit, |world| world.store().sync()) {
            Ok(()) => {
                self.ledger.all_durable();
                Ok(())
            }
            Err(error) => self.failed("sync", &error),
        }
    }

    /// Calls the store, and holds the simulated time that it takes against its bound.
    pub fn timed<T>(
        &mut self,
        what: &str,
        limit: Duration,
        call: impl FnOnce(&mut World) -> T,
    ) -> T {
        let before = self.driver.clock();
        let outcome = call(self);
        let took = self.driver.clock().saturating_sub(before);
        if Check::Starve.is_on() && !self.trapped() {
            assert!(
                took <= limit,
                "starve: {what} took {took:?} of simulated time, over {limit:?}"
            );
        }
        outcome
    }

    /// Opens a view and keeps it for that long.
    pub fn hold(&mut self, name: &str, time: Duration) -> Outcome {
        let view = match self.store().agent(name).unwrap().view() {
            Ok(view) => view,
            Err(error) => return self.failed("view", &error),
        };
        let seen = model::look(&view).unwrap_or_else(|e| panic!("reading {name}: {e:?}"));
        self.check_seen(name, &seen);
        if self.held.len() > 4 {
            self.held.remove(0);
        }
        let until = self.driver.now() + time.as_millis() as u64;
        self.held.push(Held { view, seen, until });
        Ok(())
    }

    /// Reads an agent and holds it against the model.
    pub fn check_agent(&mut self, name: &str) -> Outcome {
        match look_at(&self.store(), name) {
            Ok(seen) => self.check_seen(name, &seen),
            Err(why) => {
                assert!(self.trapped(), "{why}");
                return Err(Stop);
            }
        }
        Ok(())
    }

    fn check_seen(&mut self, name: &str, seen: &Seen) {
        let span = self.span();
        if let Some(why) = self.ledger.now().differs(name, seen, span) {
            panic!("{name}: {why}");
        }
    }

    pub fn check_held(&mut self) {
        for Held { view, seen, .. } in &self.held {
            let now = model::look(view).unwrap_or_else(|e| panic!("a held view: {e:?}"));
            let same = now.items.len() == seen.items.len()
                && now.items.iter().zip(&seen.items).all(|(a, b)| a.hash == b.hash)
                && now.state == seen.state;
            assert!(same, "a held view of {} changed", view.agent().name());
        }
        let now = self.driver.now();
        self.held.retain(|held| held.until > now);
    }

    /// Everything that the store shows against the model.
    pub fn check_all(&mut self) {
        self.ledger.trim(self.recorded);
        self.live = None;
        if let Err(why) = compare(&self.store(), self.ledger.now(), self.spans()) {
            panic!("the store differs: {why}");
        }
    }

    /// Orders a crash, or a fault, at a call of the disk that is to come.
    pub fn arm(&mut self, after: u64, fault: Option<SimFault>) {
        let call = self.driver.disk.calls() + after;
        self.trap = Some(call);
        self.note(|| format!("armed: {fault:?} at call {call}"));
        match fault {
            None => self.driver.disk.crash_at(call),
            Some(fault) => self.driver.disk.fail_at(call, fault, self.rng.one_in(3)),
        }
    }

    /// Lets time pass in which the store works in the background, an hour at a time.
    pub fn rest(&mut self, time: Duration) -> Outcome {
        let end = self.driver.now() + time.as_millis() as u64;
        loop {
            let now = self.driver.now();
            if now >= end {
                return Ok(());
            }
            let next = self.next_look.clamp(now + 1, end);
            self.work(Duration::from_millis(next - now))?;
            if self.driver.now() >= self.next_look {
                self.look()?;
            }
        }
    }

    fn work(&mut self, time: Duration) -> Outcome {
        self.run_for(time);
        if std::mem::take(&mut self.stopped) {
            return Err(Stop);
        }
        if time >= Duration::from_secs(3) && !self.trapped() {
            // The background has synced what nobody waits for.
            self.ledger.all_durable();
        }
        Ok(())
    }
}

/// A batch in words, with the numbers of its marks.
fn describe(done: &Done) -> String {
    let mut counts: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for (name, op) in &done.ops {
        let (what, len, id) = match op {
            Op::Append(item) => {
                let until = item.expires.map(|time| format!(" until {time}"));
                (format!("append{}", until.unwrap_or_default()), item.len, item.id)
            }
            Op::Set(_, value) => ("set".to_owned(), value.len, value.id),
            Op::Unset(key) => (format!("unset {key}"), 0, 0),
            op => (format!("{op:?}"), 0, 0),
        };
        let (times, bytes, last) = counts.entry(format!("{name} {what}")).or_default();
        *times += 1;
        *bytes += u64::from(len);
        *last = id;
    }
    let parts = counts.iter().take(8).map(|(what, (times, bytes, last))| match (times, bytes) {
        (1, 0) => what.clone(),
        (times, bytes) => format!("{what} x{times} of {bytes} bytes up to #{last}"),
    });
    parts.collect::<Vec<_>>().join(", ")
}
