//! Small histories, crashed at every call, and again at calls of the recovery, and of the recovery
//! from that: one with a batch of each kind, and all short ones of a few kinds of steps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use memlog::sim::SimDisk;
use memlog::{
    CompactOutcome, Durability, Error, ErrorKind, Kind, Maintenance, NewEntry, Options, Result,
    Retention, Store,
};

use crate::campaign::{DEEP, STATES, count_state};
use crate::ledger::look_at_all;
use crate::model::Seen;
use crate::once::case;
use crate::rng::bytes;
use crate::world::DIR;

type All = BTreeMap<String, Seen>;

pub fn options() -> Options {
    Options::new().maintenance(Maintenance::Manual).segment_bytes(256 << 10).resident_bytes(0)
}

/// A step of the history, and whether it promises to outlive a power failure.
pub type Step = (&'static str, bool, fn(&Store) -> Result<()>);

/// Takes a megabyte, and so a segment that recovery keeps in place.
fn large(store: &Store) -> Result<()> {
    let payload = bytes(7, 1 << 20);
    store.agent("t/a")?.append(NewEntry::new(Kind::OBSERVATION, &payload)).map(drop)
}

fn two_agents(store: &Store, durability: Durability, key: &str) -> Result<()> {
    let (a, b) = (store.agent("t/a")?, store.agent("t/b")?);
    let mut batch = store.batch();
    batch
        .append(&a, NewEntry::user("a question").weight(7).meta("m"))
        .append(&b, NewEntry::assistant("an answer").joined())
        .set(&b, key, &bytes(9, 700))
        .durability(durability)
        .commit()
        .map(drop)
}

const HISTORY: &[Step] = &[
    ("append", true, |s| s.agent("t/a")?.append(NewEntry::user("one")).map(drop)),
    ("two agents, written", false, |s| two_agents(s, Durability::Write, "k")),
    ("two agents, buffered", false, |s| two_agents(s, Durability::Buffer, "k")),
    ("sync", true, |s| s.sync()),
    ("buffered again", false, |s| two_agents(s, Durability::Buffer, "l")),
    ("redact", true, |s| s.agent("t/a")?.redact(2)),
    ("unset", true, |s| s.batch().unset(&s.agent("t/b")?, "l").commit().map(drop)),
    ("large", true, large),
    ("written behind it", false, |s| {
        s.batch().set(&s.agent("u")?, "k", "v").durability(Durability::Write).commit().map(drop)
    }),
    ("truncate", true, |s| s.agent("t/a")?.truncate_before(3)),
    ("policy", true, |s| s.agent("t/b")?.set_retention(Some(Retention::new().max_entries(2)))),
    ("large again", true, large),
    ("forget", true, |s| s.agent("t/b")?.forget()),
    ("a new life", true, |s| two_agents(s, Durability::Sync, "new")),
    ("forget all", true, |s| s.forget_prefix("t/").map(drop)),
    ("after it", true, |s| two_agents(s, Durability::Sync, "last")),
    ("close", true, |s| s.close()),
];

/// A step need not fit to those before it: what it asks for is not there, or there already.
fn fitting(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(e) if [ErrorKind::OutOfRange, ErrorKind::InvalidInput].contains(&e.kind()) => Ok(()),
        outcome => outcome,
    }
}

/// A history, with what the store shows after each of its steps without any trouble.
pub struct Fixed {
    history: Vec<Step>,
    expected: Vec<All>,
    /// Calls that the first steps take, which nobody need look at again.
    from: u64,
}

impl Fixed {
    /// Of so many first steps the calls are not looked at.
    pub fn new(history: &[Step], known: usize) -> Fixed {
        let disk = SimDisk::new(1);
        let store = options().open_on(&disk, DIR).unwrap();
        let (mut expected, mut from) = (vec![All::new()], 0);
        for (number, (_, _, step)) in history.iter().enumerate() {
            fitting(step(&store)).unwrap();
            if number + 1 == known {
                from = disk.calls();
            }
            // After a close there is what there was before.
            let shown = look_at_all(&store).ok();
            expected.push(shown.unwrap_or_else(|| expected[number].clone()));
        }
        Fixed { history: history.to_vec(), expected, from }
    }

    /// Runs it into a crash; gives the disk, the least and the greatest number of steps that may
    /// be there, and whether it came to the crash.
    fn run(&self, call: u64) -> (SimDisk, usize, usize, bool) {
        let disk = SimDisk::new(1);
        disk.crash_at(call);
        let (mut least, mut most) = (0, 0);
        if let Ok(store) = options().open_on(&disk, DIR) {
            for (number, (_, durable, step)) in self.history.iter().enumerate() {
                most = number + 1;
                match fitting(step(&store)) {
                    Ok(()) if *durable => least = number + 1,
                    Ok(()) => {}
                    Err(_) => break,
                }
            }
        }
        let crashed = disk.calls() > call;
        (disk, least, most, crashed)
    }

    /// Crashes at every call, and at every `strides[n]`th call of the recovery from that, and from
    /// that. Gives the number of its calls.
    pub fn everywhere(&self, test: &str, number: u64, seeds: u64, strides: &[u64]) -> u64 {
        let mut call = self.from;
        loop {
            let (disk, least, most, crashed) = self.run(call);
            if !crashed {
                return call;
            }
            let right = |seen: &All| self.expected[least..=most].iter().any(|all| same(all, seen));
            for outcome in 0..seeds + 1 {
                case(test, number, Some(call), || {
                    let seed = outcome * 7919 + call;
                    let left = match outcome {
                        0 => disk.fork_synced(),
                        _ => disk.fork_without_power(seed),
                    };
                    nested(&left, seed, 0, strides, &right);
                });
            }
            call += 1;
        }
    }
}

/// Crashes everywhere in one history with a batch of each kind.
pub fn everywhere(seeds: u64, stride: u64) {
    let fixed = Fixed::new(HISTORY, 0);
    let calls = fixed.everywhere("every_call_of_a_small_history", 0, seeds, &[stride]);
    println!("the small history has {calls} calls");
}

/// Revisions are positions in the log, which a recovery that came between has moved.
fn same(a: &All, b: &All) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((a, x), (b, y))| a == b && x.matches(y))
}

/// Recovers from a disk as a crash left it; and from what is left when that recovery is cut short,
/// in its turn.
fn nested(disk: &SimDisk, seed: u64, depth: u64, strides: &[u64], right: &dyn Fn(&All) -> bool) {
    count_state(depth);
    if let Some((stride, strides)) = strides.split_first() {
        let mut inner = disk.calls() + seed % stride;
        loop {
            let again = disk.fork();
            again.crash_at(inner);
            let opened = options().open_on(&again, DIR);
            let cut_short = again.calls() > inner;
            drop(opened);
            if !cut_short {
                break;
            }
            let left = if inner.is_multiple_of(2) {
                again.fork_synced()
            } else {
                again.fork_without_power(seed ^ inner)
            };
            nested(&left, seed ^ (inner << 8), depth + 1, strides, right);
            inner += stride;
        }
    }
    check(disk, right, &format!("after a crash, and {depth} in the recovery"));
}

fn check(disk: &SimDisk, right: &dyn Fn(&All) -> bool, when: &str) {
    let refused = |e: Error| panic!("{when}: refused: {e:?}");
    let store = options().open_on(disk, DIR).unwrap_or_else(refused);
    let seen = look_at_all(&store).unwrap();
    assert!(right(&seen), "{when}: the store holds what it should not: {seen:?}");
    assert!(store.verify().unwrap().is_empty(), "{when}: verify");
}

/// What short histories are made of.
const ALPHABET: &[Step] = &[
    ("append", true, |s| s.agent("t/a")?.append(NewEntry::user("more")).map(drop)),
    ("written", false, |s| two_agents(s, Durability::Write, "w")),
    ("buffered", false, |s| two_agents(s, Durability::Buffer, "b")),
    ("sync", true, Store::sync),
    ("a segment's worth", true, |s| {
        let payload = bytes(8, 200 << 10);
        s.agent("t/b")?.append(NewEntry::new(Kind::OBSERVATION, &payload)).map(drop)
    }),
    ("redact", true, |s| s.agent("t/a")?.redact(1)),
    ("truncate", true, |s| s.agent("t/b")?.truncate_before(2)),
    ("forget", true, |s| s.agent("t/b")?.forget()),
    ("forget all", true, |s| s.forget_prefix("t/").map(drop)),
    ("compact", false, |s| {
        while s.compact()? == CompactOutcome::More {}
        Ok(())
    }),
    ("purge", false, |s| s.purge().map(drop)),
    ("backup", false, |s| s.backup("/data/backup").map(drop)),
];

/// All histories of so many steps, each behind the same two.
pub fn all_short(test: &str, length: u32, strides: &[u64], only: Option<u64>) {
    let all = (ALPHABET.len() as u64).pow(length);
    let next = AtomicU64::new(0);
    let (states, deep) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= all {
                        break;
                    }
                    if only.is_none_or(|only| only == number) {
                        short(test, length, number, strides);
                    }
                    states.fetch_add(STATES.take(), Ordering::Relaxed);
                    deep.fetch_add(DEEP.take(), Ordering::Relaxed);
                }
            });
        }
    });
    let seen = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{all} histories of {length} steps, {} crash states, {} of them at depth 2 or 3",
        seen(&states),
        seen(&deep)
    );
}

fn short(test: &str, length: u32, number: u64, strides: &[u64]) {
    let mut history = HISTORY[..2].to_vec();
    let mut left = number;
    for _ in 0..length {
        history.push(ALPHABET[(left % ALPHABET.len() as u64) as usize]);
        left /= ALPHABET.len() as u64;
    }
    if std::env::var_os("MEMLOG_TRAIL").is_some() {
        let names: Vec<&str> = history.iter().map(|(name, _, _)| *name).collect();
        eprintln!("history {number}: {names:?}");
    }
    Fixed::new(&history, 2).everywhere(test, number, 1, strides);
}
