//! Salvage and repair beside a writer, which acts between any two of their calls; and files that may not
//! be read.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gate::{Op, gated};
use crate::compaction::CompactOutcome;
use crate::error::{ErrorKind, Result};
use crate::io::Io;
use crate::io::sim::SimDisk;
use crate::options::Options;
use crate::types::{Durability, Maintenance};
use crate::{NewEntry, Store};

const DIR: &str = "/data/mem";

fn options() -> Options {
    Options::new()
        .durability(Durability::Write)
        .maintenance(Maintenance::Manual)
        .segment_bytes(256 << 10)
}

fn fill(store: &Store, rounds: u64) {
    for name in ["a", "b", "c"] {
        let agent = store.agent(name).unwrap();
        for _ in 0..rounds {
            let text = format!("{name} {}", agent.view().unwrap().next_seq());
            agent.append(NewEntry::user(&text)).unwrap();
        }
    }
}

/// The next seq of each agent; every entry is there and right.
fn read(store: &Store) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for agent in store.agents("") {
        let agent = agent.unwrap();
        let view = agent.view().unwrap();
        for (item, seq) in view.iter().zip(view.floor()..) {
            assert_eq!(item.unwrap().text().unwrap(), format!("{} {seq}", agent.name()));
        }
        found.insert(agent.name().to_owned(), view.next_seq());
    }
    found
}

fn salvage(io: Io) -> Result<Store> {
    options().salvage(true).open_with(io, Path::new(DIR))
}

/// A writer, and what it does next: append, seal, compact, purge.
fn busy(disk: &SimDisk) -> (Store, impl Fn() + Send + Sync + 'static) {
    let store = options().open_on(disk, DIR).unwrap();
    fill(&store, 20);
    store.engine().seal_active().unwrap();
    fill(&store, 20);
    store.engine().seal_active().unwrap();
    fill(&store, 5);
    let writer = store.clone();
    let act = move || {
        fill(&writer, 3);
        writer.engine().seal_active().unwrap();
        fill(&writer, 2);
        while writer.compact().unwrap() == CompactOutcome::More {}
        fill(&writer, 1);
    };
    (store, act)
}

/// The writer acts before one of the calls that open or list: nothing is missing, and nothing damaged.
#[test]
fn a_writer_beside_a_salvage_is_no_damage() {
    let opened = |at: u64| {
        let disk = SimDisk::new(3);
        let (store, act) = busy(&disk);
        let before = read(&store);
        let calls = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&calls);
        let io = gated(&disk, move |op, _| {
            if matches!(op, Op::Open | Op::List) && count.fetch_add(1, Ordering::SeqCst) == at {
                act();
            }
            Ok(())
        });
        let salvaged = salvage(io).unwrap();
        assert_eq!(salvaged.recovery_report().damage, [], "call {at}");
        let (found, after) = (read(&salvaged), read(&store));
        for (name, next) in &found {
            assert!(before[name] <= *next && *next <= after[name], "call {at}: {name} {next}");
        }
        assert_eq!(salvaged.verify().unwrap(), [], "call {at}");
        calls.load(Ordering::SeqCst)
    };
    let calls = opened(u64::MAX);
    assert!(calls >= 5, "{calls}");
    for at in 0..calls + 2 {
        opened(at);
    }
}

/// A writer that acts before every call is waited for, and told of in the end.
#[test]
fn a_store_that_never_rests_is_busy_and_not_damaged() {
    let disk = SimDisk::new(3);
    let (store, act) = busy(&disk);
    let io = gated(&disk, move |op, path| {
        if op == Op::Open && path.extension().is_some() {
            act();
        }
        Ok(())
    });
    match salvage(io) {
        Ok(salvaged) => assert_eq!(salvaged.recovery_report().damage, []),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
            assert!(error.to_string().contains(DIR), "{error}");
        }
    }
    read(&store);
}

/// Damage beside a busy writer is damage all the same.
#[test]
fn damage_beside_a_writer_is_told() {
    let disk = SimDisk::new(3);
    let store = options().open_on(&disk, DIR).unwrap();
    fill(&store, 20);
    store.engine().seal_active().unwrap();
    let log = disk.files().into_iter().find(|path| path.extension().is_some_and(|e| e == "log"));
    let log = log.unwrap();
    let trailer = disk.read_file(&log).unwrap().len() as u64 - 100;
    assert!(disk.flip_bit(&log, trailer, 1));
    let writer = store.clone();
    let io = gated(&disk, move |op, path| {
        if op == Op::Open && path.ends_with("MANIFEST") {
            fill(&writer, 1);
            writer.engine().seal_active().unwrap();
        }
        Ok(())
    });
    let salvaged = salvage(io).unwrap();
    let damage = &salvaged.recovery_report().damage;
    assert!(damage.len() == 1 && damage[0].file == log, "{damage:?}");
}

/// A file that may not be read is an error that says so, and no damage.
#[test]
fn rights_are_no_damage() {
    let disk = SimDisk::new(3);
    let (store, _) = busy(&disk);
    store.close().unwrap();
    let names: Vec<String> = disk
        .files()
        .into_iter()
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .filter(|name| name == "MANIFEST" || name.ends_with(".log"))
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        let forbidden = name.clone();
        let io = gated(&disk, move |op, path| match op {
            Op::Open if path.ends_with(&forbidden) => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(()),
        });
        let error = salvage(io.clone()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(error.to_string().contains(&name) && error.to_string().contains("user"), "{error}");
        let (from, to) = (Path::new(DIR), Path::new("/data/mended"));
        let error = crate::repair::repair(&io, &options(), from, to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(disk.files().iter().all(|path| path.starts_with(DIR)), "nothing is left");
    }
}
