//! Forgotten agents stay forgotten, whatever compaction merges first.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use memlog::{CompactOutcome, Durability, Maintenance, NewEntry, Options, Store};

fn options() -> Options {
    Options::new()
        .durability(Durability::Buffer)
        .segment_bytes(256 << 10)
        .maintenance(Maintenance::Manual)
}

/// How far the forgotten agent goes, and how often it is listed.
fn seen(store: &Store) -> (u64, usize) {
    let view = store.agent("gone").unwrap().view().unwrap();
    (view.next_seq(), store.agents("gone").count())
}

/// The same in a copy of the files, as a process killed at this moment would leave them.
fn seen_in_a_copy(path: &Path, copy: &Path) -> (u64, usize) {
    fs::create_dir(copy).unwrap();
    for file in fs::read_dir(path).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let seen = seen(&options().open(copy).unwrap());
    fs::remove_dir_all(copy).unwrap();
    seen
}

#[test]
fn a_forgotten_agent_stays_so_after_each_step_of_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("mem"), dir.path().join("copy"));
    let store = options().open(&path).unwrap();
    // The agent's entries are in all of some twenty log segments, and its end is in the newest.
    for _ in 0..80 {
        store.agent("gone").unwrap().append(NewEntry::user("secret")).unwrap();
        for other in 0..60 {
            let other = store.agent(&format!("other-{other}")).unwrap();
            other.append(NewEntry::user(&"x".repeat(800))).unwrap();
        }
    }
    store.agent("gone").unwrap().forget().unwrap();
    assert_eq!((seen(&store), seen_in_a_copy(&path, &copy)), ((1, 0), (1, 0)));
    for step in 1.. {
        let outcome = store.compact().unwrap();
        let both = (seen(&store), seen_in_a_copy(&path, &copy));
        assert_eq!(both, ((1, 0), (1, 0)), "after step {step}: here, and reopened");
        if outcome != CompactOutcome::More {
            break;
        }
    }
}
