//! One small history with a batch of each kind, crashed at every call, and again at every call of
//! the recovery.

use std::collections::BTreeMap;

use memlog::sim::SimDisk;
use memlog::{Durability, Error, Kind, Maintenance, NewEntry, Options, Result, Retention, Store};

use crate::campaign::count_state;
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
type Step = (&'static str, bool, fn(&Store) -> Result<()>);

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

/// What the store shows after each step, without any trouble.
fn expected() -> Vec<All> {
    let disk = SimDisk::new(1);
    let store = options().open_on(&disk, DIR).unwrap();
    let mut all = vec![All::new()];
    for (_, _, step) in &HISTORY[..HISTORY.len() - 1] {
        step(&store).unwrap();
        all.push(look_at_all(&store).unwrap());
    }
    all.push(all[all.len() - 1].clone());
    all
}

/// Runs the history into a crash; gives the disk and the least number of steps that must be there.
fn run(call: u64) -> (SimDisk, usize, usize, bool) {
    let disk = SimDisk::new(1);
    disk.crash_at(call);
    let (mut least, mut most) = (0, 0);
    if let Ok(store) = options().open_on(&disk, DIR) {
        for (number, (_, durable, step)) in HISTORY.iter().enumerate() {
            most = number + 1;
            match step(&store) {
                Ok(()) if *durable => least = number + 1,
                Ok(()) => {}
                Err(_) => break,
            }
        }
    }
    let crashed = disk.calls() > call;
    (disk, least, most, crashed)
}

/// Crashes everywhere; a crash inside of the recovery at every `stride`th of its calls.
pub fn everywhere(seeds: u64, stride: u64) {
    let expected = expected();
    let mut call = 0;
    loop {
        let (disk, least, most, crashed) = run(call);
        if !crashed {
            break;
        }
        for seed in 0..seeds {
            case("every_call_of_a_small_history", seed, Some(call), || {
                let right = |seen: &All| expected[least..=most].iter().any(|all| same(all, seen));
                one(&disk, seed * 7919 + call, stride, &right);
            });
        }
        call += 1;
    }
    println!("the small history has {call} calls");
}

/// Revisions are positions in the log, which a recovery that came between has moved.
fn same(a: &All, b: &All) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((a, x), (b, y))| a == b && x.matches(y))
}

fn one(crashed: &SimDisk, seed: u64, stride: u64, right: &dyn Fn(&All) -> bool) {
    count_state(0);
    let disk = crashed.fork_without_power(seed);
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
        count_state(1);
        check(&again.fork_without_power(seed ^ inner), right, "after a recovery cut short");
        inner += stride;
    }
    check(&disk, right, "after one crash");
}

fn check(disk: &SimDisk, right: &dyn Fn(&All) -> bool, when: &str) {
    let refused = |e: Error| panic!("{when}: refused: {e:?}");
    let store = options().open_on(disk, DIR).unwrap_or_else(refused);
    let seen = look_at_all(&store).unwrap();
    assert!(right(&seen), "{when}: the store holds what it should not: {seen:?}");
    assert!(store.verify().unwrap().is_empty(), "{when}: verify");
}
