//! Whatever is appended, compaction in the background leaves few log segments, without a call of
//! anything.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use memlog::{Durability, Kind, NewEntry, Options, Store};

/// The length of log segments here.
const SEGMENT: u64 = 256 << 10;
/// Log segments that may wait for more of them, with small extents and with long ones.
const FEW: u64 = 11;
const WIDE: u64 = 31;

fn open(dir: &tempfile::TempDir) -> Store {
    let options = Options::new().durability(Durability::Buffer).segment_bytes(SEGMENT);
    options.open(dir.path().join("mem")).unwrap()
}

/// Waits until compaction has left so few sealed log segments.
fn comes_down_to(store: &Store, dir: &tempfile::TempDir, most: u64) {
    let is_log = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "log");
    let began = Instant::now();
    loop {
        let files = std::fs::read_dir(dir.path().join("mem")).unwrap();
        let logs = files.filter(|entry| entry.as_ref().is_ok_and(is_log)).count() as u64;
        let stats = store.stats();
        if stats.compaction_bytes > 0 && logs <= most + stats.unsealed_segments {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{logs} log segments, {stats:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn small_entries_are_clustered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let agents: Vec<_> = (0..100).map(|at| store.agent(&format!("a/{at:02}")).unwrap()).collect();
    // Some 50 log segments.
    for at in 0..50_000 {
        agents[at * 7919 % 100].append(NewEntry::new(Kind::USER, &[7; 60])).unwrap();
    }
    comes_down_to(&store, &dir, FEW);
    store.close().unwrap();
}

#[test]
fn agents_of_one_entry_are_clustered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    // Some 25 log segments.
    for at in 0..16_000 {
        let agent = store.agent(&format!("t/{:09}", at * 7919 % 1_000_003)).unwrap();
        agent.append(NewEntry::new(Kind::USER, &[7; 60])).unwrap();
    }
    comes_down_to(&store, &dir, FEW);
    store.close().unwrap();
}

#[test]
fn segments_of_a_busy_agent_are_merged_though_their_extents_are_long() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let agent = store.agent("busy").unwrap();
    // Some 60 log segments.
    for _ in 0..13_000 {
        agent.append(NewEntry::new(Kind::USER, &[7; 1000])).unwrap();
    }
    comes_down_to(&store, &dir, WIDE);
    store.close().unwrap();
}
