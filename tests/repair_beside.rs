//! Salvage and repair of a store that a writer of the same machine is busy with: neither damage, nor a
//! missing file, nor a shorter timeline than before.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memlog::{Durability, ErrorKind, NewEntry, Options, Store};

const TIME: Duration = Duration::from_secs(4);

fn write(dir: &Path, stop: &AtomicBool) -> u64 {
    let store = Options::new().segment_bytes(256 << 10).open(dir).unwrap();
    let (mut batches, body) = (0_u64, "x".repeat(900));
    while !stop.load(Ordering::Relaxed) {
        let agent = store.agent(&format!("a/{}", batches % 20)).unwrap();
        let next = agent.view().unwrap().next_seq();
        let mut batch = store.batch();
        let sync = batches.is_multiple_of(7);
        batch.durability(if sync { Durability::Sync } else { Durability::Write });
        for seq in next..next + 3 {
            batch.append(&agent, NewEntry::user(&format!("{} {seq} {body}", agent.name())));
        }
        batch.commit().unwrap();
        if batches % 97 == 0 && next > 60 {
            agent.truncate_before(next - 50).unwrap();
        }
        if batches % 1003 == 1002 {
            store.compact().unwrap();
        }
        batches += 1;
    }
    store.close().unwrap();
    batches
}

/// Reads the end of each timeline, which is whole and no shorter than before.
fn look(store: &Store, seen: &mut BTreeMap<String, u64>) {
    for agent in store.agents("") {
        let agent = agent.unwrap();
        let view = agent.view().unwrap();
        let mut next = view.next_seq().saturating_sub(30).max(view.floor());
        for entry in view.latest(30) {
            let entry = entry.unwrap();
            let begins = format!("{} {next} ", agent.name());
            assert!(entry.text().unwrap().starts_with(&begins), "{begins}");
            next += 1;
        }
        assert_eq!(next, view.next_seq(), "{}", agent.name());
        let before = seen.insert(agent.name().to_owned(), next).unwrap_or(0);
        assert!(before <= next, "{}: {next} after {before}", agent.name());
    }
}

#[test]
fn a_busy_writer_is_neither_damage_nor_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("mem"), dir.path().join("mended"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(&from, &stop));
        while !from.join("MANIFEST").exists() {
            thread::sleep(Duration::from_millis(5));
        }
        let (started, mut opened, mut busy, mut repaired) = (Instant::now(), 0, 0, 0);
        let (mut seen, mut mended) = (BTreeMap::new(), BTreeMap::new());
        while started.elapsed() < TIME {
            match Options::new().salvage(true).create(false).open(&from) {
                Ok(store) => {
                    assert_eq!(store.recovery_report().damage, []);
                    look(&store, &mut seen);
                    opened += 1;
                }
                Err(error) if error.kind() == ErrorKind::InUse => busy += 1,
                Err(error) => panic!("{error}"),
            }
            if opened % 8 == 1 {
                let report = Options::new().repair(&from, &to).unwrap();
                assert!(report.is_lossless() && report.damage.is_empty(), "{report:?}");
                look(&Store::open(&to).unwrap(), &mut mended);
                std::fs::remove_dir_all(&to).unwrap();
                repaired += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let batches = writer.join().unwrap();
        assert!(batches > 100 && opened > 5 && repaired > 0, "{batches} {opened} {repaired}");
        assert!(busy <= opened, "{busy} of {opened}");
    });
}
