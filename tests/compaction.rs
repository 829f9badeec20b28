//! Compaction, erasure and backup on the real file system.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fs;
use std::path::Path;

use memlog::{
    CompactOutcome, Durability, Kind, Maintenance, NewEntry, Options, Result, Retention, Store,
};

fn small() -> Options {
    Options::new()
        .durability(Durability::Buffer)
        .segment_bytes(256 << 10)
        .maintenance(Maintenance::Manual)
}

fn compact(store: &Store) -> u64 {
    let mut steps = 0;
    while store.compact().unwrap() == CompactOutcome::More {
        steps += 1;
        assert!(steps < 10_000, "compaction does not end");
    }
    steps
}

fn text(agent: u64, seq: u64) -> String {
    format!("<{agent}:{seq}>{}", "x".repeat((agent * 7 + seq * 13) as usize % 900))
}

/// Rounds of one entry for each agent, so that their entries lie scattered.
fn fill(store: &Store, agents: u64, entries: u64) {
    for seq in 1..=entries {
        for agent in 0..agents {
            let handle = store.agent(&format!("t{}/a{agent:04}", agent % 3)).unwrap();
            handle.append(NewEntry::user(&text(agent, seq))).unwrap();
        }
    }
}

fn check(store: &Store, agent: u64, floor: u64, next: u64) {
    let handle = store.agent(&format!("t{}/a{agent:04}", agent % 3)).unwrap();
    let view = handle.view().unwrap();
    assert_eq!((view.floor(), view.next_seq()), (floor, next), "agent {agent}");
    let texts: Result<Vec<String>> =
        view.iter().map(|entry| entry.map(|e| e.text().unwrap().to_owned())).collect();
    let wanted: Vec<String> = (floor..next).map(|seq| text(agent, seq)).collect();
    assert_eq!(texts.unwrap(), wanted, "agent {agent}");
}

fn holds(dir: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() && fs::read(&path).unwrap().windows(needle.len()).any(|w| w == needle) {
            found.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    found
}

#[test]
fn what_lives_survives_compaction_and_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    let store = small().open(&path).unwrap();
    fill(&store, 90, 40);
    let view = store.agent("t1/a0001").unwrap().view().unwrap();
    let before = store.stats().segments;
    assert!(before > 4, "{before} segments are too few to try anything");
    compact(&store);
    let after = store.stats();
    assert!(after.segments < before, "{after:?}");
    assert_eq!(after.dead_bytes, 0);
    assert_eq!(store.verify().unwrap(), []);
    (0..90).for_each(|agent| check(&store, agent, 1, 41));
    // A view goes on with what it saw, whose files are gone.
    assert!(after.pinned_bytes > 0);
    assert_eq!(view.iter().count(), 40);
    drop(view);
    assert_eq!(store.stats().pinned_bytes, 0);
    fill_more(&store, 41, 50);
    (0..90).for_each(|agent| check(&store, agent, 1, 51));
    store.close().unwrap();
    let store = small().open(&path).unwrap();
    (0..90).for_each(|agent| check(&store, agent, 1, 51));
    compact(&store);
    (0..90).for_each(|agent| check(&store, agent, 1, 51));
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(store.agents("").count(), 90);
    assert_eq!(store.agents("t1/").rev().count(), 30);
}

fn fill_more(store: &Store, from: u64, to: u64) {
    for seq in from..=to {
        for agent in 0..90 {
            let handle = store.agent(&format!("t{}/a{agent:04}", agent % 3)).unwrap();
            assert_eq!(handle.append(NewEntry::user(&text(agent, seq))).unwrap(), seq);
        }
    }
}

#[test]
fn the_dead_stay_dead_and_their_room_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    let store = small().open(&path).unwrap();
    fill(&store, 90, 40);
    compact(&store);
    let before = store.stats();
    for agent in (0..90).step_by(2) {
        store.agent(&format!("t{}/a{agent:04}", agent % 3)).unwrap().forget().unwrap();
    }
    let one = store.agent("t1/a0001").unwrap();
    one.truncate_before(31).unwrap();
    compact(&store);
    let after = store.stats();
    assert!(after.disk_bytes - after.active_bytes < before.disk_bytes, "{before:?} {after:?}");
    assert!(after.live_bytes * 100 < before.live_bytes * 55, "{before:?} {after:?}");
    for reopened in [false, true] {
        let store = if reopened {
            store.close().unwrap();
            small().open(&path).unwrap()
        } else {
            store.clone()
        };
        assert_eq!(store.agents("").count(), 45);
        check(&store, 1, 31, 41);
        (3..90).step_by(2).for_each(|agent| check(&store, agent, 1, 41));
        assert_eq!(store.agent("t0/a0000").unwrap().view().unwrap().next_seq(), 1);
        assert_eq!(store.verify().unwrap(), []);
    }
}

#[test]
fn state_redactions_policies_and_expiry_survive_or_die_as_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    let store = small().open(&path).unwrap();
    let a = store.agent("a").unwrap();
    for i in 0..60 {
        let value = format!("value {i} {}", "v".repeat(10_000));
        let mut batch = store.batch();
        batch.append(&a, NewEntry::user(&format!("entry {i} SECRET{i:02}")));
        batch.set(&a, "key", &value).set(&a, &format!("k{i}"), "kept");
        batch.commit().unwrap();
    }
    store.batch().unset(&a, "k7").commit().unwrap();
    a.redact(5).unwrap();
    a.set_retention(Some(Retention::new().max_entries(50))).unwrap();
    let soon = std::time::SystemTime::now() - std::time::Duration::from_secs(1);
    a.append(NewEntry::user("EXPIRED").expires_at(soon)).unwrap();
    let revision = a.view().unwrap().state("key").unwrap().unwrap().revision();
    a.redact(20).unwrap();
    for round in 0..2 {
        if round == 0 {
            compact(&store);
        } else {
            store.purge().unwrap();
        }
        let view = a.view().unwrap();
        assert_eq!((view.floor(), view.next_seq()), (12, 62));
        assert!(view.get(20).unwrap().unwrap().is_redacted());
        assert!(view.get(61).unwrap().unwrap().is_redacted(), "expired");
        let value = view.state("key").unwrap().unwrap();
        assert!(value.value().starts_with(b"value 59 "));
        assert_eq!(value.revision(), revision);
        assert!(view.state("k7").unwrap().is_none());
        assert_eq!(view.states("").count(), 60);
        assert_eq!(store.verify().unwrap(), []);
    }
    drop(store);
    for gone in ["SECRET04", "SECRET10", "SECRET19", "EXPIRED", "value 58 "] {
        assert_eq!(holds(&path, gone.as_bytes()), [""; 0], "{gone}");
    }
    assert!(!holds(&path, b"SECRET30").is_empty());
}

#[test]
fn purge_leaves_no_byte_of_what_was_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mem");
    for maintenance in [Maintenance::Manual, Maintenance::Background] {
        let path = path.join(format!("{maintenance:?}"));
        fs::create_dir_all(&path).unwrap();
        let store = small().maintenance(maintenance).open(&path).unwrap();
        fill(&store, 60, 30);
        let secret = store.agent("t9/secret-name").unwrap();
        for i in 0..30 {
            secret.append(NewEntry::new(Kind::USER, &format!("MARKER{i:03}"))).unwrap();
            fill(&store, 20, 3);
        }
        store.sync().unwrap();
        assert!(!holds(&path, b"MARKER").is_empty(), "the search finds what is there");
        secret.forget().unwrap();
        secret.append(NewEntry::user("a new life")).unwrap();
        let report = store.purge().unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert!(report.agents.contains(&"t9/secret-name".to_owned()), "{report:?}");
        assert!(!report.rewritten.is_empty());
        assert_eq!(holds(&path, b"MARKER"), [""; 0]);
        let view = secret.view().unwrap();
        assert_eq!((view.floor(), view.next_seq()), (1, 2));
        store.forget_prefix("t9/").unwrap();
        store.forget_prefix("t1/").unwrap();
        let view = store.agent("t2/a0002").unwrap().view().unwrap();
        let report = store.purge().unwrap();
        assert!(!report.is_complete(), "a view holds bytes: {report:?}");
        drop(view);
        assert_eq!(holds(&path, b"t9/"), [""; 0], "not even the name is left");
        assert_eq!(holds(&path, b"t1/"), [""; 0]);
        assert!(!holds(&path, b"t2/").is_empty());
        assert_eq!(store.verify().unwrap(), []);
        let again = store.purge().unwrap();
        assert!(again.rewritten.is_empty() && again.unlinked.is_empty(), "{again:?}");
    }
}

#[test]
fn a_backup_opens_by_itself_and_outlives_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("mem"), dir.path().join("copy"));
    let store = small().open(&path).unwrap();
    fill(&store, 30, 30);
    compact(&store);
    fill_tail(&store);
    store.backup(&copy).unwrap();
    assert!(store.backup(&copy).is_err(), "a backup needs a new directory");
    for agent in 0..30 {
        store.agent(&format!("t{}/a{agent:04}", agent % 3)).unwrap().forget().unwrap();
    }
    let report = store.purge().unwrap();
    assert!(!report.is_complete(), "the backup holds what was purged: {report:?}");
    drop(store);
    fs::remove_dir_all(&path).unwrap();
    let store = small().open(&copy).unwrap();
    assert_eq!(store.verify().unwrap(), []);
    (0..30).for_each(|agent| check(&store, agent, 1, 32));
}

fn fill_tail(store: &Store) {
    for agent in 0..30 {
        let handle = store.agent(&format!("t{}/a{agent:04}", agent % 3)).unwrap();
        handle.append(NewEntry::user(&text(agent, 31))).unwrap();
    }
}
