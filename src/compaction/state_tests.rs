//! The state of an agent with very many keys: what compacting it takes, and what is read of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::commit::Engine;
use crate::commit::scratch::Scratch;
use crate::compaction::job::{Job, Shape};
use crate::compaction::keys::{KeyJoin, KeyMerge};
use crate::compaction::merge::Told;
use crate::compaction::scan::scan;
use crate::error::{Error, ErrorKind};
use crate::format::footer::{PagesBuilder, StateChange, Summary};
use crate::format::head::Head;
use crate::format::record::{Append, Change};
use crate::io::sim::SimDisk;
use crate::options::Options;
use crate::recovery;
use crate::segment::Segment;
use crate::segment::testing::{HASH, NAME, sealed_in};
use crate::snapshot::Snapshot;
use crate::types::{Durability, Kind, Maintenance, Retention, Verify};

fn open(disk: &SimDisk, retention: Retention) -> Arc<Engine> {
    let options = Options::new().maintenance(Maintenance::Manual).segment_bytes(64 << 20);
    recovery::open(disk.io(), Path::new("/mem"), &options.retention(retention)).unwrap().0
}

/// Puts changes of one agent in one batch.
fn put<'c>(engine: &Arc<Engine>, name: &str, changes: impl IntoIterator<Item = Change<'c>>) {
    let name: Arc<str> = name.into();
    let mut batch = Scratch::take();
    let hash = engine.catalog.hash(&name);
    let resident = || engine.catalog.resident(&name, hash, engine.progress());
    let index = batch.agent(&name, hash, resident);
    changes.into_iter().for_each(|change| batch.push(index, &change));
    let ordered = engine.order(&mut batch, Durability::Buffer).unwrap();
    engine.wait(ordered.end, Durability::Write).unwrap();
}

fn set_all(engine: &Arc<Engine>, name: &str, keys: std::ops::Range<usize>) {
    let keys: Vec<String> = keys.map(|key| format!("key/{key:08}")).collect();
    for few in keys.chunks(5000) {
        put(engine, name, few.iter().map(|key| Change::Set { key, value: b"a value" }));
    }
}

fn view(engine: &Arc<Engine>, name: &str) -> Snapshot {
    let hash = engine.catalog.hash(name);
    let resident = engine.catalog.resident(&Arc::from(name), hash, engine.progress());
    Snapshot::open(engine, resident).unwrap()
}

fn shape() -> Shape {
    Shape { run_bytes: 1 << 30, cut_from: 1 << 30, generation: 1, relieves: false, erases: false }
}

fn ids(engine: &Arc<Engine>) -> Vec<u64> {
    engine.catalog.segments().sealed.iter().map(|segment| segment.id).collect()
}

/// A job that is at one agent for long says so often, and can be stopped there.
#[test]
fn the_keys_of_one_agent_are_compacted_with_manners() {
    const KEYS: usize = 100_000;
    let disk = SimDisk::new(1);
    let engine = open(&disk, Retention::new());
    set_all(&engine, "a", 0..KEYS);
    engine.seal_active().unwrap();
    set_all(&engine, "a", KEYS / 2..KEYS + 1000);
    engine.seal_active().unwrap();
    let mut told = 0;
    let mut job = Job::plan(&engine, &ids(&engine), shape(), &mut |_| {
        told += 1;
        Ok(())
    })
    .unwrap();
    assert!(told >= KEYS / 256, "planning: {told}");
    told = 0;
    let mut count = |_| {
        told += 1;
        Ok(())
    };
    assert!(job.step(u64::MAX, &mut count).unwrap());
    assert!(told >= 3 * (KEYS / 256), "writing and reading again: {told}");
    // It stops in the middle of the agent.
    for most in [1, 100, 500] {
        let mut told = 0;
        let mut stop = |_| {
            told += 1;
            let closed = || Error::new(ErrorKind::Closed, "stop");
            if told > most { Err(closed()) } else { Ok(()) }
        };
        let stopped = Job::plan(&engine, &ids(&engine), shape(), &mut stop)
            .and_then(|mut job| job.step(u64::MAX, &mut stop));
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(told, most + 1);
    }
    job.install().unwrap();
    let after = view(&engine, "a");
    assert_eq!(after.base.states.len(), 1, "one index");
    assert_eq!(after.states("").count(), KEYS + 1000);
}

/// What a resident agent takes does not depend on its keys, and neither does a clone of it.
#[test]
fn a_view_holds_no_keys() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Retention::new());
    set_all(&engine, "a", 0..20_000);
    engine.seal_active().unwrap();
    let many = view(&engine, "a");
    assert!(many.base.bytes() < 1024 && many.base.clone().bytes() < 1024);
    assert!(many.state("key/00019999").unwrap().is_some());
    assert!(many.state("key/00020000").unwrap().is_none());
}

/// Values of several segments against a map: looked up, listed from both ends, and expected.
#[test]
fn state_over_several_segments_is_that_of_a_map() {
    let disk = SimDisk::new(1);
    let mut engine = open(&disk, Retention::new());
    let mut model: BTreeMap<String, (Vec<u8>, u64)> = BTreeMap::new();
    let mut dice = 3_u64;
    let mut roll = |below: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(dice >> 33).unwrap() % below
    };
    for step in 0..600_usize {
        let key = format!("{}/{}", ["a", "b", "ä"][roll(3)], roll(60));
        let value = step.to_le_bytes();
        let change = if roll(3) == 0 {
            Change::Unset { key: &key }
        } else {
            Change::Set { key: &key, value: &value }
        };
        let lsn = engine.order.lock().end();
        put(&engine, "a", [change]);
        match change {
            Change::Set { .. } => drop(model.insert(key.clone(), (value.to_vec(), lsn))),
            _ => drop(model.remove(&key)),
        }
        match roll(60) {
            0 | 1 => drop(engine.seal_active()),
            2 => {
                engine.seal_active().unwrap();
                let ids = ids(&engine);
                let mut job = Job::plan(&engine, &ids, shape(), &mut |_| Ok(())).unwrap();
                assert!(job.step(u64::MAX, &mut |_| Ok(())).unwrap());
                job.install().unwrap();
            }
            3 => {
                engine.close().unwrap();
                drop(engine);
                engine = open(&disk, Retention::new());
            }
            _ => {}
        }
        if step % 5 == 0 {
            compare(&engine, &view(&engine, "a"), &model, roll(9));
        }
    }
}

fn compare(
    engine: &Engine,
    snapshot: &Snapshot,
    model: &BTreeMap<String, (Vec<u8>, u64)>,
    turn: usize,
) {
    let told = |value: crate::entry::StateValue| {
        (value.key().to_owned(), (value.value().to_vec(), value.revision().0))
    };
    for prefix in ["", "a/", "b/1", "ä", "z"] {
        let wanted: Vec<_> = model.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        let found: Vec<_> = snapshot.states(prefix).map(|value| told(value.unwrap())).collect();
        assert!(found.iter().map(|(key, value)| (key, value)).eq(wanted.iter().copied()));
        // From both ends by turns.
        let (mut left, mut front, mut back) = (snapshot.states(prefix), Vec::new(), Vec::new());
        for step in turn.. {
            let next = if step % 3 == 0 { left.next_back() } else { left.next() };
            let Some(value) = next else { break };
            let ends = if step % 3 == 0 { &mut back } else { &mut front };
            ends.push(told(value.unwrap()));
        }
        assert!(left.next().is_none() && left.next_back().is_none());
        front.extend(back.into_iter().rev());
        assert_eq!(front, found);
    }
    let names = ["a", "b", "ä"].into_iter();
    for key in names.flat_map(|name| (0..61).map(move |i| format!("{name}/{i}"))) {
        let key = key.as_str();
        let found = snapshot.state(key).unwrap().map(|value| told(value).1);
        assert_eq!(found.as_ref(), model.get(key), "{key}");
        let expected = model.get(key).map_or(0, |value| value.1);
        let resident = engine.catalog.peek("a", engine.catalog.hash("a")).unwrap();
        let slot = resident.lock();
        assert_eq!(slot.latest().revision(slot.base(), key).unwrap(), Some(expected), "{key}");
    }
}

fn with_keys(id: u64, keys: impl Iterator<Item = usize>) -> Arc<Segment> {
    let keys: Vec<String> = keys.map(|key| format!("{key:08}")).collect();
    let change =
        |key| StateChange { key, revision: id, offset: 8, len: 8, ..StateChange::default() };
    let pages = PagesBuilder::of(keys.iter().map(|key| change(key))).unwrap();
    sealed_in(16 << 20, id, false, 4096..8192, Verify::FirstTouch, |builder| {
        builder.facts_mut().record_bytes = 4 << 20;
        let summary = Summary {
            name: NAME,
            head: Head { life: 5000, next: 1, floor: 1, flags: Head::STATE },
            first_seq: 1,
            offsets: &[],
            groups: &[],
            state: pages.as_ref(),
            redacted: &[],
            policy: None,
        };
        builder.add(&summary, HASH).unwrap();
    })
}

/// The work of a merge is counted: it grows with the keys, and not with their square.
#[test]
fn keys_are_merged_in_few_steps() {
    const KEYS: usize = 20_000;
    let all: Vec<Arc<Segment>> = vec![
        with_keys(1, (0..KEYS).step_by(2)),
        with_keys(2, (0..KEYS).step_by(3)),
        with_keys(3, 0..KEYS),
        with_keys(4, (0..KEYS).step_by(1000)),
    ];
    let told = |segment| Told {
        segment,
        block: Segment::look_up(segment, NAME, HASH).unwrap().unwrap().1,
    };
    let told: Vec<Told<'_>> = all.iter().map(told).collect();
    let mut merged = Vec::new();
    let mut keys = KeyMerge::new(&told[..2], 5000).unwrap();
    while let Some((index, change)) = keys.next().unwrap() {
        merged.push((change.key.parse::<usize>().unwrap(), index));
    }
    let newest = |key: usize| usize::from(key.is_multiple_of(3));
    let wanted = (0..KEYS).filter(|key| key.is_multiple_of(2) || key.is_multiple_of(3));
    assert!(merged.iter().copied().eq(wanted.map(|key| (key, newest(key)))));

    // Of an index of many keys only those are looked at that are asked for, and of one of few keys
    // only its own.
    let asked: Vec<String> = (0..KEYS).step_by(500).map(|key| format!("{key:08}x")).collect();
    let mut join = KeyJoin::new(vec![told[2].block.states()]);
    assert!(!asked.iter().any(|key| join.has(key)));
    assert!(join.steps() <= 2 * asked.len() as u64, "{} for {}", join.steps(), asked.len());
    let mut join = KeyJoin::new(vec![told[3].block.states(), told[0].block.states()]);
    let found = (0..KEYS).filter(|key| join.has(&format!("{key:08}"))).count();
    assert_eq!(found, KEYS / 2);
    assert!(join.steps() <= 2 * KEYS as u64, "{}", join.steps());
}

/// A garbage scan under a policy by bytes evaluates each agent from footers, and makes none resident.
#[test]
fn a_scan_makes_no_agent_resident() {
    let disk = SimDisk::new(1);
    let entry = |at| {
        Change::Append(Append {
            at,
            kind: Kind::USER,
            weight: 0,
            flags: 0,
            expires: None,
            meta: &[],
            payload: &[7; 100],
        })
    };
    let engine = open(&disk, Retention::new());
    for agent in 0..200 {
        put(&engine, &format!("a/{agent}"), (0..70).map(entry));
    }
    engine.seal_active().unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = open(&disk, Retention::new().max_bytes(2000));
    let before = engine.catalog.resident_bytes();
    let found = scan(&engine, 1, &mut || Ok(())).unwrap().segments;
    assert_eq!(engine.catalog.resident_bytes(), before);
    let dead: u64 = found.iter().map(|(_, found)| found.dead).sum();
    // 50 of 70 entries each, of 140 bytes with what an entry costs.
    assert_eq!(dead, 200 * 50 * 140);
    // What a reader sees is the same.
    assert_eq!(view(&engine, "a/7").floor, 51);
}

/// The policy of an agent may lie in a segment that is older than the inputs.
#[test]
fn a_policy_of_an_older_segment_is_found_without_a_resident() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Retention::new());
    let payload = [7; 100];
    let entry = || {
        let (at, kind, weight, flags, expires) = (5, Kind::USER, 0, 0, None);
        Change::Append(Append { at, kind, weight, flags, expires, meta: &[], payload: &payload })
    };
    let policy = Change::Policy(Some(Retention::new().max_bytes(1000)));
    put(&engine, "a", [policy, entry()]);
    engine.seal_active().unwrap();
    put(&engine, "a", (0..99).map(|_| entry()));
    engine.seal_active().unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = open(&disk, Retention::new());
    let newest = ids(&engine).pop().unwrap();
    let before = engine.catalog.resident_bytes();
    let mut job = Job::plan(&engine, &[newest], shape(), &mut |_| Ok(())).unwrap();
    assert!(job.step(u64::MAX, &mut |_| Ok(())).unwrap());
    assert_eq!(engine.catalog.resident_bytes(), before);
    let written = job.install().unwrap().written;
    assert_eq!(written.first().unwrap().trailer().unwrap().entries, 10);
    assert_eq!(view(&engine, "a").floor, 91);
}

/// What nobody has looked at since stands as it was then, with the policy that held then.
#[test]
fn a_policy_that_was_replaced_drops_nothing() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Retention::new());
    let entry = || {
        let (at, kind, weight, flags, expires) = (5, Kind::USER, 0, 0, None);
        Change::Append(Append { at, kind, weight, flags, expires, meta: &[], payload: &[7; 100] })
    };
    let by_age = Change::Policy(Some(Retention::new().max_age(Duration::from_secs(1))));
    put(&engine, "a", [by_age]);
    put(&engine, "a", (0..9).map(|_| entry()));
    engine.seal_active().unwrap();
    put(&engine, "a", [Change::Policy(Some(Retention::new().max_bytes(1000)))]);
    let newest = ids(&engine).pop().unwrap();
    let mut job = Job::plan(&engine, &[newest], shape(), &mut |_| Ok(())).unwrap();
    assert!(job.step(u64::MAX, &mut |_| Ok(())).unwrap());
    job.install().unwrap();
    let view = view(&engine, "a");
    assert_eq!((view.floor, view.next_seq()), (1, 10));
}

/// Under a policy by bytes the floor follows each append, and is found once a version.
#[test]
fn the_floor_by_bytes_follows_the_version() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Retention::new().max_bytes(1000));
    let payload = [7; 100];
    let entry = || {
        let (at, kind, weight, flags, expires) = (5, Kind::USER, 0, 0, None);
        Change::Append(Append { at, kind, weight, flags, expires, meta: &[], payload: &payload })
    };
    for seq in 1..=120_u64 {
        put(&engine, "a", [entry()]);
        for _ in 0..2 {
            assert_eq!(view(&engine, "a").floor, seq.saturating_sub(9).max(1), "{seq}");
        }
        if seq % 50 == 0 {
            engine.seal_active().unwrap();
        }
    }
    let usage = view(&engine, "a").usage().unwrap();
    assert_eq!((usage.entries, usage.live_bytes, usage.dead_bytes), (10, 1000, 11_000));
    put(&engine, "a", [Change::Truncate { seq: 118 }]);
    assert_eq!(view(&engine, "a").floor, 118);
}
