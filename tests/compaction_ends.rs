//! Compactions that have to come to an end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use memlog::{CompactOutcome, Durability, Maintenance, NewEntry, Options, Store};

fn open(dir: &std::path::Path, segment: u64) -> Store {
    let options = Options::new().durability(Durability::Buffer).segment_bytes(segment);
    options.maintenance(Maintenance::Manual).resident_bytes(0).open(dir).unwrap()
}

fn append(store: &Store, name: &str, len: usize) {
    let text = "x".repeat(len);
    store.agent(name).unwrap().append(NewEntry::user(&text)).unwrap();
}

/// Seals what is unsealed, and lets go of whoever is not in use.
fn seal(store: &Store, round: usize) {
    let before = store.stats().segments;
    while store.stats().segments < before + 3 {
        (0..40).for_each(|agent| append(store, &format!("other-{round}-{agent}"), 2000));
        store.sync().unwrap();
    }
}

fn ends_well(store: &Store) {
    let mut steps = 0;
    while store.compact().unwrap() == CompactOutcome::More {
        steps += 1;
        assert!(steps < 200, "compaction does not end");
    }
    assert_eq!(store.verify().unwrap(), []);
}

/// Runs of which each covers names that only others hold, too many to be merged at once: they are
/// cut where the others begin and end, though nothing of theirs lies there.
#[test]
fn alignment_ends_where_nothing_lies_behind_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("mem"), 256 << 10);
    for round in 0..60 {
        (0..40).for_each(|agent| append(&store, &format!("a{agent:02}"), 4000));
        (0..4).for_each(|_| append(&store, "z", if round < 30 { 9000 } else { 10 }));
    }
    assert_eq!(store.compact().unwrap(), CompactOutcome::More);
    seal(&store, 0);
    ends_well(&store);
}
