//! Entries read alike wherever they lie - in runs, together or here and there in log segments, in
//! memory - and in whatever order they are asked for.
#![allow(clippy::unwrap_used)]

use memlog::sim::SimDisk;
use memlog::{CompactOutcome, Durability, Maintenance, NewEntry, Options, Store, Verify, View};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const DIR: &str = "/mem";
const NAME: &str = "the agent";

fn options() -> Options {
    let options = Options::new().maintenance(Maintenance::Manual).durability(Durability::Write);
    options.segment_bytes(256 << 10)
}

/// Appends so many entries to the agent, in one batch, each of which says its seq.
fn add(store: &Store, next: &mut u64, count: u64) {
    let agent = store.agent(NAME).unwrap();
    let mut batch = store.batch();
    for seq in *next..*next + count {
        batch.append(&agent, NewEntry::user(&format!("entry {seq}")));
    }
    batch.commit().unwrap();
    *next += count;
}

/// Fills what is left of a segment with what others say.
fn fill(store: &Store) {
    let (agent, text) = (store.agent("others").unwrap(), "x".repeat(20 << 10));
    for _ in 0..14 {
        agent.append(NewEntry::user(&text)).unwrap();
    }
}

/// A timeline of all kinds of pieces; gives the next seq.
fn write(store: &Store) -> u64 {
    let mut next = 1;
    for _ in 0..10 {
        add(store, &mut next, 40);
        fill(store);
    }
    while store.compact().unwrap() == CompactOutcome::More {}
    // Many together, and more than are looked up at once; then few in each segment.
    for count in [200, 20, 16, 15, 70, 3, 1, 2, 1, 5, 1, 1, 90, 2] {
        add(store, &mut next, count);
        fill(store);
    }
    add(store, &mut next, 1);
    fill(store);
    add(store, &mut next, 9);
    next
}

/// Reads a range from both ends, at random.
fn read(view: &View, from: u64, to: u64, random: &mut StdRng, ends: u32) {
    let (mut front, mut back) = (from, to);
    let mut entries = view.range(from..to);
    while front < back {
        let forward = random.random_range(0..100) < ends;
        let entry = if forward { entries.next() } else { entries.next_back() };
        let expected = if forward {
            front += 1;
            front - 1
        } else {
            back -= 1;
            back
        };
        let entry = entry.unwrap().unwrap();
        assert_eq!(entry.seq(), expected);
        assert_eq!(entry.text().unwrap(), format!("entry {expected}"), "in {from}..{to}");
    }
    assert!(entries.next().is_none() && entries.next_back().is_none());
}

#[test]
fn entries_read_alike_in_whatever_order() {
    let disk = SimDisk::new(1);
    let store = options().open_on(&disk, DIR).unwrap();
    let next = write(&store);
    let mut random = StdRng::seed_from_u64(7);
    let mut check = |store: &Store| {
        let view = store.agent(NAME).unwrap().view().unwrap();
        assert_eq!((view.floor(), view.next_seq()), (1, next));
        for ends in [100, 0, 50, 98, 2] {
            read(&view, 1, next, &mut random, ends);
            for _ in 0..60 {
                let from = random.random_range(1..next);
                let to = random.random_range(from..=next);
                read(&view, from, to, &mut random, ends);
            }
        }
        for seq in 1..next {
            let entry = view.get(seq).unwrap().unwrap();
            assert_eq!(entry.text().unwrap(), format!("entry {seq}"));
        }
    };
    check(&store);
    store.close().unwrap();
    for verify in [Verify::FirstTouch, Verify::Always] {
        let store = options().verify(verify).open_on(&disk, DIR).unwrap();
        check(&store);
        store.close().unwrap();
    }
}
