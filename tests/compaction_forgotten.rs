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

#[test]
fn a_segment_of_very_many_agents_is_sealed_with_each_of_them_once() {
    const AGENTS: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().durability(Durability::Buffer).open(dir.path().join("mem")).unwrap();
    let name = |agent: usize| format!("crowd/{}/{}", agent / 1000, agent * 7919 % AGENTS);
    for from in (0..AGENTS).step_by(1000) {
        let append = || {
            let mut batch = store.batch();
            for agent in (from..from + 1000).map(|agent| store.agent(&name(agent)).unwrap()) {
                batch.append(&agent, NewEntry::user("hello"));
            }
            batch.commit().unwrap();
        };
        append();
        // The new life is one in the same segment mostly, which then counts the agent twice.
        store.forget_prefix(&format!("crowd/{}/", from / 1000)).unwrap();
        append();
    }
    store.backup(dir.path().join("copy")).unwrap();
    // Only what the footers tell is in the copy.
    for store in [Store::open(dir.path().join("copy")).unwrap(), store] {
        assert!(store.verify().unwrap().is_empty());
        assert_eq!(store.agents("crowd/").count(), AGENTS);
        for agent in (0..AGENTS).step_by(501) {
            let view = store.agent(&name(agent)).unwrap().view().unwrap();
            assert_eq!((view.next_seq(), view.iter().count()), (2, 1));
        }
        store.close().unwrap();
    }
}
