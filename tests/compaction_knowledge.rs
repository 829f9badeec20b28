//! A compaction in steps, while what it knew at its beginning is sealed and let go of in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use memlog::{CompactOutcome, Durability, Maintenance, NewEntry, Options, Store};

fn open(dir: &std::path::Path) -> Store {
    let options = Options::new().durability(Durability::Buffer).segment_bytes(256 << 10);
    options.maintenance(Maintenance::Manual).resident_bytes(0).open(dir).unwrap()
}

fn append(store: &Store, name: &str, len: usize) {
    let text = "x".repeat(len);
    store.agent(name).unwrap().append(NewEntry::user(&text)).unwrap();
}

/// More than one step's worth: agents in front, and one behind all of them.
fn fill(store: &Store, last: usize) {
    for round in 0..60 {
        (0..40).for_each(|agent| append(store, &format!("a{agent:02}"), 4000));
        (0..last).for_each(|_| append(store, "z", if round < 30 { 9000 } else { 10 }));
    }
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
    while store.compact().unwrap() == CompactOutcome::More {}
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn a_death_that_a_compaction_knew_of_is_known_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("mem"));
    fill(&store, 4);
    store.agent("z").unwrap().truncate_before(241).unwrap();
    assert_eq!(store.compact().unwrap(), CompactOutcome::More);
    seal(&store, 0);
    ends_well(&store);
    assert_eq!(store.agent("z").unwrap().view().unwrap().floor(), 241);
}

#[test]
fn redactions_that_come_during_a_compaction_find_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("mem"));
    fill(&store, 50);
    ends_well(&store);
    // What is compacted now has one more entry of it, and entries of others by the thousand.
    append(&store, "z", 10);
    fill(&store, 0);
    assert_eq!(store.compact().unwrap(), CompactOutcome::More);
    for seq in 1..=3000 {
        store.agent("z").unwrap().redact(seq).unwrap();
    }
    ends_well(&store);
    let view = store.agent("z").unwrap().view().unwrap();
    assert!(view.range(..=3000).all(|entry| entry.unwrap().is_redacted()));
}
