//! What a compaction knows while others go on.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use crate::commit::Engine;
use crate::commit::scratch::Scratch;
use crate::compaction::around::Around;
use crate::compaction::fate::Knowledge;
use crate::compaction::job::{Job, Shape, hull};
use crate::compaction::plan;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::{Append, Change};
use crate::io::sim::SimDisk;
use crate::options::Options;
use crate::recovery;
use crate::types::{Durability, Kind, Maintenance};

fn put(engine: &Arc<Engine>, name: &str, change: &Change<'_>) -> Result<()> {
    let name: Arc<str> = name.into();
    let mut batch = Scratch::take();
    let hash = engine.catalog.hash(&name);
    let resident = || engine.catalog.resident(&name, hash, engine.progress());
    let index = batch.agent(&name, hash, resident);
    batch.push(index, change);
    let ordered = engine.order(&mut batch, Durability::Write)?;
    engine.wait(ordered.end, ordered.durability)
}

fn entry(payload: &[u8]) -> Change<'_> {
    let (at, kind, weight, flags) = (5, Kind::USER, 0, 0);
    Change::Append(Append { at, kind, weight, flags, expires: None, meta: &[], payload })
}

/// What memory knew of the dead when the outputs were planned may be sealed and let go of before
/// the job gets to them: whoever did not ask the footer would keep more than there is room for.
#[test]
fn a_job_knows_to_its_end_what_it_knew_when_it_was_planned() {
    let io = SimDisk::new(1).io();
    let options = Options::new().maintenance(Maintenance::Manual).resident_bytes(0);
    let options = options.segment_bytes(1 << 20);
    let (engine, _) = recovery::open(io, Path::new("/mem"), &options).unwrap();
    for agent in 0..8 {
        put(&engine, &format!("dies/{agent}"), &entry(&[7; 60 << 10])).unwrap();
        put(&engine, &format!("lives/{agent}"), &entry(&[7; 100])).unwrap();
    }
    engine.seal_active().unwrap();
    (0..8).for_each(|agent| put(&engine, &format!("dies/{agent}"), &Change::Forget).unwrap());

    let ids: Vec<u64> = engine.catalog.segments().sealed.iter().map(|s| s.id).collect();
    let shape = Shape {
        run_bytes: 1 << 20,
        cut_from: 1 << 20,
        generation: 1,
        relieves: false,
        erases: false,
    };
    let mut job = Job::plan(&engine, &ids, shape, &mut |_| Ok(())).unwrap();
    assert!(job.need() < 100 << 10, "{} bytes for the few that live", job.need());

    engine.seal_active().unwrap();
    for other in 0..20_000 {
        let name: Arc<str> = format!("other/{other}").into();
        let hash = engine.catalog.hash(&name);
        let _ = engine.catalog.resident(&name, hash, engine.progress());
    }
    let gone = engine.catalog.peek("dies/3", engine.catalog.hash("dies/3")).is_none();
    assert!(gone, "memory still knows");
    assert!(job.step(u64::MAX, &mut |_| Ok(())).unwrap());
    let written = job.install().unwrap().written;
    assert_eq!(written.len(), 1);
    assert_eq!(written.first().unwrap().trailer().unwrap().entries, 8);
}

/// What a job writes lies beside what it replaces: it must not take the room of all of it at once.
#[test]
fn a_run_takes_room_as_it_is_written() {
    let disk = SimDisk::new(1);
    let options = Options::new().maintenance(Maintenance::Manual).segment_bytes(16 << 20);
    let (engine, _) = recovery::open(disk.io(), Path::new("/mem"), &options).unwrap();
    for agent in 0..32 {
        put(&engine, &format!("a/{agent}"), &entry(&[7; 256 << 10])).unwrap();
    }
    engine.seal_active().unwrap();
    let ids: Vec<u64> = engine.catalog.segments().sealed.iter().map(|s| s.id).collect();
    let shape = Shape {
        run_bytes: 64 << 20,
        cut_from: 64 << 20,
        generation: 1,
        relieves: false,
        erases: false,
    };
    let mut job = Job::plan(&engine, &ids, shape, &mut |_| Ok(())).unwrap();
    let (before, need) = (disk.used(), job.need());
    assert!(need > 8 << 20, "{need}");

    assert!(!job.step(1 << 20, &mut |_| Ok(())).unwrap());
    let early = disk.used() - before;
    assert!(early < 4 << 20, "{early} of {need} bytes");
    assert!(job.step(u64::MAX, &mut |_| Ok(())).unwrap());
    let late = disk.used() - before;
    assert!(late > need / 8 * 7 && late <= need, "{late} of {need} bytes");
    job.install().unwrap();
    assert!(disk.used() < before, "the inputs are gone");
}

/// Between two tellings a job keeps the processor: it tells of what it only reads, too.
#[test]
fn a_job_tells_of_all_that_takes_time() {
    const AGENTS: usize = 500;
    let disk = SimDisk::new(1);
    let options = Options::new().maintenance(Maintenance::Manual).segment_bytes(1 << 20);
    let (engine, _) = recovery::open(disk.io(), Path::new("/mem"), &options).unwrap();
    for agent in 0..AGENTS {
        put(&engine, &format!("a/{agent}"), &entry(&[7; 100])).unwrap();
    }
    engine.seal_active().unwrap();
    let ids: Vec<u64> = engine.catalog.segments().sealed.iter().map(|s| s.id).collect();
    let shape = || Shape {
        run_bytes: 64 << 20,
        cut_from: 64 << 20,
        generation: 1,
        relieves: false,
        erases: false,
    };
    let mut told = 0;
    let mut job = Job::plan(&engine, &ids, shape(), &mut |_| {
        told += 1;
        Ok(())
    })
    .unwrap();
    assert!(told >= AGENTS, "planning: {told}");
    // Of each agent, and of each of their frames when the run is read again.
    told = 0;
    let mut count = |_| {
        told += 1;
        Ok(())
    };
    assert!(job.step(u64::MAX, &mut count).unwrap());
    assert!(told >= 2 * AGENTS, "writing: {told}");
    // Whoever is told may stop it.
    let stop = |_| Err(Error::new(ErrorKind::Closed, "stop"));
    let stopped = Job::plan(&engine, &ids, shape(), &mut { stop });
    assert_eq!(stopped.err().unwrap().kind(), ErrorKind::Closed);
}

/// The bounds of other runs are names of agents that may be gone.
#[test]
fn an_erasure_cuts_its_runs_at_names_that_they_hold() {
    let disk = SimDisk::new(1);
    let options = Options::new().maintenance(Maintenance::Manual).segment_bytes(1 << 20);
    let (engine, _) = recovery::open(disk.io(), Path::new("/mem"), &options).unwrap();
    let shape = |erases| Shape {
        run_bytes: 128 << 10,
        cut_from: 64 << 10,
        generation: 1,
        relieves: false,
        erases,
    };
    let ids = |run| {
        let set = engine.catalog.segments();
        set.sealed.iter().filter(|s| s.run == run).map(|s| s.id).collect::<Vec<_>>()
    };
    let fill = |sort: char| {
        for agent in 0..100 {
            put(&engine, &format!("a/{agent:03}{sort}"), &entry(&[7; 8 << 10])).unwrap();
        }
        engine.seal_active().unwrap();
    };
    fill('a');
    let mut job = Job::plan(&engine, &ids(false), shape(false), &mut |_| Ok(())).unwrap();
    assert!(job.step(u64::MAX, &mut |_| Ok(())).unwrap());
    assert!(job.install().unwrap().written.len() > 3);
    fill('b');
    let set = engine.catalog.segments();
    let logs = set.sealed.iter().filter(|segment| !segment.run).cloned().collect::<Vec<_>>();
    let around = Around::of(&set, hull(&logs));
    let knowledge = Knowledge { engine: &engine, around: &around };
    let foreign = |erases| {
        let outputs = plan::outputs(&knowledge, &set, &logs, &shape(erases), &mut |_| Ok(()));
        let outputs = outputs.unwrap();
        assert!(outputs.len() > 3);
        let bounds = outputs.into_iter().flat_map(|output| [Some(output.from), output.to]);
        bounds.flatten().filter(|bound| bound.contains('a') && bound.ends_with('a')).count()
    };
    assert!(foreign(false) > 3);
    assert_eq!(foreign(true), 0);
}

/// A job looks at an agent once. What is sealed before it has written the agent was no block then,
/// and is no part in memory any more.
#[test]
fn what_is_sealed_while_an_agent_is_written_is_newer_still() {
    let disk = SimDisk::new(1);
    let options = Options::new().maintenance(Maintenance::Manual).segment_bytes(1 << 20);
    let (engine, _) = recovery::open(disk.io(), Path::new("/mem"), &options).unwrap();
    let value = vec![7; 300 << 10];
    put(&engine, "agent", &Change::Set { key: "key", value: &value }).unwrap();
    (0..20).for_each(|_| put(&engine, "agent", &entry(&[7; 10 << 10])).unwrap());
    engine.seal_active().unwrap();
    let ids: Vec<u64> = engine.catalog.segments().sealed.iter().map(|s| s.id).collect();
    put(&engine, "agent", &Change::Set { key: "key", value: b"small" }).unwrap();
    let shape = Shape {
        run_bytes: 4 << 20,
        cut_from: 4 << 20,
        generation: 1,
        relieves: false,
        erases: false,
    };
    let mut job = Job::plan(&engine, &ids, shape, &mut |_| Ok(())).unwrap();
    assert!(job.need() < 280 << 10, "{} bytes without the value", job.need());
    let mut sealed = false;
    let mut seal = |written| {
        if written > 0 && !std::mem::replace(&mut sealed, true) {
            engine.seal_active()?;
        }
        Ok(())
    };
    assert!(job.step(u64::MAX, &mut seal).unwrap());
    let written = job.install().unwrap().written;
    assert!(sealed && written.len() == 1);
    assert_eq!(written.first().unwrap().trailer().unwrap().state_bytes, 0);
}

/// A job has room for what was redacted when it was planned.
#[test]
fn what_is_redacted_meanwhile_in_older_segments_takes_no_room() {
    let disk = SimDisk::new(1);
    let options = Options::new().maintenance(Maintenance::Manual).segment_bytes(1 << 20);
    let (engine, _) = recovery::open(disk.io(), Path::new("/mem"), &options).unwrap();
    for count in [2000, 1] {
        (0..count).for_each(|_| put(&engine, "agent", &entry(b"an entry")).unwrap());
        engine.seal_active().unwrap();
    }
    let sealed = engine.catalog.segments();
    let ids = [sealed.sealed.last().unwrap().id];
    let shape = Shape {
        run_bytes: 1 << 20,
        cut_from: 1 << 20,
        generation: 1,
        relieves: false,
        erases: false,
    };
    let mut job = Job::plan(&engine, &ids, shape, &mut |_| Ok(())).unwrap();
    (1..2000).for_each(|seq| put(&engine, "agent", &Change::Redact { seq }).unwrap());
    assert!(job.step(u64::MAX, &mut |_| Ok(())).unwrap());
    job.install().unwrap();
}
