//! One workload with everything in it, run again and again: each time another of its calls of the
//! disk fails, with each error, for once or from then on. Each step answers with a fitting error or
//! succeeds, nothing acknowledged is lost, nothing that was refused has happened, and the store can
//! be opened again and used.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memlog::sim::{SimDisk, SimFault};
use memlog::{
    CompactOutcome, Error, ErrorKind, Kind, Maintenance, NewEntry, Options, Result, Retention,
    Store,
};

const DIR: &str = "/mem/store";

/// What an agent shows: its floor, and its entries and values by what they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    floor: u64,
    entries: Vec<Option<u8>>,
    state: BTreeMap<String, u8>,
}

type Model = BTreeMap<String, Shown>;

/// A change of a store, and of what it should show.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// So many bytes for an agent.
    Append(&'static str, u8, usize),
    /// An entry for one agent, a value for another, in one batch.
    Two(&'static str, &'static str, u8),
    Truncate(&'static str, u64),
    Redact(&'static str, u64),
    Keep(&'static str, u64),
    Forget(&'static str),
    ForgetAll(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Do(Change),
    Sync,
    Compact,
    Purge,
    /// By hard links, or by copies.
    Backup(&'static str, bool),
    Repair(&'static str),
    Reopen,
    /// The process dies.
    Die,
}

use Change::*;
use Step::*;

const LARGE: usize = 60 << 10;

const WORKLOAD: &[Step] = &[
    Do(Append("t/a", 1, 300)),
    Do(Two("t/a", "t/b", 2)),
    Do(Append("t/b", 3, LARGE)),
    Do(Append("t/a", 4, LARGE)),
    Do(Append("u", 5, LARGE)),
    Do(Append("t/a", 6, LARGE)),
    Do(Redact("t/a", 3)),
    Do(Append("v/x", 7, 100)),
    Do(Append("t/b", 8, LARGE)),
    Do(Truncate("t/a", 2)),
    Sync,
    Compact,
    Do(Append("u", 9, LARGE)),
    Do(Forget("t/b")),
    Backup("/mem/linked", true),
    Do(Append("t/b", 10, LARGE)),
    Die,
    Do(ForgetAll("v/")),
    Purge,
    Do(Keep("u", 1)),
    Do(Append("t/a", 11, LARGE)),
    Backup("/mem/copied", false),
    Do(Two("t/b", "t/a", 12)),
    Compact,
    Reopen,
    Do(Append("t/a", 13, 10)),
    Repair("/mem/mended"),
    Purge,
    Do(Append("w", 14, 10)),
    Reopen,
];

fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(256 << 10).resident_bytes(0)
}

impl Change {
    fn make(self, store: &Store) -> Result<()> {
        match self {
            Append(name, byte, len) => {
                let payload = vec![byte; len];
                store.agent(name)?.append(NewEntry::new(Kind::USER, &payload)).map(drop)
            }
            Two(one, other, byte) => {
                let (one, other) = (store.agent(one)?, store.agent(other)?);
                let bytes = [byte];
                let entry = NewEntry::new(Kind::USER, &bytes);
                store.batch().append(&one, entry).set(&other, "key", &bytes).commit().map(drop)
            }
            Truncate(name, seq) => store.agent(name)?.truncate_before(seq),
            Redact(name, seq) => store.agent(name)?.redact(seq),
            Keep(name, most) => {
                store.agent(name)?.set_retention(Some(Retention::new().max_entries(most)))
            }
            Forget(name) => store.agent(name)?.forget(),
            ForgetAll(prefix) => store.forget_prefix(prefix).map(drop),
        }
    }

    fn apply(self, model: &mut Model) {
        let new = || Shown { floor: 1, ..Shown::default() };
        match self {
            Append(name, byte, _) => {
                model.entry(name.into()).or_insert_with(new).entries.push(Some(byte));
            }
            Two(one, other, byte) => {
                model.entry(one.into()).or_insert_with(new).entries.push(Some(byte));
                let other = model.entry(other.into()).or_insert_with(new);
                other.state.insert("key".into(), byte);
            }
            Truncate(name, seq) => {
                let Some(shown) = model.get_mut(name) else { return };
                let gone = seq.saturating_sub(shown.floor) as usize;
                shown.entries.drain(..gone);
                shown.floor = seq.max(shown.floor);
            }
            Redact(name, seq) => {
                let Some(shown) = model.get_mut(name) else { return };
                let at = (seq - shown.floor) as usize;
                shown.entries[at] = None;
            }
            Keep(name, most) => {
                // No entry comes later that it drops.
                let shown = model.entry(name.into()).or_insert_with(new);
                let gone = (shown.entries.len() as u64).saturating_sub(most);
                Truncate(name, shown.floor + gone).apply(model);
            }
            Forget(name) => drop(model.remove(name)),
            ForgetAll(prefix) => model.retain(|name, _| !name.starts_with(prefix)),
        }
    }

    /// Whether it can be made: what it counts on may have been refused.
    fn is_possible(self, model: &Model) -> bool {
        let (name, seq) = match self {
            Truncate(name, seq) => (name, seq),
            Redact(name, seq) => (name, seq + 1),
            _ => return true,
        };
        let Some(shown) = model.get(name) else { return false };
        (shown.floor..=shown.floor + shown.entries.len() as u64).contains(&seq)
    }
}

/// All that a store shows.
fn look(store: &Store) -> Result<Model> {
    let mut model = Model::new();
    for agent in store.agents("") {
        let agent = agent?;
        let view = agent.view()?;
        let mut shown = Shown { floor: view.floor(), ..Shown::default() };
        for entry in view.iter() {
            let entry = entry?;
            assert_eq!(entry.seq(), shown.floor + shown.entries.len() as u64);
            let byte = entry.payload().first().copied();
            assert!(entry.payload() == vec![byte.unwrap_or(0); entry.payload().len()]);
            shown.entries.push(byte.filter(|_| !entry.is_redacted()));
        }
        for value in view.states("") {
            let value = value?;
            shown.state.insert(value.key().to_owned(), value.value()[0]);
        }
        model.insert(agent.name().to_owned(), shown);
    }
    Ok(model)
}

/// How a run is troubled.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    at: u64,
    /// `None`: a call that only looks.
    fault: Option<SimFault>,
    sticky: bool,
}

struct Run {
    disk: SimDisk,
    store: Option<Store>,
    model: Model,
    /// A batch that may be there or not.
    doubt: Option<Change>,
    trouble: Option<Trouble>,
    /// Directories of copies that were acknowledged, and what they must show.
    copies: Vec<(&'static str, Model)>,
}

impl Run {
    fn new(trouble: Option<Trouble>) -> Run {
        let disk = SimDisk::new(7);
        match trouble {
            Some(Trouble { at, fault: Some(fault), sticky }) => disk.fail_at(at, fault, sticky),
            Some(Trouble { at, fault: None, sticky }) => disk.fail_read_at(at, sticky),
            None => {}
        }
        let (model, copies) = (Model::new(), Vec::new());
        Run { disk, store: None, model, doubt: None, trouble, copies }
    }

    /// Does the workload, as far as the disk lets it.
    fn go(&mut self) {
        for step in WORKLOAD {
            self.disk.advance(Duration::from_secs(1));
            if self.store.is_none() && self.open().is_err() && self.open().is_err() {
                // The fault stays.
                return;
            }
            if let Err(error) = self.step(*step) {
                self.check_error(&error, &format!("{step:?}"));
                self.after_error(&error);
            }
        }
        self.store = None;
    }

    fn open(&mut self) -> Result<()> {
        let store = options().open_on(&self.disk, DIR);
        let store = store.inspect_err(|error| self.check_error(error, "open"))?;
        self.settle(&store);
        self.store = Some(store);
        Ok(())
    }

    /// A store that was opened shows what was acknowledged, and what was in doubt or not.
    fn settle(&mut self, store: &Store) {
        let report = store.recovery_report();
        assert!(report.damage.is_empty(), "{report:?}");
        let shown = look(store).unwrap();
        if let Some(doubt) = self.doubt.take()
            && shown != self.model
        {
            doubt.apply(&mut self.model);
        }
        assert_eq!(shown, self.model, "after an opening");
    }

    fn step(&mut self, step: Step) -> Result<()> {
        let store = self.store.clone().unwrap();
        match step {
            Do(change) if !change.is_possible(&self.model) => {}
            Do(change) => {
                let outcome = change.make(&store);
                match &outcome {
                    Ok(()) => change.apply(&mut self.model),
                    Err(e) if e.kind() == ErrorKind::Indeterminate => self.doubt = Some(change),
                    Err(_) => {}
                }
                return outcome;
            }
            Sync => return store.sync(),
            Compact => while store.compact()? == CompactOutcome::More {},
            Purge => drop(store.purge()?),
            Backup(to, links) => {
                self.disk.set_hard_links(links);
                store.backup(to)?;
                self.copies.push((to, self.model.clone()));
            }
            Repair(to) => {
                self.close(store)?;
                let report = options().repair_on(&self.disk, DIR, to)?;
                // What it could not read is damage to it, and it says so.
                let unread = self.trouble.is_some_and(|trouble| trouble.fault.is_none());
                assert!(report.damage.is_empty() || unread, "{report:?}");
                if report.damage.is_empty() {
                    self.copies.push((to, self.model.clone()));
                }
            }
            Reopen => self.close(store)?,
            Die => {
                // What the end of the old process does happens to a disk that nobody looks at.
                self.disk = self.disk.fork();
                self.store = None;
            }
        }
        Ok(())
    }

    fn close(&mut self, store: Store) -> Result<()> {
        self.store = None;
        store.close()
    }

    fn check_error(&self, error: &Error, what: &str) {
        assert!(self.trouble.is_some(), "{what}, without any fault: {error:?}");
        let full = self.trouble.is_some_and(|trouble| trouble.fault == Some(SimFault::NoSpace));
        let looks = self.trouble.is_some_and(|trouble| trouble.fault.is_none());
        let fits = match error.kind() {
            ErrorKind::Io | ErrorKind::Indeterminate | ErrorKind::Poisoned => true,
            ErrorKind::DiskFull => full,
            // The copy that failed before is not empty.
            ErrorKind::InvalidInput => what.starts_with("Backup") || what.starts_with("Repair"),
            // Nothing that it could read.
            ErrorKind::Damaged => what.starts_with("Repair") && looks,
            _ => false,
        };
        assert!(fits, "{what} failed with {error:?}");
    }

    /// What a refused step left is what was there before.
    fn after_error(&mut self, error: &Error) {
        let poisoned = [ErrorKind::Indeterminate, ErrorKind::Poisoned].contains(&error.kind());
        if poisoned {
            self.store = None;
        }
        let Some(store) = &self.store else { return };
        assert_eq!(look(store).unwrap(), self.model, "after {error:?}");
    }

    /// However it ends, everything acknowledged is there when the trouble is over, and the store
    /// goes on.
    fn check_ends(mut self) {
        self.store = None;
        self.disk.clear_faults();
        let alive = self.disk.fork();
        let odd = self.trouble.is_some_and(|trouble| trouble.at % 2 == 1);
        if odd {
            alive.evict();
        }
        let ends = [alive, self.disk.fork_without_power(u64::from(odd))];
        for (end, disk) in ends.into_iter().enumerate() {
            let mut run =
                Run { disk, store: None, trouble: None, doubt: self.doubt, ..Run::new(None) };
            run.model.clone_from(&self.model);
            run.open().unwrap_or_else(|error| panic!("end {end}: {error:?}"));
            let store = run.store.clone().unwrap();
            assert_eq!(store.verify().unwrap(), [], "end {end}");
            for change in [Append("t/a", 20, 100), Append("new", 21, LARGE), Forget("t/b")] {
                run.step(Do(change)).unwrap();
            }
            for step in [Compact, Purge, Reopen] {
                run.step(step).unwrap();
            }
            drop(store);
            run.disk = run.disk.fork_without_power(3);
            run.open().unwrap();
            for (to, model) in &self.copies {
                let copy = options().create(false).open_on(&run.disk, to).unwrap();
                assert_eq!(look(&copy).unwrap(), *model, "end {end}: {to}");
                assert_eq!(copy.verify().unwrap(), [], "end {end}: {to}");
            }
        }
    }
}

fn run(trouble: Trouble) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut run = Run::new(Some(trouble));
        run.go();
        run.check_ends();
    }));
    if let Err(cause) = outcome {
        eprintln!("\nthe failing run: {trouble:?}\n");
        resume_unwind(cause);
    }
}

/// The calls of the workload without trouble; which of them write; and those that only look.
fn clean() -> (u64, Vec<u64>, u64) {
    let mut run = Run::new(None);
    run.disk.set_trace(true);
    run.go();
    let trace = run.disk.take_trace();
    let number = |line: &String| line.split_once(':').and_then(|(call, _)| call.parse().ok());
    let writes = trace.iter().filter(|line| line.contains(" write ")).filter_map(number).collect();
    let (calls, reads) = (run.disk.calls(), run.disk.reads());
    run.check_ends();
    (calls, writes, reads)
}

#[test]
fn every_call_fails_once_and_for_good() {
    let (calls, writes, reads) = clean();
    let mut all = Vec::new();
    for sticky in [false, true] {
        for at in 0..calls {
            for fault in [SimFault::Eio, SimFault::NoSpace] {
                all.push(Trouble { at, fault: Some(fault), sticky });
            }
        }
        for at in &writes {
            for fault in [SimFault::ShortWrite, SimFault::Writeback] {
                all.push(Trouble { at: *at, fault: Some(fault), sticky });
            }
        }
        all.extend((0..reads).map(|at| Trouble { at, fault: None, sticky }));
    }
    // Builds with debug assertions take many times as long: each of them a part of it.
    let stride = if cfg!(debug_assertions) { 17 } else { 1 };
    let chosen: Vec<Trouble> = all.iter().step_by(stride).copied().collect();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(trouble) = chosen.get(next.fetch_add(1, Ordering::Relaxed) as usize)
                {
                    run(*trouble);
                }
            });
        }
    });
    println!(
        "{calls} calls, {} of them writes, and {reads} that only look: {} runs",
        writes.len(),
        chosen.len()
    );
}
